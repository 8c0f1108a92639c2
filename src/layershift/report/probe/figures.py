"""A probe's tables to Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layershift._checks import import_extra
from layershift.report import style
from layershift.report.probe.data import ProbeResults, series, value
from layershift.report.style import axis, line, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go
else:
    go = import_extra("plotly.graph_objects", extra="report")

METHOD_NAMES = {
    "auto": "Transport distance W",
    "emd": "Exact transport distance W",
    "sinkhorn": "Entropic transport distance W",
    "divergence": "Sinkhorn divergence",
    "printed": "Sinkhorn divergence as printed, 2 W",
    "total_variation": "Total variation",
    "chebyshev": "Chebyshev distance",
    "jensen_shannon": "Jensen-Shannon divergence",
}
SCORE_NAMES = {"accuracy": "accuracy", "cf1": "CF1", "of1": "OF1", "map": "mAP"}
SHARES = {
    "name": "share of the label distribution",
    "colours": style.VIRIDIS,
    "ticks": [(100 * share**0.5, f"{share:g}") for share in (0, 0.05, 0.2, 0.5, 1)],
    "special": [],
}


def colour_of(index: int) -> str:
    """The colour of a set of data or a score."""
    return style.COLOURS[index % len(style.COLOURS)]


def shade(place: int, count: int) -> str:
    """The colour of a layer by its depth: from blue to red, in a lightness that shows on both papers."""
    return f"hsl({round(250 - 240 * place / max(count - 1, 1)) % 360},62%,52%)"


def depth(results: ProbeResults, method: str) -> go.Figure:
    """A distance against depth: a line for each set of data, bars of one standard error."""
    traces = []
    for k, split in enumerate(results.mapping("splits")):
        rows = [row for row in results.rows("depth") if row.get("split") == split and row.get("method") == method]
        if rows:
            means, errors = (series(rows, results.layers, key) for key in ("mean", "stderr"))
            traces.append(_by_layer(results.layers, means, errors, split, colour_of(k), k))
    return style.figure(traces, layer_axis(results.layers), axis("distance to the target", rangemode="tozero"))


def scores(results: ProbeResults) -> go.Figure:
    """The four scores of the main data against depth, in per cent."""
    rows = [row for row in results.rows("scores") if row.get("split") == results.main]
    traces = []
    for k, (key, name) in enumerate(SCORE_NAMES.items()):
        values = [100 * x for x in series(rows, results.layers, key)]
        errors = [100 * x for x in series(rows, results.layers, f"{key}_stderr")]
        if np.isfinite(values).any():
            traces.append(_by_layer(results.layers, values, errors, name, colour_of(k), k))
    return style.figure(traces, layer_axis(results.layers), axis("per cent", rangemode="tozero"))


def _by_layer(
    layers: Sequence[str], means: list[float], errors: list[float], name: str, code: str, index: int
) -> dict[str, Any]:
    bars = np.nan_to_num(np.asarray(errors, dtype=np.float32)).tolist()
    texts = [
        f"{plain(name)}<br>{plain(layer)}: {mean:.4g}" + (f" ± {error:.2g}" if np.isfinite(error) else "")
        for layer, mean, error in zip(layers, means, errors, strict=True)
    ]
    return line(
        range(len(layers)),
        means,
        "mean",
        name=plain(name),
        mode="lines+markers",
        line={"color": code, "width": 2},
        marker={"size": 6, "symbol": index % 6},
        error_y={"type": "data", "array": bars, "thickness": 1.2, "width": 3, "color": code},
        text=texts,
        hover="%{text}",
    )


def layer_axis(layers: Sequence[str]) -> dict[str, Any]:
    """A horizontal axis of layers, in order of depth."""
    every = -(-len(layers) // 20)
    places = list(range(0, len(layers), every))
    names = style.shorten(layers, 12)
    # Texts that lean to the left: Plotly hides those that would reach over the right edge.
    ticks: dict[str, Any] = {"tickvals": places, "ticktext": [plain(names[k]) for k in places], "showgrid": False}
    ticks["autotickangles"] = [0, -40, -90]
    return axis("", [-0.4, len(layers) - 0.6], **ticks)


def epochs(results: ProbeResults, key: str, title: str) -> go.Figure:
    """A distance against epochs, a line a layer.

    Args:
        results: of a probe.
        key: "epochs" or "adjacent"; the latter stands at the epoch that was moved to.
        title: of the vertical axis.
    """
    traces = []
    for k, layer in enumerate(results.layers):
        rows = [row for row in results.rows(key) if row.get("layer") == layer]
        if rows:
            steps = [value(row, "epoch" if key == "epochs" else "other") for row in rows]
            means = [value(row, "mean") for row in rows]
            stroke = {"color": shade(k, len(results.layers)), "width": 2 if k + 1 == len(results.layers) else 1.4}
            hover = "%{fullData.name}<br>epoch %{x}: %{y:.4~g}"
            more = {"mode": "lines+markers", "marker": {"size": 4}} if len(rows) <= 40 else {}
            traces.append(line(steps, means, "layer", name=plain(layer), line=stroke, hover=hover, **more))
    return style.figure(traces, axis("epoch of the classifiers’ training"), axis(title, rangemode="tozero"))


def distribution(
    rows: Sequence[Sequence[float]], names: Sequence[str], target: Sequence[int], labels: list[str]
) -> go.Figure:
    """One sample's label distributions, a row each, and the target below; labels stand side by side.

    Args:
        rows: distributions, each of K numbers.
        names: of the rows: layers or epochs.
        target: places of the sample's labels.
        labels: names of the K labels.
    """
    aim = np.zeros(len(labels), dtype=np.float32)
    aim[list(target)] = 1 / max(len(target), 1)
    table = np.asarray([[np.nan if x is None else x for x in row] for row in rows], dtype=np.float32)
    shares = np.vstack([table, aim])
    ticks = [*map(str, names), "target"]
    texts = [
        [f"{plain(tick)}<br>{plain(label)}: {share:.3f}" for label, share in zip(labels, row, strict=True)]
        for tick, row in zip(ticks, shares, strict=True)
    ]
    ramp = [[i / (len(style.VIRIDIS) - 1), code] for i, code in enumerate(style.VIRIDIS)]
    cells = {
        "type": "heatmap",
        "x": np.asarray(_apart([plain(style.shorten([name], 14)[0]) for name in labels])),
        "y": np.arange(len(ticks)),
        "z": np.sqrt(shares),  # so that a third and a tenth are told apart; the scale beside it has the same root
        "zmin": 0,
        "zmax": 1,
        "colorscale": ramp,
        "showscale": False,
        "ygap": 1,
        "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
        "meta": {"role": "distribution"},
    }
    # With 0 as their number, as many names are written as there is room for.
    bottom: dict[str, Any] = {"type": "category", "nticks": 0, "showgrid": False, "tickangle": -60}
    shown = style.shorten(ticks, 14)
    left: dict[str, Any] = {"tickvals": list(range(len(ticks))), "ticktext": list(map(plain, shown)), "showgrid": False}
    height = int(np.clip(17 * len(ticks) + 110, 200, 560))
    sides = axis("", **bottom), axis("", [len(ticks) - 0.5, -0.5], **left)
    return style.figure([cells], *sides, height=height)


def _apart(names: Sequence[str]) -> list[str]:
    """Names that differ: those that came before get a mark."""
    made: list[str] = []
    for name in names:
        while name in made:
            name += "′"
        made.append(name)
    return made


def chosen(samples: Sequence[Mapping[str, Any]], kinds: bool) -> list[str]:
    """Names of samples for a choice, all different."""
    return _apart([f"{s.get('kind')}: {s.get('id')}" if kinds else str(s.get("id")) for s in samples])
