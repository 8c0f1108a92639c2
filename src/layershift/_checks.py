"""One wording for every argument error: which argument, what was expected, what came.

Checks read shapes, dtypes and Python values only, never a tensor's contents, so that none of them waits for a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from types import ModuleType
from typing import NoReturn

import torch
from torch import Tensor


def check(condition: bool, argument: str, expected: str, got: object) -> None:
    """Raise ``ValueError("argument: expected …, got …")`` unless ``condition`` holds; of a tensor, its shape is told.

    Example:
        >>> check(3 > 5, "eps", "a positive number", -1)
        Traceback (most recent call last):
        ...
        ValueError: eps: expected a positive number, got -1
    """
    if not condition:
        fail(argument, expected, got)


def fail(argument: str, expected: str, got: object) -> NoReturn:
    """Raise the error of `check`: where words must be composed, only a failure should pay for it."""
    came = f"shape {tuple(got.shape)}" if isinstance(got, Tensor) else got
    raise ValueError(f"{argument}: expected {expected}, got {came}")


def check_choice(argument: str, value: object, choices: Collection[object]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        fail(argument, "one of " + ", ".join(map(repr, choices)), repr(value))


def check_floating(argument: str, x: Tensor) -> None:
    """Raise ``TypeError`` unless ``x`` is a tensor of real floating point numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument}: expected a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{argument}: expected a floating point tensor, got {x.dtype}")


def check_rank(argument: str, x: Tensor, ranks: Collection[int], shape: str) -> None:
    """Raise unless ``x`` has one of ``ranks`` dimensions; ``shape`` is how the documentation writes them."""
    if x.dim() not in ranks:
        fail(argument, f"a tensor of shape {shape}", x)


def check_not_empty(argument: str, x: Tensor) -> None:
    """Raise unless ``x`` has at least one element."""
    if x.numel() == 0:
        fail(argument, "at least one sample", f"an empty tensor of shape {tuple(x.shape)}")


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The dtype that statistics of ``x`` accumulate in: float32, or float64 for float64 input.

    Example:
        >>> accumulation_dtype(torch.zeros(1, dtype=torch.float16))
        torch.float32
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Import a module of an optional extra, or say how to install it.

    Example:
        >>> import_extra("no_such_module", extra="report")
        Traceback (most recent call last):
        ...
        ModuleNotFoundError: no_such_module is not installed; run: pip install "layershift[report]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ModuleNotFoundError(
            f'{module} is not installed; run: pip install "layershift[{extra}]"', name=module
        ) from error
