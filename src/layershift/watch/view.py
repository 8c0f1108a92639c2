"""A snapshot of a store as text: a table of layers, lines of their history, and what alarms found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layershift._checks import import_extra
from layershift.watch.read import Snapshot
from layershift.watch.series import Series

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
CELL, LAYER = 26, 24  # the widths of a measure's column with its line, and of most layers' names
FRAME = 6  # lines around the layers: of the table, of what has no room, and of the cursor
ALARMS = 5  # how many alarms are shown, the latest
RECENT = 60.0
"""A store that was written to in the last so many seconds is of a run that goes on."""


def room(console: Console) -> tuple[int, int]:
    """For how many layers and how many measures a console has room at most; where nothing scrolls, for all layers."""
    return console.height if console.is_terminal else 10_000, max((console.width - LAYER) // (CELL + 1), 1)


def render(snapshot: Snapshot, console: Console) -> RenderableType:
    """What is printed of a snapshot.

    Args:
        snapshot: of a store.
        console: that it is printed to.

    Raises:
        ModuleNotFoundError: without rich; the message names the extra to install.
    """
    box = import_extra("rich.box", extra="watch")
    group = import_extra("rich.console", extra="watch").Group
    table = import_extra("rich.table", extra="watch").Table
    words = Words(console.encoding)

    above: list[RenderableType] = [words(headline(snapshot), "bold")]
    if not snapshot.series:
        above.append(words("no measurement matches" if snapshot.step is not None else "no measurement yet"))
    if snapshot.network:
        grid = table.grid(padding=(0, 2))
        for name in snapshot.network:
            grid.add_row(words(name), words.cell(snapshot.series["", name]))
        above.append(grid)
    below: list[RenderableType] = []
    if snapshot.more_measures:
        below.append(words(f"also measured (--measures): {', '.join(snapshot.more_measures)}", "dim"))
    below += [words(line, style) for line, style in troubles(snapshot)]
    if not snapshot.layers:
        return group(*above, *below)  # type: ignore[no-any-return]

    taken = len(console.render_lines(group(*above, *below)))
    rows = max(console.height - taken - FRAME, 3) if console.is_terminal else len(snapshot.layers)
    layers = table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    layers.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=max(console.width - CELL - 3, 8))
    for name in snapshot.measures:
        layers.add_column(words(name), no_wrap=True, overflow="ellipsis")
    for layer in snapshot.layers[:rows]:
        cells = [snapshot.series.get((layer, name)) for name in snapshot.measures]
        layers.add_row(words(layer), *map(words.cell, cells))
    if more := snapshot.more_layers + len(snapshot.layers[rows:]):
        below.insert(0, words(f"and {more} more layers (--layers PATTERN)", "dim"))
    return group(*above, layers, *below)  # type: ignore[no-any-return]


class Words:
    """Makes text that a terminal can print: names are never markup, and one without UTF-8 gets what it knows.

    Args:
        encoding: of the terminal.

    Example:
        >>> Words("ascii")("é [red]").plain, Words("ascii").cell(Series(1, 2.0, 0.5, (1.0, 2.0))).plain
        ('? [red]', '2.00 +- 0.50 .@')
    """

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.plain = not encoding.lower().startswith("utf")
        self.text: type[Text] = import_extra("rich.text", extra="watch").Text

    def __call__(self, string: str, style: str = "") -> Text:
        """A text."""
        if self.plain:
            string = string.replace("±", "+-").encode(self.encoding, "replace").decode(self.encoding)
        return self.text(string, style=style)

    def cell(self, series: Series | None) -> Text:
        """The last number of a series and the line of its history."""
        if series is None:
            return self("")
        number = self(quantity(series.value, series.stderr), "" if math.isfinite(series.value) else "bold red")
        if len(series.history) < 2:
            return number
        return number.append(" " + sparkline(series.history, bars=ASCII_BARS if self.plain else BARS), style="cyan")


def headline(snapshot: Snapshot) -> str:
    """Where, when and how the run stands.

    Example:
        >>> from pathlib import Path
        >>> headline(Snapshot(Path("run.db"), {"finished": "today"}, step=100, age=75))
        'run.db: step 100, finished, last written 1 min ago'
    """
    step = "no step yet" if snapshot.step is None else f"step {snapshot.step:,}"
    state = "finished" if snapshot.meta.get("finished") else "running" if snapshot.age < RECENT else "silent"
    return f"{snapshot.path}: {step}, {state}, last written {ago(snapshot.age)}"


def ago(seconds: float) -> str:
    """How long ago something was.

    Example:
        >>> ago(0.2), ago(75), ago(7300)
        ('now', '1 min ago', '2 h ago')
    """
    if seconds < 1:
        return "now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 3600 else f"{seconds / 3600:.0f} h ago"


def quantity(value: float, stderr: float | None) -> str:
    """A number and its standard error, with two digits of the error.

    Example:
        >>> quantity(0.41234, 0.0213), quantity(3.0, None), quantity(1.5e-7, 2e-9), quantity(float("inf"), None)
        ('0.412 ± 0.021', '3', '1.500e-07 ± 2e-09', 'inf')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else str(value)
    if stderr is None or not math.isfinite(stderr):
        return f"{value:.4g}"
    size = max(abs(value), stderr)
    if stderr == 0 or not 1e-4 <= size < 1e6:
        return f"{value:.4g} ± {stderr:.2g}" if stderr == 0 or size == 0 else f"{value:.3e} ± {stderr:.1g}"
    digits = min(max(1 - math.floor(math.log10(stderr)), 0), 6)
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def sparkline(values: Sequence[float], *, bars: str = BARS) -> str:
    """A line of history, from the least to the greatest finite value; others are crosses.

    Example:
        >>> sparkline([0.0, 1.0, 2.0, float("nan")]), sparkline([3.0, 3.0])
        ('▁▄█×', '▄▄')
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    line = ""
    for value in values:
        place = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5  # halves: no overflow
        cross = "×" if bars == BARS else "x"
        line += bars[int(place * (len(bars) - 1))] if math.isfinite(value) else cross
    return line


def troubles(snapshot: Snapshot) -> list[tuple[str, str]]:
    """The latest alarms, and what to try against the last; each line with its style."""
    found = snapshot.alarms
    if not found:
        return []
    count = f"{len(found)} alarms, the last {ALARMS}:" if len(found) > ALARMS else "alarms:"
    lines = [(count, "bold red"), *((" ".join(alarm.message.split()), "red") for alarm in found[-ALARMS:])]
    return [*lines, (f"to try: {found[-1].advice}", "dim")] if found[-1].advice else lines
