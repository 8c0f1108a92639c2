"""Two real processes measure what one process measures on the union of their data, and one of them writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from layershift.measure import Moments, Normality
from layershift.monitor import Monitor, open_store

X = 20 + torch.randn(48, 6, 3, generator=torch.Generator().manual_seed(0))


def values(metric) -> dict[str, torch.Tensor]:
    result = metric.compute()
    named = result if isinstance(result, dict) else {"": result}
    return {f"{name} {field}": getattr(e, field) for name, e in named.items() for field in ("value", "stderr", "n")}


def measure(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    share = X[:20] if rank == 0 else X[20:]
    found = {}
    for name, metric in {"moments": Moments(num_units=2), "normality": Normality()}.items():
        for part in share.split(14):
            metric.update(part)
        found[name] = values(metric)
    model = nn.Sequential(nn.Identity())
    with Monitor(model, store=f"{folder}/run.db") as monitor, monitor.step(0):
        model(share)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_union(tmp_path: Path) -> None:
    multiprocessing.spawn(measure, args=(str(tmp_path),), nprocs=2)
    moments, normality = Moments(num_units=2), Normality()
    for metric in (moments, normality):
        metric.update(X)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["moments"], values(moments), rtol=1e-6, atol=1e-9, equal_nan=True)
        torch.testing.assert_close(found["normality"], values(normality), rtol=1e-5, atol=1e-6)
    with open_store(tmp_path) as store:
        (mean,) = (r for r in store.records() if r.measure == "mean" and r.unit is None)
        (distance,) = (r for r in store.records() if r.measure == "normality")
    assert (mean.n, distance.n) == (48, 48)
    assert mean.value == pytest.approx(float(X.mean()), rel=1e-6)
