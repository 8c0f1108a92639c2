"""The store keeps what it was given: through NaN, crashes, full disks, other processes and other people's files."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.monitor.alarm import Alarm
from layershift.monitor.database import APPLICATION_ID, SCHEMA_VERSION
from layershift.monitor.store import Record, Store, StoreError, open_store

FULL = Record(3, "relu1", "mean", 0.5, 0.1, 128, unit=4, lower=0.2, upper=0.9, estimator="delta method", units="x")

DEAD = Alarm(3, "relu1", None, "dead", "dead", 0.9, 0.5, "relu1 is dead", "lower the learning rate")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


@pytest.fixture
def open_folder():
    """A folder that every user may enter (pytest's own belongs to one user only)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)
        os.chmod(folder, 0o777)


def series(step: int, count: int = 3) -> list[Record]:
    return [Record(step, f"layer{i}", "mean", step + i / 10, 0.1, 128) for i in range(count)]


def as_ordinary_user(function) -> None:
    """Run in a child process without root's right to ignore permissions; its assertions count."""

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        function()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_record_comes_back_as_it_was_written(path) -> None:
    bare = Record(0, "", "train/loss", 2.3)
    with Store(path) as store:
        store.write([bare, FULL])
    with open_store(path) as store:
        assert store.records() == [bare, FULL]


@given(value=st.floats(), stderr=st.none() | st.floats(allow_nan=False), step=st.integers(-(2**60), 2**60))
@settings(max_examples=50, deadline=None)
def test_every_float_survives(value, stderr, step) -> None:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "run.db") as store:
        store.write([Record(step, "a", "mean", value, stderr)])
        (record,) = store.records()
    assert record.value == value or (math.isnan(record.value) and math.isnan(value))
    assert (record.step, record.stderr) == (step, stderr)


def test_the_table_has_the_promised_columns_types_and_order(path) -> None:
    with Store(path) as store:
        store.write(
            [Record(2, "b", "mean", 1.0), Record(2, "a", "mean", math.nan), Record(2, "", "val/loss", math.inf)]
        )
        store.write([Record(1, "a", "mean", 3.0), FULL])
        frame = store.to_pandas()
        assert store.layers() == ["b", "a", "relu1"]
    assert list(frame.columns) == [
        *("step", "layer", "unit", "measure", "value", "stderr", "n", "lower", "upper", "estimator", "units")
    ]
    assert list(zip(frame.layer, frame.step, strict=True)) == [("b", 2), ("a", 1), ("a", 2), ("", 2), ("relu1", 3)]
    assert math.isnan(frame.value[2])
    assert frame.value[3] == math.inf
    assert frame.unit.isna().tolist() == [True, True, True, True, False]
    assert (frame.unit[4], frame.n[4], frame.upper[4]) == (4, 128, 0.9)
    assert frame.dtypes.astype(str).to_dict() | {"layer": "", "measure": "", "estimator": "", "units": ""} == {
        "step": "int64",
        "layer": "",
        "unit": "Int64",
        "measure": "",
        "value": "float64",
        "stderr": "float64",
        "n": "Int64",
        "lower": "float64",
        "upper": "float64",
        "estimator": "",
        "units": "",
    }


def test_an_empty_store_gives_an_empty_table(path) -> None:
    with Store(path) as store:
        assert store.to_pandas().empty
        assert store.layers() == []
        assert store.meta == {}


def test_writing_a_step_again_replaces_it(path) -> None:
    with Store(path) as store:
        store.write(
            [Record(1, "a", "normality", 1.0, estimator="64 projections"), Record(1, "a", "normality", 5, unit=0)]
        )
    with Store(path) as store:
        store.write([Record(1, "a", "normality", 2.0, estimator="256 projections")])
        whole, unit = store.records()
    assert (whole.value, whole.estimator, unit.value) == (2.0, "256 projections", 5.0)


def test_facts_are_json_and_come_back(path) -> None:
    with Store(path) as store:
        store.set_meta("config", {"seed": 3, "layers": ["a", None], "rate": 0.1})
        store.set_meta("out", Path("runs/demo"))
        store.set_meta("out", "elsewhere")
        assert store.meta == {"config": {"seed": 3, "layers": ["a", None], "rate": 0.1}, "out": "elsewhere"}


