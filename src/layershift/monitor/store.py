"""A run's records in one SQLite file that can be read while training writes it.

The file is in WAL mode: a writer that is killed loses at most the transaction it was in, readers never wait, and any
language with SQLite reads it. Its header names the application and the schema version. Two tables hold the numbers:
`series` (which layer, unit, measure, estimator, units) and `record` (step, value, standard error, n, bracket); `meta`
holds what the run was, as JSON.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from layershift._checks import import_extra

if TYPE_CHECKING:
    import pandas as pd

APPLICATION_ID = 0x4C534654  # "LSFT"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    layer TEXT NOT NULL,           -- '' is the network as a whole
    unit INTEGER NOT NULL,         -- -1 is the layer as a whole
    measure TEXT NOT NULL,
    estimator TEXT NOT NULL,
    units TEXT NOT NULL,
    UNIQUE (layer, unit, measure, estimator, units)
);
CREATE TABLE record (
    series INTEGER NOT NULL REFERENCES series (id),
    step INTEGER NOT NULL,
    value REAL,                    -- NULL is NaN, here and below
    stderr REAL,
    n INTEGER,
    lower REAL,
    upper REAL,
    PRIMARY KEY (series, step)
) WITHOUT ROWID;
"""

_SELECT = """
SELECT step, layer, NULLIF(unit, -1) AS unit, measure, value, stderr, n, lower, upper, estimator, units
FROM record JOIN series ON series.id = record.series ORDER BY series.id, step
"""


class StoreError(RuntimeError):
    """A store cannot be opened, read or written; the message says which file and why."""


class Record(NamedTuple):
    """One number of a run.

    Attributes:
        step: training step that it belongs to.
        layer: name of the layer; "" for the network as a whole.
        measure: what was measured, "variance" say.
        value: the number; NaN is kept as such.
        stderr: its standard error, None if unknown.
        n: independent samples that it rests on, None if that makes no sense.
        unit: channel of the layer, None for the layer as a whole.
        lower: lower bound on the true value, if there is one.
        upper: upper bound on the true value, if there is one.
        estimator: how the number was made.
        units: unit of measurement, "1" for a pure number.
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
    """A run's records, for reading and writing; made if it does not exist.

    Args:
        path: the file, `run.db` by convention. Missing folders are made.
        read_only: open an existing store for reading.

    Raises:
        StoreError: if the file is not a store, has a newer schema, or cannot be opened.

    Example:
        >>> import tempfile
        >>> with Store(tempfile.mkdtemp() + "/run.db") as store:
        ...     store.write([Record(0, "relu", "mean", 0.5, stderr=0.1, n=128)])
        ...     store.set_meta("seed", 0)
        ...     store.meta, [record.value for record in store.records()]
        ({'seed': 0}, [0.5])
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._series: dict[tuple[str, int, str, str, str], int] = {}
        with self._faults("opened"):
            self._db = _open_to_read(self.path) if read_only else _open_to_write(self.path)
            try:
                self._identify(read_only)
            except BaseException:
                self._db.close()
                raise

    def _identify(self, read_only: bool) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and tables == 0 and not read_only:
            self._db.executescript(
                f"PRAGMA journal_mode = WAL; BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif application != APPLICATION_ID:
            raise StoreError(f"{self.path}: not a layershift store (a SQLite file of another application)")
        elif version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: written by a newer layershift (schema {version}, known here: {SCHEMA_VERSION}); "
                "upgrade layershift to read it"
            )

    @contextmanager
    def _faults(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: could not be {what}: {error}") from error

    def write(self, records: Iterable[Record]) -> None:
        """Write records in one transaction; one of the same series and step is replaced.

        Args:
            records: what was measured.

        Raises:
            StoreError: if nothing could be written (disk full, read-only); what was there before stays.
        """
        with self._faults("written"):
            known = dict(self._series)
            with self._db:
                rows = [(self._series_of(r, known), r.step, r.value, r.stderr, r.n, r.lower, r.upper) for r in records]
                self._db.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._series = known  # only now: a transaction that failed has taken its new series with it

    def _series_of(self, record: Record, known: dict[tuple[str, int, str, str, str], int]) -> int:
        unit = -1 if record.unit is None else record.unit
        key = (record.layer, unit, record.measure, record.estimator, record.units)
        if key not in known:
            names = "layer, unit, measure, estimator, units"
            self._db.execute(f"INSERT OR IGNORE INTO series ({names}) VALUES (?, ?, ?, ?, ?)", key)
            found = self._db.execute(f"SELECT id FROM series WHERE ({names}) = (?, ?, ?, ?, ?)", key)
            known[key] = found.fetchone()[0]
        return known[key]

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a value that JSON can express under a name; an earlier one is replaced."""
        with self._faults("written"), self._db:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    @property
    def meta(self) -> dict[str, Any]:
        """All values kept by `set_meta`."""
        with self._faults("read"):
            return {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM meta")}

    def records(self) -> list[Record]:
        """All records, series by series in the order of first appearance, then by step."""
        with self._faults("read"):
            rows = self._db.execute(_SELECT).fetchall()
        return [
            Record(step, layer, measure, math.nan if value is None else value, stderr, n, unit, *rest)
            for step, layer, unit, measure, value, stderr, n, *rest in rows
        ]

    def to_pandas(self) -> pd.DataFrame:
        """All records as a frame with a column for each field of `Record`.

        `unit` and `n` are nullable integers; unknown numbers are NaN.

        Raises:
            ModuleNotFoundError: without pandas; the message says how to install it.
        """
        pandas = import_extra("pandas", extra="report")
        with self._faults("read"):
            cursor = self._db.execute(_SELECT)
            columns = [column[0] for column in cursor.description]
            frame: pd.DataFrame = pandas.DataFrame.from_records(cursor.fetchall(), columns=columns)
        floats = dict.fromkeys(("value", "stderr", "lower", "upper"), "float64")
        return frame.astype({"step": "int64", "unit": "Int64", "n": "Int64", **floats})

    def layers(self) -> list[str]:
        """Names of the layers that have records, in the order of first appearance."""
        with self._faults("read"):
            rows = self._db.execute("SELECT layer FROM series WHERE layer != '' GROUP BY layer ORDER BY min(id)")
            return [layer for (layer,) in rows]

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it; closing twice does nothing."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"


def _open_to_write(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=30)
    db.execute("PRAGMA synchronous = NORMAL")  # with WAL a killed process loses nothing committed, a power cut the end
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    name = path.absolute().as_uri()
    try:
        db = sqlite3.connect(f"{name}?mode=ro", uri=True, timeout=30)
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        # A reader of a WAL store keeps an index beside it; in a read-only folder it cannot, nor need it: no one writes.
        if path.with_name(path.name + "-wal").exists():
            raise
        db = sqlite3.connect(f"{name}?mode=ro&immutable=1", uri=True)
    return db


def open_store(path: str | Path) -> Store:
    """Open a run's store for reading, also while another process writes it.

    Args:
        path: the file `run.db`, or the folder of a run that holds one.

    Returns:
        The store; `.to_pandas()` gives its records.

    Raises:
        StoreError: if there is none, or it is not a store that this version can read.

    Example:
        >>> open_store("nowhere/run.db")
        Traceback (most recent call last):
        ...
        layershift.monitor.store.StoreError: nowhere/run.db: no such file
    """
    path = Path(path)
    return Store(path / "run.db" if path.is_dir() else path, read_only=True)
