"""What monitoring cost, as the monitor counted it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from layershift.report.data import Method, Run
from layershift.report.words import duration, number

MEASURES = ("monitor/share", "monitor/seconds")


class Cost(NamedTuple):
    """What monitoring cost a run.

    Attributes:
        share: of the run's time; NaN if not known.
        seconds: a measured step, the median; NaN if not known.
        steps: how many steps were measured.
    """

    share: float
    seconds: float
    steps: int

    @staticmethod
    def of(run: Run) -> Cost | None:
        """The cost of a run, None if its store does not say."""
        share, seconds = (run.network.get(measure) for measure in MEASURES)
        if share is None and seconds is None:
            return None
        last = run.final[(run.final["layer"] == "") & (run.final["measure"] == "monitor/share")]["n"].dropna()
        return Cost(
            math.nan if share is None else float(share.iloc[-1]),
            math.nan if seconds is None else float(seconds.median()),
            int(last.iloc[-1]) if len(last) else run.steps,
        )


def told(run: Run) -> dict[str, str]:
    """What monitoring cost a run, as a line of its configuration; nothing if its store does not say."""
    cost = Cost.of(run)
    return {} if cost is None else {"monitoring": _text([cost])}


def fact(methods: Sequence[Method]) -> str:
    """The same for all runs, from the least to the most of them; "" if none says it."""
    costs = [cost for method in methods for run in method.runs if (cost := Cost.of(run)) is not None]
    return _text(costs) if costs else ""


def missing(methods: Sequence[Method]) -> list[str]:
    """A sentence on what would tell it, if no run does."""
    if fact(methods):
        return []
    return [
        "What monitoring cost: no run holds “monitor/share” and “monitor/seconds”. “Monitor(model, …)” counts its own "
        "time and records them."
    ]


def _text(costs: Sequence[Cost]) -> str:
    shares = _range([f"{number(100 * x, 2)}" for x in sorted(c.share for c in costs) if not math.isnan(x)])
    times = _range([duration(x) for x in sorted(c.seconds for c in costs) if not math.isnan(x)])
    steps = _range([f"{x:,}" for x in sorted(c.steps for c in costs)])
    return ", ".join(
        [
            *([f"{shares} % of the time"] if shares else []),
            *([f"{times} a measured step (median)"] if times else []),
            f"{steps} measured step{'' if steps == '1' else 's'}",
        ]
    )


def _range(texts: Sequence[str]) -> str:
    """From the first to the last, or one of them if they are the same; a unit that both have is said once."""
    if not texts or texts[0] == texts[-1]:
        return texts[0] if texts else ""
    low, _, unit = texts[0].partition(" ")
    return f"{low if texts[-1].endswith(f' {unit}') else texts[0]} to {texts[-1]}"
