"""The live view: what it reads, how it looks, and that it follows a store which another process writes."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from layershift.cli import main
from layershift.monitor import Record, Store, StoreError
from layershift.monitor.alarm import Alarm
from layershift.watch import live, watch
from layershift.watch.read import age_of, read
from layershift.watch.series import HISTORY
from layershift.watch.view import quantity, render, room, sparkline

WRITER = """
import sys, time
from layershift.monitor import Record, Store
time.sleep(0.3)
with Store(sys.argv[1]) as store:
    for step in range(0, 100_000, 10):
        layers = [Record(step, f"layer{k}", "mean", step / 10 + k, stderr=0.25, n=8) for k in range(3)]
        store.write([Record(step, "", "train/loss", 1 / (step + 1)), *layers])
        time.sleep(0.05)
"""


@pytest.fixture
def written(tmp_path):
    """A store of two layers and 500 measured steps, with the unpleasant in it: markup, NaN, infinity, a unit."""
    path = tmp_path / "run.db"
    with Store(path) as store:
        store.set_meta("method", "per")
        for step in range(0, 5000, 10):
            wave = math.sin(step / 500)
            store.write(
                [
                    Record(step, "", "train/loss", 1 / (step + 1)),
                    Record(step, "[b]layer1.0", "mean", wave, stderr=0.0213, n=8),
                    Record(step, "[b]layer1.0", "mean", 99.0, unit=3),
                    Record(step, "[b]layer1.0", "quantile_0.5", wave),
                    Record(step, "layer2", "mean", math.nan if step == 4990 else 1.0),
                    Record(step, "layer2", "normality", math.inf if step == 2000 else 0.5, stderr=0.01),
                ]
            )
    return path


def shown(path, *, width: int = 120, encoding: str = "utf-8", **options) -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    watch(path, once=True, console=Console(file=out, width=width), **options)
    out.flush()
    lines = out.buffer.getvalue().decode(encoding).splitlines()
    assert all(len(line) <= width for line in lines)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def test_the_last_numbers_are_those_of_the_store(written) -> None:
    snapshot = read(written)
    with Store(written) as store:
        last = {(r.layer, r.measure): r for r in store.records() if r.unit is None}
    assert snapshot.step == 4990
    assert set(snapshot.series) == {key for key in last if key[1] != "quantile_0.5"}
    for key, series in snapshot.series.items():
        assert (series.step, series.stderr) == (last[key].step, last[key].stderr)
        assert series.value == last[key].value or (math.isnan(series.value) and math.isnan(last[key].value))


def test_the_history_goes_from_the_first_to_the_last_value(written) -> None:
    values = read(written).series["[b]layer1.0", "mean"].history
    steps = [round(i * 4990 / (HISTORY - 1)) for i in range(HISTORY)]
    assert list(values) == [math.sin(step // 10 * 10 / 500) for step in steps]  # what was known at these steps


def test_a_short_history_is_whole(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(step, "relu", "mean", float(step)) for step in (0, 1, 1000)])
    assert read(tmp_path / "run.db").series["relu", "mean"].history == (0.0, 1.0, 1000.0)


def test_reading_a_long_run_takes_no_longer_than_a_short_one(tmp_path) -> None:
    """Counted in instructions of SQLite's machine, not in seconds."""
    import sqlite3

    def cost(steps: int) -> int:
        with Store(tmp_path / f"{steps}.db") as store:
            store.write([Record(step, f"layer{k}", "mean", 1.0) for step in range(steps) for k in range(5)])
        counted, connect = [], sqlite3.connect

        def counting(*args, **options):
            connection = connect(*args, **options)
            connection.set_progress_handler(lambda: counted.append(1), 10)
            return connection

        sqlite3.connect = counting
        try:
            read(tmp_path / f"{steps}.db")
        finally:
            sqlite3.connect = connect
        return len(counted)

    assert cost(20_000) < 2 * cost(200)


def test_what_has_no_room_is_not_read_but_told(written) -> None:
    snapshot = read(written, max_layers=1, max_measures=1)
    assert (snapshot.layers, snapshot.more_layers) == (["[b]layer1.0"], 1)
    assert (snapshot.measures, snapshot.more_measures) == (["normality"], ["mean"])
    assert set(snapshot.series) == {("", "train/loss")}  # the first layer has no normality
    text = shown(written, width=40)
    assert re.search(r"also measured \(--measures\): mean", text)


