"""Stores to tables: what a report shows, read once, thinned, and brought on common time axes.

A run's measurements become one table a measure: a row for each measured step, a column for each layer. In these tables
NaN means *not measured* and infinity means *measured, and not finite*; the two must never look alike in a plot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from layershift._checks import import_extra
from layershift.monitor.alarm import Alarm
from layershift.monitor.store import open_store
from layershift.report.series import KEEP, error_over_seeds, merge_orders, over_seeds, spread_evenly

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = import_extra("pandas", extra="report")


Part: TypeAlias = Literal["levels", "errors", "lower", "upper"]


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
        lower: the lower ends of the brackets that belong to `levels`, of those measures that have some.
        upper: the upper ends.
        units: measures of single units, each a table (step, (layer, unit)).
        final: the last record of each series of a whole layer or the network, with all its columns.
        alarms: what was found to be wrong, by step.
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
    lower: Mapping[str, pd.DataFrame]
    upper: Mapping[str, pd.DataFrame]
    units: Mapping[str, pd.DataFrame]
    final: pd.DataFrame
    alarms: Sequence[Alarm] = ()


@dataclass(frozen=True)
class Method:
    """The runs that differ in their seed alone, and their place in the order of colours."""

    name: str
    index: int
    runs: list[Run] = field(repr=False)
    _means: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, repr=False)

    def mean(self, measure: str, of: Part = "levels") -> pd.DataFrame:
        """A measure of all layers, a table (step, layer), over the runs that have it; computed once.

        Args:
            measure: its name in the stores.
            of: the values, the standard error of their mean, or the means of the brackets' ends.
        """
        if (measure, of) not in self._means:
            tables = [getattr(run, of)[measure] for run in self.having(measure) if measure in getattr(run, of)]
            self._means[measure, of] = (error_over_seeds if of == "errors" else over_seeds)(tables)
        return self._means[measure, of]

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
        ValueError: if it holds no record, or what no run can have written.
        StoreError: if it cannot be read.
    """
    with open_store(path) as store:
        steps = store.steps()
        kept = [steps[i] for i in spread_evenly(len(steps), KEEP)]
        frame = store.to_pandas(steps=None if len(kept) == len(steps) else kept)
        meta, layers, alarms = dict(store.meta), store.layers(), store.alarms()
    if frame.empty:
        raise ValueError(f"{path}: this store holds no measurement yet")
    try:
        return run_of(path, name, meta, layers, frame, steps=len(steps), alarms=alarms)
    except (TypeError, ValueError, KeyError) as error:  # two numbers for one place, say
        raise ValueError(f"{path}: damaged: {' '.join(str(error).split())}") from error


def run_of(
    path: Path,
    name: str,
    meta: Mapping[str, Any],
    layers: Sequence[str],
    frame: pd.DataFrame,
    *,
    steps: int,
    alarms: Sequence[Alarm] = (),
) -> Run:
    """Make a run of a store's rows.

    Args:
        path: where they come from.
        name: the run's name if its store has none.
        meta: the store's meta data.
        layers: names of layers in the order of the network; "" is ignored.
        frame: rows with the columns of `Store.to_pandas()`, at not many more than `KEEP` steps.
        steps: how many steps were measured in all.
        alarms: the store's alarms.

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
        lower=_tables(inner[inner["lower"].notna()], ["layer"], "lower"),
        upper=_tables(inner[inner["upper"].notna()], ["layer"], "upper"),
        units=_tables(units, ["layer", "unit"], "value"),
        final=whole.groupby(["layer", "measure"], sort=False).tail(1).reset_index(drop=True),
        alarms=alarms,
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
