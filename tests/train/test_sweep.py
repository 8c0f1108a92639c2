"""A sweep: each run once, whatever dies on the way; the same numbers as one after another; failures told at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layershift.monitor import open_store
from layershift.train import Config
from layershift.train.failure import SweepError
from layershift.train.folder import RunError, folder_of
from layershift.train.lock import locked
from layershift.train.sweep import sweep

CONFIG = Config(method="unitization", scale="smoke", epochs=1, every=0)
SEEDS = [replace(CONFIG, seed=seed) for seed in range(3)]
LONG = [replace(config, epochs=40, every=80) for config in SEEDS]
DRIVER = """
import sys
from dataclasses import replace
from layershift.train import Config
from layershift.train.sweep import sweep

base = Config(method="unitization", scale="smoke", epochs=40, every=80)
sweep([replace(base, seed=seed) for seed in range(3)], sys.argv[1], workers=2)
"""


def weights(config: Config, out: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder_of(config, out).last, weights_only=True)["state_dict"]


def meta(config: Config, out: Path) -> dict:
    with open_store(folder_of(config, out).path) as store:
        return store.meta


def wait_for(what: Callable[[], object], driver: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def writers_of(path: Path) -> list[int]:
    """Processes that have a file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) == str(path) for fd in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:  # it has ended, or is another's
            continue
    return found


def start_driver(out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_each_run_is_computed_once_and_in_the_order_asked_for(tmp_path) -> None:
    told = []
    runs = sweep(
        [SEEDS[1], SEEDS[0], SEEDS[1]], tmp_path, progress=lambda config, *seen: told.append((config.seed, *seen))
    )
    assert [run.path.name for run in runs] == ["seed1", "seed0", "seed1"]
    assert [run.state for run in runs] == ["new"] * 3
    assert [seed for seed, *_ in told] == [1, 0]
    started = meta(SEEDS[0], tmp_path)["started"]
    again = sweep(SEEDS, tmp_path)
    assert [run.state for run in again] == ["finished", "finished", "new"]
    assert again[1].result == runs[0].result
    assert meta(SEEDS[0], tmp_path)["started"] == started
    assert [run.state for run in sweep(SEEDS[:1], tmp_path, overwrite=True)] == ["new"]


def test_a_failed_run_stops_no_other_and_is_named_at_the_end(tmp_path) -> None:
    configs = [SEEDS[0], replace(SEEDS[1], every=8, layers="*relo"), SEEDS[2]]
    with pytest.raises(
        SweepError, match=r"1 of 3 runs failed, the others are finished.*seed1: layers: .*relo"
    ) as caught:
        sweep(configs, tmp_path)
    assert list(caught.value.failures) == [folder_of(SEEDS[1], tmp_path).path]
    assert [run.path.name for run in caught.value.runs] == ["seed0", "seed2"]


def test_what_cannot_be_is_said_before_anything_is_trained(tmp_path) -> None:
    sweep(SEEDS[:1], tmp_path)
    other = replace(CONFIG, batch_size=64)
    with pytest.raises(ValueError, match=r"configs: expected each folder once, got two configurations for .*seed0"):
        sweep([CONFIG, other], tmp_path / "new")
    with pytest.raises(RunError, match=r"seed0: holds a run of another configuration: batch_size"):
        sweep([SEEDS[1], other], tmp_path)
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        sweep(SEEDS, tmp_path, workers=0)
    with pytest.raises(ValueError, match="max_failures: expected a number that is not negative, got -1"):
        sweep(SEEDS, tmp_path, max_failures=-1)
    with pytest.raises(ValueError, match="devices and num_nodes: expected 1 where several runs are trained at once"):
        sweep([replace(SEEDS[1], devices=2)], tmp_path, workers=2)
    assert folder_of(SEEDS[1], tmp_path).state() == "new"
    assert not (tmp_path / "new" / "unitization").exists()


def test_two_sweeps_do_not_share_a_folder_and_a_dead_one_blocks_none(tmp_path) -> None:
    lock = tmp_path / ".sweep" / "lock"
    hold = "import sys, time; from pathlib import Path; from layershift.train.lock import locked\n"
    hold += "with locked(Path(sys.argv[1]), what='a sweep'): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    message = rf"a sweep is at work here \(process {process.pid} on .*\); wait for its end, or use another folder"
    with pytest.raises(RunError, match=message), locked(lock, what="a sweep", wait=0):
        pass
    process.kill()
    process.wait()
    with locked(lock, what="a sweep", wait=5):
        pass


@pytest.mark.slow
def test_a_sweep_survives_killed_workers_and_a_killed_driver(tmp_path) -> None:
    out = tmp_path / "killed"
    first, second = folder_of(LONG[0], out), folder_of(LONG[1], out)
    driver = start_driver(out)
    wait_for(lambda: first.last.exists() and second.last.exists(), driver)
    (worker,) = writers_of(first.store)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: meta(LONG[0], out).get("resumed"), driver)  # Ray has started it again
    driver.kill()
    driver.communicate()
    assert [folder_of(config, out).state() for config in LONG][2] != "finished"
    runs = sweep(LONG, out, workers=2)  # in this process
    for config, run, single in zip(LONG, runs, sweep(LONG, tmp_path / "single"), strict=True):
        assert run.result == single.result
        whole = weights(config, tmp_path / "single")
        for name, value in weights(config, out).items():
            torch.testing.assert_close(value, whole[name], rtol=0, atol=0, equal_nan=True)
    assert [run.state for run in sweep(LONG, out, workers=2)] == ["finished"] * 3, "and needs no Ray to see it"
    assert [path.name for path in (out / ".sweep").iterdir()] == ["lock"]


@pytest.mark.slow
def test_ray_is_quiet_names_failures_and_ends_with_control_c(tmp_path, capfd) -> None:
    told = []
    configs = [SEEDS[0], replace(SEEDS[1], every=8, layers="*relo")]
    with pytest.raises(SweepError, match=r"1 of 2 runs failed, the others are finished.*seed1: layers: .*relo"):
        sweep(configs, tmp_path / "fails", workers=2, progress=lambda config, *seen: told.append((config.seed, *seen)))
    assert capfd.readouterr() == ("", "")
    assert [seen[:2] for seen in told] == [(0, 1)]

    out = tmp_path / "interrupted"
    driver = start_driver(out)
    wait_for(lambda: folder_of(LONG[0], out).last.exists(), driver)
    (worker,) = writers_of(folder_of(LONG[0], out).store)
    driver.send_signal(signal.SIGINT)
    said, errors = driver.communicate(timeout=60)
    assert said == ""
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not Path(f"/proc/{worker}").exists()
    assert folder_of(LONG[0], out).state() == "interrupted"
