"""Welch's interval: SciPy's, right as often as it says, and a verdict in every case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from layershift.train.verdict import Difference, difference, judge

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=2, max_size=8)


@given(samples, samples)
def test_the_interval_is_that_of_scipy(first: list[float], second: list[float]) -> None:
    found = difference(first, second)
    assert found.value == pytest.approx(np.mean(first) - np.mean(second), abs=1e-9)
    if len(set(first)) == len(set(second)) == 1:  # SciPy has none without spread
        assert found.lower == found.value == found.upper
        return
    low, high = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    scale = max(map(abs, (*first, *second)))
    assert found.lower == pytest.approx(low, rel=1e-8, abs=1e-8 * scale)
    assert found.upper == pytest.approx(high, rel=1e-8, abs=1e-8 * scale)


@given(samples, samples)
def test_sides_are_exchanged_by_a_change_of_sign(first: list[float], second: list[float]) -> None:
    one, other = difference(first, second), difference(second, first)
    assert (one.value, one.lower, one.upper) == pytest.approx((-other.value, -other.upper, -other.lower), abs=1e-9)


def test_numbers_of_any_size_have_an_interval() -> None:
    tiny = difference([1e-150, 2e-150, 3e-150], [5e-150, 6e-150, 7e-150])
    plain = difference([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    assert tiny == pytest.approx([1e-150 * number for number in plain], rel=1e-9, abs=0)


def test_one_run_has_no_interval_and_decides_nothing() -> None:
    found = difference([1.0], [2.0, 3.0])
    assert found.value == -1.5
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)
    assert judge(found, better="lower") == judge(found, better="higher") == "undecided"


@pytest.mark.parametrize("unequal", [False, True])
def test_intervals_miss_no_difference_in_one_of_twenty(unequal: bool) -> None:
    """Calibration: under equal means, with equal and with unequal spreads and sizes, 5 % of the verdicts are wrong."""
    random = np.random.default_rng(0)
    sizes, spreads = ((5, 9), (1.0, 3.0)) if unequal else ((5, 5), (1.0, 1.0))
    draws = 4000
    verdicts = [
        judge(
            difference(*(list(random.normal(0, sd, n)) for n, sd in zip(sizes, spreads, strict=True))), better="lower"
        )
        for _ in range(draws)
    ]
    wrong = draws - verdicts.count("undecided")
    assert abs(wrong / draws - 0.05) < 4 * math.sqrt(0.05 * 0.95 / draws)
    assert verdicts.count("agrees") == pytest.approx(wrong / 2, abs=4 * math.sqrt(wrong / 4))


def test_a_higher_level_widens_the_interval() -> None:
    sides = [1.0, 2.0, 3.0], [2.0, 4.0, 4.5]
    narrow, wide = difference(*sides, level=0.5), difference(*sides, level=0.99)
    assert wide.lower < narrow.lower < narrow.value < narrow.upper < wide.upper


@pytest.mark.parametrize(
    ("interval", "lower", "higher"),
    [
        ((-1.5, -0.5), "agrees", "disagrees"),
        ((0.5, 1.5), "disagrees", "agrees"),
        ((-0.5, 1.5), "undecided", "undecided"),
        ((0.0, 1.0), "undecided", "undecided"),
        ((-1.0, 0.0), "undecided", "undecided"),
        ((0.0, 0.0), "undecided", "undecided"),
        ((-math.inf, math.inf), "undecided", "undecided"),
        ((math.nan, math.nan), "undecided", "undecided"),
    ],
)
def test_verdicts(interval: tuple[float, float], lower: str, higher: str) -> None:
    found = Difference(sum(interval) / 2, *interval)
    assert judge(found, better="lower") == lower
    assert judge(found, better="higher") == higher
