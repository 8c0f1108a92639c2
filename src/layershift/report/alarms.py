"""Which layer got into trouble, when, and what to try."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from layershift._checks import import_extra
from layershift.monitor.alarm import ADVICE, Alarm
from layershift.report import style
from layershift.report.data import Method, Run, label
from layershift.report.figures import STEP
from layershift.report.parts import Panel, Section, Table
from layershift.report.series import merge_orders
from layershift.report.style import axis, plain
from layershift.report.words import count, listed

if TYPE_CHECKING:
    import plotly.graph_objects as go
else:
    go = import_extra("plotly.graph_objects", extra="report")

# Plotly's signs and the characters that look like them, told apart without colours; none has a method's colour.
SIGNS = (
    ("circle", "●", "#D81B60"),
    ("square", "■", "#8A6BD6"),
    ("diamond", "◆", "#1F9A9A"),
    ("triangle-up", "▲", "#A8741A"),
    ("triangle-down", "▼", "#5B7FA6"),
    ("cross", "✚", "#7A8B2E"),
    ("star", "★", "#B0607A"),
    ("x", "✖", "#857A70"),
)
DRAWN = 500
"""How many alarms a plot draws at most; each carries its text."""
LISTED = 200
"""How many alarms the table lists at most."""
_WIDTH = 46


def alarm_kinds(methods: Sequence[Method]) -> list[str]:
    """The kinds of alarms that were raised: those that are known in their usual order, then others by name."""
    raised = {alarm.kind for method in methods for run in method.runs for alarm in run.alarms}
    return [kind for kind in ADVICE if kind in raised] + sorted(raised - set(ADVICE))


def timeline(
    method: Method, kinds: Sequence[str], layers: Sequence[str], *, span: list[float] | None = None, limit: int = DRAWN
) -> go.Figure:
    """The alarms of a method's runs by step and layer, a sign for each kind; alarms at one place stand side by side.

    Args:
        method: whose alarms.
        kinds: the kinds in the order of their signs.
        layers: the rows from the top; "" is the network.
        span: the horizontal range; chosen by Plotly if None.
        limit: how many alarms are drawn at most, the earliest.

    Returns:
        A figure with a trace for each kind that was raised; the text of each alarm shows under the pointer.
    """
    found = sorted(((alarm, run) for run in method.runs for alarm in run.alarms), key=lambda pair: pair[0].step)[:limit]
    places: dict[tuple[int, str], list[int]] = {}
    for i, (alarm, _) in enumerate(found):
        places.setdefault((alarm.step, alarm.layer), []).append(i)
    rows = np.zeros(len(found))
    for (_, layer), members in places.items():
        rows[members] = layers.index(layer) + (np.linspace(-0.25, 0.25, len(members)) if len(members) > 1 else 0.0)
    traces = []
    for k, kind in enumerate(kinds):
        chosen = [i for i, (alarm, _) in enumerate(found) if alarm.kind == kind]
        if not chosen:
            continue
        symbol, _, code = SIGNS[k % len(SIGNS)]
        texts = [_hover(found[i][0], found[i][1].name if len(method.runs) > 1 else "") for i in chosen]
        place = {"x": np.array([found[i][0].step for i in chosen]), "y": rows[chosen]}
        told = {"customdata": np.array(texts, dtype=object), "hovertemplate": "%{customdata}<extra></extra>"}
        look = {"type": "scatter", "mode": "markers", "marker": {"symbol": symbol, "color": code, "size": 10}}
        box = {"hoverlabel": {"bgcolor": "#1b1f25", "bordercolor": code, "font": {"color": "#ffffff"}}}
        traces.append({"name": plain(kind), **look, **box, **place, **told, "meta": {"role": "alarms"}})
    height = int(np.clip(24 * len(layers) + 66, 220, 560))  # room for the text of an alarm
    every = -(-14 * len(layers) // (height - 58))
    names = [plain(name) for name in style.shorten([layer or "network" for layer in layers])]
    ticks = {"tickvals": list(range(0, len(layers), every)), "ticktext": names[::every]}
    vertical = axis("", [len(layers) - 0.5, -0.5], **ticks)
    return style.figure(traces, axis(STEP, span), vertical, height=height)


def _hover(alarm: Alarm, run: str) -> str:
    """An alarm in lines that a hover box has room for."""
    parts = [run, alarm.message, f"To try: {alarm.advice}" if alarm.advice else ""]
    return "<br>".join(plain(row) for part in parts if part for row in textwrap.wrap(part, _WIDTH))


def watched(run: Run) -> bool:
    """Whether the store shows that alarms were watched: it holds some, or the monitor wrote down that it watches."""
    return bool(run.alarms) or bool(run.meta.get("alarms"))


def section(methods: Sequence[Method]) -> Section | str:
    """The part of the page, or a sentence on what would fill it."""
    runs = [run for method in methods for run in method.runs]
    guarded = [run for run in runs if watched(run)]
    if not guarded:
        return (
            "Alarms: no store says that layers were watched for trouble. "
            '“Monitor(model, measures=("moments", "health"), alarms="warn", …)” watches them.'
        )
    kinds = alarm_kinds(methods)
    where = f"{len(guarded)} of {len(runs)} runs" if len(guarded) < len(runs) else _all(len(runs))
    if not kinds:
        return Section("alarms", "Alarms", f"Alarms were watched in {where}, and none was raised.", [], 1, "")
    order = [*merge_orders(method.layers for method in methods), ""]
    raised = {alarm.layer for run in runs for alarm in run.alarms}
    layers = [layer for layer in order if layer in raised] + sorted(raised - set(order))
    having = [method for method in methods if any(run.alarms for run in method.runs)]
    steps = [step for run in runs for table in run.levels.values() for step in (table.index[0], table.index[-1])]
    steps += [alarm.step for run in runs for alarm in run.alarms]
    span = style.reach(sorted(steps))
    panels = [
        Panel(f"alarms-{m.index}", m.name, style.colour(m), {"": timeline(m, kinds, layers, span=span)}) for m in having
    ]
    signs = [(*SIGNS[k % len(SIGNS)][1:], kind) for k, kind in enumerate(kinds)]
    lead = (
        "Which layer got into trouble, and when. Each sign is an alarm, which is raised once when trouble begins; "
        "layers without one are left out. Point at a sign to read it; the table below says what to try."
    )
    return Section(
        "alarms", "Alarms", lead, panels, min(len(panels), 2), _caption(methods, where), signs=signs, table=_table(runs)
    )


def _all(n: int) -> str:
    return "the run" if n == 1 else f"all {n} runs"


def _caption(methods: Sequence[Method], where: str) -> str:
    """How many alarms there are, where none was raised, and where nobody looked."""
    counts = {method.name: sum(len(run.alarms) for run in method.runs) for method in methods}
    silent = [m.name for m in methods if not counts[m.name] and all(map(watched, m.runs))]
    total = sum(counts.values())
    said = [f"{count(total, 'alarm')}; alarms were watched in {where}"]
    said += [f"none was raised in {listed(silent)}"] if silent else []
    most = max(counts.values())
    said += [f"a plot draws the first {DRAWN} of a {label(methods)}"] if most > DRAWN else []
    said += [f"the table lists the first {LISTED}"] if total > LISTED else []
    return "; ".join(said) + "."


def _table(runs: Sequence[Run]) -> Table:
    """The alarms by step; which run they belong to only if there are several."""
    found = sorted(((alarm, run) for run in runs for alarm in run.alarms), key=lambda pair: pair[0].step)
    several = len(runs) > 1
    columns = ["Step", *(["Run"] if several else []), "Layer", "Kind", "Value", "Limit", "What to try"]
    rows = [[f"{alarm.step:,}", *([run.name] if several else []), *_cells(alarm)] for alarm, run in found[:LISTED]]
    return Table(columns, rows)


def _cells(alarm: Alarm) -> list[str]:
    unit = "" if alarm.unit is None else f", unit {alarm.unit}"
    layer, value = (alarm.layer or "network") + unit, f"{alarm.measure} {alarm.value:.5g}"
    return [layer, alarm.kind, value, f"{alarm.limit:.5g}", alarm.advice or "–"]
