"""Laws that functions obey: of distances, of units, of ranges. Each makes a check for an entry of a catalogue."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from tests.properties.catalogue import Arguments, Law, tensors_of
from torch import Tensor

Names = tuple[str, ...]
Function = Callable[..., Any]


def first(result: Any) -> Tensor:
    return tensors_of(result)[0]


def close(actual: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def distance(x: str | Names, y: str | Names, *, triangle: bool = True) -> Law:
    """Never negative, 0 between equals, the same both ways, and no longer than any detour."""
    x, y = ((names,) if isinstance(names, str) else names for names in (x, y))

    def law(function: Function, given: Arguments, other: Arguments) -> None:
        def between(u: list[Tensor], v: list[Tensor]) -> Tensor:
            return first(function(**given | dict(zip(x, u, strict=True)) | dict(zip(y, v, strict=True))))

        u, v, detour = ([source[name] for name in names] for source, names in ((given, x), (given, y), (other, x)))
        assert (between(u, v) >= -1e-9).all()
        close(between(u, u), torch.zeros_like(between(u, u)), 1e-5)
        close(between(u, v), between(v, u))
        if triangle:
            assert (between(u, v) <= between(u, detour) + between(detour, v) + 1e-6).all()

    return law


def homogeneous(degree: float, *names: str) -> Law:
    """In other units, 1.7 of which are one of the old, the result is 1.7 to that power as large."""

    def law(function: Function, given: Arguments, other: Arguments) -> None:
        scaled = function(**given | {name: 1.7 * given[name] for name in names})
        for there, here in zip(tensors_of(scaled), tensors_of(function(**given)), strict=True):
            close(there, here * 1.7**degree)

    return law


def free(scale: float, shift: float, *names: str, tolerance: float = 1e-5) -> Law:
    """All named arguments in other units, from another origin: the result is the same."""

    def law(function: Function, given: Arguments, other: Arguments) -> None:
        moved = function(**given | {name: scale * given[name] + shift for name in names})
        for there, here in zip(tensors_of(moved), tensors_of(function(**given)), strict=True):
            close(there, here, tolerance)

    return law


def within(low: float, high: float = math.inf) -> Law:
    """Every number of the first result is in a range."""

    def law(function: Function, given: Arguments, other: Arguments) -> None:
        value = first(function(**given))
        assert ((value >= low - 1e-9) & (value <= high + 1e-9)).all(), value

    return law


def ordered(function: Function, given: Arguments, other: Arguments) -> None:
    """Results are in ascending order: a lower bound, what it bounds, an upper bound."""
    for lower, upper in zip(*(tensors_of(function(**given))[i:] for i in (0, 1)), strict=False):
        assert (lower <= upper + 1e-9).all()


def above(bounded: Function, *names: str) -> Law:
    """The result is nowhere below another function of some of the arguments."""

    def law(function: Function, given: Arguments, other: Arguments) -> None:
        assert (first(function(**given)) >= first(bounded(*(given[name] for name in names))) - 1e-9).all()

    return law


def below(bounding: Function, *names: str) -> Law:
    """The result is nowhere above another function of some of the arguments."""

    def law(function: Function, given: Arguments, other: Arguments) -> None:
        assert (first(function(**given)) <= first(bounding(*(given[name] for name in names))) + 1e-9).all()

    return law


def undone(inverse: Function, argument: str) -> Law:
    """Another function, called with the result in place of an argument and all others, gives the argument."""

    def law(function: Function, given: Arguments, other: Arguments) -> None:
        rest = [value for name, value in given.items() if name != argument]
        close(inverse(function(**given), *rest), given[argument])

    return law


def unit_rows(function: Function, given: Arguments, other: Arguments) -> None:
    """Rows of the result have length 1."""
    length = torch.linalg.vector_norm(first(function(**given)), dim=-1)
    close(length, torch.ones_like(length), 1e-5)


def sums_to_one(function: Function, given: Arguments, other: Arguments) -> None:
    """Rows of the result are distributions."""
    value = first(function(**given))
    assert (value >= 0).all()
    close(value.sum(-1), torch.ones_like(value.sum(-1)))


def zero_diagonal(function: Function, given: Arguments, other: Arguments) -> None:
    """The result is a table of costs: symmetric, nowhere negative, 0 from a label to itself."""
    value = first(function(**given))
    assert (value >= 0).all()
    assert (value.diagonal() == 0).all()
    assert torch.equal(value, value.mT)
