"""Properties that hold of every function of a catalogue to which they apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.properties.catalogue import Arguments, Catalogue, Entry, cast, fresh, function_of, tensors_of
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Properties:
    """The checks of one entry; each is given two sets of valid arguments of one size."""

    def __init__(self, module: ModuleType, catalogue: Catalogue, key: str) -> None:
        self.entry: Entry = catalogue[key]
        called = function_of(module, catalogue, key)
        self.function: Callable[..., Any] = lambda **arguments: called(**fresh(arguments))
        self.raw = called

    def all(self, given: Arguments, other: Arguments) -> None:
        self.finite_and_of_the_documented_dtype(given)
        self.arguments_stay(given)
        self.single_precision_is_near_double(given)
        self.a_batch_is_its_rows(given)
        self.the_order_of_samples_does_not_matter(given)
        self.gradients_are_differences(given)
        for law in self.entry.laws:
            law(self.function, given, other)

    def finite_and_of_the_documented_dtype(self, given: Arguments) -> None:
        for dtype in FLOATS if self.entry.half else FLOATS[2:]:
            wide = torch.promote_types(dtype, torch.float32)
            expected = {"wide": wide, "like": dtype, "float64": torch.float64}[self.entry.dtype]
            for result in tensors_of(self.function(**cast(given, dtype))):
                assert result.isfinite().all(), f"not finite in {dtype}: {result}"
                assert result.dtype == expected or not result.is_floating_point(), f"{result.dtype} of {dtype}"

    def arguments_stay(self, given: Arguments) -> None:
        arguments = fresh(given)
        self.raw(**arguments)
        for name in arguments.keys() - set(self.entry.writes):
            for now, before in zip(tensors_of(arguments[name]), tensors_of(given[name]), strict=True):
                assert torch.equal(now, before), f"{name} was changed"

    def single_precision_is_near_double(self, given: Arguments) -> None:
        tolerance = self.entry.single
        if tolerance is None:
            return
        rounded = cast(cast(given, torch.float32), torch.float64)  # so that both work on the same numbers
        exact, single = (tensors_of(self.function(**x)) for x in (rounded, cast(given, torch.float32)))
        for found, expected in zip(single, exact, strict=True):
            if found.is_floating_point():
                torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)

    def a_batch_is_its_rows(self, given: Arguments) -> None:
        if not self.entry.rows:
            return
        dim, whole = self.entry.row_dim, tensors_of(self.function(**given))
        for i in range(len(given[self.entry.rows[0]])):
            row = given | {name: given[name][i : i + 1] for name in self.entry.rows}
            for one, all_ in zip(tensors_of(self.function(**row)), whole, strict=True):
                torch.testing.assert_close(one, all_.narrow(dim, i, 1), rtol=1e-7, atol=1e-7)

    def the_order_of_samples_does_not_matter(self, given: Arguments) -> None:
        for moved in self.entry.symmetric:
            self._compare(self.function(**reordered(given, moved)), self.function(**given))
        for moved in self.entry.equivariant:
            (name, _), *_ = moved.items()
            order = order_of(len(given[name]))
            results = [x[order] for x in tensors_of(self.function(**given))]
            self._compare(self.function(**reordered(given, moved)), results)

    def gradients_are_differences(self, given: Arguments, step: float = 1e-6) -> None:
        """Along a random direction, of a random combination of all results that have a gradient."""
        names = self.entry.gradient
        if not names:
            return
        leaves = {name: given[name].clone().requires_grad_() for name in names}
        results = [x for x in tensors_of(self.function(**given | leaves)) if x.requires_grad]
        g = torch.Generator().manual_seed(0)
        weights = [torch.randn(x.shape, generator=g, dtype=x.dtype) for x in results]
        ways = {
            name: tangent(x.detach(), torch.randn(x.shape, generator=g, dtype=x.dtype)) for name, x in leaves.items()
        }
        found = torch.autograd.grad(results, list(leaves.values()), weights)
        slope = sum(float((gradient * ways[name]).sum()) for name, gradient in zip(leaves, found, strict=True))

        def at(distance: float) -> float:
            moved = {name: x.detach() + distance * ways[name] for name, x in leaves.items()}
            every = tensors_of(self.function(**given | {k: x.requires_grad_() for k, x in moved.items()}))
            there = [x for x in every if x.requires_grad]
            return sum(float((x.detach() * w).sum()) for x, w in zip(there, weights, strict=True))

        assert slope == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-4, abs=1e-5)

    def _compare(self, result: Any, expected: Any) -> None:
        pairs = zip(tensors_of(result), tensors_of(expected), strict=True)
        for there, here in islice(pairs, self.entry.compared):
            torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-7)


def order_of(n: int) -> Tensor:
    return torch.arange(n).roll(1).flip(0)


def reordered(given: Arguments, moved: Mapping[str, int]) -> Arguments:
    return given | {name: given[name].index_select(d, order_of(given[name].shape[d])) for name, d in moved.items()}


def tangent(x: Tensor, way: Tensor) -> Tensor:
    """A direction that keeps what an argument is: symmetric matrices symmetric, the masses of histograms."""
    if x.dim() >= 2 and x.shape[-1] == x.shape[-2] and torch.equal(x, x.mT):
        return (way + way.mT) / 2
    if x.dim() >= 1 and (x >= 0).all() and torch.allclose(x.sum(-1), x.new_ones(())):
        return way - way.mean(-1, keepdim=True)
    return way
