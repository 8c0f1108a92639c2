"""The SQLite file behind a store: its schema, how it says what it is, and how it is opened.

The file is in WAL mode: a reader never waits for the writer, a killed process loses at most the write it was in, and
any SQLite client can read it. `application_id` says that it is ours, `user_version` is the version of the schema:

- `series(id, layer, unit, measure)`: what is measured; the layer "" is the network, a NULL unit the whole layer.
- `estimator(id, name, units)`: how numbers were made, and their unit of measurement.
- `record(series, step, value, stderr, n, lower, upper, estimator)`: the numbers. SQLite has no NaN: a value that is
  NULL was measured and is NaN; any other NULL means not known. Infinities are kept as they are. Ordered by step, so
  that a measured step is written to the end of the file and not into a page of every series, which takes ten to
  thirty times as long; older files are ordered by series, and read and written all the same.
- `meta(key, value)`: facts of the run, as JSON.
- `alarm(id, step, layer, unit, kind, measure, value, limit, message, advice)`: what was wrong with which layer. Files
  of before there were alarms have no such table until they are opened to be written.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import quote

APPLICATION_ID = 0x4C534654  # "LSFT"
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
    estimator INTEGER NOT NULL REFERENCES estimator, PRIMARY KEY (step, series)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_ALARMS = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS alarm (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, layer TEXT NOT NULL, unit INTEGER, kind TEXT NOT NULL,
    measure TEXT NOT NULL, value REAL, "limit" REAL, message TEXT NOT NULL, advice TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS alarm_identity ON alarm (step, layer, ifnull(unit, -1), kind, measure);
COMMIT;
"""


class StoreError(RuntimeError):
    """A store cannot be opened, read or written; the message says which file and why."""


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open a store, or make one, to add to it.

    Raises:
        StoreError: if the file is of another program, of a newer schema, or damaged.
        sqlite3.Error: if it is no database or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        if path.exists() and not os.access(path, os.W_OK):  # SQLite may say so at the first record only
            raise StoreError(f"{path}: could not be opened: attempt to write a readonly database")
        if _is_new(connection):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
        _check_identity(path, connection)
        check_whole(path, connection)  # what is added to a damaged file might never be read again
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_ALARMS)  # a file that cannot be written says so now
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a store that another process may be writing, or that nobody can write.

    Raises:
        StoreError: if there is no such file, or it is of another program or a newer schema.
        sqlite3.Error: if it is no database or cannot be read.
    """
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


def check_whole(path: Path, connection: sqlite3.Connection) -> None:
    """See that the file's pages fit together, in a tenth of the time that reading all records takes.

    Raises:
        StoreError: if they do not.
        sqlite3.Error: if they fit so little that SQLite stops looking.
    """
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise StoreError(f"{path}: damaged ({' '.join(found.split())}); sqlite3's .recover saves what can be read")


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
