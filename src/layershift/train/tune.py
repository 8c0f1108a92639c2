"""Runs through Ray Tune: it places them, and starts one again whose process died; everything else is in the folders."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from layershift.train.config import Config
from layershift.train.failure import words
from layershift.train.run import train

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no message to Ray's makers
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a configuration stay what they are
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run's folder holds everything
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is Python's
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def at_once(
    trials: Mapping[Path, Config],
    home: Path,
    *,
    workers: int | None,
    cluster: str | None,
    tell: Callable[..., None],
    max_failures: int,
    scratch: Path,
) -> dict[Path, str]:
    """Train many configurations at once.

    Args:
        trials: configurations by their run's folder.
        home: the folder below which these lie.
        workers: how many at once; None for as many as there is room for.
        cluster: the address of a running cluster; None starts Ray on this machine.
        tell: receives a configuration and what `train` tells its `progress`.
        max_failures: how often a run is continued after its process died.
        scratch: a folder for Ray's own files, which are removed at the end.

    Returns:
        Why a run failed, by its folder, for those that did.
    """
    configs = list(trials.values())

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        return _run(configs[settings["number"]], home)

    with connected(configs, workers, cluster), temporary(scratch / "ray") as folder:
        gpus = _gpus_each(workers, cluster)

        def resources(settings: dict[str, Any]) -> tune.PlacementGroupFactory:
            needs = {"CPU": float(configs[settings["number"]].threads), "GPU": gpus}
            return tune.PlacementGroupFactory([needs])

        tuner = tune.Tuner(
            tune.with_resources(run, resources),
            param_space={"number": tune.grid_search(list(range(len(configs))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=workers, reuse_actors=True),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=max_failures),
                verbose=0,
                callbacks=[_Telling(tell, configs)],
            ),
        )
        results = tuner.fit()
    paths, failures = list(trials), {}
    for result in (results[number] for number in range(len(results))):
        reason = words(result.error) if result.error else (result.metrics or {}).get("failure")
        if reason:
            failures[paths[(result.config or {})["number"]]] = reason
    return failures


def _run(config: Config, home: Path) -> dict[str, Any]:
    """In Ray's worker: train, and return an error as a result, since it would come again."""
    told = -float("inf")

    def tell(*seen: Any) -> None:
        nonlocal told
        if time.monotonic() - told >= 1:
            tune.report({"seen": seen})
            told = time.monotonic()

    try:
        train(config, home, resume=True, progress=tell)
    except Exception as error:
        return {"failure": words(error)}
    return {"failure": ""}


class _Telling(tune.Callback):
    """Tell the one who started the sweep what a worker reports."""

    def __init__(self, tell: Callable[..., None], configs: list[Config]) -> None:
        self.tell, self.configs = tell, configs

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002 (the names are Ray's)
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """Tell."""
        if "seen" in result:
            self.tell(self.configs[trial.config["number"]], *result["seen"])


@contextmanager
def connected(configs: list[Config], workers: int | None, cluster: str | None) -> Iterator[None]:
    """Ray, without its dashboard, reports and remarks; one that the caller has started already is used as it is."""
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    with environment(**ENVIRONMENT), handlers_kept():
        if cluster is not None:
            ray.init(address=cluster, **common)
        else:
            processors = (workers or 1) * max(config.threads for config in configs)
            ray.init(
                address="local",
                num_cpus=processors,
                include_dashboard=False,
                object_store_memory=100 * 2**20,  # nothing large is passed around
                _node_ip_address="127.0.0.1",
                **common,
            )
        try:
            yield
        finally:
            ray.shutdown()


def _gpus_each(workers: int | None, cluster: str | None) -> float:
    """GPUs for a run: one, or a share of one where this machine has fewer than runs at once."""
    there = float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
    if cluster is not None or workers is None:
        return min(1.0, there)
    return min(1.0, there / workers)


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """A folder that is empty at first, and gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables of the environment, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back what handles signals: Ray sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Callable[..., Any] | int | None] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
