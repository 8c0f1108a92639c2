"""Tables that formulas need and that depend on sizes alone: made once, of plain tensors, whoever asks first."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

_Arguments = ParamSpec("_Arguments")
_Table = TypeVar("_Table")


def kept(maxsize: int) -> Callable[[Callable[_Arguments, _Table]], Callable[_Arguments, _Table]]:
    """Keep what a function of sizes, dtypes and devices returns, as `functools.lru_cache` does.

    The first call may come in inference mode, or from `torch.export`, which runs a network on tensors without numbers.
    What is kept must serve training too, so both are off while a table is made. A size that an exported graph leaves
    open is no number: of such the table is made anew, as a part of the graph.

    Args:
        maxsize: how many tables are kept.

    Returns:
        A decorator.

    Example:
        >>> @kept(maxsize=4)
        ... def squares(n):
        ...     return torch.arange(n).square()
        >>> squares(3) is squares(3)
        True
    """

    def decorate(make: Callable[_Arguments, _Table]) -> Callable[_Arguments, _Table]:
        @lru_cache(maxsize=maxsize)
        def made(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Table:
            with torch.inference_mode(False), _disable_current_modes():
                return make(*arguments, **options)

        @wraps(make)
        def table(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Table:
            is_open = any(isinstance(size, torch.SymInt) for size in (*arguments, *options.values()))
            return (make if is_open else made)(*arguments, **options)  # type: ignore[arg-type]

        return table

    return decorate


def constant(function: Callable[_Arguments, _Table]) -> Callable[_Arguments, _Table]:
    """Let a compiled graph hold what a function returns: `torch.compiler.assume_constant_result`.

    That one imports the compiler, which takes two seconds, to set a mark that the compiler looks for; here is the mark.

    Args:
        function: of sizes, dtypes and devices.

    Returns:
        The same function.
    """
    marked: Any = function
    marked._dynamo_marked_constant = True
    return function
