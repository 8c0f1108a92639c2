"""Bad arguments, one at a time: what a call is spoiled with, and what an error of ours looks like."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

import layershift

OURS = str(Path(layershift.__file__).parent)
ERRORS = (ValueError, TypeError, RuntimeError, OSError)
"""What the library raises; the command line prints these in one line."""
NOTHING: Mapping[str, str] = MappingProxyType({})
Legal: TypeAlias = dict[str, dict[str, str]]
"""By call: spoils that are good, as "argument, argument: spoil, spoil", and why."""
ZERO = "0 is in the range, and turns it off"
SIZES = "a sample may have any size"
TRUTH = "whole numbers tell truth values too"
NONE = "there may be none"
NAME = "any text is a name"
LATER = "what it is for comes later"


class Call(NamedTuple):
    """A call that works.

    Attributes:
        call: what is called; with keyword arguments alone.
        arguments: good ones, all of which are spoiled; flags are not, as anything is true or false.
        legal: spoils that are good too, as "argument, argument: spoil, spoil", and why.
        fixed: arguments that stay as they are.
        called: what an error calls an argument, where that is what a user wrote it as.
    """

    call: Callable[..., object]
    arguments: Mapping[str, Any]
    legal: Mapping[str, str] = NOTHING
    fixed: Mapping[str, Any] = NOTHING
    called: Mapping[str, str] = NOTHING


def spoils(value: Any) -> dict[str, Any]:
    """Bad values in place of a good one, by what they are."""
    if isinstance(value, bool):
        return {}
    wrong: dict[str, Any] = {"None": None, "a string": "no such thing", "an int": 7}
    if isinstance(value, Tensor):
        bad = {"integers": value.long(), "complex": value + 0j, "a scalar": value.flatten()[0], "empty": value[:0]}
        return (
            wrong
            | bad
            | {"six dimensions": value.reshape(1, 1, 1, 1, 1, -1), "twice as wide": torch.cat([value] * 2, -1)}
        )
    if isinstance(value, Path):
        return {"None": None, "an int": 7, "missing": Path("missing"), "junk": Path("junk"), "empty": Path("empty")}
    numbers = {"None": None, "a string": "7", "negative": -1, "NaN": float("nan"), "infinite": float("inf")}
    if isinstance(value, int):
        return numbers | {"zero": 0, "a fraction": 2.5, "a tensor": torch.ones(2)}
    if isinstance(value, float):
        return numbers | {"zero": 0.0, "a tensor": torch.ones(2)}
    if isinstance(value, str):
        return wrong | {"a tensor": torch.ones(2), "a list": []}
    if isinstance(value, Mapping):
        return wrong | {"empty": {}, "nothing inside": {"no such thing": None}}
    if isinstance(value, list | tuple):
        return wrong | {"empty": [], "nothing inside": [None]}
    if isinstance(value, nn.Module):
        return wrong | {"a class": nn.Linear}
    return wrong


def failures(name: str, case: Call, more: Mapping[str, Any] = NOTHING) -> Iterator[str]:
    """Spoiled calls that neither raise an error of ours nor are legal; and legal ones that do not work."""
    case.call(**case.arguments, **case.fixed)
    legal = {f"{a}: {s}": why for key, why in case.legal.items() for a in _names(key, 0) for s in _names(key, 1)}
    unused = set(legal)
    for argument, good in case.arguments.items():
        for spoil, bad in (spoils(good) | dict(more)).items():
            place = f"{argument}: {spoil}"
            unused.discard(place)
            named = [argument, case.called.get(argument, argument)]
            if isinstance(good, Tensor):  # of two tensors that do not fit either may be named
                named += case.arguments
            if isinstance(good, Path) or (
                isinstance(good, list) and good and isinstance(good[0], Path)
            ):  # a file has a name
                named += [str(bad)]
            told = _told(lambda: case.call(**{**case.arguments, argument: bad}, **case.fixed), named)  # noqa: B023
            if place in legal:
                if told != "":
                    yield f"{name}({place}) is legal, since {legal[place]}: {told}"
            elif told == "" and not (bad is None and takes_none(case.call, argument)):
                yield f"{name}({place}) was taken"
            elif told not in ("", "ours"):
                yield f"{name}({place}): {told}"
    yield from (f"{name}: there is no {place}" for place in unused)


def _names(key: str, part: int) -> list[str]:
    return key.split(": ")[part].split(", ")


def _told(call: Callable[[], object], names: list[str]) -> str:
    """Nothing if a call works, "ours" if its error is ours and says one of the names, else the error."""
    try:
        call()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        inside = frame.filename.startswith(OURS)
        named = any(re.search(rf"\b{re.escape(name)}\b", str(error)) for name in names)
        if inside and named and isinstance(error, ERRORS):
            return "ours"
        return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:150]}"
    return ""


def takes_none(call: Callable[..., object], argument: str) -> bool:
    """Whether the signature says that an argument may be None."""
    found = inspect.signature(call).parameters.get(argument)
    return found is not None and (found.default is None or "None" in str(found.annotation))


def for_all(calls: Iterable[str], legal: dict[str, str]) -> Legal:
    """The same for several calls."""
    return dict.fromkeys(calls, legal)
