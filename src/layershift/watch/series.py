"""The last numbers of many series of a store, and a few from before, without reading what is not shown.

A store may hold millions of records, and somebody else needs the processor. It is ordered by step: so series are looked
for together, backwards from the end and forwards from the beginning, in ranges of steps that grow until all are found,
and read at a few steps. What is measured at every measured step is found at once, however long the run has been on.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

HISTORY = 8
"""How many values of a series' history are read at most; a column of the table has no more room."""

_RANGE = "SELECT (SELECT min(step) FROM record), (SELECT max(step) FROM record)"  # apart, or SQLite reads it all
_STEPS = "SELECT step FROM record WHERE series = ?"
_CHOSEN = "series IN (SELECT value FROM json_each(?))"


class Series(NamedTuple):
    """The last number of a series, and its history.

    Attributes:
        step: of the last record.
        value: its value.
        stderr: its standard error, None where not known.
        history: values from the first to the last, at most `HISTORY`.
    """

    step: int
    value: float
    stderr: float | None
    history: tuple[float, ...]


def read_series(connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, Series]:
    """Read series.

    Args:
        connection: to a store.
        keys: of the series.

    Returns:
        By key, those that have a record.
    """
    first, last = _ends(connection, keys, "min"), _ends(connection, keys, "max")
    together: dict[tuple[int, int], list[int]] = {}
    for key in first:
        together.setdefault((first[key], last[key]), []).append(key)
    found: dict[int, Series] = {}
    for ends, group in together.items():
        rows: dict[int, list[tuple[int, float | None, float | None]]] = {key: [] for key in group}
        for key, *row in connection.execute(
            f"SELECT series, step, value, stderr FROM record WHERE {_CHOSEN} "
            "AND step IN (SELECT value FROM json_each(?)) ORDER BY step",
            (json.dumps(group), json.dumps(_some_steps(connection, group[0], *ends))),
        ):
            rows[key].append((row[0], row[1], row[2]))
        for key, past in rows.items():
            step, value, stderr = past[-1]
            found[key] = Series(step, _number(value), stderr, tuple(_number(value) for _, value, _ in past))
    return found


def _ends(connection: sqlite3.Connection, keys: Collection[int], end: str) -> dict[int, int]:
    """The first ("min") or last ("max") step of each series."""
    start, stop = connection.execute(_RANGE).fetchone()
    if start is None:
        return {}
    found: dict[int, int] = {}
    width, missing = 1, set(keys)
    while missing and start <= stop:
        low, high = (start, min(start + width - 1, stop)) if end == "min" else (max(stop - width + 1, start), stop)
        rows = connection.execute(
            f"SELECT series, {end}(step) FROM record WHERE step BETWEEN ? AND ? AND {_CHOSEN} GROUP BY series",
            (low, high, json.dumps(list(missing))),
        ).fetchall()
        found.update(rows)
        missing -= found.keys()
        start, stop = (high + 1, stop) if end == "min" else (start, low - 1)
        width *= 4
    return found


def _some_steps(connection: sqlite3.Connection, key: int, first: int, last: int) -> list[int]:
    """All steps of a series or, of many, those at or before a few that are evenly spread."""
    steps = [step for (step,) in connection.execute(f"{_STEPS} ORDER BY step DESC LIMIT ?", (key, HISTORY + 1))]
    if len(steps) <= HISTORY:
        return steps
    spread = [first + round(i * (last - first) / (HISTORY - 1)) for i in range(HISTORY)]
    before = f"{_STEPS} AND step <= ? ORDER BY step DESC LIMIT 1"
    return [connection.execute(before, (key, step)).fetchone()[0] for step in spread]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
