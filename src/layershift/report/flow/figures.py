"""An experiment's lines and circles to Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layershift._checks import import_extra
from layershift.report import style
from layershift.report.results import numeric
from layershift.report.style import axis, line, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go
else:
    go = import_extra("plotly.graph_objects", extra="report")

# Blue and purple for two groups, as in the paper.
PALETTE = (style.COLOURS[0], style.COLOURS[3], style.COLOURS[2], style.COLOURS[1], style.COLOURS[4])
THEORY = "#8a919c"
_DASHES = ("dash", "dot", "dashdot")


def colour_of(index: int) -> str:
    """The colour of a group or a line."""
    return PALETTE[index % len(PALETTE)]


def faint(code: str, alpha: float) -> str:
    """A colour that lets others through.

    Example:
        >>> faint("#ff0080", 0.5)
        'rgba(255,0,128,0.5)'
    """
    red, green, blue = (int(code[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def circle(groups: Mapping[str, Sequence[float]], names: Sequence[str], *, height: int) -> go.Figure:
    """Directions on the unit circle: a line from the centre and a dot for each neuron.

    Args:
        groups: angles in radians, by the group's name.
        names: of all groups, in the order of their colours.
        height: of the plot.
    """
    turn = np.linspace(0, 2 * np.pi, 121, dtype=np.float32)
    edge = {"color": THEORY, "width": 1}
    traces = [line(np.cos(turn).round(4), np.sin(turn).round(4), "unit circle", line=edge)]
    for name, angles in groups.items():
        code, known = colour_of(names.index(name)), np.asarray([numeric(x) for x in angles], dtype=np.float64)
        x, y = np.cos(known), np.sin(known)
        gap = np.full_like(x, np.nan)
        along, up = (np.stack([np.zeros_like(v), v, gap], 1).ravel().astype(np.float32) for v in (x, y))
        crowd = min(1.0, 12 / max(len(known), 1))
        traces.append(line(along, up, "spokes", line={"color": faint(code, max(crowd, 0.1)), "width": 1}))
        marker = {"size": 5, "color": faint(code, max(2 * crowd, 0.3))}
        traces.append(line(x.astype(np.float32), y.astype(np.float32), "neurons", mode="markers", marker=marker))
    bare = {"visible": False, "range": [-1.12, 1.12], "fixedrange": True}
    margin = {"l": 2, "r": 2, "t": 2, "b": 2}
    return style.figure(traces, bare, {**bare, "scaleanchor": "x"}, height=height, margin=margin)


def curves(plot: Mapping[str, Any], names: Sequence[str]) -> go.Figure:
    """Lines, points and theory in one frame.

    Args:
        plot: a row of `plots`.
        names: of groups that have colours of their own.
    """
    traces, log = [], str(plot.get("log") or "")
    for curve, code, k in coloured(plot, names):
        name, look = plain(curve.get("name")), curve.get("look")
        x, y = ([numeric(v) for v in curve.get(key) or ()] for key in ("x", "y"))
        own: dict[str, Any] = {"name": name, "hover": f"{name}<br>%{{x:.4~g}}: %{{y:.4~g}}"}
        if look == "points":
            own |= {"mode": "markers", "marker": {"size": 5, "color": faint(code, 0.6)}}
        elif look == "theory":
            own |= {"line": {"color": code, "width": 1.6, "dash": _DASHES[k % len(_DASHES)]}}
        else:
            own |= {"line": {"color": code, "width": 2}}
        error = [numeric(v) for v in curve.get("error") or ()]
        if error:
            own["error_y"] = {"type": "data", "array": np.nan_to_num(error).tolist(), "thickness": 1.2, "width": 3}
            own["error_y"]["color"] = code
        traces.append(line(np.asarray(x, dtype=np.float64), y, str(look or "line"), **own))
    ends = {key: axis(str(plot.get(f"{key}_title") or "")) for key in ("x", "y")}
    for key in log:
        ends[key] |= {"type": "log", "exponentformat": "power", "nticks": 0, "dtick": _step(traces, key)}
    return style.figure(traces, ends["x"], ends["y"], height=300)


def _step(traces: Sequence[Mapping[str, Any]], key: str) -> str | int:
    """Ticks of a logarithmic axis: powers of ten, with 2 and 5 times them where there are few."""
    joined = np.concatenate([np.asarray(trace[key], dtype=np.float64) for trace in traces] or [np.ones(1)])
    joined = joined[np.isfinite(joined) & (joined > 0)]
    return "D2" if not len(joined) or joined.max() < 300 * joined.min() else 1


def coloured(plot: Mapping[str, Any], names: Sequence[str]) -> list[tuple[dict[str, Any], str, int]]:
    """Lines with their colours, and which of its kind each is.

    Args:
        plot: a row of `plots`.
        names: of groups that have colours of their own.
    """
    rows = [dict(curve) for curve in plot.get("curves") or ()]
    # Lines that are no group's take the colours that groups leave, if any group is in the plot.
    own = len(names) if any(curve.get("name") in names for curve in rows) else 0
    found, theory = [], 0
    for curve in rows:
        if curve.get("look") == "theory":
            found.append((curve, THEORY, theory))
            theory += 1
        elif (name := str(curve.get("name"))) in names:
            found.append((curve, colour_of(names.index(name)), 0))
        else:
            found.append((curve, colour_of(own), 0))
            own += 1
    return found
