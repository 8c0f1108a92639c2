"""One SQLite file a run: written while training, read at the same time, readable after a crash.

The file is in WAL mode: a reader never waits for the writer, a killed process loses at most the write it was in, and
any SQLite client can read it. `application_id` says that it is ours, `user_version` is the version of the schema:

- `series(id, layer, unit, measure)`: what is measured; the layer "" is the network, a NULL unit the whole layer.
- `estimator(id, name, units)`: how numbers were made, and their unit of measurement.
- `record(series, step, value, stderr, n, lower, upper, estimator)`: the numbers. SQLite has no NaN: a value that is
  NULL was measured and is NaN; any other NULL means not known. Infinities are kept as they are.
- `meta(key, value)`: facts of the run, as JSON.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self
from urllib.parse import quote

from layershift._checks import check_choice, import_extra

if TYPE_CHECKING:
    import pandas as pd

APPLICATION_ID = 0x4C797368  # "Lysh"
SCHEMA_VERSION = 1

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (id INTEGER PRIMARY KEY, layer TEXT NOT NULL, unit INTEGER, measure TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS series_identity ON series (layer, measure, ifnull(unit, -1));
CREATE TABLE IF NOT EXISTS estimator (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, units TEXT NOT NULL, UNIQUE (name, units)
);
CREATE TABLE IF NOT EXISTS record (
    series INTEGER NOT NULL REFERENCES series, step INTEGER NOT NULL,
    value REAL, stderr REAL, n INTEGER, lower REAL, upper REAL,
    estimator INTEGER NOT NULL REFERENCES estimator, PRIMARY KEY (series, step)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_SELECT = """
SELECT record.step, series.layer, series.measure, record.value, record.stderr, record.n, series.unit,
       record.lower, record.upper, estimator.name, estimator.units
FROM record JOIN series ON series.id = record.series JOIN estimator ON estimator.id = record.estimator
ORDER BY record.series, record.step
"""
_COLUMNS = ["step", "layer", "unit", "measure", "value", "stderr", "n", "lower", "upper", "estimator", "units"]


class StoreError(RuntimeError):
    """A store cannot be opened, read or written; the message says which file and why."""


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
        path: the file; with `mode="write"` it and its folder are made if they do not exist.
        mode: `"write"` to add records, `"read"` to read while another process writes (see `open_store`).

    Raises:
        StoreError: if the file is not a store, is of a newer schema, or cannot be opened in this mode.

    Example:
        >>> import tempfile
        >>> with Store(Path(tempfile.mkdtemp()) / "run.db") as store:
        ...     store.set_meta("method", "per")
        ...     store.write([Record(step=0, layer="relu1", measure="mean", value=0.4, stderr=0.01, n=128)])
        ...     store.meta, store.layers(), next(store.records()).value
        ({'method': 'per'}, ['relu1'], 0.4)
    """

    def __init__(self, path: str | Path, *, mode: Literal["write", "read"] = "write") -> None:
        check_choice("mode", mode, ("write", "read"))
        self.path = Path(path)
        self._mode = mode
        self._ids: dict[tuple[object, ...], int] = {}
        with self._errors("opened"):
            self._connection = _open_to_write(self.path) if mode == "write" else _open_to_read(self.path)

    def write(self, records: Iterable[Record]) -> None:
        """Add records in one transaction: all of them or, after an error, none.

        A record of the same layer, unit, measure and step as an older one replaces it.

        Raises:
            StoreError: if they cannot be written (disk full, locked, opened for reading); older records stay.
        """
        self._check_writable()
        with self._errors("written (what was recorded before is kept)"), self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(self._row, records)
            )

    def set_meta(self, key: str, value: Any) -> None:
        """Set a fact of the run; what JSON cannot hold is kept as its text.

        Raises:
            StoreError: if it cannot be written.
        """
        self._check_writable()
        with self._errors("written (what was recorded before is kept)"), self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value, default=str)))

    @property
    def meta(self) -> dict[str, Any]:
        """The facts of the run."""
        with self._errors("read"):
            return {key: json.loads(value) for key, value in self._connection.execute("SELECT key, value FROM meta")}

    def layers(self) -> list[str]:
        """Names of the measured layers in the order of their first appearance; "" is the network."""
        with self._errors("read"):
            rows = self._connection.execute("SELECT layer FROM series GROUP BY layer ORDER BY min(id)")
            return [layer for (layer,) in rows]

    def records(self) -> Iterator[Record]:
        """All records: series in the order of their first appearance, each by step."""
        with self._errors("read"):
            for row in self._connection.execute(_SELECT):
                record = Record(*row)
                yield record if record.value is not None else record._replace(value=math.nan)

    def to_pandas(self) -> pd.DataFrame:
        """All records as a table, in the order of `records`.

        Returns:
            Columns step, layer, unit, measure, value, stderr, n, lower, upper, estimator, units. Numbers that are not
            known are NaN; `unit` and `n` are of the nullable type `Int64`.

        Raises:
            ModuleNotFoundError: without pandas; the message names the extra to install.
        """
        return table(self.records())

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, mode={self._mode!r})"

    def _row(self, record: Record) -> tuple[object, ...]:
        where = (record.layer, record.unit, record.measure)
        how = (record.estimator, record.units)
        series = self._id("series", "layer = ? AND unit IS ? AND measure = ?", where)
        estimator = self._id("estimator", "name = ? AND units = ?", how)
        value, stderr, n, lower, upper = record.value, record.stderr, record.n, record.lower, record.upper
        return series, int(record.step), float(value), stderr, n, lower, upper, estimator

    def _id(self, table: str, condition: str, values: tuple[object, ...]) -> int:
        key = (table, *values)
        if key not in self._ids:
            marks = ", ".join("?" for _ in values)
            self._connection.execute(f"INSERT OR IGNORE INTO {table} VALUES (NULL, {marks})", values)
            (self._ids[key],) = self._connection.execute(f"SELECT id FROM {table} WHERE {condition}", values).fetchone()
        return self._ids[key]

    def _check_writable(self) -> None:
        if self._mode != "write":
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
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise StoreError(f"{self.path}: not a layershift store ({error})") from error
            raise StoreError(f"{self.path}: could not be {verb}: {error}") from error


