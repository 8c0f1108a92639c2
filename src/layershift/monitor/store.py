"""One SQLite file a run: written while training, read at the same time, readable after a crash.

How the file looks inside is told in `layershift.monitor.database`.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

from layershift._checks import check, check_path, check_type, import_extra
from layershift.monitor.alarm import Alarm
from layershift.monitor.database import StoreError as StoreError
from layershift.monitor.database import check_whole, open_to_read, open_to_write

if TYPE_CHECKING:
    import pandas as pd

_SELECT = """
SELECT record.step, series.layer, series.measure, record.value, record.stderr, record.n, series.unit,
       record.lower, record.upper, estimator.name, estimator.units
FROM record JOIN series ON series.id = record.series JOIN estimator ON estimator.id = record.estimator
{where} ORDER BY record.series, record.step
"""
_ALARMS = 'SELECT step, layer, unit, kind, measure, value, "limit", message, advice FROM alarm ORDER BY step, id'
_Types: TypeAlias = set[type]
_STEP: _Types = {int}
_TEXT: _Types = {str}
_COUNT: _Types = {int, type(None)}
_NUMBER: _Types = {float, type(None)}
_TYPES = [_STEP, _TEXT, _TEXT, _NUMBER, _NUMBER, _COUNT | _NUMBER, _COUNT, _NUMBER, _NUMBER, _TEXT, _TEXT]
_ALARM_TYPES = [_STEP, _TEXT, _COUNT, _TEXT, _TEXT, _NUMBER, _NUMBER, _TEXT, _TEXT]
_COLUMNS = ["step", "layer", "unit", "measure", "value", "stderr", "n", "lower", "upper", "estimator", "units"]


class Record(NamedTuple):
    """One number, with what is needed to believe it.

    Attributes:
        step: the training step at which it was measured.
        layer: the layer's name; "" is the network as a whole.
        measure: what was measured, e.g. `"mean"` or `"val/loss"`.
        value: the number; NaN and infinities are kept.
        stderr: its standard error, None where not known.
        n: how many independent samples it rests on, None where not known.
        unit: the unit (channel) it belongs to, None for the whole layer.
        lower: a lower bound on the true value, or None.
        upper: an upper bound on the true value, or None.
        estimator: how the number was made.
        units: its unit of measurement; "1" for a pure number.
    """

    step: int
    layer: str
    measure: str
    value: float
    stderr: float | None = None
    n: int | None = None
    unit: int | None = None
    lower: float | None = None
    upper: float | None = None
    estimator: str = ""
    units: str = "1"


class Store:
    """Records and facts of one run, in one SQLite file.

    Args:
        path: the file, `run.db` by convention; it and its folder are made if they do not exist.
        read_only: open an existing store for reading, see `open_store`.

    Raises:
        StoreError: if the file is not a store, is of a newer schema, is damaged, or cannot be opened.

    Example:
        >>> import tempfile
        >>> with Store(Path(tempfile.mkdtemp()) / "run.db") as store:
        ...     store.set_meta("method", "per")
        ...     store.write([Record(step=0, layer="relu1", measure="mean", value=0.4, stderr=0.01, n=128)])
        ...     store.meta, store.layers(), store.records()[0].value
        ({'method': 'per'}, ['relu1'], 0.4)
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        check_path("path", path)
        self.path = Path(path)
        self._read_only = read_only
        self._ids: dict[tuple[object, ...], int] = {}
        with self._reading("opened"):
            self._connection = open_to_read(self.path) if read_only else open_to_write(self.path)

    def write(self, records: Iterable[Record]) -> None:
        """Add records in one transaction: all of them or, after an error, none.

        A record of the same layer, unit, measure and step as an older one replaces it.

        Raises:
            StoreError: if they cannot be written (disk full, locked, opened for reading); older records stay.
        """
        self._check_writable()
        check_type("records", records, Iterable, "records")
        with self._errors("written (what was recorded before is kept)"), self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(self._row, records)
            )

    def write_alarms(self, alarms: Iterable[Alarm]) -> None:
        """Add alarms in one transaction; one of the same step, layer, unit, kind and measure as an older replaces it.

        Raises:
            StoreError: if they cannot be written; older alarms stay.
        """
        self._check_writable()
        with self._errors("written (what was recorded before is kept)"), self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO alarm VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(tuple, alarms)
            )

    def set_meta(self, key: str, value: Any) -> None:
        """Set a fact of the run; what JSON cannot hold is kept as its text.

        Raises:
            StoreError: if it cannot be written.
        """
        self._check_writable()
        check_type("key", key, str, "a name")
        with self._errors("written (what was recorded before is kept)"), self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, _json(value)))

    @property
    def meta(self) -> dict[str, Any]:
        """The facts of the run."""
        with self._reading():
            return {key: json.loads(value) for key, value in self._connection.execute("SELECT key, value FROM meta")}

    def layers(self) -> list[str]:
        """Names of the measured layers in the order of their first appearance."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT layer FROM series WHERE layer != '' GROUP BY layer ORDER BY min(id)"
            )
            return [layer for (layer,) in _typed(rows.fetchall(), [_TEXT])]

    def records(self) -> list[Record]:
        """All records: series in the order of their first appearance, each by step."""
        return [
            Record(step, layer, measure, math.nan if value is None else value, *rest)
            for step, layer, measure, value, *rest in self._rows()
        ]

    def alarms(self) -> list[Alarm]:
        """All alarms by step, those of one step as they were raised; none in a file of before there were alarms."""
        with self._reading():
            if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alarm'").fetchone():
                return []
            rows = _typed(self._connection.execute(_ALARMS).fetchall(), _ALARM_TYPES)
        known = [[math.nan if field is None and i in (5, 6) else field for i, field in enumerate(row)] for row in rows]
        return [Alarm._make(row) for row in known]

    def steps(self) -> list[int]:
        """The steps at which layers were measured, in order."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT DISTINCT step FROM record JOIN series ON series.id = record.series WHERE layer != ''"
            )
            return sorted(step for (step,) in _typed(rows.fetchall(), [_STEP]))

    def to_pandas(self, *, steps: Collection[int] | None = None) -> pd.DataFrame:
        """All records as a table, in the order of `records`.

        Args:
            steps: of the layers' series only these steps, all if None; the network's series are always whole.

        Returns:
            Columns step, layer, unit, measure, value, stderr, n, lower, upper, estimator, units. Numbers that are not
            known are NaN; `unit` and `n` are of the nullable type `Int64`.

        Raises:
            ModuleNotFoundError: without pandas; the message names the extra to install.
        """
        return table(self._rows(steps))

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}{', read_only=True' if self._read_only else ''})"

    def _rows(self, steps: Collection[int] | None = None) -> list[tuple[Any, ...]]:
        where = "WHERE layer = '' OR step IN (SELECT value FROM json_each(?))" if steps is not None else ""
        values = () if steps is None else (json.dumps([int(step) for step in steps]),)
        with self._reading():
            check_whole(self.path, self._connection)
            return _typed(self._connection.execute(_SELECT.format(where=where), values).fetchall(), _TYPES)

    def _row(self, record: Record) -> tuple[object, ...]:
        if type(record) is not Record:
            check_type("records", record, Record, "records")
        step, layer, measure, value, stderr, n, unit, lower, upper, name, units = record
        where, how = (layer, unit, measure), (name, units)  # of three and of two: no two keys are equal
        try:
            series, estimator = self._ids.get(where), self._ids.get(how)
            if series is None or estimator is None:
                check(all(isinstance(x, str) for x in (layer, measure, *how)), "records", "names that are text", record)
                check_type("records", unit, (int, type(None)), "units that are whole numbers, or None")
                series = self._id("series", "layer = ? AND unit IS ? AND measure = ?", where)
                estimator = self._id("estimator", "name = ? AND units = ?", how)
            # A thousand of them in a step: what is a float already is not made one.
            error = stderr if stderr is None or type(stderr) is float else float(stderr)
            low = lower if lower is None or type(lower) is float else float(lower)
            high = upper if upper is None or type(upper) is float else float(upper)
            n = n if n is None or isinstance(n, int) else float(n)
            return series, int(step), float(value), error, n, low, high, estimator
        except (TypeError, ValueError) as wrong:  # SQLite would take text for a number, and it could not be read again
            raise TypeError(f"records: expected names, and numbers or None, got {record}") from wrong

    def _id(self, table: str, condition: str, values: tuple[object, ...]) -> int:
        """The number of a series or estimator, made if it is new; SQLite counts from 1."""
        marks = ", ".join("?" for _ in values)
        self._connection.execute(f"INSERT OR IGNORE INTO {table} VALUES (NULL, {marks})", values)
        (found,) = self._connection.execute(f"SELECT id FROM {table} WHERE {condition}", values).fetchone()
        self._ids[values] = int(found)
        return self._ids[values]

    def _check_writable(self) -> None:
        if self._read_only:
            raise StoreError(f"{self.path}: this store was opened for reading")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._ids.clear()  # some may have been made in this transaction
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _reading(self, verb: str = "read") -> Iterator[None]:
        """What is read may be anything: SQLite keeps no checksums, and a damaged page may pass for a good one."""
        with self._errors(verb):
            try:
                yield
            except (TypeError, ValueError) as error:
                raise StoreError(f"{self.path}: damaged: {error}") from error

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:  # numbers or text that SQLite has not
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise StoreError(f"{self.path}: not a layershift store ({error})") from error
            raise StoreError(f"{self.path}: could not be {verb}: {error}") from error


