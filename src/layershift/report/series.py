"""Arithmetic of measured series: thin them, bring them on one time axis, and summarise them over runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layershift._checks import import_extra

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = import_extra("pandas", extra="report")

KEEP = 400
"""How many steps of a layer's series are kept at most; more than a plot has pixels for."""


def merge_orders(orders: Iterable[Sequence[str]]) -> list[str]:
    """One order of names that keeps each of the given ones where they agree.

    Example:
        >>> merge_orders([["fc1", "relu1", "head"], ["fc1", "norm1", "relu1", "head"]])
        ['fc1', 'norm1', 'relu1', 'head']
    """
    merged: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name in merged:
                place = max(place, merged.index(name) + 1)
            else:
                merged.insert(place, name)
                place += 1
    return merged


def spread_evenly(count: int, limit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of at most `limit` of `count` things, evenly spread, with the first and the last.

    Example:
        >>> spread_evenly(9, 3).tolist(), spread_evenly(2, 3).tolist()
        ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, limit)).round().astype(np.int64))


def align(tables: Sequence[Any]) -> tuple[np.ndarray[Any, Any], list[Any]]:
    """Bring the tables of several runs on one time axis.

    At each step of the axis a run shows its last measurement at or before it; before its first and after its last
    measurement it shows nothing.

    Args:
        tables: tables or series, one a run, indexed by step.

    Returns:
        The steps, at most `KEEP`, and the tables at these steps.
    """
    steps = np.unique(np.concatenate([table.index.to_numpy() for table in tables]))
    steps = steps[spread_evenly(len(steps), KEEP)]
    aligned = []
    for table in tables:
        at = table.reindex(steps, method="ffill")
        at.loc[steps > table.index[-1]] = np.nan
        aligned.append(at)
    return steps, aligned


def over_seeds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of several runs' tables (step, layer): infinite where any run is not finite, NaN where none measured."""
    total, count = _sums(tables)
    return total / count.where(count > 0)


def error_over_seeds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The standard error of the mean of several runs' numbers, from those of each: √(Σ s²) / n."""
    total, count = _sums([table**2 for table in tables])
    return total**0.5 / count.where(count > 0)


def _sums(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """At each step and layer the sum over the runs that have a number there, and how many they are."""
    steps, aligned = align(tables)
    columns = merge_orders([str(c) for c in table.columns] for table in tables)
    stack = np.stack([table.reindex(columns=columns).to_numpy(dtype=np.float64) for table in aligned])
    total = np.where(np.isnan(stack), 0.0, stack).sum(0)
    frames = [
        pd.DataFrame(x, index=pd.Index(steps, name="step"), columns=columns) for x in (total, (~np.isnan(stack)).sum(0))
    ]
    return frames[0], frames[1]


def binned(series: pd.Series, limit: int) -> pd.Series:
    """Averages of consecutive values, so that at most `limit` remain; each stands at the last step of its bin.

    Example:
        >>> binned(pd.Series([1.0, 3.0, 5.0], index=[10, 20, 30]), 2).to_dict()
        {20: 2.0, 30: 5.0}
    """
    size = -(-len(series) // limit)
    if size <= 1:
        return series
    bins = np.arange(len(series)) // size
    steps = series.index.to_numpy()[np.minimum((np.unique(bins) + 1) * size, len(series)) - 1]
    return pd.Series(series.groupby(bins).mean().to_numpy(), index=steps)


@dataclass(frozen=True)
class Spread:
    """A number over runs: mean, standard deviation (divided by n − 1; NaN for one run), and how many runs.

    Example:
        >>> Spread.of([1.0, 3.0])
        Spread(mean=2.0, sd=1.4142135623730951, n=2, low=1.0, high=3.0)
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Summarise one number a run; runs without it (NaN) are left out, infinity stays."""
        known = [float(v) for v in values if not math.isnan(v)]
        if not known:
            return Spread(math.nan, math.nan, 0, math.nan, math.nan)
        mean = sum(known) / len(known)
        sd = math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1)) if len(known) > 1 else math.nan
        return Spread(mean, sd, len(known), min(known), max(known))
