"""Start the processes of a run on this machine, and end as they end: from Python, a notebook or the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from layershift._checks import check
from layershift.train.config import Config
from layershift.train.folder import RunError

PATIENCE = 30.0
"""Seconds that the other processes have to end after one of them failed."""


def launch(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Callable[..., None] = False,
) -> str:
    """Train a run in `config.devices` processes on this machine.

    Each calls `train` with these arguments, and finds the others by the variables that torchrun sets. So it imports
    what the configuration names; a network that exists in the caller's `__main__` only is out of its reach.

    Args:
        config: resolved.
        out: as for `train`.
        resume: as for `train`.
        overwrite: as for `train`.
        progress: as for `train`.

    Returns:
        The state in which the run's folder was found.

    Raises:
        RunError: if one of the processes died, and whatever else `train` raises in the first that fails.
        ValueError: if the run wants several machines: each needs a launcher.
    """
    ways = "1 without a launcher on each machine; start it with torchrun or srun"
    check(config.num_nodes == 1, "num_nodes", ways, config.num_nodes)
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        folder = Path(name)
        job = {"config": asdict(config), "out": str(Path(out).absolute()), "resume": resume, "overwrite": overwrite}
        (folder / "job.json").write_text(json.dumps({**job, "progress": progress is True, "tell": callable(progress)}))
        processes = [_start(folder, rank, config) for rank in range(config.devices)]
        with _passing_signals_on(processes) as received:
            failed = _wait(processes, _Teller(folder / "progress", progress if callable(progress) else None))
        if received:
            raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])
        if failed is not None:
            raise _error_of(folder, failed, processes[failed].returncode)
        return (folder / "state").read_text()


def _start(folder: Path, rank: int, config: Config) -> subprocess.Popen[bytes]:
    paths = dict.fromkeys([os.getcwd(), *(path for path in sys.path if path)])
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": config.devices,
        "LOCAL_WORLD_SIZE": config.devices,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _port_of(folder),
        "OMP_NUM_THREADS": config.threads,
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "layershift.train.worker", str(folder)],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        start_new_session=True,  # signals reach them through this process, once
    )


def _port_of(folder: Path) -> int:
    """A free port, one for all."""
    kept = folder / "port"
    if not kept.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            kept.write_text(str(probe.getsockname()[1]))
    return int(kept.read_text())


def _wait(processes: Sequence[subprocess.Popen[bytes]], tell: Callable[[], None]) -> int | None:
    """Wait for all; end the others when one fails. The number of the first that failed, or None."""
    failed, deadline = None, float("inf")
    while any(process.poll() is None for process in processes):
        bad = [rank for rank, process in enumerate(processes) if process.poll()]
        if bad and failed is None:
            failed, deadline = bad[0], time.monotonic() + PATIENCE
            _signal_all(processes, signal.SIGTERM)
        if time.monotonic() > deadline:
            _signal_all(processes, signal.SIGKILL)
        tell()
        time.sleep(0.05)
    tell()
    return (
        next((rank for rank, process in enumerate(processes) if process.returncode), None) if failed is None else failed
    )


def _signal_all(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def _passing_signals_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Give Ctrl-C and SIGTERM to the processes; yields what came. No process outlives this context."""
    received: list[int] = []

    def give(number: int, _: object) -> None:
        received.append(number)
        _signal_all(processes, number)

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, give) for number in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _signal_all(processes, signal.SIGKILL)


class _Teller:
    """Pass on what the first process writes about its progress."""

    def __init__(self, path: Path, progress: Callable[..., None] | None) -> None:
        self.path, self.progress, self.seen = path, progress, 0

    def __call__(self) -> None:
        if self.progress is None or not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        for line in lines[self.seen :]:
            self.progress(*json.loads(line))
        self.seen = len(lines)


def _error_of(folder: Path, rank: int, code: int) -> BaseException:
    path = folder / f"error{rank}"
    if path.exists():
        kinds, message = json.loads(path.read_text())
        known = next((_KINDS[kind] for kind in kinds if kind in _KINDS), None)
        return known(message) if known else RunError(f"{kinds[0]}: {message}")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return RunError(f"process {rank} of the run ended with {how}; --resume continues the run")


_KINDS = {kind.__name__: kind for kind in (RunError, ValueError, ModuleNotFoundError, OSError, RuntimeError)}
