"""What became of a fault, and how outcomes are counted.

A case is *right* if it ended in the correct result, and *refused* if it ended in an error of ours that names what is
wrong. It *failed* if anything else came: an error of a dependency, a missing alarm, a wrong result that could have been
noticed. Damage to a file whose format has no checksums may read as other, equally possible content: that is counted as
*altered*, not as survived. *Lost* are records that were acknowledged before the fault and are not there after it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import layershift

SOURCE = Path(layershift.__file__).resolve().parent


@dataclass
class Counts:
    """How the cases of a fault ended.

    Attributes:
        right: in the correct result.
        refused: in an error of ours that names the thing.
        altered: in content that is not what was written, where the format cannot tell.
        failed: in anything else.
        lost: records that were acknowledged and are gone.
        how: how the fault was made on this machine, where there are several ways.
        notes: the first failures, in words.
    """

    right: int = 0
    refused: int = 0
    altered: int = 0
    failed: int = 0
    lost: int = 0
    how: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """All cases."""
        return self.right + self.refused + self.altered + self.failed

    @property
    def survived(self) -> int:
        """Cases that ended in a correct result or in an error of ours."""
        return self.right + self.refused

    def __add__(self, other: Counts) -> Counts:
        numbers = {name: getattr(self, name) + getattr(other, name) for name in NUMBERS}
        return Counts(**numbers, how=self.how or other.how, notes=[*self.notes, *other.notes])

    def fail(self, note: str) -> None:
        """One more that failed, and why."""
        self.failed += 1
        self.notes.append(note)


NUMBERS = ("right", "refused", "altered", "failed", "lost")


def is_ours(error: BaseException, names: str = "") -> bool:
    """Whether an error was raised by layershift itself, or by Python about a file, and names the thing.

    A ValueError of a dependency is not ours only because of its type: what counts is who raised it.
    """
    if names not in str(error) or not str(error):
        return False
    if isinstance(error, OSError) and error.filename is not None:
        return True
    frames = traceback.extract_tb(error.__traceback__)
    own = bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(SOURCE)
    return own and isinstance(error, RuntimeError | ValueError | TypeError)


@contextmanager
def judged(
    counts: Counts, what: str, names: str = "", *, must_refuse: bool = False, may_refuse: bool = True
) -> Iterator[None]:
    """Count one case: the block's end is right, an error of ours is refused, another failed.

    Args:
        counts: where it is counted.
        what: the case, for the note.
        names: what the message must contain.
        must_refuse: whether a block that comes to its end has failed.
        may_refuse: whether an error of ours is one of the right ends.
    """
    try:
        yield
    except AssertionError as error:
        counts.fail(f"{what}: {error or 'an assertion'}")
    except Exception as error:
        if may_refuse and is_ours(error, names):
            counts.refused += 1
            return
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind, text = type(error), " ".join(str(error).split())[:200]
        counts.fail(f"{what}: {kind.__module__}.{kind.__name__}: {text} ({where.filename}:{where.lineno})")
    else:
        if must_refuse:
            counts.fail(f"{what}: was not refused")
        else:
            counts.right += 1


def same(a: Any, b: Any) -> bool:
    """Equality, to which NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


Fault = Callable[[int, bool], Counts]
"""From a seed, and whether the full form is wanted, to the counts."""
