"""Tables to figures: every drawn number against the table it comes from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layershift.monitor.store import Record, Store
from layershift.report import figures, style
from layershift.report.data import read_methods
from layershift.report.series import over_seeds


@pytest.fixture(scope="module")
def methods(demo):
    return read_methods([demo])


def trace(figure, role):
    return next(t for t in figure.data if t.meta["role"] == role)


def test_curves_show_the_mean_and_the_range_over_seeds(methods) -> None:
    figure = figures.curves(methods, "val/accuracy", title="accuracy, %", factor=100)
    assert len(figure.data) == 3 * len(methods)
    for i, method in enumerate(methods):
        values = np.stack([100 * run.network["val/accuracy"].to_numpy() for run in method.runs])
        low, high, mean = (t.y for t in figure.data[3 * i : 3 * i + 3])
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(low, values.min(0), rtol=1e-6)
        np.testing.assert_allclose(high, values.max(0), rtol=1e-6)
        assert figure.data[3 * i + 2].line.color == style.colour(method)


def test_a_single_run_has_no_band(tmp_path, make_run) -> None:
    make_run(tmp_path, "per", 0)
    assert [t.meta["role"] for t in figures.curves(read_methods([tmp_path]), "val/loss", title="loss").data] == ["mean"]


def test_a_loss_over_decades_is_logarithmic_and_accuracy_leaves_out_the_start(methods) -> None:
    loss = figures.curves(methods, "train/loss", title="loss")
    assert loss.layout.yaxis.type == "log"
    assert loss.layout.yaxis.title.text == "loss, log scale"
    late = figures.curves(methods, "val/accuracy", title="accuracy, %", factor=100, settled=True)
    assert 30 < late.layout.yaxis.range[0] < min(t.y[2] for t in late.data)


def test_long_curves_are_averaged_in_bins(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(step, "", "train/loss", float(step)) for step in range(1000)])
    line = figures.curves(read_methods([tmp_path]), "train/loss", title="loss").data[0]
    assert len(line.y) == 112  # ceil(1000 / 120) = 9 values a bin
    assert (line.x[0], line.y[0]) == (8, 4.0)
    assert (line.x[-1], line.y[-1]) == (999, 999.0)


def test_heat_maps_share_a_scale_and_show_layers_in_the_networks_order(methods) -> None:
    scale = figures.distance_scale(methods)
    assert scale.log
    everything = []
    for method in methods:
        figure = figures.heat_map(method, scale)
        (values,) = figure.data
        table = over_seeds([run.levels["normality"] for run in method.runs])[method.layers].to_numpy().T
        np.testing.assert_allclose(values.customdata, table, rtol=1e-6)
        np.testing.assert_allclose(values.z, np.log10(table), rtol=1e-4)
        assert (
            list(values.y)
            == method.layers
            == [f"block{k // 2}.{'relu' if k % 2 else 'norm'}" for k in range(10)] + ["head.norm"]
        )
        assert figure.layout.yaxis.autorange == "reversed"
        assert (values.zmin, values.zmax) == pytest.approx((math.log10(scale.low), math.log10(scale.high)))
        everything.append(table)
    assert (scale.low, scale.high) == (np.min(everything), np.max(everything))


def test_cells_that_are_not_finite_or_constant_are_marked_and_missing_ones_stay_empty(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(s, n, "normality", 0.5 + s) for s in (0, 1, 2) for n in ("fine", "nan", "dead")])
        store.write([Record(2, "nan", "normality", math.nan), Record(0, "late", "mean", 0.0)])
        store.write([Record(s, "dead", "variance", 1.0 if s == 0 else 0.0) for s in (0, 1, 2)])
        store.write([Record(2, "late", "normality", 0.7)])
    methods = read_methods([tmp_path])
    values, states = figures.heat_map(methods[0], figures.distance_scale(methods)).data
    rows = {name: k for k, name in enumerate(values.y)}
    empty = np.nan
    np.testing.assert_array_equal(states.z[rows["nan"]], [empty, empty, 2])
    np.testing.assert_array_equal(states.z[rows["dead"]], [empty, 1, 1])
    np.testing.assert_array_equal(states.z[rows["late"]], [empty] * 3)
    np.testing.assert_allclose(values.customdata[rows["late"]], [empty, empty, 0.7])
    np.testing.assert_allclose(values.customdata[rows["dead"]], [0.5, empty, empty])
    assert states.customdata[rows["nan"]][2] == "not finite"
    assert states.customdata[rows["dead"]][1] == "constant output"
    assert (states.colorscale[0][1], states.colorscale[-1][1]) == (style.CONSTANT, style.NOT_FINITE)


def test_a_narrow_range_of_distances_has_a_linear_scale(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(s, "fc", "normality", 0.5 + 0.1 * s) for s in range(4)])
    scale = figures.distance_scale(read_methods([tmp_path]))
    assert not scale.log
    assert (scale.low, scale.high) == pytest.approx((0.5, 0.8))


def test_ribbons_are_the_quantiles_with_those_of_the_normal_distribution_beside(methods) -> None:
    from scipy.stats import norm

    method = methods[1]
    figure = figures.quantile_ribbon(method, "block2.norm", span=figures.quantile_span(methods, "block2.norm"))
    drawn = {0.05: "5–95 % low", 0.95: "5–95 % high", 0.25: "25–75 % low", 0.75: "25–75 % high", 0.5: "median"}
    for q, role in drawn.items():
        mean = np.mean([run.levels[f"quantile_{q:g}"]["block2.norm"].to_numpy(float) for run in method.runs], axis=0)
        np.testing.assert_allclose(trace(figure, role).y, mean, rtol=1e-5)
    assert [s.y0 for s in figure.layout.shapes] == pytest.approx(list(norm.ppf(list(figures.QUANTILES))), abs=1e-6)
    low, high = figure.layout.yaxis.range
    assert all(
        low < t.y.min() and t.y.max() < high for m in methods for t in figures.quantile_ribbon(m, "block2.norm").data
    )


def test_moments_show_the_layer_its_standard_error_and_each_unit(methods) -> None:
    run = methods[2].runs[0]
    figure = figures.moment(methods[2], "block4.relu", "kurtosis", span=[0, 5])
    level = run.levels["kurtosis"]["block4.relu"].to_numpy()
    error = run.errors["kurtosis"]["block4.relu"].to_numpy()
    np.testing.assert_allclose(trace(figure, "layer").y, level)
    np.testing.assert_allclose(trace(figure, "standard error low").y, level - error, rtol=1e-6)
    np.testing.assert_allclose(trace(figure, "standard error high").y, level + error, rtol=1e-6)
    units = trace(figure, "units")
    parts = np.split(units.y, np.flatnonzero(np.isnan(units.y)) + 1)[:-1]
    assert len(parts) == 6
    for part, (_, column) in zip(parts, run.units["kurtosis"]["block4.relu"].items(), strict=True):
        np.testing.assert_array_equal(part[:-1], column)
    assert figure.layout.shapes[0].y0 == 3.0


def test_a_layer_that_a_method_lacks_is_an_empty_plot_that_says_so(methods) -> None:
    for figure in (figures.moment(methods[0], "nowhere", "mean"), figures.quantile_ribbon(methods[0], "nowhere")):
        assert figure.layout.annotations[0].text == "layer not measured here"
        assert all(len(t.x) == 0 for t in figure.data)


def test_names_are_shown_letter_by_letter(tmp_path) -> None:
    name = "<b>x</b>&<a href='javascript:alert(1)'>"
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, name, "normality", 0.5), Record(1, name, "normality", 0.6)])
    methods = read_methods([tmp_path])
    figure = figures.heat_map(methods[0], figures.distance_scale(methods))
    assert figure.data[0].y[0] == style.plain(name) == "&lt;b&gt;x&lt;/b&gt;&amp;&lt;a href='javascript:alert(1)'&gt;"
    assert "<" not in figure.layout.yaxis.ticktext[0]


def test_layers_with_numbers_for_names_are_not_taken_for_numbers(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(step, name, "normality", 0.5) for step in (0, 1) for name in ("10", "2")])
    methods = read_methods([tmp_path])
    figure = figures.heat_map(methods[0], figures.distance_scale(methods))
    assert figure.layout.yaxis.type == "category"
    assert list(figure.data[0].y) == ["10", "2"]


def test_every_colour_has_contrast_on_light_and_on_dark_paper() -> None:
    def luminance(code: str) -> float:
        channels = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    def contrast(a: str, b: str) -> float:
        light, dark = sorted((luminance(a), luminance(b)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for code in style.COLOURS[:4]:  # WCAG asks 3 of graphics
        assert contrast(code, "#ffffff") > 2.9, code
        assert contrast(code, "#14171c") > 3.0, code
    for code in style.COLOURS:
        assert min(contrast(code, "#ffffff"), contrast(code, "#14171c")) > 2.0, code
