"""The table of methods and the words about it: computed from the runs, and careful about what leads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layershift.monitor.store import Record, Store
from layershift.report import overview, summary
from layershift.report.data import read_methods
from layershift.report.finding import finding
from layershift.report.series import Spread
from layershift.report.words import number


@pytest.fixture(scope="module")
def methods(demo):
    return read_methods([demo])


def column(methods, key):
    return next(score for score in summary.scores(methods) if score.key == key)


def make(tmp_path, results, values=(0.5, 0.4), measure="test/accuracy"):
    """Runs with given final results: {method: [one a seed]}."""
    for method, finals in results.items():
        for seed, final in enumerate(finals):
            with Store(tmp_path / method / f"seed{seed}" / "run.db") as store:
                store.set_meta("method", method)
                store.set_meta("seed", seed)
                store.write([Record(1, "", measure, final)])
                store.write([Record(step, "fc", "normality", value) for step, value in enumerate(values)])
    return read_methods([tmp_path])


def test_the_numbers_are_those_of_the_records(methods, make_records) -> None:
    for i, method in enumerate(methods):
        runs = [make_records(method.name, seed) for seed in range(3)]
        final = [next(r.value for r in run if r.measure == "test/accuracy") for run in runs]
        spread = column(methods, "headline").spreads[i]
        assert spread.mean == pytest.approx(100 * np.mean(final))
        assert spread.sd == pytest.approx(100 * np.std(final, ddof=1))
        ends = [np.mean([r.value for r in run if r.measure == "normality" and r.step == 600]) for run in runs]
        assert column(methods, "distance").spreads[i].mean == pytest.approx(np.mean(ends))
        assert column(methods, "distance").floors[i] == pytest.approx(0.035)
        medians = [1000 * np.median([r.value for r in run if r.measure == "step_seconds"]) for run in runs]
        assert column(methods, "time").spreads[i].mean == pytest.approx(np.mean(medians))
        losses = [[r.value for r in run if r.measure == "train/loss"][-1] for run in runs]
        assert column(methods, "loss").spreads[i].mean == pytest.approx(np.mean(losses))


def test_the_best_is_marked_only_when_it_is_ahead_of_the_spread(tmp_path) -> None:
    clear = make(tmp_path / "clear", {"a": [0.90, 0.91, 0.92], "b": [0.97, 0.98, 0.97]})
    assert column(clear, "headline").marks() == ["", "best"]
    assert finding(clear).startswith(
        "B (97.3\u00a0±\u00a00.6\u00a0%) has the highest test accuracy, ahead of a (91.0\u00a0%)"
    )
    level = make(tmp_path / "level", {"a": [0.96, 0.97, 0.99], "b": [0.97, 0.98, 0.97]})
    assert column(level, "headline").marks() == ["", ""]
    assert "No method is ahead in test accuracy, within the spread" in finding(level)
    two = make(tmp_path / "two", {"a": [0.96, 0.97, 0.98], "b": [0.97, 0.98, 0.97], "c": [0.5, 0.51, 0.5]})
    assert column(two, "headline").marks() == ["level", "level", ""]
    assert "are level within the spread for the highest test accuracy, ahead of c (50.3\u00a0%)" in finding(two)


def test_the_finding_names_whose_layers_are_closest_to_the_normal_distribution(methods) -> None:
    score = column(methods, "distance")
    leading, _ = score.leaders()
    assert leading
    sentence = next(part for part in finding(methods).split(". ") if "closest" in part)
    assert "the layers closest to N(0, I) in mean sliced W1, ahead of" in sentence
    led = sentence.split("closest")[0].lower()
    assert [method.name for i, method in enumerate(methods) if method.name in led] == [methods[i].name for i in leading]


def test_of_perplexities_the_lowest_is_best(tmp_path) -> None:
    methods = make(tmp_path, {"a": [95.0, 96.0, 97.0], "b": [80.1, 80.5, 80.9]}, measure="test/perplexity")
    assert column(methods, "headline").title == "Test perplexity"
    assert column(methods, "headline").marks() == ["", "best"]
    assert finding(methods).startswith("B (80.5\u00a0±\u00a00.4) has the lowest test perplexity, ahead of a (96.0)")
    told = {row["measure"]: row["mean"] for row in overview.numbers(methods) if row["method"] == "a"}
    assert told["test/perplexity"] == pytest.approx(96.0)


def test_single_runs_have_no_best(tmp_path) -> None:
    methods = make(tmp_path, {"a": [0.9], "b": [0.99]})
    assert column(methods, "headline").marks() == ["", ""]
    assert finding(methods).startswith("Test accuracy at the end: a (90.0\u00a0%) and b (99.0\u00a0%).")
    assert not overview.table(methods)["spread"]


def test_the_rule_is_two_standard_errors_of_the_difference() -> None:
    def leads(gap: float) -> bool:
        spreads = [Spread(0.0, 0.3, 4, 0, 0), Spread(gap, 0.4, 4, 0, 0)]
        return summary.Score("x", "X", "high", spreads, []).leaders()[1]

    assert leads(0.501)  # 2 √(0.09/4 + 0.16/4) = 0.5
    assert not leads(0.499)


def test_a_column_has_the_same_digits_unless_that_would_hide_a_number() -> None:
    def texts(*pairs: tuple[float, float]) -> list[str]:
        return summary.Score("x", "X", None, [Spread(mean, sd, 3, 0, 0) for mean, sd in pairs], []).texts()

    assert texts((97.01, 0.22), (94.551, 0.014)) == ["97.01 ± 0.22", "94.55 ± 0.01"]
    assert texts((0.057, 0.031), (0.00131, 0.00047)) == ["0.057 ± 0.031", "0.00131 ± 0.00047"]


def test_a_single_run_is_told_by_its_course(tmp_path) -> None:
    methods = make(tmp_path, {"a": [0.9]})
    assert finding(methods).startswith(
        "Between step 0 and step 1 the mean distance to N(0, I), over 1 layer, went from 0.500 to 0.400; "
        "now the layer farthest from it is fc, with 0.400."
    )


def test_what_is_not_finite_is_said_and_not_averaged_away(tmp_path) -> None:
    methods = make(tmp_path, {"a": [0.9]}, values=(0.5, math.nan))
    assert math.isinf(column(methods, "distance").spreads[0].mean)
    assert "Not finite: layer fc of a, seed 0, first at step 1." in finding(methods)


def test_a_constant_layer_is_said_to_be_constant_and_not_to_be_broken(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(s, n, "variance", 1.0) for s in range(3) for n in ("first", "second")])
        store.write([Record(2, "second", m, v) for m, v in {"variance": 0.0, "skewness": math.nan}.items()])
        store.set_meta("method", "a")
    said = finding(read_methods([tmp_path]))
    assert said == "2 layers measured at 3 steps. Constant: layer second of a, first at step 2."


def test_distances_are_compared_over_the_layers_that_all_have(tmp_path) -> None:
    for method, layers in {"a": ["x", "y"], "b": ["x", "norm", "y"]}.items():
        with Store(tmp_path / method / "run.db") as store:
            store.set_meta("method", method)
            store.write([Record(0, layer, "normality", float(len(layer))) for layer in layers])
    methods = read_methods([tmp_path])
    assert summary.shared_layers(methods) == ["x", "y"]
    assert [s.mean for s in column(methods, "distance").spreads] == [1.0, 1.0]


def test_every_final_number_is_listed_with_what_is_needed_to_believe_it(methods, make_records) -> None:
    rows = overview.numbers(methods)
    keys = {(row["method"], row["layer"], row["measure"]) for row in rows}
    assert len(keys) == len(rows) == 4 * (11 * 11 + 5)
    row = next(r for r in rows if (r["method"], r["layer"], r["measure"]) == ("per", "block1.relu", "variance"))
    runs = [make_records("per", seed) for seed in range(3)]
    values = [
        next(r for r in run if (r.step, r.layer, r.measure, r.unit) == (600, "block1.relu", "variance", None))
        for run in runs
    ]
    assert row["mean"] == pytest.approx(np.mean([r.value for r in values]))
    assert row["sd"] == pytest.approx(np.std([r.value for r in values], ddof=1))
    assert row["stderr"] == pytest.approx(np.sqrt(np.mean([r.stderr**2 for r in values])))
    assert (row["n"], row["seeds"], row["estimator"], row["units"], row["step"]) == (128, 3, "plug-in", "x^2", 600)


def test_the_configuration_is_told_once_where_runs_share_it(methods) -> None:
    told = overview.configurations(methods)
    assert told["same"]["config.epochs"] == "20"
    assert told["same"]["versions.torch"] == "2.15.0"
    assert told["own"][4]["values"]["seed"] == "1"
    assert set(told["own"][4]["values"]) == {"config.method", "config.seed", "method", "seed", "started", "finished"}


def test_the_head_says_what_was_run_when_and_how(methods) -> None:
    head = overview.head(methods, None)
    assert head["title"] == "mlp on digits: 4 methods × 3 seeds"
    assert head["facts"]["Run"] == "21 November 2026, 07:10, in 11 min 40 s"
    assert head["facts"]["With"] == "layershift 0.1.0, torch 2.15.0, revision 0123456"
    assert head["commands"] == ["layershift demo --out runs/demo"]


def test_meta_data_of_strange_kinds_does_no_harm(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, "fc", "mean", 1.0)])
        for key in ("config", "versions", "started", "finished", "seed", "method", "command"):
            store.set_meta(key, ["?", 1])
    head = overview.head(read_methods([tmp_path]), None)
    assert head["facts"] == {"Methods": "['?', 1]"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0028, "0.00280"),
        (-0.01234, "-0.0123"),
        (99.96, "100.0"),
        (math.inf, "not finite"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_are_written_for_people(value, text) -> None:
    assert number(value) == text
