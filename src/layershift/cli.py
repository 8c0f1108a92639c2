"""The command line: `layershift demo | train | report | watch | --version`.

Commands are plain functions; jsonargparse reads the options of a run from `layershift.train.config.Config`. Rooms are
imported when a command needs them, so that help and version are there at once.

Exit codes: 0 done, 1 it failed, 2 the command line makes no sense, 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershift._version import __version__

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from layershift.train.config import Config
    from layershift.train.methods import MethodName
    from layershift.train.tables import Row

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class UsageError(Exception):
    """The command line makes no sense; the message says why."""


def demo(config: Config, *, out: Path, methods: list[MethodName], seeds: int, overwrite: bool, quiet: bool) -> None:
    """Train every method with several seeds on handwritten digits, print a table, and write a report.

    Runs that are in the folder already are kept, an interrupted one continues.
    """
    from layershift.report import write_report  # before the training: a missing extra shall not come as a surprise
    from layershift.train import demo as train_all
    from layershift.train import summarize

    _check(config)
    start = time.perf_counter()
    try:
        runs = train_all(config, out, methods=methods, seeds=seeds, overwrite=overwrite, progress=not quiet)
    except KeyboardInterrupt:
        _say(f"Finished runs are in {out}; the same command continues.", error=True)
        raise
    trained = time.perf_counter()
    rows = summarize(run.store for run in runs)
    _write_table(rows, out)
    page = write_report([run.store for run in runs], out / "report.html")
    kept = sum(run.state == "finished" for run in runs)
    _show_table(rows)
    what = f"{len(runs)} runs in {trained - start:.0f} s" + (f" ({kept} of them were there already)" if kept else "")
    _say(f"{what}, report in {time.perf_counter() - trained:.0f} s")
    _say(f"Open {page} in a browser; table.md and table.json lie beside it.")


def train(config: Config, *, out: Path, resume: bool, overwrite: bool, quiet: bool) -> None:
    """Train one network, measure its layers on the way, and test it.

    The run's folder is OUT/METHOD/seedK: run.db, config.yaml, metrics.csv, checkpoints.
    """
    from layershift.train import train as train_one

    _check(config)
    try:
        run = train_one(config, out, resume=resume, overwrite=overwrite, progress=not quiet)
    except KeyboardInterrupt:
        _say(f"What was measured is in {out / config.method / f'seed{config.seed}'}; --resume continues.", error=True)
        raise
    if run.state == "finished":
        _say("This run was finished already.")
    accuracy = f"{100 * run.test_accuracy:.2f}% ± {100 * run.test_stderr:.2f} (standard error, {run.n} samples)"
    _say(f"{config.method}, seed {config.seed}: test accuracy {accuracy}")
    _say(f"Everything is in {run.path}; layershift report {out} makes a page of it.")


def report(*, paths: list[Path], out: Path | None, title: str | None) -> None:
    """Make one page, which opens without a network, of the runs below some folders."""
    from layershift.report import write_report

    first = paths[0] if paths[0].is_dir() else paths[0].parent
    _say(f"Open {write_report(paths, (out or first) / 'report.html', title=title)} in a browser.")


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        arguments: without the program's name; those of this process if None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [_with_underscores(argument) for argument in given if argument != "--debug"]
    try:
        command, options = parse(given)
        command(**options)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, debug)
    except UsageError as error:
        return _fail(f"error: {error}", USAGE, debug)
    except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        return _fail(f"error: {error}", FAILED, debug)
    except SystemExit as error:  # help and version end like this, and SIGTERM
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        return _fail(f"error: {type(error).__name__}: {error} (--debug shows where)", FAILED, debug)
    return 0


def parse(arguments: Sequence[str]) -> tuple[Callable[..., None], dict[str, Any]]:
    """The command and its options.

    Raises:
        UsageError: if the arguments make no sense.
        ModuleNotFoundError: without jsonargparse; the message says how to install it.
        SystemExit: after help or version.
    """
    if list(arguments) == ["--version"]:  # works without any extra
        print(f"layershift {__version__}")
        raise SystemExit(0)
    parser, parsers = build()
    try:
        namespace = parser.parse_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(_usage(str(error))) from error
    options = dict(namespace[namespace.subcommand])
    command, fields = parsers[namespace.subcommand]
    if fields:
        from layershift.train.config import Config

        options["config"] = Config(**{name: options.pop(name) for name in fields})
    return command, options


def build() -> tuple[ArgumentParser, dict[str, tuple[Callable[..., None], list[str]]]]:
    """The parser, and for each command its function and the options that make its `Config`."""
    try:
        from jsonargparse import ArgumentParser
    except ModuleNotFoundError as error:
        message = 'jsonargparse is not installed; run: pip install "layershift[train]"'
        raise ModuleNotFoundError(message, name="jsonargparse") from error
    from layershift.train.config import Config, known_fields
    from layershift.train.methods import METHODS

    parser = ArgumentParser(
        prog="layershift",
        description="Measure, control and exploit the distributions of a network's layers.",
        epilog="layershift COMMAND --help explains a command. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.",
        exit_on_error=False,
        formatter_class=_formatter(),
    )
    parser.add_argument("--version", action="version", version=f"layershift {__version__}")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error; works after COMMAND too.")
    commands = parser.add_subcommands(required=True, metavar="COMMAND", title="commands")

    def add(command: Callable[..., None], skip: set[str] | None) -> ArgumentParser:
        text = (command.__doc__ or "").replace("\n    ", "\n")
        sub = ArgumentParser(description=text, exit_on_error=False)
        if skip is not None:
            sub.add_class_arguments(Config, as_group=False, skip=skip)
        fields = [] if skip is None else sorted(known_fields() - skip)
        commands.add_subcommand(command.__name__, sub, help=text.splitlines()[0])
        parsers[command.__name__] = (command, fields)
        return sub

    def add_flags(sub: ArgumentParser) -> None:
        sub.add_argument("--overwrite", action="store_true", help="Remove earlier runs from their folders first.")
        sub.add_argument("--quiet", action="store_true", help="Show no progress bar.")

    parsers: dict[str, tuple[Callable[..., None], list[str]]] = {}
    sub = add(demo, {"method", "seed"})
    sub.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="Which methods.")
    sub.add_argument("--seeds", type=int, default=3, help="How many seeds: 0, 1, … of each method.")
    sub.add_argument("--out", type=Path, default=Path("runs/demo"), help="The folder of runs, tables and report.")
    add_flags(sub)
    sub = add(train, set())
    sub.add_argument("--out", type=Path, default=Path("runs"), help="The run is put into OUT/METHOD/seedK.")
    sub.add_argument("--resume", action="store_true", help="Continue an interrupted run; leave a finished one.")
    add_flags(sub)
    sub = add(report, None)
    sub.add_argument("paths", nargs="+", type=Path, help="Stores, or folders with a run.db anywhere below them.")
    sub.add_argument(
        "--out", type=Path, help="The folder that report.html is written to. (default: the first of PATHS)"
    )
    sub.add_argument("--title", type=str, help="What the page is called. (default: made from the configuration)")
    sub = add(watch, None)
    sub.add_argument("path", type=Path, help="A store, or the folder of a run that holds a run.db.")
    sub.add_argument("--every", type=float, default=1.0, help="Seconds between two looks at the store.")
    sub.add_argument("--once", action="store_true", help="Print one table and exit.")
    sub.add_argument("--layers", nargs="+", type=str, default=["*"], help="Name patterns of layers to show.")
    sub.add_argument("--measures", nargs="+", type=str, help="Name patterns of measures. (default: what has room)")
    return parser, parsers


def _formatter() -> type[argparse.HelpFormatter]:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Help for people: the default, where there is one, and no Python types."""

        def _get_help_string(self, action: argparse.Action) -> str:
            if isinstance(action.default, list):
                return f"{action.help} (default: all)"
            shown = bool(action.option_strings) and not any(
                action.default is x for x in (None, False, argparse.SUPPRESS)
            )
            return (action.help or "") + " (default: %(default)s)" * shown

        def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
            if len(actions) > 6:  # a list of all options helps nobody to see how a command is written
                usage = self._prog.replace(" [options]", "") + " [OPTIONS]"
            super().add_usage(usage, actions, groups, prefix)

    return Formatter


def _check(config: Config) -> None:
    try:
        config.resolved()
    except ValueError as error:
        raise UsageError(str(error)) from error


def _with_underscores(argument: str) -> str:
    """Options may be written with dashes: ``--batch-size=2`` is ``--batch_size=2``."""
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def _usage(message: str) -> str:
    """A message of jsonargparse in one line, with the option's name as it is typed."""
    message = re.sub(r"^Parser key \"([\w.]+)\":", r"--\1:", " ".join(message.split()))
    message = message.replace("typing.Literal", "one of ")
    message = message.replace("Expected a one of", "expected one of").replace(
        ": Expected a", ": expected a number of type"
    )
    message = re.sub(r"<class '(\w+)'>", r"\1", message).replace(". Got value:", ", got")
    return (
        message.replace('expected "subcommand" to be one of', "expected a command, one of").rstrip(".") + "; see --help"
    )


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say("layershift: " + " ".join(message.split()), error=True)
    return code


def _say(text: str, *, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout, flush=True)


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


if __name__ == "__main__":
    sys.exit(main())
