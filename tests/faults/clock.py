"""The clock is set back, hours or years, while a network is trained, measured, watched and reported on.

The time of day is what moves; the monotonic clock never does, by its definition. Where Debian's `libfaketime` is
installed, all of the process sees another time, SQLite and `datetime` too; elsewhere `time.time` alone is replaced.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from tests.faults.kills import CONFIG, recorded
from tests.faults.outcome import Counts, judged, same
from torch import nn

from layershift.monitor import Monitor, open_store
from layershift.report import write_report
from layershift.train import train
from layershift.train.folder import folder_of
from layershift.watch.read import read as watch

LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)
STEPS = 30


class Clock:
    """A clock that can be moved."""

    def __init__(self, folder: Path) -> None:
        self.file, self.offset, self.real = folder / "clock", 0, time.time
        self.how = "libfaketime" if "FAKETIME_TIMESTAMP_FILE" in os.environ else "time.time replaced"
        if self.how == "libfaketime":
            self.file = Path(os.environ["FAKETIME_TIMESTAMP_FILE"])
        else:
            time.time = lambda: self.real() + self.offset

    def set_back(self, seconds: int) -> None:
        """Move it."""
        before = time.time()
        self.offset -= seconds
        if self.how == "libfaketime":
            draft = self.file.with_suffix(".new")
            draft.write_text(f"{self.offset:+d}\n")
            draft.replace(self.file)
        assert time.time() < before, "the clock did not move"


def clock(seed: int, full: bool) -> Counts:
    """Run the cases in a process of its own, whose clock can be moved."""
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        file = Path(name) / "clock"
        file.write_text("+0\n")
        library = next((path for path in LIBRARIES if Path(path).exists()), None)
        variables = {
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        variables |= {"LD_PRELOAD": library or "", "NO_FAKE_STAT": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.clock", str(seed), str(20 if full else 2), name],
            env={**os.environ, **(variables if library else {})},
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return Counts(**json.loads(done.stdout.splitlines()[-1]))


def cases(seed: int, many: int, folder: Path) -> Counts:
    """A monitor, its store, the live view, a run and the report, with a clock that jumps back under them."""
    random, moving = Random(f"clock {seed}"), Clock(folder)
    counts = Counts(how=moving.how)
    for case in range(many):
        path = folder / f"{case}" / "run.db"
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
        jump, jumps = random.randrange(STEPS), random.choice((60, 3600, 86_400, 10 * 365 * 86_400))
        with judged(counts, f"monitor, case {case}, {jumps} s back at step {jump}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Monitor(model, every=1, store=path, measures=("moments",), budget=0.9) as monitor:
                for i in range(STEPS):
                    if i == jump:
                        moving.set_back(jumps)
                    with monitor.step(i):
                        model(torch.randn(8, 6))
                cost = monitor.cost
            assert 0 <= cost.share <= 1, f"a share of {cost.share}"
            assert cost.measured + cost.skipped == STEPS, f"{cost}"
            with open_store(path) as store:
                counts.lost += cost.measured - len(store.steps())
            seen = watch(path)
            assert seen.age >= 0, f"written {seen.age} s ago"
            assert seen.step == max(store_steps(path)), "not the last step"
            assert write_report(path, path.parent / "report.html").stat().st_size > 0
    whole = train(CONFIG, folder / "whole")
    truth = recorded(whole.path)
    for case in range(max(many // 6, 1)):
        out = folder / f"run{case}"
        with judged(counts, f"run, case {case}"):

            def back(epoch: int, accuracy: float) -> None:
                moving.set_back(random.choice((3600, 30 * 86_400)))
                if epoch == 2:
                    raise KeyboardInterrupt

            with suppress(KeyboardInterrupt):
                train(CONFIG, out, progress=back)
            moving.set_back(86_400)
            train(CONFIG, out, resume=True)
            found = recorded(folder_of(CONFIG, out).path)
            counts.lost += len(truth.keys() - found.keys())
            assert same(found, truth), "other records than with a clock that goes on"
            assert watch(folder_of(CONFIG, out).store).age >= 0
            write_report([whole.path, out], folder / "report.html")
    return counts


def store_steps(path: Path) -> list[int]:
    """Its steps."""
    with open_store(path) as store:
        return store.steps()


def sleep(seconds: float) -> None:
    """Sleep by `select`: libfaketime moves the end of Python's own sleep, which is a time of the monotonic clock."""
    select.select([], [], [], seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    time.sleep = sleep
    faulthandler.dump_traceback_later(500, exit=True)  # a process that hangs says where
    found = cases(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write("\n" + json.dumps(asdict(found)) + "\n")
