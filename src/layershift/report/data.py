"""Stores to tables: what a report shows, read once, thinned, and brought on common time axes.

A run's measurements become one table a measure: a row for each measured step, a column for each layer. In these tables
NaN means *not measured* and infinity means *measured, and not finite*; the two must never look alike in a plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layershift._checks import import_extra
from layershift.monitor.store import open_store

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = import_extra("pandas", extra="report")

KEEP = 400
"""How many steps of a layer's series are kept at most; more than a plot has pixels for."""


@dataclass(frozen=True)
class Run:
    """One store: a method, a seed, and its measurements.

    Attributes:
        path: where the store lies.
        name: what the run is called in the report.
        method: what it is grouped by; None if the store does not say.
        seed: its seed; None if the store does not say.
        meta: what the training wrote about itself.
        layers: names of the measured layers, in the order in which the network ran them.
        steps: how many steps were measured, before thinning.
        network: measures of the whole network, each a series over steps.
        levels: measures of whole layers, each a table (step, layer).
        errors: the standard errors that belong to `levels`.
        units: measures of single units, each a table (step, (layer, unit)).
        final: the last record of each series of a whole layer or the network, with all its columns.
    """

    path: Path
    name: str
    method: str | None
    seed: int | None
    meta: Mapping[str, Any]
    layers: list[str]
    steps: int
    network: Mapping[str, pd.Series]
    levels: Mapping[str, pd.DataFrame]
    errors: Mapping[str, pd.DataFrame]
    units: Mapping[str, pd.DataFrame]
    final: pd.DataFrame


@dataclass(frozen=True)
class Method:
    """The runs that differ in their seed alone, and their place in the order of colours."""

    name: str
    index: int
    runs: list[Run] = field(repr=False)
    _means: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def mean(self, measure: str) -> pd.DataFrame:
        """A measure of all layers, a table (step, layer): `over_seeds` of the runs that have it, computed once."""
        if measure not in self._means:
            self._means[measure] = over_seeds([run.levels[measure] for run in self.having(measure)])
        return self._means[measure]

    @property
    def layers(self) -> list[str]:
        """Names of the measured layers of all its runs, in the order of the network."""
        return merge_orders(run.layers for run in self.runs)

    def having(self, measure: str, layer: str | None = None) -> list[Run]:
        """Its runs that recorded a measure (of a layer)."""
        return [r for r in self.runs if measure in r.levels and (layer is None or layer in r.levels[measure])]


def find_stores(paths: Iterable[str | Path]) -> list[Path]:
    """The store files among `paths`, and each `run.db` below those that are folders.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder holds no store.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(path.rglob("run.db"))
            if not below:
                raise FileNotFoundError(f"{path}: no run.db in this folder or below it")
            found += below
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return list({path.resolve(): path for path in found}.values())


def read_methods(paths: Iterable[str | Path]) -> list[Method]:
    """Read stores and group them by method, in the order in which the methods were started.

    A store that names no method is a group of its own, called after its folder or file.

    Args:
        paths: store files, or folders that hold `run.db` files anywhere below them.

    Returns:
        The methods, each with its runs by seed.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if a store holds no record.
    """
    stores = find_stores(paths)
    runs = [read_run(path, name) for path, name in zip(stores, names_of(stores), strict=True)]
    return group_runs(runs)


def group_runs(runs: Iterable[Run]) -> list[Method]:
    """Group runs by method: methods in the order of their first start, runs by seed."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (str(run.meta.get("started", "")), run.name)):
        groups.setdefault(run.method or run.name, []).append(run)
    by_seed = [sorted(group, key=lambda run: (run.seed is None, run.seed or 0)) for group in groups.values()]
    return [Method(name, index, group) for index, (name, group) in enumerate(zip(groups, by_seed, strict=True))]


def label(methods: Sequence[Method]) -> str:
    """What the groups are called: methods, or runs if no store names its method."""
    return "method" if any(run.method for method in methods for run in method.runs) else "run"


def read_run(path: Path, name: str) -> Run:
    """Read one store.

    Raises:
        ValueError: if it holds no record.
    """
    with open_store(path) as store:
        steps = store.steps()
        kept = [steps[i] for i in spread_evenly(len(steps), KEEP)]
        frame = store.to_pandas(steps=None if len(kept) == len(steps) else kept)
        return run_of(path, name, dict(store.meta), store.layers(), frame, steps=len(steps))


def run_of(
    path: Path, name: str, meta: Mapping[str, Any], layers: Sequence[str], frame: pd.DataFrame, *, steps: int
) -> Run:
    """Make a run of a store's rows.

    Args:
        path: where they come from.
        name: the run's name if its store has none.
        meta: the store's meta data.
        layers: names of layers in the order of the network; "" is ignored.
        frame: rows with the columns of `Store.to_pandas()`, at not many more than `KEEP` steps.
        steps: how many steps were measured in all.

    Returns:
        The run.

    Raises:
        ValueError: if there is no row.
    """
    if frame.empty:
        raise ValueError(f"{path}: this store holds no measurement yet")
    method, seed = meta.get("method"), meta.get("seed")
    whole = frame[frame["unit"].isna()]
    inner = whole[whole["layer"] != ""]
    units = frame[frame["unit"].notna() & (frame["layer"] != "")]
    return Run(
        path=path,
        name=name if method is None else f"{method}, seed {seed}" if seed is not None else str(method),
        method=None if method is None else str(method),
        seed=seed if isinstance(seed, int) else None,
        meta=meta,
        layers=[layer for layer in layers if layer],
        steps=steps,
        network={str(m): _series(rows) for m, rows in whole[whole["layer"] == ""].groupby("measure", sort=False)},
        levels=_tables(inner, ["layer"], "value"),
        errors=_tables(inner, ["layer"], "stderr"),
        units=_tables(units, ["layer", "unit"], "value"),
        final=whole.groupby(["layer", "measure"], sort=False).tail(1).reset_index(drop=True),
    )


def _series(rows: pd.DataFrame) -> pd.Series:
    values = rows.set_index("step")["value"].astype(float).sort_index()
    return values.where(np.isfinite(values), np.inf)


def _tables(rows: pd.DataFrame, columns: list[str], value: str) -> dict[str, pd.DataFrame]:
    tables = {}
    for measure, part in rows.groupby("measure", sort=False):
        values = part[value].astype(float)
        part = part.assign(**{value: values.where(np.isfinite(values), np.inf)})
        tables[str(measure)] = part.pivot(
            index="step", columns=columns[0] if len(columns) == 1 else columns, values=value
        ).astype(np.float32)
    return tables


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short names: the file's name, or its folder's if that is `run.db`, with more of the path where that is ambiguous.

    Example:
        >>> names_of([Path("a/x/run.db"), Path("b/x/run.db"), Path("c/mine.db")])
        ['a/x', 'b/x', 'mine']
    """
    parts = [(p.resolve().parent if p.name == "run.db" else p.resolve().with_suffix("")).parts for p in paths]
    names: list[str] = []
    for own in parts:
        length = next((k for k in range(1, len(own)) if [p[-k:] for p in parts].count(own[-k:]) == 1), len(own))
        names.append("/".join(own[-length:]))
    return names


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
    steps, aligned = align(tables)
    columns = merge_orders([str(c) for c in table.columns] for table in tables)
    stack = np.stack([table.reindex(columns=columns).to_numpy(dtype=np.float64) for table in aligned])
    count = (~np.isnan(stack)).sum(0)
    total = np.where(np.isnan(stack), 0.0, stack).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
    return pd.DataFrame(mean, index=pd.Index(steps, name="step"), columns=columns)


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
