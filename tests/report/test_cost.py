"""The cost of monitoring in the report: the monitor's own records, and silence where there are none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layershift.monitor import Monitor
from layershift.monitor.store import Record, Store
from layershift.report import cost, overview
from layershift.report.data import read_methods


@pytest.fixture(scope="module")
def methods(watched):
    return read_methods([watched])


def test_share_median_and_steps_are_those_of_the_records(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        for i, seconds in enumerate([9.0, 0.01, 0.03]):
            store.write([Record(i, "", "monitor/seconds", seconds, n=1, units="s"), Record(i, "fc", "mean", 0.0)])
            store.write([Record(i, "", "monitor/share", 0.5 / (i + 1), n=i + 1)])
    (run,) = read_methods([tmp_path])[0].runs
    found = cost.Cost.of(run)
    assert found == (pytest.approx(0.5 / 3), 0.03, 3)
    assert cost.told(run) == {"monitoring": "17 % of the time, 30.0 ms a measured step (median), 3 measured steps"}


def test_several_runs_are_told_from_the_least_to_the_most(methods) -> None:
    text = "1.4 to 1.6 % of the time, 11.0 to 12.0 ms a measured step (median), 41 measured steps"
    assert overview.head(methods, None)["facts"]["Monitoring"] == text
    own = [run["values"]["monitoring"] for run in overview.configurations(methods)["own"]]
    assert own[0].startswith("1.4 % of the time, 11.0 ms")
    assert own[1].startswith("1.6 % of the time, 12.0 ms")
    assert cost.missing(methods) == []


def test_what_a_monitor_counts_is_told_as_it_says_itself(tmp_path) -> None:
    model = nn.Linear(4, 3)
    with Monitor(model, store=tmp_path / "run.db", measures=("moments",), every=1, budget=None) as monitor:
        for i in range(4):
            with monitor.step(i):
                model(torch.randn(8, 4))
    (run,) = read_methods([tmp_path])[0].runs
    found = cost.Cost.of(run)
    assert found is not None
    assert found.steps == monitor.cost.measured == 4
    assert 0 < found.share < 1
    assert 0 < found.seconds < monitor.cost.seconds


def test_half_of_it_is_told_and_nothing_is_missing_then(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(i, "", "monitor/seconds", 2.0) for i in (0, 1)] + [Record(0, "a", "mean", 0.0)])
    methods = read_methods([tmp_path])
    assert cost.fact(methods) == "2.00 s a measured step (median), 1 measured step"


def test_a_run_without_it_claims_nothing(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, "fc", "mean", 0.0)])
    methods = read_methods([tmp_path])
    assert "Monitoring" not in overview.head(methods, None)["facts"]
    (sentence,) = cost.missing(methods)
    assert "“monitor/share”" in sentence
