"""Plain values, as configurations and recipes are made of: one laid over another, compared, read from YAML, written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping over another, mappings inside them likewise; None takes an entry away.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}, "d": 4}, {"a": {"c": 3}, "d": None})
        {'a': {'b': 1, 'c': 3}}
    """
    result = dict(old or {})
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
            continue
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations, in words.

    Example:
        >>> differences({"seed": 0, "epochs": 3}, {"seed": 1, "epochs": 3})
        ['seed (asked for 0, found 1)']
    """
    keys = dict.fromkeys((*wanted, *found))
    missing = "nothing"
    pairs = {key: (wanted.get(key, missing), found.get(key, missing)) for key in keys}
    return [f"{key} (asked for {a}, found {b})" for key, (a, b) in pairs.items() if a != b]


def save_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping of plain values, in its order."""
    import yaml

    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping of plain values, safely.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # text that is not UTF-8 among them
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping, got {type(values).__name__}")
    return values


def parse_yaml(text: str) -> Any:
    """A plain value, safely.

    Raises:
        ValueError: if it is not YAML.

    Example:
        >>> parse_yaml("1e-3"), parse_yaml("[1, two]")
        (0.001, [1, 'two'])
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except Exception as error:  # of many types: an integer without digits is an IndexError
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=1)
def _loader() -> Any:
    """YAML's safe loader, to which 1e-3 is a number too, not a text."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = dict(yaml.SafeLoader.yaml_implicit_resolvers)
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader
