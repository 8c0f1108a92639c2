"""What all figures share: colours, type, and the small pieces that they are put together from.

Names of layers and methods come from stores, so they pass through `plain`: Plotly reads a few HTML tags in its texts.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layershift._checks import import_extra
from layershift.report.data import Method

if TYPE_CHECKING:
    import plotly.graph_objects as go
else:
    go = import_extra("plotly.graph_objects", extra="report")

# Okabe and Ito's palette (colour-blind safe), its blue lightened; the first four have contrast on both papers.
COLOURS = ("#1E7FC2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
NOT_FINITE, CONSTANT = "#e5177b", "#9b9b9b"
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"

_AXIS = {
    "gridcolor": "#e6e8eb",
    "zeroline": False,
    "showline": False,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "rgba(0,0,0,0)",
    "nticks": 6,
    "automargin": True,
    "title": {"standoff": 6},
}
TEMPLATE = {
    "layout": {
        "font": {"family": FONT, "size": 12, "color": "#5a6270"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 10, "t": 8, "b": 8},
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "hovermode": "closest",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
}


def plain(text: object) -> str:
    """Text that Plotly shows letter by letter, tags and all.

    Example:
        >>> plain("<b>fc</b>")
        '&lt;b&gt;fc&lt;/b&gt;'
    """
    return html.escape(str(text), quote=False)


def shorten(names: Sequence[str], limit: int = 16) -> list[str]:
    """Names of layers for an axis: without the parts that all begin or end with, and cut in the middle.

    Example:
        >>> shorten([f"model.encoder.layers.{k}.mlp.activation" for k in (0, 1)])
        ['layers.0', 'layers.1']
        >>> shorten(["features.downsample.convolution", "fc"])
        ['features…volution', 'fc']
    """
    parts = [name.split(".") for name in names]
    if len(parts) > 1 and max(map(len, names)) > limit:
        first = _common(parts)
        if first and all(own[first].isdigit() for own in parts):
            first -= 1  # a number alone says little
        last = _common([own[first:][::-1] for own in parts])
        parts = [own[first : len(own) - last] for own in parts]
    joined = [".".join(own) for own in parts]
    half = limit // 2
    return [name if len(name) <= limit + 1 else f"{name[:half]}…{name[-half:]}" for name in joined]


def _common(parts: Sequence[Sequence[str]]) -> int:
    """How many of the first parts are the same in all; one is always left."""
    shortest = min(map(len, parts))
    return next((k for k in range(shortest) if len({own[k] for own in parts}) > 1), shortest - 1)


def colour(method: Method, alpha: float = 1.0) -> str:
    """The method's colour, the same in every figure, as `#rrggbb` or, if transparent, as `rgba(…)`."""
    code = COLOURS[method.index % len(COLOURS)]
    red, green, blue = (int(code[i : i + 2], 16) for i in (1, 3, 5))
    return code if alpha == 1.0 else f"rgba({red},{green},{blue},{alpha})"


def figure(traces: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> go.Figure:
    """A figure in the report's style; `x` and `y` are its axes, each with a `title`."""
    axes = {"xaxis": x, "yaxis": y}
    return go.Figure({"data": traces, "layout": {"template": TEMPLATE, "showlegend": False, **axes, **layout}})


def axis(title: str, ends: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """An axis with its title and, unless Plotly is to choose it, its range."""
    return {"title": {"text": title}, **({} if ends is None else {"range": ends}), **more}


def finite(values: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values as float32, with a gap wherever one is not finite."""
    values = np.asarray(values, dtype=np.float32)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def line(x: Any, y: Any, role: str, *, hover: str | None = None, **style: Any) -> dict[str, Any]:
    """A line; `role` is kept in its `meta`, for those who read the plot again."""
    told = {"hoverinfo": "skip"} if hover is None else {"hovertemplate": hover + "<extra></extra>"}
    ends = {"x": np.asarray(x), "y": finite(y)}
    return {"type": "scatter", "mode": "lines", "meta": {"role": role}, **ends, **told, **style}


def band(x: Any, low: Any, high: Any, fill: str, role: str) -> list[dict[str, Any]]:
    """Two invisible lines, and what is between them filled."""
    edge: dict[str, Any] = {"line": {"width": 0}}
    return [line(x, low, f"{role} low", **edge), line(x, high, f"{role} high", fill="tonexty", fillcolor=fill, **edge)]


def reference(value: float, name: str) -> dict[str, Any]:
    """A dotted horizontal line through the whole plot."""
    stroke = {"color": "#8a919c", "width": 1, "dash": "dot"}
    place = {"xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
    return {"type": "line", "line": stroke, "name": name, "layer": "below", **place}


def note(text: str | None) -> list[dict[str, Any]]:
    """Annotations of a plot that has nothing to show, and why."""
    place = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
    return [] if text is None else [{"text": plain(text), **place}]


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2, 5 times powers of ten, or the powers alone if there are many.

    Example:
        >>> log_ticks(0.03, 0.6), log_ticks(0.01, 1e4)
        ([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 200 * low else (1,)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in ticks if low / 2 <= tick <= high * 2]


def reach(steps: Any) -> list[float] | None:
    """The horizontal range of a plot: from the first to the last step, with a little air so that neither is cut."""
    if not len(steps):
        return None
    first, last = float(steps[0]), float(steps[-1])
    air = 0.02 * (last - first) or 0.5
    return [first - air, last + air]


def span(values: Iterable[Any], held: list[float]) -> list[float]:
    """A range that holds all finite values and those that must be in it, with a margin."""
    known = [np.asarray(v, dtype=np.float64).ravel() for v in values]
    joined = np.concatenate([*known, held])
    joined = joined[np.isfinite(joined)]
    low, high = float(joined.min()), float(joined.max())
    margin = 0.04 * (high - low) or 0.5
    return [low - margin, high + margin]
