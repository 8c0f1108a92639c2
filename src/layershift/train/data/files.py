"""Files of data sets: where they lie, whether they are whole, and what to do if they are not there."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

Part: TypeAlias = tuple[Tensor, Tensor]
"""Images and their labels."""


class DataError(RuntimeError):
    """Data are absent or damaged; the message says which file and what to do."""


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is stored.

    Attributes:
        folders: where its files may lie, relative to the root; the first that has them all is read.
        train: names of the files of the training part, with the published MD5 of their content, unpacked; None if
            nobody published it.
        test: the same of the test part.
        parse: from paths and contents to images and labels.
    """

    folders: tuple[str, ...]
    train: Mapping[str, str | None]
    test: Mapping[str, str | None]
    parse: Callable[[Sequence[tuple[Path, bytes]]], Part]


def data_root(root: str | Path | None) -> Path:
    """The folder of data files: `root`, or $LAYERSHIFT_DATA, or layershift in the user's cache.

    Example:
        >>> data_root("data").as_posix()
        'data'
    """
    if root is not None:
        return Path(root).expanduser()
    if named := os.environ.get("LAYERSHIFT_DATA"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layershift"


def find_layout(root: Path, layouts: Sequence[Layout]) -> tuple[Layout, Path] | None:
    """The first layout that is complete under a root, and its folder."""
    for layout in layouts:
        for name in layout.folders:
            folder = root / name
            if all(_present(folder / file) for file in (*layout.train, *layout.test)):
                return layout, folder
    return None


def read_layout(layout: Layout, folder: Path, *, verify: bool) -> dict[str, Part]:
    """Both official parts.

    Raises:
        DataError: if a file is damaged, or not the published one although `verify` is on.
    """
    return {name: layout.parse(_read(folder, getattr(layout, name), verify)) for name in ("train", "test")}


def described(layouts: Sequence[Layout]) -> str:
    """Where files are looked for, in words.

    Example:
        >>> described([Layout(("a", ""), {"x": None}, {"y": None}, lambda files: None)])
        'x, y in a/ or the folder itself'
    """
    return "; or ".join(
        f"{', '.join((*layout.train, *layout.test))} in "
        + " or ".join(f"{name}/" if name else "the folder itself" for name in layout.folders)
        for layout in layouts
    )


def _present(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _read(folder: Path, files: Mapping[str, str | None], verify: bool) -> list[tuple[Path, bytes]]:
    contents = []
    for name, published in files.items():
        path = _present(folder / name)
        assert path is not None
        content = _unpacked(path)
        if (
            verify
            and published is not None
            and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != published
        ):
            raise DataError(
                f"{path}: its content has the MD5 {found}, published is {published}: the file is damaged or another; "
                "fetch it again, or read it as it is with verify=False"
            )
        contents.append((path, content))
    return contents


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a readable file ({error}); fetch it again") from error