def test_the_file_says_what_it_is_to_any_client(path) -> None:
    with Store(path) as store:
        store.write([Record(1, "a", "mean", math.nan)])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT value FROM record").fetchall() == [(None,)]
    connection.close()


WRITER = """
import sys
from layershift.monitor.store import Record, Store
store = Store(sys.argv[1])
for step in range(int(sys.argv[2])):
    store.write([Record(step, f"layer{i}", "mean", step + i / 10, 0.1, 128) for i in range(20)])
    print(step, flush=True)
    if sys.argv[3] == "wait":
        sys.stdin.readline()
"""


def start_writer(path: Path, steps: int, how: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(path), str(steps), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_reading_while_another_process_writes(path) -> None:
    with start_writer(path, 3, "wait") as writer:
        writer.stdout.readline()
        with open_store(path) as store:
            for step in range(3):
                frame = store.to_pandas()
                assert sorted(frame.step.unique()) == list(range(step + 1))
                assert len(frame) == 20 * (step + 1)
                writer.stdin.write("\n")
                writer.stdin.flush()
                writer.stdout.readline()


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_steps(path) -> None:
    """SIGKILL in the middle of writing, twice; the second writer goes on in the same file."""
    acknowledged = -1
    for _ in range(2):
        with start_writer(path, 10**9, "run") as writer:
            deadline = time.time() + 0.3
            while time.time() < deadline:
                acknowledged = max(acknowledged, int(writer.stdout.readline()))
            writer.send_signal(signal.SIGKILL)
        with open_store(path) as store:
            frame = store.to_pandas()
        assert frame.step.max() >= acknowledged
        assert frame.groupby("step").size().eq(20).all()


def test_a_reader_does_not_wait_for_an_open_transaction(path) -> None:
    with Store(path) as store:
        store.write(series(0))
        store._connection.execute("BEGIN IMMEDIATE")
        with open_store(path) as reader:
            assert len(reader.records()) == 3
        store._connection.execute("ROLLBACK")


def test_a_full_disk_keeps_what_was_there_and_lets_go_on(path) -> None:
    with Store(path) as store:
        store.write(series(0))
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match=r"run\.db: could not be written .*recorded before is kept.* is full"):
            store.write(series(1, 5000))
        assert len(store.records()) == 3
        store._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
        store.write(series(1, 5000))
    with open_store(path) as store:
        assert len(store.records()) == 5003


def test_an_interrupted_write_leaves_nothing_of_itself(path) -> None:
    def interrupted():
        yield from series(1)
        raise KeyboardInterrupt

    with Store(path) as store:
        store.write(series(0))
        with pytest.raises(KeyboardInterrupt):
            store.write(interrupted())
        store.write(series(2))
        assert sorted({record.step for record in store.records()}) == [0, 2]


@pytest.mark.parametrize("opener", [Store, open_store])
def test_files_that_are_not_stores_are_named_and_left_alone(path, opener) -> None:
    path.write_bytes(b"step,loss\n1,0.5\n" * 100)
    with pytest.raises(StoreError, match=r"run\.db: not a layershift store \(file is not a database\)"):
        opener(path)
    assert path.read_bytes() == b"step,loss\n1,0.5\n" * 100


@pytest.mark.parametrize("opener", [Store, open_store])
def test_databases_of_other_programs_are_named_and_left_alone(path, opener) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="a SQLite file of another program"):
        opener(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("opener", [Store, open_store])
def test_a_newer_schema_says_which_and_what_to_do(path, opener) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreError, match=r"schema 7, this one knows up to 1\); run: pip install --upgrade"):
        opener(path)


def test_a_missing_file_is_an_error_for_readers_only(path) -> None:
    with pytest.raises(StoreError, match=r"run\.db: no such file"):
        open_store(path)
    assert not path.exists()
    Store(path.parent / "new" / "run.db").close()
    assert (path.parent / "new" / "run.db").exists()


def test_an_empty_file_becomes_a_store_when_written(path) -> None:
    """What a process leaves that was killed before its first write."""
    path.touch()
    with pytest.raises(StoreError, match="or an empty one"):
        open_store(path)
    with Store(path) as store:
        store.write(series(0))
        assert len(store.records()) == 3


def test_a_reader_cannot_write(path) -> None:
    Store(path).close()
    with open_store(path) as store:
        with pytest.raises(StoreError, match="opened for reading"):
            store.write(series(0))
        with pytest.raises(StoreError, match="opened for reading"):
            store.set_meta("a", 1)


