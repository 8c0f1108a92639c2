"""Two real processes measure what one process measures on the union of their data, and one of them writes.

Every metric that `layershift.measure` exports stands in the table; a new one without an entry fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torchmetrics import Metric

import layershift as ls
from layershift.measure import (
    Critic,
    Estimate,
    Health,
    LabelTransport,
    Moments,
    MultiLabelResult,
    MultiLabelScores,
    Normality,
    Shift,
)
from layershift.monitor import Monitor, open_store

N = 48
SPLIT = (slice(0, 20), slice(20, N))
X = 20 + torch.randn(N, 6, 3, generator=torch.Generator().manual_seed(0))
BEFORE = X + 0.1 * torch.randn(N, 6, 3, generator=torch.Generator().manual_seed(1))
P = torch.rand(N, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
TARGET = (torch.rand(N, 5, generator=torch.Generator().manual_seed(3)) < 0.4).double()
POINTS = torch.arange(5.0, dtype=torch.float64)
COST = (POINTS[:, None] - POINTS).square() / 16
CRITIC = Critic(lipschitz="spectral", activation="linear", steps=20, widths=(16, 16))

METRICS: dict[type[Metric], dict[str, tuple[Callable[[], Metric], tuple[Tensor, ...]]]] = {
    Moments: {"": (lambda: Moments(num_units=2), (X,))},
    Normality: {"": (Normality, (X,))},
    Health: {
        "": (Health, (X,)),
        "relu": (Health, ((X - 20).relu(),)),
        "projected": (lambda: Health(max_channels=4), (X,)),
        "tanh": (lambda: Health(bounds=(-1, 1)), ((X - 20).mul(4).tanh(),)),
    },
    Shift: {
        "sliced": (Shift, (X, BEFORE)),
        "exact": (lambda: Shift(estimator="exact"), (X, BEFORE)),
        "gaussian": (lambda: Shift(estimator="gaussian"), (X, BEFORE)),
        "critic": (lambda: Shift(estimator="critic", critic=CRITIC), (X, BEFORE)),
    },
    LabelTransport: {
        "emd": (lambda: LabelTransport(COST, method="emd"), (P, TARGET)),
        "sinkhorn": (lambda: LabelTransport(COST, method="sinkhorn", eps=0.05), (P, TARGET)),
        "total variation": (lambda: LabelTransport(method="total_variation"), (P, TARGET)),
    },
    MultiLabelScores: {"": (lambda: MultiLabelScores(5), (P, TARGET))},
}
CASES = {f"{kind.__name__} {name}".strip(): case for kind, cases in METRICS.items() for name, case in cases.items()}


def test_every_exported_metric_has_an_entry() -> None:
    exported = [getattr(ls.measure, name) for name in ls.measure.__all__]
    assert {x for x in exported if isinstance(x, type) and issubclass(x, Metric)} == set(METRICS)


def numbers(metric: Metric) -> dict[str, Tensor]:
    result = metric.compute()
    named = result._asdict() if isinstance(result, MultiLabelResult) else result
    named = named if isinstance(named, dict) else {"": named}
    assert all(isinstance(estimate, Estimate) for estimate in named.values())
    fields = ("value", "stderr", "n", "lower", "upper", "floor")
    found = {f"{name} {field}".strip(): getattr(e, field) for name, e in named.items() for field in fields}
    return {key: value for key, value in found.items() if value is not None}


def measure(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for name, (make, data) in CASES.items():
        metric = make()
        for parts in zip(*(side[SPLIT[rank]].split(14) for side in data), strict=True):
            metric.update(*parts)
        found[name] = numbers(metric)
    model = nn.Sequential(nn.Identity())
    with Monitor(model, store=f"{folder}/run.db") as monitor, monitor.step(0):
        model(X[SPLIT[rank]])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(measure, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one_process_on_the_union(folder, name) -> None:
    make, data = CASES[name]
    metric = make()
    metric.update(*data)
    expected = numbers(metric)
    for rank in range(2):
        found = torch.load(folder / f"{rank}.pt")[name]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.slow
def test_one_of_them_writes(folder) -> None:
    with open_store(folder) as store:
        (mean,) = (r for r in store.records() if r.measure == "mean" and r.unit is None)
        (distance,) = (r for r in store.records() if r.measure == "normality")
    assert (mean.n, distance.n) == (N, N)
    assert mean.value == pytest.approx(float(X.mean()), rel=1e-6)
