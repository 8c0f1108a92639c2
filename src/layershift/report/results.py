"""What an experiment leaves in its folder: one JSON object, read with care."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Results:
    """The content of a file of results.

    Attributes:
        folder: where it lies.
        content: what it holds.
    """

    folder: Path
    content: Mapping[str, Any]

    def rows(self, key: str) -> list[dict[str, Any]]:
        """A table; empty if there is none."""
        return [dict(row) for row in self.content.get(key) or ()]

    def mapping(self, key: str) -> dict[str, Any]:
        """An object; empty if there is none."""
        return dict(self.content.get(key) or {})


def read_content(folder: str | Path, name: str, *, form: str, absent: str) -> tuple[Path, dict[str, Any]]:
    """Read a file of results.

    Args:
        folder: where it lies, or the file itself.
        name: of the file.
        form: what it must say under `format`.
        absent: what an error says of a missing file.

    Returns:
        The file's path and what it holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    path = place_of(folder, name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {absent}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise ValueError(f"{path}: expected an object with the format {form!r}")
    return path, content


def place_of(folder: str | Path, name: str) -> Path:
    """A file of this name in a folder, or the file itself."""
    path = Path(folder)
    return path / name if path.is_dir() else path


@contextmanager
def showing(path: Path) -> Iterator[None]:
    """Making a page of a file's content, which may be any JSON: an error names the file.

    Raises:
        ValueError: if the content is such that no page can be made of it.
    """
    try:
        yield
    except (ImportError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever code may raise that is given a list for a number, or no key
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path}: the content is not of the documented form ({reason})") from error


def numeric(value: Any) -> float:
    """A number; NaN for null and what is none.

    Example:
        >>> numeric(2), numeric(None)
        (2.0, nan)
    """
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
