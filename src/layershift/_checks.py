"""One wording for every argument error: which argument, what was expected, what came.

Checks read shapes, dtypes and Python values only, never a tensor's contents, so that none of them waits for a GPU.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import ModuleType, NoneType
from typing import NoReturn, cast

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
    if isinstance(value, (list, dict, set, Tensor)) or value not in choices:  # these cannot all be looked up
        fail(argument, "one of " + ", ".join(map(repr, choices)), value if isinstance(value, Tensor) else repr(value))


def check_type(argument: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise ``TypeError`` unless ``value`` is an instance of ``kinds``.

    Example:
        >>> check_type("model", "resnet18", torch.nn.Module, "a module")
        Traceback (most recent call last):
        ...
        TypeError: model: expected a module, got 'resnet18'
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{argument}: expected {expected}, got {_short(value)}")


def check_number(
    argument: str,
    value: object,
    expected: str = "a finite number",
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Raise unless ``value`` is a finite number in a range: ``TypeError`` for what is no number, else ``ValueError``.

    Example:
        >>> check_number("p", 1.0, "a number in [0, 1)", least=0, below=1)
        Traceback (most recent call last):
        ...
        ValueError: p: expected a number in [0, 1), got 1.0
    """
    if type(value) is not float and type(value) is not int:  # what `Real` holds takes longer to look up
        check_type(argument, value, Real, expected)
    number = float(value)  # type: ignore[arg-type]
    if not (least <= number <= most and above < number < below):
        fail(argument, expected, value)


def check_count(argument: str, value: object, expected: str = "a whole number, 1 or more", *, least: int = 1) -> None:
    """Raise unless ``value`` is a whole number that is not below ``least``; 2.0 is none.

    Example:
        >>> check_count("epochs", "3")
        Traceback (most recent call last):
        ...
        TypeError: epochs: expected a whole number, 1 or more, got '3'
    """
    check_type(argument, value, Integral, expected)
    assert isinstance(value, Integral)
    if value < least:
        fail(argument, expected, value)


def check_items(argument: str, values: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise ``TypeError`` unless ``values`` is a sequence, or a mapping, of instances of ``kinds``; text is none.

    Example:
        >>> check_items("layers", ["relu", 3], str, "names of layers")
        Traceback (most recent call last):
        ...
        TypeError: layers: expected names of layers, got 3
    """
    check_type(argument, values, () if isinstance(values, str) else (Sequence, Mapping), expected)
    for item in values.values() if isinstance(values, Mapping) else cast("Sequence[object]", values):
        check_type(argument, item, kinds, expected)


def check_patterns(argument: str, patterns: object) -> None:
    """Raise ``TypeError`` unless ``patterns`` is a shell pattern, or a sequence of them."""
    check_items(argument, [patterns] if isinstance(patterns, str) else patterns, str, "a pattern, or several")


def check_seed(argument: str, value: object) -> None:
    """Raise unless ``value`` is a whole number that generators and `derive_seed` take: from 0, in 64 bits."""
    check_count(argument, value, "a whole number, 0 or more", least=0)


def check_path(argument: str, path: object) -> None:
    """Raise ``TypeError`` unless ``path`` is text or a path."""
    check_type(argument, path, (str, PathLike), "a path")


def check_file(argument: str, path: object) -> None:
    """Raise unless ``path`` is that of a file: ``FileNotFoundError``, if there is none.

    Example:
        >>> check_file("path", "nowhere/outputs.npz")
        Traceback (most recent call last):
        ...
        FileNotFoundError: path: expected a file, there is none at nowhere/outputs.npz
    """
    check_path(argument, path)
    if not Path(cast("str", path)).is_file():
        raise FileNotFoundError(f"{argument}: expected a file, there is none at {path}")


@contextmanager
def blaming(argument: str, expected: str) -> Iterator[None]:
    """What a user's network or function cannot do with ``argument`` is an error about that, and tells PyTorch's words.

    Example:
        >>> with blaming("x", "inputs that the network takes"):
        ...     _ = torch.nn.Linear(3, 2)(torch.zeros(5, 4))
        Traceback (most recent call last):
        ...
        ValueError: x: expected inputs that the network takes; RuntimeError: ...
    """
    try:
        yield
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        ours = trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("layershift.")
        if ours or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(f"{argument}: expected {expected}; {type(error).__name__}: {error}") from error


def check_tensor(argument: str, x: object) -> None:
    """Raise ``TypeError`` unless ``x`` is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument}: expected a tensor, got {type(x).__name__}")


