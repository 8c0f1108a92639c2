"""What an experiment on batch normalisation's geometry leaves in its folder, read as a plain file.

`flow.json` is one object. A key that is missing, null or empty is left out of the page; only `kind`, `number` and
`title` must be there. Numbers that are not finite are null.

| key | what it holds |
| --- | --- |
| `format` | "layershift flow, version 1" |
| `written` | the time, ISO 8601 |
| `versions` | by package |
| `seconds` | how long it took |
| `about` | more facts by name: plain values; `command` has a place of its own |
| `kind`, `number` | "figure" or "theorem", and which one of the paper |
| `title`, `statement` | what the page is called, and what the paper says |
| `settings` | everything that was chosen, by name: plain values or lists of them |
| `claims` | rows `claim, expected, value, spread, n, holds, note`: `spread` is a standard deviation or null, `holds` |
| | true, false, or null for a number without a verdict |
| `plots` | rows `key, title, x_title, y_title, curves, log, note`; `log` names the logarithmic axes, as "xy" |
| … `curves` | rows `name, x, y, error, look`: `error` is a list or null, `look` "line", "points" or "theory" |
| `rings` | rows `title, iterations, groups`: by a group's name as many lists of angles, in radians, as iterations |
| `shown` | iterations that stand side by side; all of them make the animation |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "layershift flow, version 1"


@dataclass(frozen=True)
class Flow:
    """The content of `flow.json`.

    Attributes:
        folder: where it lies.
        content: what it holds.
    """

    folder: Path
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Which figure or theorem, and what it is called."""
        return f"{str(self.content['kind']).capitalize()} {self.content['number']}: {self.content['title']}"

    def rows(self, key: str) -> list[dict[str, Any]]:
        """A table; empty if there is none."""
        return [dict(row) for row in self.content.get(key) or ()]

    def mapping(self, key: str) -> dict[str, Any]:
        """An object; empty if there is none."""
        return dict(self.content.get(key) or {})

    @property
    def groups(self) -> list[str]:
        """Names of the groups of neurons in all rings, in order."""
        return list(dict.fromkeys(str(name) for ring in self.rows("rings") for name in ring.get("groups") or {}))


def read_flow(folder: str | Path) -> Flow:
    """Read `flow.json`.

    Args:
        folder: where it lies, or the file itself.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    path = Path(folder)
    path = path / "flow.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no results of a figure or theorem; “layershift flow” writes them")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged, not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: expected an object with the format {FORMAT!r}")
    for key in ("kind", "number", "title"):
        if content.get(key) in (None, ""):
            raise ValueError(f"{path}: expected something under {key!r}")
    return Flow(path.parent, content)


def numeric(value: Any) -> float:
    """A number; NaN for null and what is none.

    Example:
        >>> numeric(2), numeric(None)
        (2.0, nan)
    """
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
