"""Statistics of runs, on records made by hand."""

from __future__ import annotations

import math

import pytest

from layershift.monitor import Record
from layershift.train.statistics import (
    STATISTICS,
    accuracy,
    best,
    change_at_decay,
    error,
    fluctuation,
    last,
    layer_mean,
    read_statistic,
    series,
    step_milliseconds,
)

NAN, INF = math.nan, math.inf


def network(measure: str, *values: float) -> list[Record]:
    return [Record(step, "", measure, value) for step, value in enumerate(values)]


def layer(name: str, measure: str, *values: float, unit: int | None = None) -> list[Record]:
    return [Record(10 * step, name, measure, value, unit=unit) for step, value in enumerate(values)]


def test_last_is_of_the_network_as_a_whole() -> None:
    records = [*network("val/loss", 3.0, 2.0), *layer("relu1", "val/loss", 9.0), *network("val/accuracy", 0.5)]
    assert last(records, measure="val/loss") == 2.0
    assert last(records, measure="val/accuracy", factor=100) == 50
    assert math.isnan(last(records, measure="test/loss"))


@pytest.mark.parametrize("value", [NAN, INF])
def test_last_hides_no_broken_number(value: float) -> None:
    assert last(network("val/loss", 1.0, value), measure="val/loss") == pytest.approx(value, nan_ok=True)


def test_error_and_accuracy_are_percentages() -> None:
    records = [*network("test/accuracy", 0.9), *network("val/accuracy", 0.7)]
    assert error(records) == pytest.approx(10)
    assert accuracy(records) == pytest.approx(90)
    assert error(records, measure="val/accuracy") == pytest.approx(30)
    assert math.isnan(error([]))
    assert math.isnan(accuracy([]))


def test_best_is_the_lowest_or_the_highest() -> None:
    records = network("val/perplexity", 30.0, 10.0, 20.0)
    assert best(records, measure="val/perplexity") == 10
    assert best(records, measure="val/perplexity", higher=True) == 30
    assert math.isnan(best(records, measure="val/loss"))


@pytest.mark.parametrize("values", [(NAN, 2.0, 1.0), (2.0, NAN, 1.0), (2.0, 1.0, NAN)])
def test_best_does_not_depend_on_where_a_nan_stands(values: tuple[float, ...]) -> None:
    assert best(network("val/loss", *values), measure="val/loss") == 1
    assert math.isnan(best(network("val/loss", NAN, NAN), measure="val/loss"))


LAYERS = [*layer("relu1", "normality", 4.0, 2.0), *layer("relu2", "normality", 8.0, -6.0)]


def test_layer_mean_at_the_end_and_over_the_run() -> None:
    assert layer_mean(LAYERS, measure="normality") == -2
    assert layer_mean(LAYERS, measure="normality", absolute=True) == 4
    assert layer_mean(LAYERS, measure="normality", at="run") == 2
    assert layer_mean(LAYERS, measure="normality", at="run", skip=0.5) == -2
    assert layer_mean(LAYERS, measure="normality", layers="*1") == 2
    assert math.isnan(layer_mean(LAYERS, measure="normality", layers="conv*"))


def test_layer_mean_leaves_units_and_the_network_out() -> None:
    others = [*layer("relu1", "normality", 100.0, 100.0, unit=0), *network("normality", 100.0)]
    assert layer_mean([*LAYERS, *others], measure="normality") == layer_mean(LAYERS, measure="normality")


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_broken_layer_does_not_vanish_from_the_mean(value: float) -> None:
    assert layer_mean([*LAYERS, *layer("relu3", "normality", 1.0, value)], measure="normality") == INF


