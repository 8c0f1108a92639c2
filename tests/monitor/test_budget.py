"""The monitor counts what it costs, says so, and waits where it would cost too much; by a clock that the tests set."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from layershift.measure import Moments
from layershift.monitor import Monitor, open_store
from layershift.monitor.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("layershift.monitor.budget.time", clock)
    return clock


@pytest.fixture
def nothing_free(monkeypatch) -> None:
    monkeypatch.setattr("layershift.monitor.budget._FREE_SECONDS", 0.0)


def watch(clock: Clock, price: float = 0.03, **options) -> Monitor:
    """A monitor that takes `price` seconds for a step, by the clock."""

    class Slow(Moments):
        def update(self, x) -> None:
            clock.now += price
            super().update(x)

    return Monitor(nn.Sequential(nn.Identity()), measures=[Slow], every=1, **options)


def run(clock: Clock, monitor: Monitor, steps: int, seconds: float) -> float:
    """Train, each step taking some seconds; the time that all took."""
    start = clock.now
    for i in range(steps):
        with monitor.step(i):
            monitor._layers["0"](torch.randn(4, 3))
            clock.now += seconds
    return clock.now - start


def test_the_share_of_the_runs_time_stays_below_the_budget(clock, nothing_free) -> None:
    monitor = watch(clock, budget=0.2)
    elapsed = run(clock, monitor, 200, 0.01)
    seconds, share, measured, skipped = monitor.cost
    assert measured + skipped == 200
    assert seconds <= 0.2 * elapsed + 0.03  # the price of the first is not known before
    assert 0.18 < share < 0.22  # and what may be spent is spent
    assert len({r.step for r in monitor.records() if r.layer}) == measured


def test_a_dear_measure_stretches_its_interval(clock) -> None:
    monitor = watch(clock, price=3.0, budget=0.02)
    elapsed = run(clock, monitor, 2000, 1.0)
    steps = sorted({r.step for r in monitor.records() if r.layer})
    assert monitor.cost.seconds <= 0.02 * elapsed + 1 + 3
    gaps = {b - a for a, b in pairwise(steps[1:])}
    assert gaps <= {146, 147, 148}  # 3 s are 2 % of 150 s


def test_without_a_budget_every_due_step_is_measured(clock, nothing_free) -> None:
    monitor = watch(clock, budget=None)
    run(clock, monitor, 6, 0)
    assert monitor.cost.measured == 6
    assert monitor.cost.skipped == 0


def test_the_first_second_is_free(clock) -> None:
    monitor = watch(clock, budget=0.001)
    run(clock, monitor, 50, 0)
    assert monitor.cost.measured == 33
    assert monitor.cost.skipped == 17


def test_the_cost_is_measured_and_recorded(clock, tmp_path) -> None:
    with watch(clock, store=tmp_path / "run.db") as monitor:
        run(clock, monitor, 3, 0.07)
        assert monitor.cost.seconds == pytest.approx(3 * 0.03)
        assert monitor.cost.share == pytest.approx(0.3)
    with open_store(tmp_path / "run.db") as store:
        seconds = {r.step: r for r in store.records() if r.measure == "monitor/seconds"}
        share = {r.step: r for r in store.records() if r.measure == "monitor/share"}
    assert {step: r.value for step, r in seconds.items()} == pytest.approx({0: 0.03, 1: 0.03, 2: 0.03})
    assert {r.units for r in seconds.values()} == {"s"}
    assert {step: r.n for step, r in share.items()} == {0: 1, 1: 2, 2: 3}
    assert share[2].value == pytest.approx(0.3)


def test_time_inside_time_counts_once(clock) -> None:
    budget = Budget(None)
    with budget.spending():
        clock.now += 1
        with budget.spending():
            clock.now += 2
    clock.now += 5
    assert budget.cost.seconds == pytest.approx(3)
    assert budget.cost.share == pytest.approx(3 / 8)


def test_an_exception_while_measuring_is_paid_for(clock) -> None:
    budget = Budget(None)

    def fail() -> None:
        clock.now += 1
        raise KeyError

    with pytest.raises(KeyError), budget.spending():
        fail()
    assert budget.cost.seconds == pytest.approx(1)


@pytest.mark.parametrize("budget", [0, -1, 1.5])
def test_a_budget_is_a_share(clock, budget) -> None:
    with pytest.raises(ValueError, match=rf"budget: expected a share of time in \(0, 1\], or None, got {budget}"):
        watch(clock, budget=budget)
