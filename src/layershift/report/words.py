"""Numbers and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layershift.report.series import Spread


def pm(spread: Spread, places: int | None = None) -> str:
    """Mean ± standard deviation.

    Args:
        spread: the numbers over runs.
        places: digits after the point; two digits of the standard deviation if None.

    Example:
        >>> pm(Spread.of([97.1, 97.9])), pm(Spread.of([97.1, 97.9]), 1), pm(Spread.of([0.12345]))
        ('97.50 ± 0.57', '97.5 ± 0.6', '0.123')
    """
    if spread.n == 0:
        return "–"
    if not math.isfinite(spread.mean):
        return "not finite"
    if not math.isfinite(spread.sd) or (spread.sd <= 1e-9 * abs(spread.mean) and places is None):
        return number(spread.mean)
    digits = decimals(spread.sd) if places is None else places
    return f"{spread.mean:.{digits}f} ± {spread.sd:.{digits}f}"


def decimals(sd: float) -> int:
    """How many digits after the point show two digits of a standard deviation."""
    return min(max(1 - math.floor(math.log10(sd)), 0), 6)


def number(value: float, digits: int = 3) -> str:
    """A number for people: a few digits, no exponent unless it is needed.

    Example:
        >>> number(0.51234), number(12345.6), number(float("nan")), number(1.5e-7)
        ('0.512', '12,346', '–', '1.50e-07')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "not finite"
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e7:
        return f"{value:.{digits - 1}e}"
    size = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(digits - 1 - size, 0)}f}"


def duration(seconds: float) -> str:
    """A time, in ms below a second.

    Example:
        >>> duration(0.0123), duration(2.5)
        ('12.3 ms', '2.50 s')
    """
    return f"{number(1000 * seconds)} ms" if seconds < 1 else f"{number(seconds)} s"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def count(n: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "seed"), count(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
