"""The command line: `layershift COMMAND`, of demo, train, recipes, reproduce, probe, exits, flow, report and watch.

What the commands do is in `layershift.commands`; jsonargparse reads the options of a run from
`layershift.train.config.Config`.

Exit codes: 0 done, 1 it failed, 2 the command line makes no sense, 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from layershift._version import __version__
from layershift.commands import UsageError, demo, exits, flow, probe, recipes, report, reproduce, say, train, watch

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

FAILED, USAGE, INTERRUPTED = 1, 2, 130


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
    if fields:  # a recipe fills in what was not given, so defaults must not pass for given values
        given = parser.parse_args(list(arguments), defaults=False)[namespace.subcommand]
        options["given"] = {name: given[name] for name in fields if name in given}
        options = {name: value for name, value in options.items() if name not in fields}
    return command, options


def build() -> tuple[ArgumentParser, dict[str, tuple[Callable[..., None], list[str]]]]:
    """The parser, and for each command its function and the options that make its `Config`."""
    try:
        from jsonargparse import ArgumentParser
    except ModuleNotFoundError as error:
        message = 'jsonargparse is not installed; run: pip install "layershift[train]"'
        raise ModuleNotFoundError(message, name="jsonargparse") from error
    from layershift.train.config import Config, ScaleName, known_fields
    from layershift.train.grid import ALL_METHODS
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
    sub.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(ALL_METHODS), help="Which methods.")
    sub.add_argument("--seeds", type=int, default=3, help="How many seeds: 0, 1, … of each method.")
    sub.add_argument("--out", type=Path, default=Path("runs/demo"), help="The folder of runs, tables and report.")
    add_flags(sub)
    sub = add(train, set())
    sub.add_argument("changes", nargs="*", type=str, help="Values by name, such as model_options.depth=56.")
    sub.add_argument("--recipe", type=str, help="A row of a table: the name of a recipe, or a file of one's own.")
    sub.add_argument("--setting", type=str, help="Which of the recipe's settings. (default: the first)")
    sub.add_argument("--out", type=Path, default=Path("runs"), help="The run is put into OUT/METHOD/seedK.")
    sub.add_argument("--resume", action="store_true", help="Continue an interrupted run; leave a finished one.")
    add_flags(sub)
    sub = add(recipes, None)
    sub.add_argument("names", nargs="*", type=str, help="Recipes to show; all are listed, if none is named.")
    sub = add(reproduce, None)
    sub.add_argument("name", type=str, help="The recipe, such as 1/table1, or a file of one's own.")
    sub.add_argument("changes", nargs="*", type=str, help="Values for all runs by name, such as epochs=3.")
    sub.add_argument("--scale", type=ScaleName, default="laptop", help="smoke (seconds), laptop, or paper.")
    sub.add_argument("--out", type=Path, help="The folder of runs and tables. (default: runs/NAME-SCALE)")
    sub.add_argument("--methods", nargs="+", type=str, default=[], help="Only these methods.")
    sub.add_argument("--settings", nargs="+", type=str, default=[], help="Only these settings.")
    sub.add_argument("--seeds", type=int, help="How many seeds. (default: by scale)")
    sub.add_argument("--data_root", type=str, help="The folder of data files that are there already.")
    sub.add_argument(
        "--workers",
        type=int,
        help="How many runs at a time, each in a process of its own (default: 1, on a cluster as many as fit).",
    )
    sub.add_argument("--cluster", type=str, help="Address of a Ray cluster that the runs are sent to.")
    add_flags(sub)
    sub = add(probe, None)
    _probe_options(sub, ScaleName)
    sub = add(exits, None)
    _exits_options(sub)
    sub = add(flow, None)
    sub.add_argument("--figure", type=int, choices=[1, 2, 3], help="A figure of the paper.")
    sub.add_argument("--theorem", type=int, choices=[2, 4, 5], help="A theorem of the paper.")
    sub.add_argument("--scale", type=ScaleName, default="laptop", help="smoke (seconds), laptop, or paper.")
    sub.add_argument("--seed", type=int, default=0, help="Of the first start; others follow it.")
    sub.add_argument("--out", type=Path, help="The folder of flow.json and report.html. (default: runs/flow-NAME)")
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


def _probe_options(sub: ArgumentParser, scale: Any) -> None:
    from layershift.functional.label_transport import LabelMethod

    words = "The folder of a run that layershift train made; data=… for other data; without a folder model=… data=…"
    sub.add_argument("words", nargs="*", type=str, help=words)
    sub.add_argument("--out", type=Path, default=Path("runs/probe"), help="The folder of tables and report.")
    sub.add_argument("--scale", type=scale, default="laptop", help="Passes over the features: smoke 4, 40, paper 100.")
    sub.add_argument("--checkpoint", choices=["last", "best"], default="last", help="Which weights of the run.")
    sub.add_argument("--layers", nargs="+", type=str, default=[], help="Names or patterns. (default: by the network)")
    heads = ["network", "head"]
    sub.add_argument("--output", choices=heads, default="network", help="Layer output: the network's own, or a head.")
    sub.add_argument("--pool", choices=["average", "flatten"], default="average", help="How maps become features.")
    sub.add_argument("--loss", choices=["bce", "cross_entropy"], default="bce", help="What classifiers are trained by.")
    sub.add_argument("--epochs", type=int, help="Passes over the features. (default: by scale)")
    sub.add_argument("--learning_rate", type=float, default=0.01, help="Of the classifiers, at the start.")
    sub.add_argument("--batch_size", type=int, default=128, help="Samples in a batch of the classifiers' training.")
    sub.add_argument("--seed", type=int, default=0, help="Of the classifiers' weights and of the order of samples.")
    costs = ["embeddings", "cooccurrence", "zero_one"]
    sub.add_argument("--cost", choices=costs, help="Between labels. (default: embeddings if known, else zero_one)")
    sub.add_argument("--embeddings", type=Path, help="A .npy file with a vector for each label, shape (K, d).")
    distances = ["auto", "chebyshev", "jensen_shannon"]
    text = f"Distances to the target, the main one first. (default: {' '.join(distances)})"
    sub.add_argument("--methods", nargs="+", choices=list(get_args(LabelMethod)), default=distances, help=text)
    sub.add_argument("--cache", action="store_true", help="Keep features on disk, in OUT/features.")
    sub.add_argument("--overwrite", action="store_true", help="Remove an earlier probe from OUT first.")
    sub.add_argument("--quiet", action="store_true", help="Show no progress bar.")


def _exits_options(sub: ArgumentParser) -> None:
    from layershift.probe.rules import RULES
    from layershift.probe.search import Objective

    sub.add_argument("folder", type=Path, help="The folder of a finished probe.")
    sub.add_argument(
        "--rules", nargs="+", choices=list(RULES), default=[], help="Kinds of rule. (default: those for the task)"
    )
    sub.add_argument("--objective", choices=list(get_args(Objective)), default="accuracy", help="What is to be large.")
    sub.add_argument("--within", type=float, help="Take the cheapest rule that loses at most this share of it.")
    sub.add_argument("--layers", nargs="+", type=str, default=[], help="Where samples may leave.")
    sub.add_argument("--save", type=Path, help="A file for the network that stops early, by the first rule.")


def _formatter() -> type[argparse.HelpFormatter]:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Help for people: the default, where there is one, and no Python types."""

        def _get_help_string(self, action: argparse.Action) -> str:
            if "(default:" in (action.help or ""):
                return action.help or ""
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


def _with_underscores(argument: str) -> str:
    """Options may be written with dashes: ``--batch-size=2`` is ``--batch_size=2``."""
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def _usage(message: str) -> str:
    """A message of jsonargparse in one line, with the option's name as it is typed."""
    message = re.sub(r"^Parser key \"([\w.]+)\":", r"--\1:", " ".join(message.split()))
    message = message.replace("typing.Literal", "one of ")
    several = r"Does not validate .* Subtypes: \[(.*?)\] Errors: .* Given value: (.*)"
    message = re.sub(several, lambda m: f"expected {m[1].replace('NoneType', 'None')}, got {m[2]}", message)
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
    say("layershift: " + " ".join(message.split()), error=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
