"""Whether a comparison of a paper holds in runs of one's own: an interval for the difference of two means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

Verdict: TypeAlias = Literal["agrees", "disagrees", "undecided"]

LEVEL = 0.95


class Difference(NamedTuple):
    """The difference of two means and its confidence interval.

    Attributes:
        value: mean of the first minus mean of the second.
        lower: end of the interval; NaN if either has fewer than two values.
        upper: likewise.
    """

    value: float
    lower: float
    upper: float


def difference(first: Sequence[float], second: Sequence[float], *, level: float = LEVEL) -> Difference:
    r"""Welch's interval for the difference of two means.

    $\bar x - \bar y \pm t_{\nu}\sqrt{s_x^2/n + s_y^2/m}$ with the degrees of freedom ν of Welch and Satterthwaite. It
    takes the runs as independent and does not use that runs with the same seed share their initial weights.

    Args:
        first: a number for each run.
        second: likewise.
        level: of confidence.

    Returns:
        The difference; without an interval, if a side has fewer than two values.

    References:
        B. L. Welch, 1947, "The generalization of 'Student's' problem when several different population variances are
        involved".

    Example:
        >>> difference([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])._asdict()
        {'value': -4.0, 'lower': -6.26..., 'upper': -1.73...}
    """
    value = _mean(first) - _mean(second)
    if min(len(first), len(second)) < 2:
        return Difference(value, math.nan, math.nan)
    parts = [_variance(side) / len(side) for side in (first, second)]
    whole = sum(parts)
    if whole == 0:
        return Difference(value, value, value)
    from scipy.stats import t  # comes with scikit-learn, which the extra "train" brings

    freedom = 1 / sum((p / whole) ** 2 / (len(s) - 1) for p, s in zip(parts, (first, second), strict=True))
    half = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(whole)
    return Difference(value, value - half, value + half)


def judge(found: Difference, *, better: Literal["lower", "higher"]) -> Verdict:
    """Whether the first is better than the second, as was claimed.

    Args:
        found: first minus second.
        better: whether less or more is better.

    Returns:
        "agrees" if the whole interval lies on the claimed side of 0, "disagrees" if it lies on the other, "undecided"
        if it holds 0 or there is none.

    Example:
        >>> judge(Difference(-1.0, -1.5, -0.5), better="lower"), judge(Difference(-1.0, -3.0, 1.0), better="lower")
        ('agrees', 'undecided')
    """
    sign = 1 if better == "lower" else -1
    low, high = sorted((sign * found.lower, sign * found.upper))
    if high < 0:
        return "agrees"
    return "disagrees" if low > 0 else "undecided"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
