"""Many runs under one progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layershift.train.config import Config
from layershift.train.folder import folder_of
from layershift.train.run import Run
from layershift.train.sweep import sweep


def sweep_shown(configs: Sequence[Config], out: str | Path, *, progress: bool, **options: Any) -> list[Run]:
    """`sweep`, with a progress bar if that is wanted.

    Args:
        configs: what to compute.
        out: the folder of all runs.
        progress: show the bar.
        **options: of `sweep`.
    """
    configs = [config.resolved() for config in configs]
    if not progress:
        return sweep(configs, out, **options)
    with epochs_display(configs) as tell:
        return sweep(configs, out, progress=tell, **options)


@contextmanager
def epochs_display(configs: Sequence[Config]) -> Iterator[Callable[..., None]]:
    """Show how many epochs of all runs are done, and where the run is that was heard of last.

    Args:
        configs: of all runs, resolved.

    Yields:
        A function that takes a run's configuration, its finished epochs and, if known, its validation result.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    done = {str(folder_of(config, "").path): 0 for config in configs}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    with Progress(*columns, TimeElapsedColumn()) as display:
        bar = display.add_task(f"{len(done)} runs", total=sum(config.epochs or 0 for config in configs))

        def tell(config: Config, epochs: int, result: float | None = None) -> None:
            done[str(folder_of(config, "").path)] = epochs
            where = Path(config.group, config.method).as_posix()
            seen = "" if result is None else f", validation {result:.4g}"
            display.update(bar, completed=sum(done.values()), description=f"{where}, seed {config.seed}{seen}")

        yield tell
