"""What the runs come to: the table of methods, the finding in words, and every final number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from layershift._checks import import_extra
from layershift.report.data import Method, Run
from layershift.report.headline import headline
from layershift.report.series import Spread
from layershift.report.words import decimals, pm

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = import_extra("pandas", extra="report")


class Score(NamedTuple):
    """A column of the table of methods: one number a run.

    Attributes:
        key: a short name.
        title: what stands above the column.
        better: which values are better; None if neither is.
        spreads: for each method, the number over its runs.
        floors: for each method, the value that would be seen if the true one were 0; NaN if not known.
    """

    key: str
    title: str
    better: Literal["high", "low"] | None
    spreads: list[Spread]
    floors: list[float]

    def ranked(self) -> list[int]:
        """The methods from best to worst, by their means; those without a finite mean come last."""
        sign = -1.0 if self.better == "high" else 1.0
        keys = [sign * s.mean if math.isfinite(s.mean) else math.inf for s in self.spreads]
        return sorted(range(len(keys)), key=keys.__getitem__)

    def leaders(self) -> tuple[list[int], bool]:
        """The methods that lead, and whether the first of them is ahead of all others.

        Two methods are level if their means differ by no more than two standard errors of the difference,
        `2 √(s₁²/n₁ + s₂²/n₂)`. Single runs have no spread, so nothing can be said to lead.
        """
        known = [i for i in self.ranked() if math.isfinite(self.spreads[i].mean)]
        if self.better is None or len(known) < 2 or any(self.spreads[i].n < 2 for i in known):
            return [], False
        leading = [i for i in known if not _apart(self.spreads[known[0]], self.spreads[i])]
        return leading, len(leading) == 1

    def texts(self) -> list[str]:
        """The numbers as text, all with as many digits as the largest standard deviation has two of.

        If that would leave a mean with a single digit, or round a standard deviation away, each has digits of its own.
        """
        sds = [s.sd for s in self.spreads if s.sd > 1e-9 * abs(s.mean)]
        places = decimals(max(sds)) if sds else None
        if places is not None:
            digit = 10.0**-places
            if any(0 < abs(s.mean) < 10 * digit or 0 < s.sd < digit for s in self.spreads):
                places = None
        return [pm(s, places) for s in self.spreads]

    def marks(self) -> list[str]:
        """For each method "best", "level" (with the best, within the spread) or ""."""
        leading, alone = self.leaders()
        if len(leading) == len(self.spreads):
            return [""] * len(self.spreads)
        return [("best" if alone else "level") if i in leading else "" for i in range(len(self.spreads))]


def _apart(a: Spread, b: Spread) -> bool:
    return abs(a.mean - b.mean) > 2 * math.sqrt(a.sd**2 / a.n + b.sd**2 / b.n)


def scores(methods: Sequence[Method]) -> list[Score]:
    """The columns of the table of methods, those for which some run has data."""
    told = headline(methods)
    layers = shared_layers(methods)
    columns = [
        Score("headline", told.title, told.better, *_over(methods, lambda r: told.factor * _last(r, told.measure))),
        Score("distance", "Distance to N(0, I)", "low", *_over(methods, lambda r: end_distance(r, layers))),
        Score("time", "Time per step, ms", "low", *_over(methods, milliseconds)),
        Score("loss", "Final training loss", None, *_over(methods, lambda r: _last(r, "train/loss"))),
    ]
    floors = [_mean([end_distance(r, layers, "normality_floor") for r in m.runs]) for m in methods]
    columns[1] = columns[1]._replace(floors=floors)
    return [column for column in columns if any(s.n for s in column.spreads)]


def _over(methods: Sequence[Method], number: Any) -> tuple[list[Spread], list[float]]:
    return [Spread.of(number(run) for run in method.runs) for method in methods], [math.nan] * len(methods)


def _mean(values: Sequence[float]) -> float:
    return Spread.of(values).mean


def shared_layers(methods: Sequence[Method], measure: str = "normality") -> list[str]:
    """The layers with a measure in every run that has it at all; if there is none, those of any."""
    columns = [list(r.levels[measure].columns) for m in methods for r in m.having(measure)]
    shared = [layer for layer in columns[0] if all(layer in c for c in columns)] if columns else []
    return shared or list(dict.fromkeys(layer for c in columns for layer in c))


def _last(run: Run, measure: str) -> float:
    return float(run.network[measure].iloc[-1]) if measure in run.network else math.nan


def end_distance(run: Run, layers: Sequence[str], measure: str = "normality") -> float:
    """The mean over layers of a measure's last value; infinite if one of them is not finite."""
    rows = run.final[(run.final["measure"] == measure) & run.final["layer"].isin(layers)]
    return float(rows["value"].fillna(math.inf).mean()) if len(rows) else math.nan


def milliseconds(run: Run) -> float:
    """The median time of a step."""
    return 1000 * float(run.network["step_seconds"].median()) if "step_seconds" in run.network else math.nan


def numbers(methods: Sequence[Method], measures: Sequence[str]) -> list[dict[str, Any]]:
    """The last value of every series, over the runs of each method.

    Args:
        methods: whose numbers.
        measures: which ones, in the order in which they are wanted.

    Returns:
        For each method, layer and measure its method, layer, measure, step, mean, sd, seeds, stderr (root mean square
        over runs), n, estimator, units; layers in the order of the network, the network itself last.
    """
    rows = []
    for method in methods:
        frame = pd.concat([run.final for run in method.runs])
        groups = {tuple(map(str, key)): part for key, part in frame.groupby(["layer", "measure"], sort=False)}
        order = [(layer, measure) for layer in [*method.layers, ""] for measure in measures]
        rows += [_number(method, *key, groups[key]) for key in order if key in groups]
    return rows


def _number(method: Method, layer: str, measure: str, part: pd.DataFrame) -> dict[str, Any]:
    """One last value: `part` has a row for each run."""
    spread = Spread.of(part["value"].fillna(math.inf))
    samples = part["n"].dropna()
    return {
        "method": method.name,
        "layer": layer,
        "measure": measure,
        "step": int(part["step"].max()),
        "mean": spread.mean,
        "sd": spread.sd,
        "seeds": spread.n,
        "stderr": float((part["stderr"].astype(float) ** 2).mean() ** 0.5),
        "n": int(samples.min()) if len(samples) else None,
        "estimator": part.iloc[0]["estimator"],
        "units": part.iloc[0]["units"],
    }


def configuration(run: Run) -> dict[str, str]:
    """A run's configuration, versions and circumstances, flat, in the order of the store."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = "–" if value is None else str(value)

    walk("", run.meta)
    return flat
