"""The loop of the live view: read, show, wait, until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershift._checks import check_number, check_path, check_patterns, import_extra
from layershift.monitor.store import StoreError
from layershift.watch.read import Snapshot, read
from layershift.watch.view import Words, render, room

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 5.0
"""For so many seconds a file may be unreadable, because it is just being made."""


def watch(
    path: str | Path,
    *,
    every: float = 1.0,
    once: bool = False,
    layers: str | Sequence[str] = "*",
    measures: str | Sequence[str] | None = None,
    console: Console | None = None,
) -> None:
    """Show a store in the terminal, and what comes to it, until Ctrl-C.

    For each layer the last value of each measure with its standard error and a line of its history, the numbers of the
    network as a whole, alarms, the step, and how long ago the store was written to. A store that does not exist yet is
    waited for. Where the output is no terminal, a table is printed whenever there are new numbers.

    Args:
        path: the store, which another process may be writing, or the folder of a run that holds a `run.db`.
        every: seconds between two looks at the store.
        once: print one table and return.
        layers: shell patterns of the layers to show.
        measures: shell patterns of the measures to show; those that tell most and have room, if None.
        console: where to; standard output if None.

    Raises:
        StoreError: if the file is not a store; with `once` also if there is none.
        ValueError: if `every` is not positive.
        ModuleNotFoundError: without rich; the message names the extra to install.
    """
    check_number("every", every, "a positive number of seconds", above=0)
    check_path("path", path)
    check_patterns("layers", layers)
    if measures is not None:
        check_patterns("measures", measures)
    rich = import_extra("rich.console", extra="watch")
    console = rich.Console() if console is None else console
    where = Path(path)
    options = {"layers": _patterns(layers), "measures": None if measures is None else _patterns(measures)}
    if once:
        console.print(render(_look(where, console, options), console))
        return
    try:
        if console.is_terminal:
            live = import_extra("rich.live", extra="watch").Live(console=console, auto_refresh=False)
            with live:
                _loop(where, console, options, every, lambda shown, _: live.update(shown, refresh=True))
        else:
            _loop(where, console, options, every, _Printer(console))
    except KeyboardInterrupt:
        return


class _Printer:
    """Prints what is new; for files and pipes, where nothing can be drawn over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last: object = None

    def __call__(self, shown: Any, key: object) -> None:
        """Print, if the key is not that of the last call."""
        if key != self.last:
            self.console.print(shown)
            self.last = key


def _loop(
    path: Path, console: Console, options: dict[str, Any], every: float, show: Callable[[Any, object], None]
) -> None:
    failing: float | None = None
    while True:
        try:
            snapshot = _look(path, console, options)
            failing = None
            show(render(snapshot, console), (snapshot.step, snapshot.series, len(snapshot.alarms)))
        except StoreError:
            now = time.monotonic()
            if _file(path).is_file():
                failing = now if failing is None else failing
                if now - failing > PATIENCE:
                    raise
            else:
                failing = None
                show(Words(console.encoding)(f"{_file(path)}: waiting for this store"), "waiting")
        time.sleep(every)


def _look(path: Path, console: Console, options: dict[str, Any]) -> Snapshot:
    rows, columns = room(console)
    return read(_file(path), **options, max_layers=rows, max_measures=columns)


def _file(path: Path) -> Path:
    return path / "run.db" if path.is_dir() else path


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
