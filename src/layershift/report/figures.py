"""Tables to Plotly figures: one function a figure, a small plot that also stands alone in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layershift._checks import import_extra
from layershift.report import style
from layershift.report.data import Method, Run
from layershift.report.series import KEEP, align, binned, spread_evenly
from layershift.report.style import axis, band, finite, line, plain, reach

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
else:
    pd = import_extra("pandas", extra="report")
    go = import_extra("plotly.graph_objects", extra="report")

QUANTILES = {0.05: -1.6448536, 0.25: -0.6744898, 0.5: 0.0, 0.75: 0.6744898, 0.95: 1.6448536}
MOMENTS = {"mean": 0.0, "variance": 1.0, "skewness": 0.0, "kurtosis": 3.0}
MOMENT_AXES = {"mean": "activation", "variance": "activation²", "skewness": "skewness", "kurtosis": "kurtosis"}
STEP = "training step"


def quantile_name(q: float) -> str:
    """The name of a quantile in the stores: `quantile_0.05`."""
    return f"quantile_{q:g}"


def curves(
    methods: Sequence[Method], measure: str, *, title: str, factor: float = 1.0, settled: bool = False, limit: int = 120
) -> go.Figure:
    """A measure of the whole network by training step: the mean over seeds, and a band from lowest to highest seed.

    Args:
        methods: what to compare; those without the measure are left out.
        measure: its name in the stores.
        title: what stands at the vertical axis.
        factor: what values are multiplied by, 100 for per cent.
        settled: let the vertical axis hold what comes after the first tenth of training, where methods are told apart.
        limit: more points than these are averaged in bins of equal size.

    Returns:
        A figure with a line and, for several seeds, two edges of a band for each method; logarithmic if the means span
        more than a factor of 10 and `settled` is not asked for.
    """
    traces, tables = [], []
    for method in methods:
        series = [binned(run.network[measure], limit) for run in method.runs if measure in run.network]
        if not series:
            continue
        steps, aligned = align(series)
        values = pd.concat(aligned, axis=1).replace(np.inf, np.nan) * factor
        tables.append(values)
        if len(series) > 1:
            traces += band(steps, values.min(axis=1), values.max(axis=1), style.colour(method, 0.16), "seeds")
        few = {"mode": "lines+markers", "marker": {"size": 5, "symbol": method.index % 6}} if len(steps) <= 40 else {}
        stroke = {"color": style.colour(method), "width": 2}
        hover = "%{fullData.name}<br>step %{x}: %{y:.4~g}"
        traces.append(
            line(steps, values.mean(axis=1), "mean", name=plain(method.name), line=stroke, hover=hover, **few)
        )
    steps = np.unique(np.concatenate([np.empty(0), *(table.index for table in tables)]))
    return style.figure(traces, axis(STEP, reach(steps)), _vertical(tables, title, settled))


def _vertical(tables: Sequence[pd.DataFrame], title: str, settled: bool) -> dict[str, Any]:
    """The vertical axis of curves: after the start, logarithmic, or what Plotly makes of it."""
    means = np.concatenate([np.empty(0), *(table.mean(axis=1).dropna() for table in tables)])
    if settled and means.size:
        ends = [table.index[[0, -1]] for table in tables]
        late = [table[table.index > a + 0.1 * (b - a)] for table, (a, b) in zip(tables, ends, strict=True)]
        known = np.concatenate([table.to_numpy().ravel() for table in late])
        return axis(title, style.span([known], []) if np.isfinite(known).any() else None)
    if means.size and 0 < means.min() * 10 < means.max():
        ticks = style.log_ticks(means.min(), means.max())
        return axis(f"{title}, log scale", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return axis(title)


class Scale(NamedTuple):
    """A colour scale that several heat maps share: its ends, and whether it is logarithmic."""

    low: float
    high: float
    log: bool

    def place(self, values: Any) -> np.ndarray[Any, Any]:
        """Where values lie on the scale's own axis: themselves, or their logarithm to base 10."""
        return np.log10(np.maximum(values, self.low)) if self.log else np.asarray(values)


