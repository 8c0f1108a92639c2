"""Which plots of an experiment stand on the page, the words around them, and its verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from layershift.report.flow import figures
from layershift.report.flow.data import Flow
from layershift.report.parts import Panel, Section
from layershift.report.results import numeric
from layershift.report.words import count, decimals, listed, number

VERDICTS = {True: "holds", False: "does not hold", None: "–"}


class Verdict(NamedTuple):
    """A row of the table of verdicts, as texts."""

    claim: str
    note: str
    found: str
    expected: str
    verdict: str
    n: str


def verdicts(flow: Flow) -> list[Verdict]:
    """The claims as texts."""
    rows = []
    for row in flow.rows("claims"):
        n = row.get("n")
        rows.append(
            Verdict(
                str(row.get("claim") or ""),
                str(row.get("note") or ""),
                plus_minus(numeric(row.get("value")), numeric(row.get("spread"))),
                str(row.get("expected") or "–"),
                VERDICTS.get(row.get("holds"), "–"),
                "–" if n is None else str(n),
            )
        )
    return rows


def plus_minus(value: float, spread: float) -> str:
    """A mean with as many digits as its standard deviation allows.

    Example:
        >>> plus_minus(0.46412, 0.0483), plus_minus(3e-16, 1e-16), plus_minus(7.0, math.nan)
        ('0.464 ± 0.048', '3.0e-16 ± 1.0e-16', '7.00')
    """
    if not (math.isfinite(value) and math.isfinite(spread)):
        return number(value)
    if 0 < max(abs(value), spread) < 1e-4:
        return f"{value:.1e} ± {spread:.1e}"
    if spread <= 1e-9 * abs(value):
        return number(value)
    places = decimals(spread)
    return f"{value:,.{places}f} ± {spread:.{places}f}"


def finding(flow: Flow) -> str:
    """What the verdicts say, in a few sentences."""
    rows = flow.rows("claims")
    judged = [row for row in rows if row.get("holds") is not None]
    failed = [row for row, told in zip(rows, verdicts(flow), strict=True) if row.get("holds") is False and told]
    if not judged:
        return "No claim was judged."
    kept = len(judged) - len(failed)
    all_of = "Both claims hold" if len(judged) == 2 else f"All {len(judged)} claims hold"
    if not failed:
        return f"{all_of}." if len(judged) > 1 else "The claim holds."
    told = [f"“{row.get('claim')}” ({plus_minus(numeric(row.get('value')), math.nan)})" for row in failed]
    verb = "does not" if len(failed) == 1 else "do not"
    return f"Of {count(len(judged), 'claim')} {kept} hold{'s' * (kept == 1)}. {listed(told)} {verb}."


def build(flow: Flow) -> list[Section]:
    """The sections for which there are data."""
    return [*_rows(flow), *_motion(flow), *_plots(flow)]


def _rows(flow: Flow) -> list[Section]:
    """A row of circles for each ring."""
    made: list[Section] = []
    names = flow.groups
    wanted = [int(k) for k in flow.content.get("shown") or ()]
    for r, ring in enumerate(flow.rows("rings")):
        iterations = [int(k) for k in ring.get("iterations") or ()]
        groups = ring.get("groups") or {}
        panels = []
        for k in [k for k in wanted if k in iterations]:
            at = {name: lists[iterations.index(k)] for name, lists in groups.items()}
            panels.append(Panel(f"ring-{r}-{k}", f"{k:,}", None, {"": figures.circle(at, names, height=178)}))
        if not panels:
            continue
        lead = "Each line is the direction of a neuron, by iteration from left to right." if not made else ""
        legend = [(figures.colour_of(names.index(name)), name) for name in groups] if len(groups) > 1 else []
        sizes = {len(lists[0]) for lists in groups.values() if lists}
        caption = f"{listed([str(size) for size in sorted(sizes)])} neurons{' a group' if len(groups) > 1 else ''}."
        title = f"Directions: {ring.get('title')}" if ring.get("title") else "Directions"
        made.append(Section(f"directions-{r}", title, lead, panels, len(panels), caption, legend=legend))
    return made


def _motion(flow: Flow) -> list[Section]:
    """All rings, at an iteration that the reader chooses."""
    rings, names = flow.rows("rings"), flow.groups
    common = [int(k) for k in rings[0].get("iterations") or ()] if rings else []
    rings = [ring for ring in rings if [int(k) for k in ring.get("iterations") or ()] == common]
    if len(common) < 2:
        return []
    panels = []
    for r, ring in enumerate(rings):
        frames = {
            str(k): figures.circle({n: lists[i] for n, lists in ring["groups"].items()}, names, height=300)
            for i, k in enumerate(common)
        }
        panels.append(Panel(f"motion-{r}", str(ring.get("title") or ""), None, frames))
    legend = [(figures.colour_of(k), name) for k, name in enumerate(names)] if len(names) > 1 else []
    choices = [str(k) for k in common]
    lead = "The same through all recorded iterations."
    return [Section("motion", "In motion", lead, panels, min(len(panels), 3), "", choices[0], choices, legend=legend)]


def _plots(flow: Flow) -> list[Section]:
    made, names = [], flow.groups
    for plot in flow.rows("plots"):
        place = re.sub(r"[^\w.-]+", "-", str(plot.get("key")))  # an element's id, which not every text can be
        panel = Panel(f"plot-{place}", "", None, {"": figures.curves(plot, names)})
        legend = [(code, str(curve.get("name"))) for curve, code, _ in figures.coloured(plot, names)]
        dashed = [str(curve.get("name")) for curve, code, _ in figures.coloured(plot, names) if code == figures.THEORY]
        caption = str(plot.get("note") or "")
        caption += f" Broken: {listed(dashed)}." if dashed else ""
        key, title = f"curves-{place}", str(plot.get("title") or "")
        legend = [pair for pair in legend if pair[0] != figures.THEORY]
        made.append(Section(key, title, "", [panel], 1, caption.strip(), legend=legend if len(legend) > 1 else []))
    return made


def numbers(flow: Flow) -> list[Mapping[str, Any]]:
    """Every number of the claims and the lines, a row each."""
    rows: list[Mapping[str, Any]] = [
        {"part": "claim", "name": row.get("claim"), "x": math.nan} | _value(row, "value", "spread", "n")
        for row in flow.rows("claims")
    ]
    for plot in flow.rows("plots"):
        for curve in plot.get("curves") or ():
            errors = curve.get("error") or [None] * len(curve.get("y") or ())
            for x, y, error in zip(curve.get("x") or (), curve.get("y") or (), errors, strict=True):
                told = {"part": plot.get("title"), "name": curve.get("name"), "x": numeric(x)}
                rows.append(told | {"value": numeric(y), "spread": numeric(error), "n": None})
    return rows


def _value(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row.get(key) if key == "n" else numeric(row.get(key)) for key in keys}
