"""The demo: every method with several seeds on the same data, one after another, under one progress display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from layershift.train.config import Config
from layershift.train.methods import MethodName
from layershift.train.run import Run, train

ALL_METHODS: tuple[MethodName, ...] = ("vanilla", "batch", "unitization", "per")


def demo(
    config: Config,
    out: str | Path = "runs/demo",
    *,
    methods: Sequence[MethodName] = ALL_METHODS,
    seeds: int = 3,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Run]:
    """Train every method with every seed.

    Runs of the same configuration that are in the folder already are kept, an interrupted one continues.

    Args:
        config: what the runs have in common; its method and seed are replaced.
        out: the folder of all runs.
        methods: which methods.
        seeds: how many seeds: 0, 1, … Data, their split and, for one seed, the initial weights are the same for every
            method.
        overwrite: remove earlier runs first.
        progress: show a progress bar.

    Returns:
        The runs, method by method.

    Raises:
        RunError: if the folder holds runs of another configuration.
        ValueError: if there is nothing to do, or the configuration is not possible.
    """
    from layershift._checks import check
    from layershift.train.folder import folder_of

    check(seeds >= 1, "seeds", "at least 1", seeds)
    check(len(methods) >= 1, "methods", "at least one", "none")
    configs = [replace(config, method=m, seed=s).resolved() for m in dict.fromkeys(methods) for s in range(seeds)]
    if not overwrite:
        for c in configs:  # all of them first: half an hour of training shall not end in an error
            folder_of(c, out).check(asdict(c))
    if not progress:
        return [train(c, out, resume=True, overwrite=overwrite) for c in configs]
    return _with_progress(configs, Path(out), overwrite)


def _with_progress(configs: list[Config], out: Path, overwrite: bool) -> list[Run]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    runs: list[Run] = []
    with Progress(*columns, TimeElapsedColumn()) as display:
        bar = display.add_task("", total=sum(config.epochs or 0 for config in configs))

        def tell(epochs: int, accuracy: float | None = None) -> None:
            config, before = configs[len(runs)], sum(done.epochs or 0 for done in configs[: len(runs)])
            title = f"run {len(runs) + 1}/{len(configs)}: {config.method}, seed {config.seed}"
            seen = "" if accuracy is None else f", validation {100 * accuracy:.1f}%"
            display.update(bar, completed=before + epochs, description=title + seen)

        for config in configs:
            tell(0)
            runs.append(train(config, out, resume=True, overwrite=overwrite, progress=tell))
        display.update(bar, completed=sum(config.epochs or 0 for config in configs), description=f"{len(runs)} runs")
    return runs
