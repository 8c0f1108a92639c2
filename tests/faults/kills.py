"""SIGKILL at random moments: of training, of a grid, of the writer of a store."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import torch
from tests.faults.children import drain, kill_after, kill_often, start
from tests.faults.outcome import Counts, judged, same

from layershift.cli import main
from layershift.monitor.store import Record, Store, open_store
from layershift.train.config import Config
from layershift.train.folder import folder_of

CONFIG = Config(method="unitization", scale="smoke", epochs=4, every=4, measures=["moments"])
OPTIONS = ["--method", "unitization", "--scale", "smoke", "--epochs", "4", "--every", "4", "--measures", '["moments"]']
SMALL = """
title: A small grid
config: {data: digits, model: small_cnn, epochs: 2, batch_size: 256, every: 0}
settings: {A: {}, B: {learning_rate: 0.02}}
methods: {vanilla: {}}
columns: [{title: "error, %", statistic: error}]
"""
# Imported once, before forking: each process would do it again.
for name in ("jsonargparse", "lightning.pytorch", "sklearn.datasets", "torchvision", "layershift.train.fit"):
    import_module(name)

TIMES = ("seconds", "share")


def train_command(out: Path) -> list[str]:
    """`layershift train` as one types it; the same command starts and continues."""
    return ["train", *OPTIONS, "--resume", "--quiet", "--out", str(out)]


def run_command(arguments: list[str]) -> None:
    """Run a command in this process.

    Raises:
        RuntimeError: if its exit code is not 0.
    """
    said = io.StringIO()
    with redirect_stderr(said):
        code = main(arguments)
    if code:
        raise RuntimeError(f"layershift {' '.join(arguments)}: exit code {code}: {said.getvalue()[-500:]}")


def kill_command(arguments: list[str], sign: Path, seconds: float) -> None:
    """Start a command as a user's shell does, and kill it some time after a file is there."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "layershift", *arguments], **silent)
    while not sign.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.wait()


def recorded(path: Path) -> dict[tuple[Any, ...], float]:
    """All records of a store but times, by place and step."""
    with open_store(path) as store:
        rows = store.records()
    return {(r.layer, r.unit, r.measure, r.step): r.value for r in rows if not r.measure.endswith(TIMES)}


def weights(out: Path) -> dict[str, torch.Tensor]:
    """What a run trained."""
    found: dict[str, torch.Tensor] = torch.load(folder_of(CONFIG, out).last, weights_only=True)["state_dict"]
    return found


def training(seed: int, full: bool) -> Counts:
    """A training that is killed, some times again after it was continued, ends as one that was never interrupted."""
    random, counts = Random(f"training {seed}"), Counts(how="SIGKILL")
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        whole = Path(name) / "whole"
        begin = time.monotonic()
        _, said = kill_often(partial(run_command, train_command(whole)), random, 0, 0)
        length = time.monotonic() - begin
        assert not said, said
        truth, final = recorded(folder_of(CONFIG, whole).path), weights(whole)
        for case in range(20 if full else 2):
            out = Path(name) / str(case)
            what = f"training, case {case}"
            with judged(counts, what, may_refuse=False):
                if case == 0:  # as a user's shell starts it, imports and all
                    kill_command(train_command(out), folder_of(CONFIG, out).config, random.uniform(0, length))
                _, said = kill_often(
                    partial(run_command, train_command(out)), random, length, random.choice((1, 1, 2, 3)) if full else 1
                )
                assert not said, said[-500:]
                found = recorded(folder_of(CONFIG, out).path)
                missing = [key for key in truth if key not in found]
                counts.lost += len(missing)
                assert not missing, f"{len(missing)} records are not there, such as {missing[:3]}"
                assert same(found, truth), "other records than without the interruption"
                assert all(torch.equal(value, final[key]) for key, value in weights(out).items()), "other weights"
                assert folder_of(CONFIG, out).state() == "finished", "not finished"
                assert folder_of(CONFIG, out).metrics.exists(), "no metrics.csv"
    return counts


def grid(seed: int, full: bool) -> Counts:
    """A grid whose worker is killed goes on where it was, computes no finished trial again, and has the same table."""
    random, counts = Random(f"grid {seed}"), Counts(how="SIGKILL")
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        recipe = Path(name) / "small.yaml"
        recipe.write_text(SMALL)

        def command(out: Path) -> list[str]:
            return ["reproduce", str(recipe), "--scale", "smoke", "--seeds", "2", "--out", str(out), "--quiet"]

        whole = Path(name) / "whole"
        begin = time.monotonic()
        _, said = kill_often(partial(run_command, command(whole)), random, 0, 0)
        length = time.monotonic() - begin
        assert not said, said
        for case in range(6 if full else 1):
            out, ended = Path(name) / str(case), {}
            with judged(counts, f"grid, case {case}", may_refuse=False):
                for _ in range(random.choice((1, 2))):
                    child, reading = start(lambda _, out=out: run_command(command(out)))
                    kill_after(child, random.uniform(0.2, 0.9) * length)
                    drain(reading)
                    ended |= {path: meta(path)["finished"] for path in runs(out) if meta(path).get("finished")}
                _, said = kill_often(partial(run_command, command(out)), random, 0, 0)
                assert not said, said[-500:]
                again = [path for path, when in ended.items() if meta(path)["finished"] != when]
                assert not again, f"{len(again)} finished trials were computed again"
                found, truth = (json.loads((place / "table.json").read_text()) for place in (out, whole))
                assert same(found["cells"], truth["cells"]), "another table than without the interruption"
                assert len(runs(out)) == len(runs(whole)) == 4, "not every trial once"
                for path in runs(whole):
                    own, other = recorded(path), recorded(out / path.relative_to(whole))
                    counts.lost += len(own.keys() - other.keys())
                    assert same(own, other), f"{path.name}: other records"
    return counts


def runs(out: Path) -> list[Path]:
    """The runs' folders below one."""
    return sorted(path.parent for path in out.rglob("run.db") if path.stat().st_size)


def meta(path: Path) -> dict[str, Any]:
    """What a run says of itself."""
    with open_store(path) as store:
        return store.meta


def write_forever(path: Path, first: int, announce: int) -> None:
    """Write steps and announce each that was accepted."""
    store = Store(path)
    for step in range(first, first + 100_000):
        store.write([Record(step, f"layer{i}", "mean", step + i / 10, 0.1, 128) for i in range(20)])
        os.write(announce, step.to_bytes(4, "little"))


def writer(seed: int, full: bool) -> Counts:
    """A store whose writer is killed opens, holds every step that was accepted, whole, and is written on."""
    random, counts = Random(f"writer {seed}"), Counts(how="SIGKILL")
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        for case in range(200 if full else 12):
            path, accepted, first = Path(name) / f"{case}.db", -1, 0
            with judged(counts, f"writer, case {case}", may_refuse=False):
                for _ in range(random.choice((1, 2))):
                    child, reading = start(lambda pipe, path=path, first=first: write_forever(path, first, pipe))
                    assert kill_after(child, random.uniform(0, 0.15)), "the writer ended before it was killed"
                    if steps := drain(reading):
                        accepted = int.from_bytes(steps[-4:], "little")
                    else:  # killed before or while there was a store to be read
                        Store(path).close()
                    with open_store(path) as store:
                        rows = Counter(record.step for record in store.records())
                    missing = set(range(accepted + 1)) - rows.keys()
                    counts.lost += 20 * len(missing)
                    assert not missing, f"{len(missing)} accepted steps are not there"
                    assert set(rows.values()) <= {20}, "a part of a step"
                    first = max(rows, default=-1) + 1
                    accepted = first - 1
    return counts
