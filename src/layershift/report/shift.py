"""How far each layer moves between measurements: the estimates with their errors and brackets, and an overview."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layershift._checks import import_extra
from layershift.report import style
from layershift.report.data import Method, Part
from layershift.report.figures import STEP, distance_scale, heat_map
from layershift.report.parts import (
    Panel,
    Section,
    mean_over_seeds,
    points,
    scale_legend,
    side_by_side,
)
from layershift.report.series import KEEP, merge_orders, spread_evenly
from layershift.report.style import axis, band, finite, line, reach
from layershift.report.words import duration

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
else:
    pd = import_extra("pandas", extra="report")
    go = import_extra("plotly.graph_objects", extra="report")

# For each estimator a dash and a sign, so that they are told apart without colours; in the order of the page.
STROKES = {
    "sliced": ("solid", "circle"),
    "exact": ("dash", "square"),
    "gaussian": ("dot", "diamond"),
    "critic": ("dashdot", "triangle-up"),
}
UNKNOWN_SCALE = "K·W1, K unknown"


def shift_measures(methods: Sequence[Method]) -> list[str]:
    """The shifts that some run recorded, `shift/sliced` and the like, in the order of the page."""
    found = {m for method in methods for run in method.runs for m in run.levels if m.startswith("shift/")}
    order = list(STROKES)
    known = [m for m in found if not m.endswith(("_seconds", "_floor"))]
    return sorted(known, key=lambda m: (order.index(estimator_name(m)) if estimator_name(m) in order else 9, m))


def estimator_name(measure: str) -> str:
    """What comes after the stroke: `shift/sliced` is sliced."""
    return measure.removeprefix("shift/")


def is_scaled(methods: Sequence[Method], measure: str) -> bool:
    """Whether its numbers are K·W1 with K unknown, which compare with nothing else, in some run."""
    finals = [run.final[run.final["measure"] == measure] for method in methods for run in method.runs]
    return any(str(units).startswith("K") for final in finals for units in final["units"])


def shift_table(method: Method, layer: str, measure: str, *, limit: int = KEEP) -> pd.DataFrame:
    """A layer's shift by step, mean over seeds.

    Args:
        method: whose runs to average.
        layer: which layer.
        measure: such as "shift/sliced".
        limit: how many steps are kept at most.

    Returns:
        Columns value, error, lower and upper; NaN where one is not known or not finite.
    """
    columns: dict[str, Part] = {"value": "levels", "error": "errors", "lower": "lower", "upper": "upper"}
    if not method.having(measure, layer):
        return pd.DataFrame({name: pd.Series(dtype=np.float64) for name in columns})
    values = method.mean(measure)[layer].dropna()
    values = values.iloc[spread_evenly(len(values), limit)]
    made: dict[str, Any] = {}
    for name, of in columns.items():
        recorded = any(layer in getattr(run, of).get(measure, ()) for run in method.runs)
        at = method.mean(measure, of)[layer].reindex(values.index) if recorded else pd.Series(np.nan, values.index)
        made[name] = at.replace(np.inf, np.nan)
    return pd.DataFrame(made)


def shift_axis(tables: Sequence[pd.DataFrame], title: str = "distance") -> dict[str, Any]:
    """A vertical axis for estimates, errors and brackets; logarithmic if estimates span more than a factor of 10.

    Args:
        tables: from `shift_table`.
        title: what stands at the axis.

    Returns:
        A Plotly axis. Ends of brackets may lie beyond it, where they would press the estimates flat: if it is
        logarithmic, beyond a tenth or ten times of these (an end can be 0), else beyond three times the largest.
    """
    joined = pd.concat([table for table in tables if len(table)] or list(tables[:1]))
    values = joined["value"].dropna()
    if not len(values):
        return axis(title)
    error = joined["error"].fillna(0.0)
    lows = np.fmin(joined["lower"], joined["value"] - error)
    highs = np.fmax(joined["upper"], joined["value"] + error)
    if not 0 < values.min() * 10 < values.max():
        most = 3 * float(np.nanmax(np.abs([joined["value"] - error, joined["value"] + error])))
        return axis(
            title, style.span([values, np.maximum(lows, -most), np.minimum(highs, most)], []), exponentformat="power"
        )
    low, high = max(float(lows.min()), float(values.min()) / 10), min(float(highs.max()), float(values.max()) * 10)
    ticks = style.log_ticks(low, high)
    air = 0.04 * np.log10(high / low)
    ends = [float(np.log10(low) - air), float(np.log10(high) + air)]
    return axis(f"{title}, log scale", ends, type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def shift_curve(
    method: Method, layer: str, measure: str, *, vertical: dict[str, Any] | None = None, limit: int = KEEP
) -> go.Figure:
    """How far a layer moved since the measured step before: the estimate, ± its standard error, and its bracket.

    Args:
        method: whose runs to average.
        layer: which layer.
        measure: such as "shift/sliced".
        vertical: the vertical axis, from `shift_axis`; one for this plot alone if None.
        limit: how many steps are shown at most.

    Returns:
        A figure with two edges of the bracket, two of the standard error, and a line.
    """
    table = shift_table(method, layer, measure, limit=limit)
    vertical = shift_axis([table]) if vertical is None else vertical
    bottom = 10.0 ** vertical["range"][0] if vertical.get("type") == "log" else -np.inf
    steps = table.index.to_numpy()
    value, error, lower, upper = (finite(table[name]) for name in ("value", "error", "lower", "upper"))
    dash, sign = STROKES.get(estimator_name(measure), ("longdash", "cross"))
    few = {"mode": "lines+markers", "marker": {"size": 5, "symbol": sign}} if len(steps) <= 40 else {}
    bracket = band(steps, np.maximum(lower, bottom), upper, style.colour(method, 0.16), "bracket")
    for edge, said in zip(bracket, ("at least", "at most"), strict=True):
        edge |= {"hovertemplate": f"step %{{x}}: {said} %{{y:.3~g}}<extra></extra>", "hoverinfo": "all"}
    error_low, error_high = np.maximum(value - error, bottom), value + error
    stroke = {"color": style.colour(method), "width": 2, "dash": dash}
    traces = [
        *bracket,
        *band(steps, error_low, error_high, style.colour(method, 0.35), "standard error"),
        line(steps, value, "estimate", line=stroke, hover="step %{x}: %{y:.3~g}", **few),
    ]
    notes = style.note(None if len(table) else "not measured here")
    return style.figure(traces, axis(STEP, reach(steps)), vertical, annotations=notes)


def section(methods: Sequence[Method]) -> Section | str:
    """The part of the page, or a sentence on what would fill it."""
    measures = shift_measures(methods)
    having = [m for m in methods if any(m.having(measure) for measure in measures)]
    if not having:
        return (
            "How far each layer moves between measurements: no run holds “shift/sliced”, “shift/exact”, "
            "“shift/gaussian” or “shift/critic”. "
            '“Monitor(model, measures=("moments", "shift"), on="probe", probe=batch, …)” measures the first of them.'
        )
    scaled = [measure for measure in measures if is_scaled(having, measure)]
    groups = [[k for k in measures if k not in scaled], *([k] for k in scaled)]
    layers = merge_orders([x for x in m.layers if any(m.having(k, x) for k in measures)] for m in having)
    main = max(groups[0] or scaled, key=lambda measure: len([m for m in having if m.having(measure)]))
    overview, scale = _overview(having, main, scaled=main in scaled)
    limit, thinned = points(having, layers=len(layers), each=5 * len(having) * len(measures))
    axes: dict[tuple[str, str], dict[str, Any]] = {}
    for layer in layers:
        for group in filter(None, groups):
            tables = [shift_table(m, layer, measure, limit=limit) for m in having for measure in group]
            vertical = shift_axis(tables, UNKNOWN_SCALE if group[0] in scaled else "distance")
            axes |= {(layer, measure): vertical for measure in group}
    panels = []
    for m in having:
        for measure in measures:
            names = [m.name] if len(having) > 1 else []
            names += [estimator_name(measure)] if len(measures) > 1 or not names else []
            title = ": ".join(names) + (f" ({UNKNOWN_SCALE})" if measure in scaled else "")
            made = {x: shift_curve(m, x, measure, vertical=axes[x, measure], limit=limit) for x in layers}
            panels.append(Panel(f"shift-{m.index}-{estimator_name(measure)}", title, style.colour(m), made))
    caption = f"{mean_over_seeds('Mean', having, main)}. {thinned} {_words(having, measures)}"
    fixed = "one scale for all distances" if len(having) * len(groups[0]) > 1 else ""
    columns = len(measures) if 1 < len(measures) <= 4 else side_by_side(len(panels))
    first = _moves_most(having, main, layers)
    title = "How far each layer moves between measurements"
    lead = _LEAD + (_SCALED if scaled else "")
    return Section(
        "shift", title, lead, panels, columns, caption, first, layers, fixed, scales=[scale], overview=overview
    )


_LEAD = (
    "Internal covariate shift: each value compares a layer’s outputs for one frozen batch with those at the measured "
    "step before. Colours, all layers at once, the input at the top. Curves, the layer that is chosen: line, the "
    "estimate; dark band, ± its standard error; light band, the bracket that theory gives for it."
)
_SCALED = (
    " A critic with clipped weights measures K·W1, K unknown: it has an axis of its own, and its numbers compare with "
    "no others."
)


def _overview(methods: Sequence[Method], measure: str, *, scaled: bool) -> tuple[list[Panel], dict[str, Any]]:
    """Heat maps of one estimator, and their scale."""
    having = [m for m in methods if m.having(measure)]
    scale = distance_scale(having, measure)
    limit, _ = points(having, layers=max(len(m.layers) for m in having), each=2 * len(having))
    name = estimator_name(measure)
    panels = []
    for m in having:
        made = {"": heat_map(m, scale, measure=measure, limit=limit, constant=False)}
        title = m.name if len(methods) > 1 else f"all layers, {name}"
        panels.append(Panel(f"shift-map-{m.index}", title, style.colour(m), made))
    return panels, scale_legend(f"{name}, {UNKNOWN_SCALE if scaled else 'distance'}", scale, panels)


def _words(methods: Sequence[Method], measures: Sequence[str]) -> str:
    """What each estimator is, as the stores say, and how long it took."""
    said, took = [], []
    for measure in measures:
        runs = [run for method in methods for run in method.having(measure)]
        texts = {str(x) for run in runs for x in run.final[run.final["measure"] == measure]["estimator"] if x}
        whole = " / ".join(sorted({text.partition(";")[0] for text in texts}))
        name = estimator_name(measure)
        said += [whole.removeprefix(f"{name}, ") if whole.startswith(name) else f"{name}, {whole}"] if whole else []
        sums = [run.levels[f"{measure}_seconds"].sum(axis=1) for run in runs if f"{measure}_seconds" in run.levels]
        took += [f"{name} {duration(float(pd.concat(sums).median()))}"] if sums else []
    text = f"Estimates: {'; '.join(said)}. " if said else ""
    return text + (f"Time for all layers, median of the measured steps: {', '.join(took)}." if took else "")


def _moves_most(methods: Sequence[Method], measure: str, layers: Sequence[str]) -> str:
    """The layer that moves most, on average over steps, in any method."""
    means = [method.mean(measure).replace(np.inf, np.nan).mean() for method in methods if method.having(measure)]
    known = [(float(value), str(layer)) for mean in means for layer, value in mean.items() if np.isfinite(value)]
    return max(known)[1] if known else layers[-1]
