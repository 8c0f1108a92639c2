"""Two real processes with a sharded network measure what one process measures on the union of their data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from layershift.monitor import Monitor, Record, open_store

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
MEASURES = ("moments", "normality", "speeds")
PROBE = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU())
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), inner, nn.Linear(8, 3))


def train(model: nn.Module, x: torch.Tensor, folder: str, on: str, probe: torch.Tensor) -> None:
    """Two steps, both measured."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"on": "probe", "probe": probe} if on == "probe" else {}
    with Monitor(model, store=f"{folder}/{on}.db", measures=MEASURES, every=1, **options) as monitor:
        for i in range(2):
            with monitor.step(i):
                loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def one_of_two(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for on in ("batch", "probe"):
        model = network()
        fully_shard(model[2], mesh=mesh)
        fully_shard(model, mesh=mesh)
        train(model, X[rank::2], folder, on, PROBE[rank::2])
    distributed.destroy_process_group()


def numbers(path: Path) -> dict[tuple[object, ...], Record]:
    with open_store(path) as store:
        return {(r.step, r.layer, r.unit, r.measure): r for r in store.records() if r.layer}


@pytest.mark.slow
def test_a_sharded_network_is_measured_as_the_whole_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    (tmp_path / "one").mkdir()
    for on in ("batch", "probe"):
        train(network(), X, str(tmp_path / "one"), on, PROBE)
        found, expected = numbers(tmp_path / f"{on}.db"), numbers(tmp_path / "one" / f"{on}.db")
        assert found.keys() == expected.keys()
        assert {step for step, *_ in found} == {0, 1}
        assert {m for step, _, _, m in found if step == 1} >= {"mean", "normality", "effective_rate", "speed", "turn"}
        for key, record in found.items():
            assert record.n == expected[key].n, key
            assert record.value == pytest.approx(expected[key].value, rel=1e-3, abs=1e-5, nan_ok=True), key
