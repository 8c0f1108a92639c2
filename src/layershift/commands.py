"""What the commands of the command line do: plain functions that compute, write and say what came of it.

Rooms are imported when a command needs them, so that help and version are there at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layershift.train.comparison import Comparison
    from layershift.train.config import Config, ScaleName
    from layershift.train.recipe import Recipe
    from layershift.train.tables import Row


class UsageError(Exception):
    """The command line makes no sense; the message says why."""


def demo(given: Mapping[str, Any], *, out: Path, methods: list[str], seeds: int, overwrite: bool, quiet: bool) -> None:
    """Train every method with several seeds on handwritten digits, print a table, and write a report.

    Runs that are in the folder already are kept, an interrupted one continues.
    """
    from layershift.report import write_report  # before the training: a missing extra shall not come as a surprise
    from layershift.train import demo as train_all
    from layershift.train import summarize

    config = _configure(given)
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

    config = _configure(given, recipe, setting, parse_changes(changes))
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


def recipes(*, names: list[str]) -> None:
    """List the tables and figures that can be run, or show what some of them do."""
    from layershift.train.recipe import recipes as known

    if not names:
        for name in known():
            say(f"{name:<12} {_recipe(name).title}")
        say("layershift recipes NAME shows one; layershift reproduce NAME --scale smoke|laptop|paper runs it.")
    for name in names:
        found = _recipe(name)
        say(f"{found.name}: {found.title}\n\n{found.about.strip()}\n")
        say(f"settings: {', '.join(s for s in found.settings if s) or 'one'}")
        say(f"methods:  {', '.join(found.methods)}")
        say(f"seeds:    {', '.join(f'{scale} {found.seeds_at(scale)}' for scale in ('smoke', 'laptop', 'paper'))}")


def reproduce(
    *,
    name: str,
    changes: list[str],
    scale: ScaleName,
    out: Path | None,
    methods: list[str],
    settings: list[str],
    seeds: int | None,
    data_root: str | None,
    workers: int | None,
    cluster: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Run a table or a figure of a paper, and compare: ours, published, and whether the claims hold.

    Runs that are in the folder already are kept, so the same command continues where it was stopped.
    """
    from layershift.report import write_report
    from layershift.train.comparison_text import count, markdown
    from layershift.train.recipe import slug
    from layershift.train.reproduce import reproduce as run_all

    recipe = _recipe(name)
    out = Path("runs") / "-".join([*recipe.name.split("/"), scale]) if out is None else out
    values = parse_changes(changes) | ({} if data_root is None else {"data_root": data_root})
    try:
        table = run_all(
            recipe,
            out,
            scale=scale,
            changes=values,
            methods=methods,
            settings=settings,
            seeds=seeds,
            workers=workers,
            cluster=cluster,
            overwrite=overwrite,
            progress=not quiet,
            command=command_of(sys.argv),
        )
    except KeyboardInterrupt:
        say(f"Finished runs are in {out}; the same command continues.", error=True)
        raise
    say(markdown(table))
    for place in dict.fromkeys(cell.setting for cell in table.cells):
        folder = out / slug(place)
        stores = [store for cell in table.cells if cell.setting == place for store in cell.stores]
        if stores:
            say(f"Open {write_report(stores, folder / 'report.html', title=_page_title(table, place))} in a browser.")
    say(f"{count(table)} The table is in {out / 'table.md'}.")


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


def parse_changes(pairs: Sequence[str]) -> dict[str, Any]:
    """Values from words such as `epochs=3` or `model_options.depth=20`, read as YAML.

    Raises:
        UsageError: for a word without `=`, or a value that YAML cannot read.

    Example:
        >>> parse_changes(["epochs=3", "learning_rate=1e-2", "method=per"])
        {'epochs': 3, 'learning_rate': 0.01, 'method': 'per'}
    """
    from layershift.train.values import parse_yaml

    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"expected key=value, got {pair!r}")
        try:
            changes[key] = value if value.startswith("*") else parse_yaml(value)  # a pattern of names, no YAML alias
        except ValueError as error:
            raise UsageError(f"{key}: {error}") from error
    return changes


def command_of(arguments: Sequence[str]) -> str:
    """A command line as it is typed, without the path of the program and what only changes its output."""
    import shlex

    return shlex.join(
        ["layershift", *(word for word in arguments[1:] if word not in ("--quiet", "--debug", "--overwrite"))]
    )


def _recipe(name: str) -> Recipe:
    from layershift.train.recipe import load_recipe

    try:
        return load_recipe(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _configure(
    given: Mapping[str, Any],
    recipe: str | None = None,
    setting: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Config:
    """A configuration from a recipe, if there is one, the options that were given, and changes."""
    from layershift.train.config import Config

    try:
        values = {**given, **(changes or {})}
        if recipe is None:
            if setting is not None:
                raise UsageError(f"--setting: expected --recipe with it, got {setting!r} alone")
            return Config().changed(values).resolved()
        found = _recipe(recipe)
        named = {key: values.pop(key) for key in ("method", "scale", "seed", "penalty_weight") if key in values}
        return (
            found.configure(
                named.get("method", next(iter(found.methods))),
                setting=setting or "",
                scale=named.get("scale", "laptop"),
                seed=named.get("seed", 0),
                weight=named.get("penalty_weight"),
            )
            .changed(values)
            .resolved()
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _page_title(table: Comparison, setting: str) -> str:
    return f"{table.recipe.name}: {setting or table.recipe.title}, {table.scale} scale"


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


def say(text: str, *, error: bool = False) -> None:
    """Print a line."""
    print(text, file=sys.stderr if error else sys.stdout, flush=True)
