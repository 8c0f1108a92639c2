"""What a live view shows of a store: the last numbers of each layer and how they came there, read in little time."""

from __future__ import annotations

import fnmatch
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layershift.monitor.alarm import Alarm
from layershift.monitor.database import open_to_read
from layershift.monitor.store import StoreError, open_store
from layershift.watch.series import Series, read_series

FIRST = ("normality", "shift*", "mean", "variance", "dead", "collapsed", "nonfinite")
"""Measures that are shown first, where not all have room and nobody chose."""

LEFT_OUT = ("quantile_*", "*_floor", "*_seconds", "monitor/seconds", "step_seconds")
"""Measures that are shown only if somebody chose them."""


@dataclass(frozen=True)
class Snapshot:
    """A store at one moment.

    Attributes:
        path: of the store.
        meta: facts of the run.
        layers: those that are shown, in the order of the network.
        measures: those that are shown.
        series: the numbers, by layer and measure; the layer "" is the network as a whole.
        network: measures of the network as a whole that are shown.
        more_layers: how many layers there is no room for.
        more_measures: names of measures there is no room for.
        step: the last step with a record, or None.
        age: seconds since the store was written to.
        alarms: layers in trouble, oldest first.
    """

    path: Path
    meta: dict[str, Any]
    layers: list[str] = field(default_factory=list)
    measures: list[str] = field(default_factory=list)
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    network: list[str] = field(default_factory=list)
    more_layers: int = 0
    more_measures: list[str] = field(default_factory=list)
    step: int | None = None
    age: float = 0.0
    alarms: list[Alarm] = field(default_factory=list)


def read(
    path: Path,
    *,
    layers: Sequence[str] = ("*",),
    measures: Sequence[str] | None = None,
    max_layers: int | None = None,
    max_measures: int | None = None,
) -> Snapshot:
    """Read what is shown of a store.

    Args:
        path: the file.
        layers: shell patterns of layers.
        measures: shell patterns of measures, shown in this order; None chooses.
        max_layers: how many layers there is room for.
        max_measures: how many measures there is room for.

    Returns:
        The store at this moment.

    Raises:
        StoreError: if it cannot be read.
    """
    with open_store(path) as store:
        meta, alarms = store.meta, store.alarms()
    try:
        with closing(open_to_read(path)) as connection:
            known = connection.execute(
                "SELECT id, layer, measure FROM series WHERE unit IS NULL ORDER BY id"
            ).fetchall()
            inner = [row for row in known if row[1] and _matches(row[1], layers)]
            names = list(dict.fromkeys(layer for _, layer, _ in inner))
            wanted = choose([measure for _, _, measure in inner], measures)
            network = choose([measure for _, layer, measure in known if not layer], measures)
            shown, columns = names[:max_layers], wanted[:max_measures]
            cells = {(layer, measure) for layer in shown for measure in columns} | {("", name) for name in network}
            keys = {key: (layer, measure) for key, layer, measure in known if (layer, measure) in cells}
            series = {keys[key]: found for key, found in read_series(connection, list(keys)).items()}
            (step,) = connection.execute("SELECT max(step) FROM record").fetchone()
    except (sqlite3.Error, OSError, TypeError, ValueError, IndexError) as error:  # a damaged file may hold anything
        raise StoreError(f"{path}: could not be read: {error}") from error
    more = (len(names) - len(shown), wanted[len(columns) :])
    return Snapshot(path, meta, shown, columns, series, network, *more, step, age_of(path), alarms)


def choose(measures: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """The measures that patterns select, in the order of the patterns; without patterns those that tell most, first.

    Example:
        >>> choose(["mean", "skewness", "quantile_0.5", "shift/sliced", "normality", "mean"], None)
        ['normality', 'shift/sliced', 'mean', 'skewness']
        >>> choose(["mean", "quantile_0.5"], ["quantile_*", "mean"])
        ['quantile_0.5', 'mean']
    """
    names = list(dict.fromkeys(measures))
    if patterns is None:
        return choose([name for name in names if not _matches(name, LEFT_OUT)], (*FIRST, "*"))
    return list(dict.fromkeys(name for pattern in patterns for name in names if fnmatch.fnmatchcase(name, pattern)))


def age_of(path: Path) -> float:
    """Seconds since a store was last written to; what was written last lies in a file beside it."""
    files = (path, path.with_name(path.name + "-wal"))
    written = [status.st_mtime for file in files if file.exists() and (status := file.stat()).st_size > 0]
    return max(0.0, time.time() - max(written, default=time.time()))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