def test_patterns_choose(written) -> None:
    snapshot = read(written, layers=["layer?"], measures=["quantile_*", "mean", "train/*"])
    assert (snapshot.layers, snapshot.measures, snapshot.network) == (["layer2"], ["mean"], ["train/loss"])
    assert "no measurement matches" in shown(written, measures="nothing")


def test_the_table_shows_numbers_errors_and_history(written) -> None:
    text = shown(written)
    assert re.search(r"run\.db: step 4,990, running, last written (now|\d+ s ago)", text)
    assert re.search(r"\[b\]layer1\.0\s+-0\.527 ± 0\.021 [▁▂▃▄▅▆▇█]{8}\n", text)
    assert re.search(r"layer2\s+0\.500 ± 0\.010 ▄{8}\s+NaN ▄{7}×", text)
    assert re.search(r"train/loss\s+0\.0002004 █▁{7}", text)
    shown(written, width=40)


def test_a_terminal_without_utf_8_gets_what_it_can_print(written) -> None:
    with Store(written) as store:
        store.write([Record(4990, "é", "mean", 1.0, stderr=0.1)])
    text = shown(written, encoding="ascii")
    assert re.search(r"\? [ |]+1\.00 \+- 0\.10", text)
    assert re.search(r"-0\.527 \+- 0\.021 [.:=+*#@-]{8}", text)


def test_states(tmp_path) -> None:
    path = tmp_path / "run.db"
    with Store(path) as store:
        assert "no step yet, running" in shown(path)
        assert "no measurement yet" in shown(path)
        store.write([Record(0, "relu", "mean", 1.0)])
    os.utime(path, (time.time() - 600, time.time() - 600))
    assert "step 0, silent, last written 10 min ago" in shown(path)
    with Store(path) as store:
        store.set_meta("finished", "2026-01-01")
    assert "step 0, finished" in shown(tmp_path)  # the folder of a run


def test_the_age_is_that_of_the_last_write(tmp_path) -> None:
    """While it is open, what is written lies in a second file."""
    with Store(tmp_path / "run.db") as store:
        os.utime(tmp_path / "run.db", (0, 0))
        store.write([Record(0, "relu", "mean", 1.0)])
        assert age_of(tmp_path / "run.db") < 60


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def alarm(step: int) -> Alarm:
    words = (f"step {step}: layer 'relu[1]' is dead", f"advice of {step}")
    return Alarm(step, "relu[1]", None, "dead", "dead", 0.9, 0.5, *words)


def test_alarms_are_at_the_bottom_the_latest_last(written) -> None:
    with Store(written) as store:
        store.write_alarms([alarm(step) for step in range(0, 70, 10)])
    lines = shown(written).splitlines()
    assert lines[-7] == "7 alarms, the last 5:"
    assert lines[-6:-1] == [f"step {step}: layer 'relu[1]' is dead" for step in range(20, 70, 10)]
    assert lines[-1] == "to try: advice of 60"


def test_a_low_terminal_shows_as_many_layers_as_it_has_room_for(tmp_path) -> None:
    path = tmp_path / "run.db"
    with Store(path) as store:
        store.write([Record(0, f"layer{k}", "mean", 1.0) for k in range(100)])
        store.write([Record(0, "", f"loss{k}", 1.0) for k in range(4)])
    console = Console(file=Terminal(), force_terminal=True, width=80, height=24)

    def draw() -> str:
        rows, columns = room(console)
        console.print(render(read(path, max_layers=rows, max_measures=columns), console))
        text, console.file = console.file.getvalue(), Terminal()
        assert text.count("\n") <= 23  # the cursor stands below
        assert f"and {100 - len(set(re.findall(r'layer[0-9]+', text)))} more layers" in text
        return text

    assert draw().count("\n") >= 20
    with Store(path) as store:
        store.write_alarms([alarm(step) for step in range(9)])
    assert "9 alarms" in draw()


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (1234.5, 67.8, "1234 ± 68"),
        (0.0, 0.0, "0 ± 0"),
        (1e-9, 1e-11, "1.000e-09 ± 1e-11"),
        (0.0, 1e-3, "0.0000 ± 0.0010"),
        (2.0, math.nan, "2"),
        (math.nan, None, "NaN"),
        (-math.inf, 0.1, "-inf"),
        (5e6, 1e4, "5.000e+06 ± 1e+04"),
    ],
)
def test_numbers_are_written_with_two_digits_of_their_error(value, stderr, text) -> None:
    assert quantity(value, stderr) == text


