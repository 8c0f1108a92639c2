"""Many runs: one after another here, or many at once through Ray Tune, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from layershift.train.config import Config
from layershift.train.failure import SweepError, words
from layershift.train.folder import folder_of
from layershift.train.lock import locked
from layershift.train.run import Run, train

HIDDEN = ".sweep"
"""The folder below the output's that holds the lock and, while Ray is at work, its files."""

Progress: TypeAlias = Callable[..., None]
"""Receives a run's configuration and what `train` tells its own: finished epochs and validation accuracy."""


def sweep(
    configs: Sequence[Config],
    out: str | Path = "runs",
    *,
    workers: int | None = None,
    cluster: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    max_failures: int = 3,
) -> list[Run]:
    """Train every configuration, each in its folder below one folder.

    The runs' folders are the only memory: a sweep that is started again leaves finished runs as they are, continues
    interrupted ones, and starts the others. A run that fails does not stop the others. A run's numbers do not depend on
    how many others are trained at the same time, nor where, as long as machines compute alike.

    Args:
        configs: what to compute; one that comes twice is computed once.
        out: the folder of all runs; for a cluster of several machines on a file system that they share.
        workers: how many are trained at once; by default one, with a cluster as many as it has room for. More than one
            need Ray.
        cluster: the address of a Ray cluster, "auto" for the one that this machine belongs to.
        overwrite: remove earlier runs of these configurations first.
        progress: a function that receives a configuration, its run's finished epochs and the validation accuracy,
            from Ray at most once a second.
        max_failures: how often a run goes on from its last checkpoint after the process that trained it died. An error
            that training itself raises is final, because it would raise it again.

    Returns:
        The runs, in the order of the configurations; their state is that which this sweep found.

    Raises:
        RunError: if a folder holds a run of another configuration, or another sweep is at work in `out`.
        SweepError: at the end, if runs failed; the message says which and why.
        ValueError: if two configurations have one folder, or an option is out of range.
        ModuleNotFoundError: if Ray is needed and not installed.
        KeyboardInterrupt: on Ctrl-C; the same call continues.

    Example:
        >>> import tempfile
        >>> configs = [Config(scale="smoke", epochs=1, every=0, seed=seed) for seed in range(2)]
        >>> folder = tempfile.mkdtemp()
        >>> [run.state for run in sweep(configs, folder)], [run.state for run in sweep(configs, folder)]
        (['new', 'new'], ['finished', 'finished'])
    """
    from layershift._checks import check

    check(workers is None or workers >= 1, "workers", "at least 1", workers)
    check(max_failures >= 0, "max_failures", "a number that is not negative", max_failures)
    home = Path(out).absolute()
    with locked(home / HIDDEN / "lock", what="a sweep"):
        trials = _trials(configs, home)
        found = _prepare(trials, home, overwrite)
        todo = {path: config for path, config in trials.items() if found[path] != "finished"}
        tell = progress or (lambda *_: None)
        if not todo:
            failures: dict[Path, str] = {}
        elif cluster is None and workers in (None, 1):
            failures = _one_after_another(todo, home, tell)
        else:
            from layershift._checks import import_extra

            processes = max(config.devices * config.num_nodes for config in todo.values())
            check(processes == 1, "devices and num_nodes", "1 where several runs are trained at once", processes)
            import_extra("ray.tune", extra="cluster")
            from layershift.train.tune import at_once

            failures = at_once(
                todo,
                home,
                workers=workers,
                cluster=cluster,
                tell=tell,
                max_failures=max_failures,
                scratch=home / HIDDEN,
            )
        runs = {path: _read(path, config, home, found) for path, config in trials.items() if path not in failures}
    if failures:
        raise SweepError(failures, list(runs.values()))
    return [runs[folder_of(config.resolved(), home).path] for config in configs]


def _trials(configs: Sequence[Config], home: Path) -> dict[Path, Config]:
    from layershift._checks import check

    trials: dict[Path, Config] = {}
    for config in (config.resolved() for config in configs):
        path = folder_of(config, home).path
        same = trials.setdefault(path, config) == config
        check(same, "configs", "each folder once", f"two configurations for {path}")
    return trials


def _prepare(trials: Mapping[Path, Config], home: Path, overwrite: bool) -> dict[Path, Any]:
    """What each folder holds; an earlier run is removed or compared before anything is trained."""
    folders = {path: folder_of(config, home) for path, config in trials.items()}
    for path, folder in folders.items():
        if folder.lock.exists():  # the workers of a sweep that was killed need a moment to notice
            with locked(folder.lock, what="a run", wait=60):
                pass
        if not overwrite:
            folder.check(trials[path].identity())
        elif folder.config.exists():
            folder.clear()
    return {path: folder.state() for path, folder in folders.items()}


def _one_after_another(trials: Mapping[Path, Config], home: Path, tell: Progress) -> dict[Path, str]:
    failures = {}
    for path, config in trials.items():
        try:
            train(config, home, resume=True, progress=_telling(tell, config))
        except Exception as error:  # whatever it is: the others shall not wait for it
            failures[path] = words(error)
    return failures


def _telling(tell: Progress, config: Config) -> Callable[..., None]:
    return lambda *seen: tell(config, *seen)


def _read(path: Path, config: Config, home: Path, found: Mapping[Path, Any]) -> Run:
    return train(config, home, resume=True)._replace(state=found[path])
