"""Two processes with half the batch each train as one process with the whole batch does, for 20 steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import layershift as ls
from layershift.nn import (
    PER,
    EppsPulley,
    LayerPenalty,
    SlicedWasserstein,
    SyncBatchNorm,
    SyncUnitization,
    VarianceConstancy,
)

STEPS, BATCH = 20, 24


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Method(NamedTuple):
    norm: Callable[[int], nn.Module] = nn.Identity
    penalty: Callable[[], LayerPenalty] | None = None
    weight: float = 0.0
    layers: type[nn.Module] = nn.ReLU


METHODS = {
    "batch normalisation": Method(SyncBatchNorm),
    "unitization": Method(lambda c: SyncUnitization(c, alpha_init=0.3)),
    "PER, mean": Method(penalty=PER, weight=0.1),
    "PER, sum": Method(penalty=lambda: PER(reduction="sum"), weight=0.01),
    "PER, projections": Method(penalty=lambda: PER("projections", 32, generator=seeded()), weight=0.1),
    "VCL": Method(penalty=VarianceConstancy, weight=0.1, layers=nn.Conv2d),
    "VCL and batch normalisation": Method(SyncBatchNorm, VarianceConstancy, 0.1, nn.Conv2d),
    "sliced W2": Method(penalty=lambda: SlicedWasserstein(num_projections=32, generator=seeded()), weight=0.1),
    "Epps–Pulley": Method(penalty=lambda: EppsPulley(32, generator=seeded()), weight=1.0),
}


class Network(nn.Module):
    """A tiny convolutional network that holds its penalty, as a Lightning module does."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            method.norm(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2),
            method.norm(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 3),
        ).double()
        self.penalty = method.penalty() if method.penalty is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def train(method: Method, rows: slice, *, parallel: bool) -> dict[str, Tensor]:
    """The state after training on these rows of each batch."""
    network = Network(method)
    x = torch.randn(STEPS, BATCH, 1, 7, 7, dtype=torch.float64, generator=seeded(1))
    y = torch.randint(3, (STEPS, BATCH), generator=seeded(2))
    handle = None
    if network.penalty is not None:
        options = {"layers": method.layers, "weight": method.weight, "example": x[0, :1]}
        handle = ls.regularize(network.model, network.penalty, **options)
    model = DistributedDataParallel(network) if parallel else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for images, labels in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss = loss if handle is None else loss + handle.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.state_dict()


def one_of_two(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    torch.save({name: train(method, rows, parallel=True) for name, method in METHODS.items()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_of_two_processes_are_those_of_one(ranks, name) -> None:
    alone = dict(train(METHODS[name], slice(None), parallel=False))
    start = dict(Network(METHODS[name]).state_dict())
    assert max(float((alone[key] - value).abs().max()) for key, value in start.items()) > 0.05  # it did train
    for found in ranks:
        torch.testing.assert_close(dict(found[name]), alone, rtol=1e-9, atol=1e-10)