def check_floating(argument: str, x: Tensor, beside: Tensor | None = None) -> None:
    """Raise unless ``x`` is a tensor of real floating point numbers, on the device of the one that it stands beside."""
    check_tensor(argument, x)
    if not x.is_floating_point():
        raise TypeError(f"{argument}: expected a floating point tensor, got {x.dtype}")
    if beside is not None and x.device != beside.device:
        fail(argument, f"a tensor on {beside.device}, as the others", f"one on {x.device}")


def check_same_kind(argument: str, x: Tensor, beside: Tensor) -> None:
    """Raise unless both are floating point tensors of one dtype on one device."""
    check_floating(argument, x, beside)
    if x.dtype != beside.dtype:
        raise TypeError(f"{argument}: expected {beside.dtype}, as the inputs have, got {x.dtype}")


def check_real(
    argument: str,
    value: float | Tensor,
    expected: str = "a finite number or a tensor",
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    ranks: Collection[int] | None = None,
) -> None:
    """Raise unless ``value`` is a number in a range, or a tensor of real numbers, which are not read.

    Example:
        >>> check_real("t", 1j, "a positive number or a tensor", above=0)
        Traceback (most recent call last):
        ...
        TypeError: t: expected a positive number or a tensor, got complex
    """
    if not isinstance(value, Tensor):
        check_number(argument, value, expected, least=least, above=above, most=most)
    elif value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{argument}: expected {expected}, got {value.dtype}")
    elif ranks is not None and value.dim() not in ranks:
        fail(argument, expected, value)


def check_samples(argument: str, x: Tensor, beside: Tensor | None = None) -> None:
    """Raise unless ``x`` is a table of samples in rows, on the device of the one that it stands beside."""
    check_floating(argument, x, beside)
    check_rank(argument, x, (2,), "(N, d)")
    check_not_empty(argument, x)


def check_broadcast(argument: str, x: Tensor, shape: Sequence[int]) -> None:
    """Raise unless ``x`` broadcasts with a shape."""
    for own, other in zip(reversed(x.shape), reversed(shape), strict=False):
        if own != other and own != 1 and other != 1:
            fail(argument, f"a shape that broadcasts with {tuple(shape)}", x)


def check_readable(argument: str, x: Tensor) -> None:
    """Raise unless ``x`` has numbers that can be read: tensors on the device "meta" have none."""
    check_tensor(argument, x)
    if x.is_meta:
        fail(argument, "a tensor with numbers", f"one on {x.device}")


def check_generator(argument: str, generator: object) -> None:
    """Raise ``TypeError`` unless ``generator`` is one, or None for the global one."""
    check_type(argument, generator, (torch.Generator, NoneType), "a torch.Generator or None")


def check_device(argument: str, device: object) -> None:
    """Raise unless ``device`` names one, or is None for the default."""
    expected = "a device or None"
    check_type(argument, device, (str, torch.device, NoneType), expected)
    try:
        torch.device(device or "cpu")  # type: ignore[call-overload]
    except RuntimeError:
        fail(argument, expected, repr(device))


def check_dtype(argument: str, dtype: object) -> None:
    """Raise ``TypeError`` unless ``dtype`` is a floating point one, or None for the default."""
    expected = "a floating point dtype or None"
    check_type(argument, dtype, (torch.dtype, NoneType), expected)
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise TypeError(f"{argument}: expected {expected}, got {dtype}")


def check_rank(argument: str, x: Tensor, ranks: Collection[int], shape: str) -> None:
    """Raise unless ``x`` has one of ``ranks`` dimensions; ``shape`` is how the documentation writes them."""
    check_tensor(argument, x)
    if x.dim() not in ranks:
        fail(argument, f"a tensor of shape {shape}", x)


def check_not_empty(argument: str, x: Tensor) -> None:
    """Raise unless ``x`` has at least one element."""
    check_tensor(argument, x)
    if x.numel() == 0:
        fail(argument, "at least one sample", f"an empty tensor of shape {tuple(x.shape)}")


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The dtype that statistics of ``x`` accumulate in: float32, or float64 for float64 input.

    Example:
        >>> accumulation_dtype(torch.zeros(1, dtype=torch.float16))
        torch.float32
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def accumulated(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the widest of the dtypes that their statistics accumulate in.

    Example:
        >>> accumulated(torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float64))
        (tensor([0.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
    return tuple(x.to(dtype) for x in tensors)


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


def _short(value: object) -> str:
    """What a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, str | float | int | type | None) else type(value).__name__
