"""What a catalogue of public functions is made of: valid arguments, drawn at random, and what is true of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from types import ModuleType
from typing import Any, TypeAlias

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_map_only

Arguments: TypeAlias = dict[str, Any]
Law: TypeAlias = Callable[[Callable[..., Any], Arguments, Arguments], None]
"""Called with the function and two sets of valid arguments of one size; it asserts."""


SIZES: Mapping[str, tuple[int, int]] = {"B": (1, 3), "N": (4, 7), "M": (4, 7), "D": (2, 4), "K": (2, 5)}
"""Rows of a batch; samples, enough of them for every statistic; other samples; dimensions; labels or kernels."""


class Draw:
    """Numbers and tensors that a strategy chooses; a size, such as `draw.N`, is the same in all that is drawn."""

    def __init__(self, choose: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.choose = choose
        self.count = count()  # no two tensors are the same, however simple the example

    def __getattr__(self, name: str) -> int:
        setattr(self, name, self.choose(st.integers(*SIZES[name])))
        return getattr(self, name)

    def any_of(self, *values: Any) -> Any:
        return self.choose(st.sampled_from(values))

    def number(self, low: float, high: float) -> float:
        return self.choose(st.floats(low, high))

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.choose(st.integers(0, 2**20)) * 1000 + next(self.count))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.generator())

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=self.generator())

    def histograms(self, *shape: int) -> Tensor:
        return torch.softmax(self.normal(*shape), -1)

    def covariance(self, *shape: int) -> Tensor:
        x = self.normal(*shape, shape[-1])
        return x @ x.mT / shape[-1] + 0.3 * torch.eye(shape[-1], dtype=x.dtype)

    def metric(self, k: int) -> Tensor:
        """Distances of random points: costs that make transport a metric."""
        x = self.normal(k, 3)
        return torch.linalg.vector_norm(x[:, None] - x, dim=-1)


@dataclass(frozen=True)
class Entry:
    """A public function, how to call it, and what is true of it.

    Attributes:
        draw: valid arguments by name, tensors in float64.
        call: how to call it, where the name alone does not say.
        rows: arguments that hold a batch in their first dimension; the result of a batch is its rows' results.
        row_dim: the dimension of the result that holds the batch.
        symmetric: arguments and the dimension of their samples, whose order does not matter.
        equivariant: the same, where the result comes in the new order, along its first dimension.
        gradient: arguments that it is differentiable by.
        dtype: of the result: "wide" is float32 or better, "like" that of the input, "float64" always that.
        half: whether inputs of 16 bits are taken.
        single: how far float32 is from float64, as a share; None where numbers are not comparable.
        laws: what else holds.
        compared: how many of the results must be the same, if not all: a standard error of a solution that is not
            unique is not.
        writes: arguments that are changed in place, as documented.
    """

    draw: Callable[[Draw], Arguments]
    call: Callable[..., Any] | None = None
    rows: tuple[str, ...] = ()
    row_dim: int = 0
    symmetric: tuple[Mapping[str, int], ...] = ()
    equivariant: tuple[Mapping[str, int], ...] = ()
    gradient: tuple[str, ...] = ()
    dtype: str = "wide"
    half: bool = True
    single: float | None = 1e-4
    laws: tuple[Law, ...] = ()
    compared: int | None = None
    writes: tuple[str, ...] = ()


Catalogue: TypeAlias = Mapping[str, Entry]


def function_of(module: ModuleType, catalogue: Catalogue, key: str) -> Callable[..., Any]:
    """What an entry calls; a key may end in "/" and words that tell several entries of a name apart."""
    return catalogue[key].call or getattr(module, key.split("/")[0])


def pairs(entry: Entry) -> st.SearchStrategy[tuple[Arguments, Arguments]]:
    """Two independent sets of arguments of one size."""

    @st.composite
    def drawn(choose: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[Arguments, Arguments]:
        source = Draw(choose)
        first = entry.draw(source)
        return first, {**first, **{k: v for k, v in entry.draw(source).items() if tensors_of(v)}}

    return drawn()


def missing(module: ModuleType, *lists: Mapping[str, Any]) -> set[str]:
    """Public names that no list holds, and names in a list that are not public."""
    return set(module.__all__) ^ {key.split("/")[0] for names in lists for key in names}


def tensors_of(value: Any) -> list[Tensor]:
    """Every number of a result, as tensors: of tuples, lists, mappings and objects with named fields."""
    return list(_numbers(value))


def _numbers(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, float | int):
        yield torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)


def cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """All real tensors in another dtype, those inside of tuples and lists too."""
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x.clone(), arguments)


def fresh(arguments: Arguments) -> Arguments:
    """Copies of all tensors, and generators that start anew."""
    copies = tree_map_only(Tensor, Tensor.clone, arguments)
    return {k: torch.Generator().manual_seed(0) if isinstance(v, torch.Generator) else v for k, v in copies.items()}
