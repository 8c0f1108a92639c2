"""A run's folder: what lies where, what a run says about itself, and when a folder may be used."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import layershift
from layershift.monitor import open_store
from layershift.monitor.store import Store, StoreError
from layershift.train.config import Config, with_defaults
from layershift.train.values import differences, load_yaml, save_yaml

State: TypeAlias = Literal["new", "interrupted", "finished"]


class RunError(RuntimeError):
    """A run cannot start or continue in its folder; the message says why and what to do."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Args:
        path: the folder, `OUT/<method>/seed<k>` by convention.

    Example:
        >>> RunFolder(Path("runs/batch/seed0")).store.as_posix()
        'runs/batch/seed0/run.db'
    """

    path: Path

    @property
    def store(self) -> Path:
        """Everything that was measured."""
        return self.path / "run.db"

    @property
    def config(self) -> Path:
        """Configuration, versions, revision and command."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The measures of the network as a whole, a row for each step that has some."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """`last.ckpt` to continue from, `best.ckpt` with the weights of the best validation."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The weights of the best validation."""
        return self.checkpoints / "best.ckpt"

    @property
    def lock(self) -> Path:
        """Held while a run is computed."""
        return self.path / ".lock"

    def state(self) -> State:
        """Whether a run has been here, and whether it came to its end.

        Raises:
            RunError: if there is a store that `train` did not make.
            StoreError: if `run.db` is not a store.
        """
        if not self.config.exists():
            if self.store.exists():
                raise RunError(
                    f"{self.store}: a store without config.yaml beside it, not made by train; use another folder"
                )
            return "new"
        if not self.store.exists():
            return "interrupted"
        try:
            with open_store(self.store) as store:
                return "finished" if store.meta.get("finished") else "interrupted"
        except StoreError:
            if self.last.exists() or self.store.stat().st_size > _PAGE:
                raise
            return "interrupted"  # while its store was being made

    def claim(self, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> State:
        """Decide how a run uses this folder, and remove an earlier run where that is asked for.

        Args:
            config: the run's configuration.
            resume: continue an interrupted run, leave a finished one.
            overwrite: remove an earlier run.

        Returns:
            "new": start; "interrupted": continue from `last`; "finished": nothing is left to do.

        Raises:
            RunError: if there is an earlier run and neither fits, or its configuration is another.
        """
        if overwrite and self.config.exists():
            self.clear()
        state = self.state()
        if state == "new":
            return state
        self.check(config)
        if not resume:
            ways = "--resume keeps it" if state == "finished" else "--resume continues it"
            article = "a finished" if state == "finished" else "an interrupted"
            raise RunError(f"{self.path}: holds {article} run; {ways}, --overwrite starts again")
        if state == "interrupted" and not self.last.exists():
            self.clear()
            return "new"
        return state

    def check(self, config: Mapping[str, Any]) -> None:
        """See that the folder holds no run of another configuration.

        Raises:
            RunError: if it does; the message names what differs.
        """
        if not self.config.exists():
            return
        found = load_yaml(self.config).get("config")
        if different := differences(config, with_defaults(found) if isinstance(found, dict) else {}):
            raise RunError(f"{self.path}: holds a run of another configuration: {', '.join(different)}; {_REMEDY}")

    def clear(self) -> None:
        """Remove the files of a run, and nothing else; what an interruption leaves is known as an earlier run's."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for name in ("run.db", "run.db-wal", "run.db-shm", "metrics.csv", "config.yaml"):
            (self.path / name).unlink(missing_ok=True)

    def describe(self, config: Mapping[str, Any], command: str) -> dict[str, Any]:
        """Write what the run is into `config.yaml`, which says that the folder is a run's: before its store is made.

        Returns:
            What was written, for the store.

        Raises:
            RunError: if it cannot be written.
        """
        about = {
            "config": dict(config),
            "method": config["method"],
            "seed": config["seed"],
            "versions": versions(),
            "git_revision": git_revision(),
            "command": command,
            "started": now(),
        }
        with complete(self.config) as draft:
            save_yaml(draft, about)
        return about

    def write_metrics(self, store: Store) -> None:
        """Write `metrics.csv` from the store.

        Raises:
            RunError: if it cannot be written.
        """
        rows: dict[int, dict[str, float]] = {}
        for record in store.records():
            if record.layer == "" and record.unit is None:
                rows.setdefault(record.step, {})[record.measure] = record.value
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        with complete(self.metrics) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", *columns])
            writer.writeheader()
            writer.writerows({"step": step, **rows[step]} for step in sorted(rows))


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Writing a file of a run: what goes wrong is told with the file's name.

    Raises:
        RunError: if the disk is full, or cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises the latter
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        remedy = "what was recorded is kept; where there is room, --resume continues the run"
        raise RunError(f"{path}: could not be written ({reason}); {remedy}") from error


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A draft, which takes the file's place when it is complete; the process may be killed at any moment.

    Raises:
        RunError: if it cannot be written; what was there stays.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        with written(path):
            yield draft
            draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


_PAGE = 4096
"""Bytes of a database in which nothing stands yet."""


def folder_of(config: Config, out: str | Path) -> RunFolder:
    """The folder of a configuration's run: ``OUT/METHOD/seedK``, below a folder of its group if it has one."""
    return RunFolder(Path(out) / config.group / config.method / f"seed{config.seed}")


_REMEDY = "choose another folder (--out), or --overwrite to remove it"


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("torch", "lightning", "torchmetrics", "numpy", "scikit-learn")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {
        "python": platform.python_version(),
        "layershift": layershift.__version__,
        **found,
        "platform": platform.platform(),
    }


def git_revision() -> str | None:
    """The revision of layershift's own source, marked `-dirty` if it was changed; None outside of a repository."""
    home = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(home), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):  # installed into a folder that someone else's repository holds
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def command_line() -> str:
    """What was typed, as far as Python knows."""
    import shlex

    return shlex.join(
        ["layershift" if Path(sys.argv[0]).stem in ("layershift", "__main__") else sys.argv[0], *sys.argv[1:]]
    )
