"""SIGKILL of a sweep's workers at random moments: Ray starts them again, and each goes on from its last checkpoint."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random

import torch
from tests.faults.children import PATIENCE, kill_often
from tests.faults.kills import CONFIG, meta, recorded
from tests.faults.outcome import Counts, judged, same

from layershift.train.config import Config
from layershift.train.folder import RunFolder, folder_of
from layershift.train.sweep import sweep

# In a process of its own: what Ray starts does not outlive it, and no process is forked from one that Ray is part of.
DRIVER = """
import json, sys
from layershift.train.config import Config
from layershift.train.sweep import sweep

sweep([Config(**values) for values in json.loads(sys.argv[1])], sys.argv[2], workers=2)
"""


def workers(seed: int, full: bool) -> Counts:
    """The runs of a sweep, whose workers are killed once or twice each, end as those of one that was left alone."""
    random, counts = Random(f"workers {seed}"), Counts(how="SIGKILL, Ray")
    configs = [replace(CONFIG, seed=number, epochs=16 if full else 8) for number in range(6 if full else 1)]
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        whole, out = Path(name) / "whole", Path(name) / "killed"
        begin = time.monotonic()
        _, said = kill_often(partial(sweep, configs, whole), random, 0, 0)
        each = (time.monotonic() - begin) / len(configs)
        assert not said, said
        folders = [folder_of(config, out) for config in configs]
        moments = {f: [random.uniform(0, 0.7 * each) for _ in range(random.choice((1, 1, 2)))] for f in folders}
        killed, error = kill_workers(configs, out, moments)
        for config, folder in zip(configs, folders, strict=True):
            if not killed[folder]:  # it ended before its moment came
                continue
            with judged(counts, f"worker of seed {config.seed}", may_refuse=False):
                assert not error, error
                assert folder.state() == "finished", folder.state()
                assert meta(folder.path).get("resumed") or True not in killed[folder], "begun again, not continued"
                truth, found = recorded(folder_of(config, whole).path), recorded(folder.path)
                missing = truth.keys() - found.keys()
                counts.lost += len(missing)
                assert not missing, f"{len(missing)} records are not there"
                assert same(found, truth), "other records than without the interruption"
                ends = [torch.load(end.last, weights_only=True) for end in (folder, folder_of(config, whole))]
                values = [end["state_dict"] for end in ends]
                assert all(torch.equal(value, values[1][key]) for key, value in values[0].items()), "other weights"
    return counts


def kill_workers(
    configs: list[Config], out: Path, moments: Mapping[RunFolder, list[float]]
) -> tuple[dict[RunFolder, list[bool]], str]:
    """Sweep, and kill the worker that trains a run some seconds after it has begun, as often as moments are given.

    Returns:
        For each kill of a run's worker, whether there was a checkpoint then; and what the sweep said of an error.
    """
    arguments = [json.dumps([asdict(config) for config in configs]), str(out)]
    # Not a pipe: Ray's processes inherit it, and may live a little longer.
    with tempfile.TemporaryFile("w+") as errors:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        killed: dict[RunFolder, list[bool]] = {folder: [] for folder in moments}
        begun: dict[tuple[RunFolder, int], float] = {}
        end = time.monotonic() + PATIENCE * len(configs)
        while driver.poll() is None and time.monotonic() < end:
            for folder, when in moments.items():
                kills = killed[folder]
                worker = holder(folder)
                if worker is None or len(kills) == len(when):
                    continue
                since = begun.setdefault((folder, worker), time.monotonic())
                if time.monotonic() - since >= when[len(kills)] and not finished(folder):
                    there = folder.last.exists()
                    begun[folder, worker] = math.inf  # its moment does not come again
                    os.kill(worker, signal.SIGKILL)
                    kills.append(there)
            time.sleep(0.01)
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            return killed, "the sweep did not end"
        errors.seek(0)
        return killed, errors.read()[-500:] if driver.returncode else ""


def holder(folder: RunFolder) -> int | None:
    """The process that trains a run, or did so last."""
    found = re.match(r"process (\d+) on ", folder.lock.read_text()) if folder.lock.exists() else None
    return int(found[1]) if found else None


def finished(folder: RunFolder) -> bool:
    """Whether a run has ended; its worker may be at another then."""
    return folder.store.exists() and folder.state() == "finished"
