"""What all commands share: what they say, and how they read words of the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


class UsageError(Exception):
    """The command line makes no sense; the message says why."""


def say(text: str, *, error: bool = False) -> None:
    """Print a line."""
    print(text, file=sys.stderr if error else sys.stdout, flush=True)


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
