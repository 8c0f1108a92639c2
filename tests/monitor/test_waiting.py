"""Layers that wait to be measured together are measured as if each had been measured at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from layershift.measure import Estimate, Health, Moments, Normality
from layershift.monitor import Monitor, Record, metrics, waiting
from layershift.monitor.metrics import LayerMetrics


class Network(nn.Module):
    """Layers that change their input, run twice, hand on what they got, or are large."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.same = nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Identity()
        self.twice, self.thrice = nn.Linear(5, 5), nn.Tanh()
        self.convolution = nn.Conv2d(1, 3, 3, padding=1)
        self.large = nn.Linear(15, 2**14)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.relu(self.first(x)))
        x = self.twice(self.twice(x))
        x = self.thrice(self.thrice(self.thrice(x)))
        maps = self.convolution(x.view(-1, 1, 1, 5))
        return self.large(maps.flatten(1))


def _records(model: nn.Module, x: Tensor, **options) -> list[Record]:
    with Monitor(model, layers="*", every=1, budget=None, alarms=None, **options) as monitor:
        for step in range(3):
            with monitor.step(step):
                model(x * (1 + step))
        return monitor.records()


@pytest.mark.parametrize("measures", [["moments", "normality"], ["moments", "health"]])
def test_records_are_those_of_layers_that_do_not_wait(measures, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Network(), torch.randn(8, 6)
    found = _records(model, x, measures=measures)
    monkeypatch.setattr(metrics, "can_wait", lambda output: False)
    expected = _records(model, x, measures=measures)
    assert len(found) == len(expected) > 500

    def known(records: list[Record]) -> dict:
        return {(r.step, r.layer, r.measure, r.unit): r for r in records if r.layer}

    ours, others = known(found), known(expected)
    assert list(ours) == list(others)  # in the same order, too
    for key, other in others.items():
        for field in ("value", "stderr", "n"):
            number, wanted = getattr(ours[key], field), getattr(other, field)
            assert number == (wanted and pytest.approx(wanted, rel=1e-5, abs=1e-7, nan_ok=True)), key
        assert (ours[key].estimator, ours[key].units) == (other.estimator, other.units)


def test_layers_of_one_shape_are_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    together = Moments.measure_all
    monkeypatch.setattr(Moments, "measure_all", staticmethod(lambda m, x: calls.append(len(m)) or together(m, x)))
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)], nn.Linear(4, 2))
    with Monitor(model, layers="*", measures=["moments"], every=1, budget=None) as monitor, monitor.step(0):
        model(torch.randn(8, 4))
    assert sorted(calls) == [1, 5]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (torch.zeros(4, 3), True),
        (torch.zeros(4, 3, dtype=torch.bfloat16), True),
        (torch.zeros(4), False),
        (torch.zeros(0, 3), False),
        (torch.zeros(4, 3, dtype=torch.int64), False),
        (torch.zeros(2**9, 2**8), False),
        (torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last), False),
        (nn.Parameter(torch.zeros(4, 3)), False),
    ],
)
def test_who_can_wait(output: Tensor, expected: bool) -> None:
    assert waiting.can_wait(output) is expected


class Doubled(Moments):
    """A class of somebody else's, which measures something else."""

    def update(self, x: Tensor) -> None:
        super().update(2 * x)


@pytest.mark.parametrize(
    ("make", "factor"), [(Moments, 1), (Doubled, 2), (lambda: _fed(Moments(), 4), None)], ids=["ours", "theirs", "fed"]
)
def test_what_a_metric_is_decides(make: Callable[[], Moments], factor: int | None) -> None:
    layers = LayerMetrics(["a"], [make])
    x = torch.randn(6, 3)
    layers.see("a", x)
    (result,) = layers.results()
    mean: Estimate = result.estimates["mean"]
    expected = x.mean() * factor if factor else (x.mean() + 4) / 2  # with what it had seen before
    assert float(mean.value) == pytest.approx(float(expected), abs=1e-6)


def _fed(metric: Moments, number: float) -> Moments:
    metric.update(torch.full((6, 3), float(number)))
    return metric


def test_only_what_can_be_measured_at_once_waits() -> None:
    assert waiting.measures_together(Normality())
    assert not waiting.measures_together(Health())
