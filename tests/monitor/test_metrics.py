"""One output under two names is measured once, and nothing else is ever taken for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torchmetrics import Metric

from layershift.measure import Estimate, Shift
from layershift.monitor import Monitor
from layershift.monitor.metrics import LayerMetrics


class Total(Metric):
    """The sum of all that it has seen; counts how often any of its kind has looked."""

    looked = 0
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        Total.looked += 1
        self.total += x.sum()

    def compute(self) -> Estimate:
        return Estimate(self.total, self.total, self.total)


@pytest.fixture
def metrics() -> LayerMetrics:
    Total.looked = 0
    return LayerMetrics(["a", "b", "c"], [Total])


def totals(metrics: LayerMetrics) -> dict[str, float]:
    return {result.layer: float(next(iter(result.estimates.values())).value) for result in metrics.results()}


def test_the_same_output_is_measured_once(metrics) -> None:
    for _ in range(2):  # after a reset too
        x = torch.randn(4, 3)
        for name in "abc":
            metrics.see(name, x.detach())
        assert totals(metrics) == pytest.approx(dict.fromkeys("abc", float(x.sum())))
        metrics.reset()
    assert Total.looked == 2


def test_each_goes_its_own_way_afterwards(metrics) -> None:
    x, y = torch.randn(2, 4, 3)
    metrics.see("a", x)
    metrics.see("b", x)
    metrics.see("a", y)
    metrics.see("b", x)
    metrics.see("c", x)  # by now both others have seen more
    expected = {"a": x + y, "b": 2 * x, "c": x}
    assert totals(metrics) == pytest.approx({name: float(t.sum()) for name, t in expected.items()}, abs=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.relu_(),
        lambda x: x.view(3, 4),
        lambda x: x[:2],
        lambda x: x[1:],
        lambda x: x.clone().neg_(),
        lambda x: x.view(torch.int32).view(torch.float32).neg_(),
        lambda x: x.view(torch.bfloat16),
    ],
    ids=["in place", "reshaped", "first half", "second half", "copy", "in place by a view", "of another dtype"],
)
def test_what_only_looks_like_it_is_measured(metrics, other) -> None:
    x = torch.randn(4, 3)
    metrics.see("a", x)
    before = float(x.sum())
    y = other(x)
    metrics.see("b", y)
    assert Total.looked == 2
    assert totals(metrics) == pytest.approx({"a": before, "b": float(y.sum())}, nan_ok=True)


def test_memory_is_let_go_and_taken_anew_without_confusion(metrics) -> None:
    x = torch.ones(1000, 100)
    memory = StorageWeakRef(x.untyped_storage())
    metrics.see("a", x)
    del x
    assert memory.expired()
    metrics.see("b", torch.zeros(1000, 100))  # most likely where the first was
    assert totals(metrics) == {"a": 1e5, "b": 0}


def test_where_changes_leave_no_mark_everything_is_measured(metrics) -> None:
    with torch.inference_mode():
        x = torch.randn(4, 3)
        metrics.see("a", x)
        metrics.see("b", x.relu_())
    assert Total.looked == 2


def test_measures_that_compare_keep_their_own_past() -> None:
    metrics = LayerMetrics(["a", "b"], [lambda: Shift(max_samples=8)])
    x = torch.randn(8, 3)
    metrics.see("a", x)
    metrics.see("b", x + 1)
    metrics.keep()
    metrics.reset()
    for name in "ab":
        metrics.see(name, x)
    assert totals(metrics) == pytest.approx({"a": 0, "b": 3**0.5})


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shortcut, self.relu = nn.Linear(5, 5), nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.linear(x) + self.shortcut(x))


def test_a_network_with_shortcuts_and_changes_in_place() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), Residual(), Residual())
    x, expected = torch.randn(32, 4), {}
    with Monitor(model, every=1, budget=None) as monitor:
        with monitor.step(0):
            model(x)
        found = {r.layer: r.value for r in monitor.records() if r.measure == "mean" and r.unit is None}
    y = x
    with torch.no_grad():
        y = expected["0"] = model[0](y)
        y = expected["1"] = y.relu()
        for i in (2, 3):
            expected[f"{i}.shortcut"], expected[f"{i}.linear"] = y, model[i].linear(y)
            y = expected[f"{i}.relu"] = (y + expected[f"{i}.linear"]).relu()
    assert found == pytest.approx({name: float(t.mean()) for name, t in expected.items()}, rel=1e-5)