def distance_scale(methods: Sequence[Method], measure: str = "normality") -> Scale:
    """One colour scale for the heat maps of all methods, logarithmic if they span more than a factor of 5."""
    tables = [method.mean(measure) for method in methods if method.having(measure)]
    values = np.concatenate([np.empty(0), *(table.to_numpy().ravel() for table in tables)])
    values = values[np.isfinite(values)]
    if not values.size:
        return Scale(0.0, 1.0, log=False)
    low, high = float(values.min()), float(values.max())
    positive = values[values > 0]
    if positive.size and high > 5 * positive.min():
        return Scale(max(float(positive.min()), high * 1e-6), high, log=True)
    return Scale(low, high if high > low else low + 1.0, log=False)


def heat_map(
    method: Method,
    scale: Scale,
    *,
    measure: str = "normality",
    limit: int = KEEP,
    constant: bool = True,
    undefined: str = "not finite",
) -> go.Figure:
    """A measure of every layer by training step: layers downwards in the order of the network, mean over seeds.

    Cells that are not finite in some seed, and layers that put out a constant (variance 0), have colours of their own.

    Args:
        method: whose runs to average.
        scale: the colour scale, shared by the methods.
        measure: its name in the stores.
        limit: how many steps are shown at most.
        constant: whether a layer that puts out a constant has that colour in place of its value.
        undefined: what a cell is called that was measured and is not finite.

    Returns:
        A figure with the values and, if there are any, above them the cells that have none.
    """
    table = method.mean(measure)
    table = table.iloc[spread_evenly(len(table), limit)]
    layers = [layer for layer in method.layers if layer in table.columns]
    values = table[layers].to_numpy().T
    flat = _constant(method, table, layers) if constant else np.full(values.shape, np.nan)
    state = np.where(np.isinf(values), 2.0, np.where(np.isnan(values), np.nan, flat))
    values = np.where(np.isnan(state), values, np.nan).astype(np.float32)
    why = np.select([state == 1, state == 2], ["constant output", undefined], "").astype(object)
    cells = {"type": "heatmap", "x": table.index.to_numpy(), "y": [plain(n) for n in layers], "showscale": False}
    ends = {"zmin": float(scale.place(scale.low)), "zmax": float(scale.place(scale.high))}
    ramp = [[i / (len(style.VIRIDIS) - 1), code] for i, code in enumerate(style.VIRIDIS)]
    marks = [[i / 3, code] for i, code in zip(range(4), [style.CONSTANT] * 2 + [style.NOT_FINITE] * 2, strict=True)]
    hover = "%{y}<br>step %{x}: %{customdata"
    known = {"z": scale.place(values), "customdata": values, "hovertemplate": hover + ":.3~g}<extra></extra>"}
    other = {"z": state, "customdata": why, "hovertemplate": hover + "}<extra></extra>", "zmin": 1, "zmax": 2}
    traces = [{**cells, **known, **ends, "colorscale": ramp, "meta": {"role": "values"}}]
    if not np.isnan(state).all():
        traces.append({**cells, **other, "colorscale": marks, "meta": {"role": "states"}})
    height = int(np.clip(18 * len(layers) + 58, 150, 560))
    every = -(-14 * len(layers) // (height - 50))
    ticks, names = [plain(n) for n in layers[::every]], [plain(n) for n in style.shorten(layers)[::every]]
    rows = axis("", type="category", autorange="reversed", showgrid=False, tickvals=ticks, ticktext=names)
    return style.figure(traces, axis(STEP, showgrid=False), rows, height=height)


def _constant(method: Method, table: pd.DataFrame, layers: list[str]) -> np.ndarray[Any, Any]:
    """1 where a layer's variance is 0 in some seed, NaN elsewhere; of shape (layers, steps)."""
    constant = np.zeros((len(layers), len(table)), dtype=bool)
    for run in method.having("variance"):
        variance = run.levels["variance"].reindex(columns=layers).reindex(table.index, method="ffill")
        constant |= (variance == 0).to_numpy().T
    return np.where(constant, 1.0, np.nan)


def quantile_span(methods: Sequence[Method], layer: str) -> list[float]:
    """A vertical range that holds a layer's quantiles in all methods, and those of N(0, 1)."""
    names = [quantile_name(q) for q in QUANTILES]
    drawn = [method.mean(name)[layer] for method in methods for name in names if method.having(name, layer)]
    return style.span(drawn, list(QUANTILES.values()))


def quantile_ribbon(method: Method, layer: str, *, span: list[float] | None = None, limit: int = KEEP) -> go.Figure:
    """Where a layer's activations lie through training: 5–95 %, 25–75 % and the median, mean over seeds.

    Args:
        method: whose runs to average.
        layer: which layer.
        span: the vertical range; chosen by Plotly if None.
        limit: how many steps are shown at most.

    Returns:
        A figure with five lines, filled between; the same quantiles of N(0, 1) are dotted lines.
    """
    names = [quantile_name(q) for q in QUANTILES]
    present = all(method.having(name, layer) for name in names)
    table = pd.DataFrame({n: method.mean(n)[layer] if present else pd.Series(dtype=np.float64) for n in names})
    table = table.dropna(how="all")
    table = table.iloc[spread_evenly(len(table), limit)] if present else table
    low, q25, median, q75, high = (table[name].to_numpy() for name in names)
    stroke = {"color": style.colour(method), "width": 2}
    traces = [
        *band(table.index, low, high, style.colour(method, 0.2), "5–95 %"),
        *band(table.index, q25, q75, style.colour(method, 0.35), "25–75 %"),
        line(table.index, median, "median", line=stroke, hover="median at step %{x}: %{y:.3~g}"),
    ]
    drawn = {"shapes": [style.reference(z, f"N(0, 1), {q:g}") for q, z in QUANTILES.items()], **_absent(not present)}
    return style.figure(traces, axis(STEP, reach(table.index)), axis("activation", span), **drawn)


def _absent(absent: bool) -> dict[str, Any]:
    return {"annotations": style.note("layer not measured here" if absent else None)}


def moment_span(methods: Sequence[Method], layer: str, measure: str) -> list[float]:
    """A vertical range for a moment of a layer in all methods: all of the layer's, and 98 % of the units' values."""
    runs = [run for method in methods for run in method.having(measure, layer)[:1]]
    units = np.concatenate([np.empty(0), *(_units(run, measure, layer).to_numpy().ravel() for run in runs)])
    units = units[np.isfinite(units)]
    inner = np.quantile(units, [0.01, 0.99]) if units.size else units
    return style.span([inner, *(run.levels[measure][layer] for run in runs)], [MOMENTS[measure]])


def moment(
    method: Method, layer: str, measure: str, *, span: list[float] | None = None, limit: int = KEEP
) -> go.Figure:
    """A moment of a layer in the method's first run: the layer ± its standard error, its sampled units as thin lines.

    Args:
        method: whose first run to show.
        layer: which layer.
        measure: one of "mean", "variance", "skewness", "kurtosis".
        span: the vertical range; chosen by Plotly if None.
        limit: how many steps are shown at most.

    Returns:
        A figure with the units in one trace (parted by gaps), two edges of a band, and the layer's line; the value of
        N(0, 1) is a dotted line.
    """
    runs = method.having(measure, layer)
    level = runs[0].levels[measure][layer].dropna() if runs else pd.Series(dtype=np.float32)
    level = level.iloc[spread_evenly(len(level), limit)] if runs else level
    error = runs[0].errors[measure][layer].reindex(level.index) if runs else level
    units = _units(runs[0], measure, layer).reindex(level.index) if runs else pd.DataFrame()
    stroke = {"color": style.colour(method), "width": 2.2}
    low, high = finite(level) - finite(error), finite(level) + finite(error)
    traces = [
        line(*_parted(units), "units", line={"color": style.colour(method, 0.45), "width": 0.8}),
        *band(level.index, low, high, style.colour(method, 0.25), "standard error"),
        line(level.index, level, "layer", line=stroke, hover="layer at step %{x}: %{y:.3~g}"),
    ]
    drawn = {"shapes": [style.reference(MOMENTS[measure], "N(0, 1)")], **_absent(not runs)}
    return style.figure(traces, axis(STEP, reach(level.index)), axis(MOMENT_AXES[measure], span), height=180, **drawn)


def _units(run: Run, measure: str, layer: str) -> pd.DataFrame:
    """The sampled units of a layer, a table (step, unit); empty if none was sampled."""
    table = run.units.get(measure)
    if table is None or layer not in table.columns.get_level_values(0):
        return pd.DataFrame()
    return pd.DataFrame(table[layer])


def _parted(units: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Many lines as one, a gap between each and the next."""
    if units.empty:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    rows = units.to_numpy(dtype=np.float32)
    y = np.vstack([rows, np.full((1, rows.shape[1]), np.nan, np.float32)]).T.ravel()
    return np.tile(np.append(units.index, units.index[-1]), rows.shape[1]), y