def test_a_closed_store_says_so(path) -> None:
    store = Store(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match=r"run\.db: could not be written .*closed"):
        store.write(series(0))
    with pytest.raises(StoreError, match=r"run\.db: could not be read.*closed"):
        store.layers()


def test_the_folder_of_a_run_stands_for_its_store(path) -> None:
    with Store(path) as store:
        store.write([FULL])
    with open_store(path.parent) as store:
        assert store.records() == [FULL]
        assert "read_only=True" in repr(store)


def test_a_folder_that_cannot_be_written(open_folder) -> None:
    path = open_folder / "run.db"
    with Store(path) as store:
        store.write(series(0))
    os.chmod(open_folder, 0o555)
    os.chmod(path, 0o444)

    def child() -> None:
        with open_store(path) as store:
            assert len(store.records()) == 3
        with pytest.raises(StoreError, match=r"run\.db: could not be opened: attempt to write a readonly database"):
            Store(path)
        with pytest.raises(StoreError, match=r"new\.db: could not be opened: unable to open database file"):
            Store(open_folder / "new.db")

    as_ordinary_user(child)


@pytest.mark.slow
def test_a_killed_writers_last_records_are_read_from_a_folder_that_cannot_be_written(open_folder) -> None:
    path = open_folder / "run.db"
    with start_writer(path, 10**9, "wait") as writer:
        writer.stdout.readline()
        writer.kill()
    log = path.with_name("run.db-wal")
    assert log.stat().st_size > 0
    path.with_name("run.db-shm").unlink()
    for file in (path, log):
        os.chmod(file, 0o444)
    os.chmod(open_folder, 0o555)

    def child() -> None:
        with open_store(path) as store:
            assert len(store.records()) == 20

    as_ordinary_user(child)


def test_alarms_come_back_as_they_were_written_by_step(path) -> None:
    broken = DEAD._replace(step=1, unit=4, value=math.inf, limit=0.0, kind="nonfinite", advice="")
    same_step = DEAD._replace(layer="a")
    with Store(path) as store:
        store.write([FULL])
        store.write_alarms([DEAD, same_step])
        store.write_alarms([broken])
        assert store.alarms() == [broken, DEAD, same_step]
        assert store.records() == [FULL]
        assert store.layers() == ["relu1"]
    with open_store(path) as store:
        assert store.alarms() == [broken, DEAD, same_step]
        assert [type(field) for field in store.alarms()[1]] == [type(field) for field in DEAD]
        with pytest.raises(StoreError, match="opened for reading"):
            store.write_alarms([DEAD])


def test_an_alarm_whose_value_is_nan_keeps_it(path) -> None:
    with Store(path) as store:
        store.write_alarms([DEAD._replace(value=math.nan)])
        (alarm,) = store.alarms()
    assert math.isnan(alarm.value)
    assert alarm._replace(value=0.0) == DEAD._replace(value=0.0)


def test_an_alarm_of_a_step_that_is_measured_again_replaces_the_old_one(path) -> None:
    again = DEAD._replace(value=0.8, message="still")
    others = [DEAD._replace(unit=0), DEAD._replace(kind="collapsed"), DEAD._replace(layer="b"), DEAD._replace(step=4)]
    with Store(path) as store:
        store.write_alarms([DEAD, *others])
        store.write_alarms([again])
        assert set(store.alarms()) == {again, *others}


def test_all_alarms_of_a_step_are_written_or_none(path) -> None:
    with Store(path) as store:
        store.write_alarms([DEAD])
        with pytest.raises(StoreError, match=r"run\.db: could not be written .*NOT NULL"):
            store.write_alarms([DEAD._replace(step=4), DEAD._replace(step=None)])
        assert store.alarms() == [DEAD]


def test_a_store_of_before_there_were_alarms_has_none_until_it_is_opened_to_be_written(path) -> None:
    with Store(path) as store:
        store.write([FULL])
        store._connection.execute("DROP TABLE alarm")
    with open_store(path) as store:
        assert store.alarms() == []
    with Store(path) as store:
        store.write_alarms([DEAD])
    with open_store(path) as store:
        assert (store.alarms(), store.records()) == ([DEAD], [FULL])