def _json(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, or a list that holds itself
        return json.dumps(str(value))


def _typed(rows: list[tuple[Any, ...]], types: Sequence[_Types]) -> list[tuple[Any, ...]]:
    """The rows, if each of their columns is of one of its types.

    Raises:
        TypeError: if not.
    """
    for column, known in enumerate(types):
        if strange := set(map(type, map(itemgetter(column), rows))) - known:
            raise TypeError(f"a {strange.pop().__name__} where none can be")
    return rows


def open_store(path: str | Path) -> Store:
    """Open a store for reading, also while another process writes to it, and from a folder that cannot be written.

    Args:
        path: the file, or the folder of a run that holds a `run.db`.

    Returns:
        The store; each read shows what has been written by then.

    Raises:
        StoreError: if there is no such file, it is not a store, or it is of a newer schema.

    Example:
        >>> open_store("nowhere/run.db")
        Traceback (most recent call last):
        ...
        layershift.monitor.database.StoreError: nowhere/run.db: no such file
    """
    check_path("path", path)
    path = Path(path)
    return Store(path / "run.db" if path.is_dir() else path, read_only=True)


def table(records: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Records, or tuples like them, as a table with the columns of `Store.to_pandas`.

    Raises:
        ModuleNotFoundError: without pandas; the message names the extra to install.
    """
    pandas = import_extra("pandas", extra="report")
    frame = pandas.DataFrame.from_records(records, columns=Record._fields)[_COLUMNS]
    numbers = dict.fromkeys(("value", "stderr", "lower", "upper"), "float64")
    return frame.astype({"step": "int64", "unit": "Int64", "n": "Int64", **numbers})  # type: ignore[no-any-return]
