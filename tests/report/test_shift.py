"""Shift in the report: estimates, errors and brackets against the records, and axes that mix nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layershift.monitor.store import Record, Store
from layershift.report import shift, style
from layershift.report.data import read_methods
from layershift.report.series import error_over_seeds


@pytest.fixture(scope="module")
def methods(watched):
    return read_methods([watched])


@pytest.fixture(scope="module")
def records(watched):
    """For each method and seed its records of whole layers, by (layer, measure)."""
    found = {}
    for method in ("gentle", "harsh"):
        for seed in range(2):
            with Store(watched / method / f"seed{seed}" / "run.db", read_only=True) as store:
                for r in store.records():
                    if r.unit is None:
                        found.setdefault((method, seed, r.layer, r.measure), []).append(r)
    return found


def one(tmp_path, records, **meta):
    with Store(tmp_path / "run.db") as store:
        store.write(records)
        for key, value in meta.items():
            store.set_meta(key, value)
    return read_methods([tmp_path])


def made(methods):
    section = shift.section(methods)
    assert not isinstance(section, str), section
    return section


@pytest.mark.parametrize("measure", ["shift/sliced", "shift/exact", "shift/critic"])
def test_line_band_and_ribbon_are_the_records(methods, records, measure) -> None:
    for method in methods:
        seeds = [records[method.name, seed, "block2.relu", measure] for seed in range(2)]
        figure = shift.shift_curve(method, "block2.relu", measure)
        drawn = {t.meta["role"]: t.y for t in figure.data}

        def mean(field, seeds=seeds):
            return np.mean([[getattr(r, field) for r in run] for run in seeds], axis=0)

        error = np.sqrt(np.sum([[r.stderr**2 for r in run] for run in seeds], axis=0)) / 2
        bottom = 10 ** figure.layout.yaxis.range[0] if figure.layout.yaxis.type == "log" else -np.inf
        np.testing.assert_allclose(drawn["estimate"], mean("value"), rtol=1e-5)
        np.testing.assert_allclose(drawn["bracket low"], np.maximum(mean("lower"), bottom), rtol=1e-5)
        np.testing.assert_allclose(drawn["bracket high"], mean("upper"), rtol=1e-5)
        np.testing.assert_allclose(drawn["standard error low"], mean("value") - error, rtol=1e-4)
        np.testing.assert_allclose(drawn["standard error high"], mean("value") + error, rtol=1e-4)
        assert list(figure.data[0].x) == list(range(15, 601, 15)), "nothing at the first measured step"


def test_the_standard_error_of_a_mean_over_seeds_is_that_of_independent_numbers(methods) -> None:
    rng = np.random.default_rng(0)
    tables = [run.errors["shift/exact"] for run in methods[0].runs]
    s = [float(table.loc[300, "head.norm"]) for table in tables]
    draws = np.mean([rng.normal(0, scale, 400_000) for scale in s], axis=0)
    assert error_over_seeds(tables).loc[300, "head.norm"] == pytest.approx(draws.std(), rel=0.01)


def test_an_axis_is_logarithmic_just_above_a_factor_of_ten(tmp_path) -> None:
    def axis_of(values):
        rows = [Record(s, "fc", "shift/exact", v, 0.01, 8, lower=0.0, upper=2 * v) for s, v in enumerate(values)]
        (tmp_path / "run.db").unlink(missing_ok=True)
        (method,) = one(tmp_path, rows)
        return shift.shift_curve(method, "fc", "shift/exact").layout.yaxis

    assert axis_of([1.0, 9.9]).type is None
    assert axis_of([1.0, 10.1]).type == "log"
    assert axis_of([1.0, 10.1]).title.text == "distance, log scale"
    assert axis_of([0.0, 50.0]).type is None, "a layer that has not moved can be seen"
    low, high = axis_of([1.0, 10.1]).range
    assert low < math.log10(0.1)
    assert math.log10(20.2) < high < math.log10(25)


def test_a_bracket_does_not_press_the_estimates_flat(tmp_path) -> None:
    rows = [Record(s, "fc", "shift/critic", v, 0.1, 8, lower=0.0, upper=900.0) for s, v in enumerate([1.0, -0.2])]
    (method,) = one(tmp_path, rows)
    figure = shift.shift_curve(method, "fc", "shift/critic")
    low, high = figure.layout.yaxis.range
    assert -0.6 < low < -0.3
    assert 3.3 < high < 3.6
    assert list(figure.data[1].y) == [900.0, 900.0], "the numbers are the store's all the same"


def test_a_bracket_from_zero_reaches_through_the_bottom_of_a_logarithmic_axis(methods) -> None:
    figure = shift.shift_curve(methods[0], "head.norm", "shift/critic")
    low = next(t.y for t in figure.data if t.meta["role"] == "bracket low")
    np.testing.assert_allclose(np.log10(low), figure.layout.yaxis.range[0], rtol=1e-6)


def test_k_times_a_distance_has_an_axis_of_its_own(methods) -> None:
    section = made(methods)
    titles = {panel.key: panel.title for panel in section.panels}
    assert titles["shift-1-critic"] == "harsh: critic (K·W1, K unknown)"
    for layer in section.choices:
        axes = {panel.key: panel.figures[layer].layout.yaxis for panel in section.panels}
        distances = {key: a for key, a in axes.items() if not key.endswith("critic")}
        assert len(distances) == 4
        assert len({(tuple(a.range), a.title.text) for a in distances.values()}) == 1, "distances share one"
        for key in ("shift-0-critic", "shift-1-critic"):
            assert axes[key].title.text.startswith("K·W1, K unknown")
            assert tuple(axes[key].range) != tuple(axes["shift-0-sliced"].range)
    assert "K·W1, K unknown" in section.lead


def test_a_certified_critic_shares_the_axis_of_the_others(tmp_path) -> None:
    rows = [
        Record(s, "fc", f"shift/{k}", 1.0 + s, 0.1, 8, lower=0.5, upper=9.0, units="x")
        for s in (1, 2)
        for k in ("critic", "gaussian", "sliced", "mine")
    ]
    section = made(one(tmp_path, rows))
    assert [panel.title for panel in section.panels] == ["sliced", "gaussian", "critic", "mine"]
    assert len({tuple(panel.figures["fc"].layout.yaxis.range) for panel in section.panels}) == 1
    assert "K unknown" not in section.lead


def test_estimators_are_told_apart_without_colours(methods) -> None:
    lines = [
        t
        for measure in shift.shift_measures(methods)
        for t in shift.shift_curve(methods[0], "head.norm", measure, limit=30).data
        if t.meta["role"] == "estimate"
    ]
    assert len({t.line.dash for t in lines}) == len({t.marker.symbol for t in lines}) == 3
    strokes = list(shift.STROKES.values())
    assert len({dash for dash, _ in strokes}) == len({sign for _, sign in strokes}) == len(strokes)


def test_the_overview_shows_all_layers_of_all_methods_on_one_scale(methods, records) -> None:
    section = made(methods)
    assert [panel.key for panel in section.overview] == ["shift-map-0", "shift-map-1"]
    ends = set()
    for panel, method in zip(section.overview, methods, strict=True):
        values = panel.figures[""].data[0]
        assert list(values.y) == method.layers
        for layer, row in zip(values.y, values.customdata, strict=True):
            seeds = [[r.value for r in records[method.name, seed, layer, "shift/sliced"]] for seed in range(2)]
            np.testing.assert_allclose(row, np.mean(seeds, axis=0), rtol=1e-5)
        ends.add((values.zmin, values.zmax))
    assert len(ends) == 1
    assert section.scales[0]["name"] == "sliced, distance, log scale"


def test_the_overview_prefers_what_compares_and_what_more_methods_have(tmp_path) -> None:
    for method, names in {"a": ["critic", "gaussian"], "b": ["critic", "gaussian", "sliced"]}.items():
        with Store(tmp_path / method / "run.db") as store:
            store.set_meta("method", method)
            for s in (1, 2):
                for name in names:
                    units = "K·x" if name == "critic" else "x"
                    store.write([Record(s, "fc", f"shift/{name}", 1.0, 0.1, 8, units=units)])
    section = made(read_methods([tmp_path]))
    assert section.scales[0]["name"] == "gaussian, distance"
    lacking = next(panel for panel in section.panels if panel.key == "shift-0-sliced")
    assert lacking.figures["fc"].layout.annotations[0].text == "not measured here"
    assert section.columns == 3, "a method lacking one still has its row in order"


def test_only_k_times_a_distance_is_an_overview_that_says_so(tmp_path) -> None:
    section = made(one(tmp_path, [Record(s, "fc", "shift/critic", 0.1 * s, units="K·x") for s in (1, 2)]))
    assert section.scales[0]["name"] == "critic, K·W1, K unknown"


def test_the_layer_that_moves_most_is_shown_first(tmp_path) -> None:
    rows = [Record(s, n, "shift/sliced", v) for s in (1, 2) for n, v in {"a": 1.0, "b": 3.0, "c": 2.0}.items()]
    assert made(one(tmp_path, [*rows, Record(2, "a", "shift/sliced", math.inf)])).chosen == "b"


def test_numbers_without_error_or_bracket_are_a_line_and_what_is_not_finite_a_gap(tmp_path) -> None:
    rows = [Record(s, "fc", "shift/sliced", v) for s, v in {10: 1.0, 20: math.nan, 30: 2.0}.items()]
    (method,) = one(tmp_path, rows)
    drawn = {t.meta["role"]: t for t in shift.shift_curve(method, "fc", "shift/sliced").data}
    np.testing.assert_array_equal(drawn["estimate"].y, [1.0, np.nan, 2.0])
    assert all(np.isnan(drawn[role].y).all() for role in drawn if role != "estimate")


def test_captions_say_what_was_estimated_and_how_long_it_took(methods) -> None:
    caption = made(methods).caption
    assert caption.startswith("Mean over seeds, n = 2 seeds. All 41 measured steps are drawn.")
    assert "Estimates: sliced W1 on the scale of W1, 128 directions; exact W1 of these pairs; K·W1 with K" in caption
    assert "standard error" not in caption
    assert "sliced 4.40 ms, exact 330 ms, critic 1.32 s." in caption  # 11 layers


def test_names_of_layers_and_methods_stay_text(tmp_path) -> None:
    name = "<b>x</b>"
    section = made(one(tmp_path, [Record(s, name, "shift/sliced", 1.0) for s in (1, 2)], method=name))
    assert section.overview[0].figures[""].data[0].y[0] == style.plain(name)


def test_long_runs_are_thinned(tmp_path) -> None:
    (method,) = one(tmp_path, [Record(s, "fc", "shift/sliced", 1.0 + s) for s in range(1, 200)])
    x = shift.shift_curve(method, "fc", "shift/sliced", limit=50).data[0].x
    assert (len(x), x[0], x[-1]) == (50, 1, 199)


def test_without_shift_there_is_a_sentence_on_how_to_measure_it(tmp_path) -> None:
    told = shift.section(one(tmp_path, [Record(0, "fc", "mean", 0.0)]))
    assert isinstance(told, str)
    assert 'measures=("moments", "shift"), on="probe"' in told
