"""What the page's sections are made of, and the words and limits that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from layershift.report.data import Method, Run, label
from layershift.report.figures import Scale
from layershift.report.series import KEEP
from layershift.report.style import CONSTANT, NOT_FINITE, VIRIDIS, colour, log_ticks
from layershift.report.words import count

BUDGET = 500_000
"""How many numbers the plots of a section hold at most, if 40 steps allow it: about 3 MB of page."""


class Panel(NamedTuple):
    """A small plot: its title, and a figure for each choice of a layer ("" where there is none to choose)."""

    key: str
    title: str
    colour: str | None
    figures: dict[str, Any]


class Table(NamedTuple):
    """A table below the plots: the titles of its columns and, row by row, texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Section(NamedTuple):
    """A part of the page: plots of one kind, with the words that explain them.

    Attributes:
        key: its anchor.
        title: says what one sees.
        lead: how to read it.
        panels: the plots.
        columns: how many stand side by side where there is room.
        caption: n, spread, thinning.
        chosen: the layer that is shown first; "" if there is no choice.
        choices: the layers to choose from.
        fixed: what the fixed vertical scale is called, which the reader can let go; "" if there is no choice.
        legend: pairs (colour, name).
        signs: triples (sign, colour, name), where plots have signs.
        scales: the colour scales of heat maps, see `scale_legend`.
        overview: plots of all layers that stand before the choice of one.
        table: what stands below the plots.
    """

    key: str
    title: str
    lead: str
    panels: list[Panel]
    columns: int
    caption: str
    chosen: str = ""
    choices: Sequence[str] = ()
    fixed: str = ""
    legend: Sequence[tuple[str, str]] = ()
    signs: Sequence[tuple[str, str, str]] = ()
    scales: Sequence[dict[str, Any]] = ()
    overview: Sequence[Panel] = ()
    table: Table | None = None


def seeds_of(methods: Sequence[Method], has: Callable[[Any], bool]) -> str:
    """How many runs stand behind each line: `n = 3 seeds`, or one number a method where they differ."""
    counts = {method.name: sum(has(run) for run in method.runs) for method in methods}
    counts = {name: n for name, n in counts.items() if n}
    if len(set(counts.values())) == 1:
        n = next(iter(counts.values()))
        return f"n = {count(n, 'run' if label(methods) == 'run' else 'seed')}"
    return "n = " + ", ".join(f"{n} ({name})" for name, n in counts.items())


def mean_over_seeds(what: str, methods: Sequence[Method], measure: str) -> str:
    """What a line or a cell is, with n: `Mean over seeds, n = 3 seeds`; where no method has several, n alone."""
    seeds = seeds_of(methods, lambda run: measure in run.levels)
    return f"{what} over seeds, {seeds}" if any(len(m.having(measure)) > 1 for m in methods) else seeds


def legend_of(methods: Sequence[Method]) -> list[tuple[str, str]]:
    """The methods' colours and names; nothing for a single one."""
    return [(colour(method), method.name) for method in methods] if len(methods) > 1 else []


def side_by_side(panels: int) -> int:
    """How many small plots stand in a row."""
    return min(panels, 4 if panels % 2 == 0 else 3)


def scale_legend(name: str, scale: Scale, panels: Sequence[Panel], *, undefined: str = "not finite") -> dict[str, Any]:
    """The colour scale as the page draws it.

    Args:
        name: what the colours mean.
        scale: the scale of the panels.
        panels: heat maps, for what else is to be seen in them.
        undefined: what a cell is called that was measured and is not finite.

    Returns:
        The name, the colours from left to right, the ticks (place in per cent, text), and the colours of cells without
        a value.
    """
    if scale.log:
        ticks = log_ticks(scale.low, scale.high)
    else:
        step = 10.0 ** np.floor(np.log10(scale.high - scale.low))
        step /= 1 if (scale.high - scale.low) / step > 4 else 2 if (scale.high - scale.low) / step > 2 else 5
        ticks = [step * k for k in range(int(np.ceil(scale.low / step)), int(scale.high / step) + 1)]
    ends = scale.place([scale.low, scale.high])
    ticks = [t for t in ticks if scale.low * (1 - 1e-9) <= t <= scale.high * (1 + 1e-9)]
    places = [100 * float((scale.place(t) - ends[0]) / (ends[1] - ends[0])) for t in ticks]
    kept = [(place, f"{t:.4g}") for place, t in zip(places, ticks, strict=True)]
    seen = {code for panel in panels for trace in panel.figures[""].data[1:] for code in np.unique(trace.z)}
    states = {1.0: (CONSTANT, "constant output"), 2.0: (NOT_FINITE, undefined)}
    special = [pair for code, pair in states.items() if code in seen]
    name = f"{name}, log scale" if scale.log else name
    return {"name": name, "colours": VIRIDIS, "ticks": kept, "special": special}


def listed_seeds(runs: Sequence[Run]) -> str:
    """Which runs these are: `seed 0 of each method`, or their names."""
    seeds = {run.seed for run in runs}
    if len(runs) > 1 and len(seeds) == 1 and None not in seeds:
        return f"seed {seeds.pop()} of each method"
    return "; ".join(run.name for run in runs)


def points(methods: Sequence[Method], *, layers: int, each: int) -> tuple[int, str]:
    """How many steps to draw so that the page stays small, and a sentence on it.

    Args:
        methods: what is drawn.
        layers: how many layers there are to choose from, or to see.
        each: how many numbers a step and layer need.
    """
    steps = max(run.steps for method in methods for run in method.runs)
    limit = int(np.clip(BUDGET / max(layers * each, 1), 40, KEEP))
    if steps > limit:
        return limit, f"{limit} of {steps:,} measured steps are drawn, evenly spread."
    return limit, f"All {steps:,} measured steps are drawn." if steps > 1 else "One measured step."


def first_choice(methods: Sequence[Method], layers: Sequence[str]) -> str:
    """The layer that ends farthest from N(0, I) in any method, or the last one."""
    finals = [run.final[run.final["measure"] == "normality"] for method in methods for run in method.runs]
    known = [(float(value), str(name)) for f in finals for value, name in zip(f["value"], f["layer"], strict=True)]
    known = [(value, name) for value, name in known if np.isfinite(value) and name in layers]
    return max(known)[1] if known else layers[-1]