def test_fluctuation_is_of_units_between_neighbouring_measurements() -> None:
    records = [
        *layer("relu1", "mean", 0.0, 1.0, 3.0, unit=0),  # 1, 2
        *layer("relu1", "mean", 0.0, -6.0, -6.0, unit=1),  # 6, 0
        *layer("relu1", "mean", 0.0, 100.0, 200.0),  # the whole layer's do not count
    ]
    assert fluctuation(records, measure="mean") == 9 / 4
    assert fluctuation(records, measure="mean", skip=0.5) == 1  # moves that start at step 10 of 20
    assert math.isnan(fluctuation(records, measure="mean", layers="relu2"))
    assert math.isnan(fluctuation(layer("relu1", "mean", 1.0, unit=0), measure="mean"))


@pytest.mark.parametrize("value", [NAN, INF])
def test_fluctuation_leaves_out_where_a_unit_has_no_number(value: float) -> None:
    records = layer("relu1", "skewness", 1.0, 2.0, value, 5.0, 8.0, unit=0)
    assert fluctuation(records, measure="skewness") == 2  # 1 and 3


def rates(*values: float) -> list[Record]:
    return [Record(10 * step, "", "learning_rate", value) for step, value in enumerate(values)]


def test_change_at_decay_compares_around_the_first_fall_and_stops_at_the_second() -> None:
    falls = rates(1, 1, 1, 1, 0.2, 0.2, 0.04, 0.04)  # after steps 30 and 50
    shift = layer("relu1", "shift/sliced", 99, 4, 6, 8, 2, 1, 77, 77)  # step 0 lies before a third of 30
    assert change_at_decay([*falls, *shift], measure="shift/sliced") == 1.5 / 6


def test_change_at_decay_averages_layers_and_takes_a_pattern() -> None:
    falls = rates(1, 1, 0.1, 0.1)
    shift = [*layer("relu1", "shift/sliced", 9, 4, 1, 1), *layer("conv", "shift/sliced", 9, 6, 5, 3)]
    assert change_at_decay([*falls, *shift], measure="shift/sliced") == 2.5 / 5
    assert change_at_decay([*falls, *shift], measure="shift/sliced", layers="relu*") == 1 / 4


def test_change_at_decay_knows_neither_a_rate_that_stays_nor_one_that_rises_nor_a_cosine_step() -> None:
    shift = layer("relu1", "shift/sliced", 1, 2, 3)
    for values in ((1, 1, 1), (0.1, 1, 1), (1, 0.95, 0.91)):
        assert math.isnan(change_at_decay([*rates(*values), *shift], measure="shift/sliced"))
    assert math.isnan(change_at_decay(rates(1, 1, 0.1), measure="shift/sliced"))
    assert math.isnan(
        change_at_decay([*rates(1, 1, 0.1), *layer("relu1", "shift/sliced", 1, 0, 3)], measure="shift/sliced")
    )


def test_step_milliseconds_is_a_median() -> None:
    assert step_milliseconds(network("step_seconds", 0.001, 0.002, 1.0)) == 2
    assert math.isnan(step_milliseconds([]))


def test_series_are_by_layer_and_unit() -> None:
    records = [*layer("relu1", "mean", 1.0, 2.0), *layer("relu1", "mean", 3.0, unit=4), *layer("conv", "mean", 5.0)]
    assert series(records, "mean", "relu*") == {("relu1", None): [(0, 1.0), (10, 2.0)]}
    assert series(records, "mean", "*", units=True) == {("relu1", 4): [(0, 3.0)]}


def test_a_statistic_is_read_by_its_name() -> None:
    records = network("test/accuracy", 0.25)
    assert read_statistic(records, "error", {}) == 75
    assert read_statistic(records, "last", {"measure": "test/accuracy", "factor": 4}) == 1
    with pytest.raises(ValueError, match=f"statistic: expected one of '{next(iter(STATISTICS))}'.*got 'median'"):
        read_statistic(records, "median", {})
    with pytest.raises(ValueError, match=r"statistic last: expected its options \(missing .*'measure'\), got {}"):
        read_statistic(records, "last", {})
    with pytest.raises(ValueError, match=r"statistic error: expected its options \(.*unexpected.*'at'\)"):
        read_statistic(records, "error", {"at": "end"})
