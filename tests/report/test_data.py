"""Stores to tables: against the records that were written, one by one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from layershift.monitor.store import Record, Store
from layershift.report import data, series


def store(path, records, **meta):
    with Store(path) as made:
        made.write(records)
        for key, value in meta.items():
            made.set_meta(key, value)
    return path


def test_tables_hold_exactly_what_was_written(tmp_path, make_records) -> None:
    records = make_records("batch", 1)
    run = data.read_run(store(tmp_path / "run.db", records, method="batch", seed=1), "x")
    checked = 0
    for r in records:
        if r.layer == "":
            assert run.network[r.measure][r.step] == r.value
        elif r.unit is None:
            assert run.levels[r.measure].loc[r.step, r.layer] == np.float32(r.value)
            expected = math.inf if r.stderr is None else np.float32(r.stderr)
            assert run.errors[r.measure].loc[r.step, r.layer] == expected
        else:
            assert run.units[r.measure].loc[r.step, (r.layer, r.unit)] == np.float32(r.value)
        checked += 1
    assert checked == len(records) > 10_000
    assert run.name == "batch, seed 1"
    assert run.steps == 41


def test_not_measured_and_not_finite_are_told_apart(tmp_path) -> None:
    records = [Record(0, "a", "mean", 1.0), Record(10, "a", "mean", math.nan), Record(10, "b", "mean", 2.0)]
    run = data.read_run(store(tmp_path / "run.db", records), "x")
    table = run.levels["mean"]
    assert math.isnan(table.loc[0, "b"])
    assert math.isinf(table.loc[10, "a"])
    assert math.isnan(run.final.set_index("layer").loc["a", "value"])


def test_many_steps_are_thinned_evenly_with_both_ends_kept(tmp_path) -> None:
    records = [Record(step, "a", "mean", float(step)) for step in range(0, 5000, 5)]
    records += [Record(step, "", "train/loss", float(step)) for step in range(5000)]
    run = data.read_run(store(tmp_path / "run.db", records), "x")
    steps = run.levels["mean"].index.to_numpy()
    assert len(steps) == series.KEEP
    assert (steps[0], steps[-1]) == (0, 4995)
    assert set(np.diff(steps)) == {10, 15}
    assert run.steps == 1000
    assert len(run.network["train/loss"]) == 5000, "what is cheap is read whole"


def test_stores_are_found_below_folders_and_once_only(tmp_path, make_run) -> None:
    first, second = make_run(tmp_path, "per", 0), make_run(tmp_path, "per", 1)
    assert data.find_stores([tmp_path, first]) == [first, second]


def test_methods_come_in_the_order_of_their_start_and_runs_by_seed(demo) -> None:
    methods = data.read_methods([demo])
    assert [m.name for m in methods] == ["vanilla", "batch", "unitization", "per"]
    assert [[r.seed for r in m.runs] for m in methods] == [[0, 1, 2]] * 4


def test_a_store_without_a_method_is_called_after_its_folder(tmp_path) -> None:
    paths = [store(tmp_path / name / "run.db", [Record(0, "a", "mean", 1.0)]) for name in ("mine", "yours")]
    assert [m.name for m in data.read_methods(paths)] == ["mine", "yours"]
    assert data.label(data.read_methods(paths)) == "run"


@pytest.mark.parametrize("where", ["nothing", "empty"])
def test_no_store_is_an_error_that_names_the_path(tmp_path, where) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{where}: no (such file|run.db)"):
        data.read_methods([tmp_path / where])


def test_an_empty_store_is_an_error_that_names_the_path(tmp_path) -> None:
    path = store(tmp_path / "run.db", [])
    with pytest.raises(ValueError, match=rf"{path}: this store holds no measurement yet"):
        data.read_methods([path])


def test_means_over_seeds_are_numpys_and_a_fault_in_one_shows() -> None:
    steps = pd.Index([0, 10, 20], name="step")
    a = pd.DataFrame({"x": [1.0, 2.0, np.inf], "y": [1.0, np.nan, 3.0]}, index=steps)
    b = pd.DataFrame({"x": [3.0, 5.0, 7.0], "y": [2.0, np.nan, np.nan]}, index=steps)
    mean = series.over_seeds([a, b])
    np.testing.assert_array_equal(mean["x"], [2.0, 3.5, np.inf])
    np.testing.assert_array_equal(mean["y"], [1.5, np.nan, 3.0])


def test_runs_on_different_steps_are_joined_by_their_last_measurement() -> None:
    a = pd.Series([1.0, 2.0], index=[0, 10])
    b = pd.Series([5.0, np.inf, 7.0], index=[5, 10, 20])
    steps, (left, right) = series.align([a, b])
    assert list(steps) == [0, 5, 10, 20]
    np.testing.assert_array_equal(left, [1.0, 1.0, 2.0, np.nan])
    np.testing.assert_array_equal(right, [np.nan, 5.0, np.inf, 7.0])


def test_orders_of_layers_are_merged_without_breaking_any() -> None:
    orders = [["a", "b", "d"], ["a", "c", "d", "e"], ["z", "a"]]
    merged = series.merge_orders(orders)
    assert all([name for name in merged if name in order] == order for order in orders)
    assert sorted(merged) == sorted({name for order in orders for name in order})


def test_spread_is_numpys() -> None:
    values = [0.3, 0.7, 0.8, math.nan]
    spread = series.Spread.of(values)
    assert spread.mean == pytest.approx(np.nanmean(values))
    assert spread.sd == pytest.approx(np.nanstd(values, ddof=1))
    assert (spread.n, spread.low, spread.high) == (3, 0.3, 0.8)
    assert math.isnan(series.Spread.of([1.0]).sd)
    assert series.Spread.of([]).n == 0