def open_store(path: str | Path) -> Store:
    """Open a store for reading, also while another process writes to it, and from a folder that cannot be written.

    Args:
        path: the file.

    Returns:
        The store; each read shows what has been written by then.

    Raises:
        StoreError: if there is no such file, it is not a store, or it is of a newer schema.
    """
    return Store(path, mode="read")


def table(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a table with the columns of `Store.to_pandas`.

    Raises:
        ModuleNotFoundError: without pandas; the message names the extra to install.
    """
    pandas = import_extra("pandas", extra="report")
    frame = pandas.DataFrame.from_records(list(records), columns=Record._fields)[_COLUMNS]
    numbers = dict.fromkeys(("value", "stderr", "lower", "upper"), "float64")
    return frame.astype({"step": "int64", "unit": "Int64", "n": "Int64", **numbers})  # type: ignore[no-any-return]


def _open_to_write(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        if _is_new(connection):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
        _check_identity(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript("BEGIN IMMEDIATE; ROLLBACK")  # a file that cannot be written says so now
    except BaseException:
        connection.close()
        raise
    return connection


def _open_to_read(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    try:
        return _connect_to_read(path, path, "mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        # WAL keeps an index in a file beside the store. Where that cannot be made, nobody writes either.
        log = path.with_name(path.name + "-wal")
        if not log.exists() or log.stat().st_size == 0:
            return _connect_to_read(path, path, "immutable=1")
        with tempfile.TemporaryDirectory(prefix="layershift-") as folder:  # a killed writer's last records are in there
            copies = [Path(shutil.copy(file, folder)) for file in (path, log)]
            with sqlite3.connect(copies[0]) as complete:
                memory = sqlite3.connect(":memory:", isolation_level=None)
                complete.backup(memory)
            complete.close()
        _check_identity(path, memory)
        return memory


def _connect_to_read(path: Path, file: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(file.absolute()))}?{mode}", uri=True, timeout=30, isolation_level=None
    )
    try:
        _check_identity(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_new(connection: sqlite3.Connection) -> bool:
    (identity,) = connection.execute("PRAGMA application_id").fetchone()
    (count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(identity == 0 and count == 0)


def _check_identity(path: Path, connection: sqlite3.Connection) -> None:
    (identity,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # touches the file, unlike the pragmas
    if identity != APPLICATION_ID:
        raise StoreError(f"{path}: not a layershift store (a SQLite file of another program, or an empty one)")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: written by a newer layershift (schema {version}, this one knows up to {SCHEMA_VERSION}); "
            "run: pip install --upgrade layershift"
        )