def test_lines_hold_any_number() -> None:
    assert sparkline([-1e308, 1e308, 0.0]) == "▁█▄"
    assert sparkline([math.nan, math.inf]) == "××"
    assert sparkline([]) == ""


def test_once_without_a_store_fails(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", "run.db", "--once"]) == 1
    assert capsys.readouterr().err == "layershift: error: run.db: no such file\n"
    assert main(["watch", "run.db", "--every", "0"]) == 2
    assert "--every: expected a positive number of seconds, got 0.0" in capsys.readouterr().err


def test_once_prints_and_exits(written, capsys) -> None:
    assert main(["watch", str(written), "--once", "--layers", "layer2", "--measures", "mean", "norm*"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"layer2\s+NaN", out)
    assert "layer1" not in out
    assert err == ""


def test_a_file_that_never_becomes_a_store_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.05)
    (tmp_path / "run.db").write_text("not a database, not today and not tomorrow\n" * 100)
    with pytest.raises(StoreError, match="not a layershift store"):
        watch(tmp_path / "run.db", every=0.02, console=Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="every: expected a positive number of seconds, got -1"):
        watch(tmp_path / "run.db", every=-1)


def stop(*processes: subprocess.Popen) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)


def test_it_waits_for_a_store_and_follows_it_until_ctrl_c(tmp_path) -> None:
    """The store is written by another process, and both go on for some steps; the output is a pipe."""
    command = [sys.executable, "-u", "-m", "layershift", "watch", str(tmp_path / "run.db"), "--every", "0.05"]
    environment = {**os.environ, "COLUMNS": "300"}
    viewer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    writer = None
    steps: list[int] = []
    try:
        assert "waiting for this store" in viewer.stdout.readline()  # nothing else comes before the store does
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run.db")])
        deadline = time.monotonic() + 40
        while len(steps) < 4 and time.monotonic() < deadline:
            if found := re.search(r"step ([\d,]+),", viewer.stdout.readline()):
                steps.append(int(found[1].replace(",", "")))
        assert writer.poll() is None
        time.sleep(0.3)
        viewer.send_signal(signal.SIGINT)
        rest, errors = viewer.communicate(timeout=30)
    finally:
        stop(viewer, *([writer] if writer else []))
    assert steps == sorted(set(steps))
    assert len(steps) == 4
    assert re.search(r"layer2\s+[\d.]+ ± 0\.25 ", rest)
    assert (viewer.returncode, errors) == (0, "")


def test_a_terminal_is_drawn_over_and_left_as_it_was(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, "relu1", "mean", 0.5, stderr=0.1)])
    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "layershift", "watch", str(tmp_path), "--every", "0.1"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30"}
    viewer = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=environment)
    os.close(inside)
    seen = ""

    def wait_for(pattern: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 30
        while not re.search(pattern, seen) and time.monotonic() < deadline:
            if select.select([outside], [], [], 0.1)[0]:
                try:
                    seen += os.read(outside, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
        assert re.search(pattern, seen), seen

    try:
        wait_for(r"relu1.*0\.50 ± 0\.10")
        with Store(tmp_path / "run.db") as store:
            store.write([Record(10, "relu1", "mean", 0.7, stderr=0.1)])
        wait_for(r"0\.70 ± 0\.10")
        os.kill(viewer.pid, signal.SIGINT)
        wait_for(r"\x1b\[\?25h")  # the cursor is shown again
        assert viewer.wait(timeout=30) == 0
    finally:
        stop(viewer)
        os.close(outside)
    assert "\x1b[1A" in seen or "\x1b[2K" in seen  # drawn over
    assert "Traceback" not in seen
