"""One run: its folder, its configuration, its training, what it came to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layershift.train.config import Config

if TYPE_CHECKING:
    from layershift.monitor import Record
    from layershift.train.folder import RunFolder, State


class Run(NamedTuple):
    """Where a run lies and how it was brought to its end.

    Attributes:
        path: its folder.
        store: its store.
        state: what its folder held before: "new" nothing, "interrupted" a part of it, "finished" all of it.
        result: what it came to on the test data, such as `"test/accuracy"` between 0 and 1, with its standard error and
            the number of test samples.
    """

    path: Path
    store: Path
    state: str
    result: Record


def train(
    config: Config,
    out: str | Path = "runs",
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Callable[[int, float], None] = False,
) -> Run:
    """Train one network, measure its layers on the way, and test it.

    The run's folder is ``OUT/METHOD/seedK``, or ``OUT/GROUP/METHOD/seedK``. It holds `run.db` (all measurements),
    `config.yaml` (configuration, versions, revision, command), `metrics.csv` and `checkpoints/`. The test result is
    that of the weights after the last epoch; nothing is chosen by it.

    Args:
        config: what to compute.
        out: the folder of the run's method.
        resume: continue an interrupted run from its last checkpoint, to the same numbers as without the interruption;
            a finished one is left as it is.
        overwrite: remove an earlier run from its folder first.
        progress: True shows a progress bar; a function receives the number of finished epochs and how good the network
            is on the validation data.

    Returns:
        Where the run lies and what it came to.

    Raises:
        ValueError: if the configuration is not possible.
        RunError: if the folder holds a run and neither `resume` nor `overwrite` says what to do, or a run of another
            configuration.
        KeyboardInterrupt: on Ctrl-C; the run can be resumed and what was measured can be read.

    Example:
        >>> import tempfile
        >>> run = train(Config(method="batch", scale="smoke"), tempfile.mkdtemp())
        >>> run.store.name, run.state, run.result.measure, run.result.n
        ('run.db', 'new', 'test/accuracy', 450)
    """
    from layershift._checks import check_path, check_type, import_extra

    check_type("config", config, Config, "a Config")
    check_path("out", out)
    import_extra("lightning.pytorch", extra="train")
    from layershift.train.folder import folder_of
    from layershift.train.launch import launch
    from layershift.train.lock import locked
    from layershift.train.processes import is_started, on_first, together

    config = config.resolved()
    folder = folder_of(config, out)
    if not is_started(config):
        state = launch(config, out, resume=resume, overwrite=overwrite, progress=progress)
        return read_run(folder.path, state)
    with together(config) as rank, ExitStack() as stack:

        def claim() -> State:
            stack.enter_context(locked(folder.lock, what="a run"))
            return folder.claim(config.identity(), resume=resume, overwrite=overwrite)

        state = on_first(claim)
        if state != "finished" and rank == 0:
            _train_and_write(config, folder, state, progress)
        elif state != "finished":
            _train_along(config, folder, state)
    return read_run(folder.path, state)


def _train_and_write(
    config: Config, folder: RunFolder, state: State, progress: bool | Callable[[int, float], None]
) -> None:
    """What the first process does, or the only one."""
    from layershift.monitor import Store
    from layershift.train.fit import fit
    from layershift.train.folder import command_line, now

    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    about = folder.describe(config.identity(), command_line()) if state == "new" else {}
    try:
        with Store(folder.store) as store:
            for key, value in about.items():
                store.set_meta(key, value)
            if state == "interrupted":
                store.set_meta("resumed", [*store.meta.get("resumed", []), now()])
            try:
                fit(config, folder, store, continued=state == "interrupted", progress=progress)
            finally:
                folder.write_metrics(store)
            store.set_meta("finished", now())  # when nothing is left to do
    except BaseException:
        if state == "new" and not _any_record(folder.store):  # it failed before the first, over a wrong option say
            folder.clear()
        raise


def _any_record(path: Path) -> bool:
    from layershift.monitor import StoreError

    try:
        return bool(read_records(path))
    except StoreError:
        return path.stat().st_size > 0  # what cannot be read is not removed


def _train_along(config: Config, folder: RunFolder, state: State) -> None:
    """What the other processes do: they write nothing."""
    from layershift.monitor import Store
    from layershift.train.fit import fit

    with Store(":memory:") as store:
        fit(config, folder, store, continued=state == "interrupted")


def read_records(path: Path) -> list[Record]:
    """The records of a store; none if there is no store."""
    from layershift.monitor import open_store

    if not path.exists():
        return []
    with open_store(path) as store:
        return store.records()


def read_run(path: Path, state: str) -> Run:
    """What a finished run came to, from its store."""
    tests = [r for r in read_records(path / "run.db") if r.layer == "" and r.measure in HEADLINES]
    return Run(path, path / "run.db", state, tests[-1])


HEADLINES = ("test/accuracy", "test/perplexity")
"""What a run comes to, of one kind or the other."""
