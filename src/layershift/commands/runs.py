"""Train networks, and look at what was measured: `demo`, `train`, `report`, `watch`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershift.commands.configure import configure
from layershift.commands.words import UsageError, parse_changes, say

if TYPE_CHECKING:
    from layershift.train.tables import Row


def demo(given: Mapping[str, Any], *, out: Path, methods: list[str], seeds: int, overwrite: bool, quiet: bool) -> None:
    """Train every method with several seeds on handwritten digits, print a table, and write a report.

    Runs that are in the folder already are kept, an interrupted one continues.
    """
    from layershift.report import write_report  # before the training: a missing extra shall not come as a surprise
    from layershift.train import demo as train_all
    from layershift.train import summarize

    config = configure(given)
    start = time.perf_counter()
    try:
        runs = train_all(config, out, methods=methods, seeds=seeds, overwrite=overwrite, progress=not quiet)
    except KeyboardInterrupt:
        say(f"Finished runs are in {out}; the same command continues.", error=True)
        raise
    trained = time.perf_counter()
    rows = summarize(run.store for run in runs)
    _write_table(rows, out)
    page = write_report([run.store for run in runs], out / "report.html")
    kept = sum(run.state == "finished" for run in runs)
    _show_table(rows)
    what = f"{len(runs)} runs in {trained - start:.0f} s" + (f" ({kept} of them were there already)" if kept else "")
    say(f"{what}, report in {time.perf_counter() - trained:.0f} s")
    say(f"Open {page} in a browser; table.md and table.json lie beside it.")


def train(
    given: Mapping[str, Any],
    *,
    recipe: str | None,
    setting: str | None,
    changes: list[str],
    out: Path,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train one network, measure its layers on the way, and test it.

    The run's folder is OUT/METHOD/seedK: run.db, config.yaml, metrics.csv, checkpoints. With --recipe the values are
    those of a row of a table (see layershift recipes); options and key=value pairs are laid over them.
    """
    from layershift.train import train as train_one
    from layershift.train.folder import folder_of

    config = configure(given, recipe, setting, parse_changes(changes))
    try:
        run = train_one(config, out, resume=resume, overwrite=overwrite, progress=not quiet)
    except KeyboardInterrupt:
        say(f"What was measured is in {folder_of(config, out).path}; --resume continues.", error=True)
        raise
    if run.state == "finished":
        say("This run was finished already.")
    r = run.result
    percent = r.measure == "test/accuracy"
    factor, unit = (100, "%") if percent else (1, "")
    error = "" if r.stderr is None else f" ± {factor * r.stderr:.2f} (standard error, n = {r.n})"
    say(f"{config.method}, seed {config.seed}: {r.measure.replace('/', ' ')} {factor * r.value:.2f}{unit}{error}")
    say(f"Everything is in {run.path}; layershift report {out} makes a page of it.")


def report(*, paths: list[Path], out: Path | None, title: str | None) -> None:
    """Make one page, which opens without a network, of the runs below some folders."""
    from layershift.report import write_report

    first = paths[0] if paths[0].is_dir() else paths[0].parent
    say(f"Open {write_report(paths, (out or first) / 'report.html', title=title)} in a browser.")


def watch(*, path: Path, every: float, once: bool, layers: list[str], measures: list[str] | None) -> None:
    """Show in the terminal what is being measured: the last numbers of each layer, their history, and alarms.

    Ctrl-C ends it. A store that does not exist yet is waited for.
    """
    from layershift.watch import watch as show

    if not every > 0:
        raise UsageError(f"--every: expected a positive number of seconds, got {every}")
    try:
        show(path, every=every, once=once, layers=layers, measures=measures)
    except KeyboardInterrupt:
        return


def _write_table(rows: list[Row], out: Path) -> None:
    from layershift.train.tables import as_data, markdown

    (out / "table.json").write_text(json.dumps(as_data(rows), indent=2) + "\n", encoding="utf-8")
    (out / "table.md").write_text(markdown(rows), encoding="utf-8")


def _show_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    from layershift.train.tables import HEADINGS, NOTE, cells

    table = Table(*HEADINGS)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*cells(row))
    console = Console()
    console.print(table)
    console.print(NOTE, highlight=False)
