"""The table of methods: by hand, with gaps, and against the report, which must show the same numbers."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from layershift.monitor import Record, Store
from layershift.report.data import read_methods
from layershift.report.summary import scores
from layershift.train.tables import as_data, cells, markdown, read_numbers, summarize

RUNS = {
    ("batch", 0): (0.90, [0.5, 0.7], [0.003, 0.005, 0.004]),
    ("batch", 1): (0.94, [0.6, 0.8], [0.002, 0.002, 0.009]),
    ("per", 0): (0.95, [0.2, math.nan], [0.001]),
}


@pytest.fixture
def stores(tmp_path):
    paths = []
    for (method, seed), (accuracy, distances, seconds) in RUNS.items():
        paths.append(tmp_path / method / f"seed{seed}" / "run.db")
        with Store(paths[-1]) as store:
            for key, value in {"method": method, "seed": seed, "started": f"2026-01-0{len(paths)}"}.items():
                store.set_meta(key, value)
            store.write(Record(i, "", "step_seconds", s, units="s") for i, s in enumerate(seconds))
            for layer, distance in zip(["a", "b"], distances, strict=True):
                store.write([Record(0, layer, "normality", 9.0), Record(8, layer, "normality", distance)])
                store.write([Record(8, layer, "normality", 77.0, unit=1), Record(8, layer, "normality_floor", 0.1)])
            store.write([Record(8, "", "test/accuracy", accuracy, 0.01, 450)])
    return paths


def test_by_hand(stores) -> None:
    batch, per = summarize(stores)
    assert (batch.method, per.method) == ("batch", "per")
    assert batch.accuracy == pytest.approx((0.92, statistics.stdev([0.90, 0.94]), 2))
    assert batch.distance == pytest.approx((0.65, statistics.stdev([0.6, 0.7]), 2))
    assert batch.floor.mean == pytest.approx(0.1)
    assert batch.milliseconds == pytest.approx((3.0, statistics.stdev([4.0, 2.0]), 2))
    assert per.accuracy.n == 1
    assert math.isnan(per.accuracy.sd)
    assert per.distance.mean == math.inf, "a layer that is not finite must not vanish from the mean"


def test_the_report_shows_the_same_numbers(stores) -> None:
    rows = summarize(stores)
    columns = {score.key: score.spreads for score in scores(read_methods(stores))}
    for i, row in enumerate(rows):
        assert columns["headline"][i].mean == pytest.approx(100 * row.accuracy.mean)
        assert columns["headline"][i].sd == pytest.approx(100 * row.accuracy.sd, nan_ok=True)
        assert columns["distance"][i].mean == pytest.approx(row.distance.mean)
        assert columns["time"][i].mean == pytest.approx(row.milliseconds.mean)
        assert columns["time"][i].n == row.milliseconds.n


def test_as_text_and_as_data(stores) -> None:
    rows = summarize(stores)
    assert cells(rows[0]) == ["batch", "2", "92.00 ± 2.83", "0.650 ± 0.071 (0.100)", "3.00 ± 1.41"]
    assert "| per | 1 | 95.00 | inf (0.100) | 1.00 |" in markdown(rows)
    data = json.loads(json.dumps(as_data(rows), allow_nan=False))
    assert data[1]["distance"] == {"mean": None, "sd": None, "n": 1}


def test_a_run_that_has_not_got_far(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, "", "train/loss", 2.0)])
    numbers = read_numbers(tmp_path / "run.db")
    assert numbers["method"] == tmp_path.name
    assert all(math.isnan(numbers[key]) for key in ("accuracy", "distance", "milliseconds"))
    assert cells(summarize([tmp_path / "run.db"])[0])[1:] == ["0", "–", "–", "–"]
