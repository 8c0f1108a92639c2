"""The demo: every method with several seeds on the same data, one after another, under one progress display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layershift.train.config import Config
from layershift.train.run import Run

ALL_METHODS: tuple[str, ...] = ("vanilla", "batch", "unitization", "per")


def demo(
    config: Config,
    out: str | Path = "runs/demo",
    *,
    methods: Sequence[str] = ALL_METHODS,
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
    from layershift._checks import check, check_count, check_items, check_path, check_type
    from layershift.train.display import sweep_shown

    check_type("config", config, Config, "a Config")
    check_path("out", out)
    check_count("seeds", seeds, "at least 1")
    check_items("methods", methods, str, "names of methods, at least one")
    check(len(methods) >= 1, "methods", "at least one", "none")
    configs = [replace(config, method=m, seed=s).resolved() for m in dict.fromkeys(methods) for s in range(seeds)]
    return sweep_shown(configs, out, overwrite=overwrite, progress=progress)
