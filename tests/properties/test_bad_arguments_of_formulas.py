"""Every argument of every public function, spoiled in every way that fits it: an error of ours names it, or it works.

What works although it looks spoiled is written down in the catalogue, as `LEGAL`, and must go on to work.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.properties.catalogue import Arguments, Draw, fresh, function_of, tensors_of
from tests.properties.dynamics_entries import DYNAMICS
from tests.properties.dynamics_entries import LEGAL as OTHERS_LEGAL
from tests.properties.functional_entries import FUNCTIONAL, LEGAL
from torch import Tensor

import layershift
from layershift import dynamics, functional

PACKAGE = str(Path(layershift.__file__).parent)
CATALOGUES = {"functional": (functional, FUNCTIONAL, LEGAL), "dynamics": (dynamics, DYNAMICS, OTHERS_LEGAL)}
KEYS = [(room, key) for room, (_, catalogue, _) in CATALOGUES.items() for key in catalogue]
SIZES = {"B": 2, "N": 6, "M": 7, "D": 3, "K": 4}
MISMATCHES = ("longer", "empty", "rank", "scalar", "meta", "single")
"""Spoils of one argument that may as well be told of another, which it does not fit any more."""


class Typical(Draw):
    """Draws without chance, of sizes that all differ; each turn takes another choice."""

    def __init__(self, turn: int) -> None:
        super().__init__(lambda strategy: 0)
        self.turn = turn

    def __getattr__(self, name: str) -> int:
        return SIZES[name]

    def any_of(self, *values: Any) -> Any:
        return values[self.turn % len(values)]

    def number(self, low: float, high: float) -> float:
        return (low + high) / 2


def spoils(value: Any, shared: set[int]) -> Iterator[tuple[str, Any]]:
    """Bad values in place of a good one, by name; a size is wrong where something else shares it."""
    if value is None or isinstance(value, bool):
        return
    yield "none", None
    yield "text", "no such thing"
    yield "complex", value + 0j if isinstance(value, Tensor) else 1j
    if isinstance(value, Tensor):
        yield "number", 3
        yield "list", [value]
        yield "integers", value.long() if value.is_floating_point() else value.double() + 0.5
        yield "booleans", value > 0
        yield "single", value.float() if value.is_floating_point() else value.int()
        yield "meta", value.to("meta")
        yield "rank more", value[None]
        for dim in range(value.dim()):
            yield f"empty {dim}", value.narrow(dim, 0, 0)
            if value.shape[dim] in shared:
                yield f"longer {dim}", torch.cat([value, value.narrow(dim, 0, 1)], dim)
        if value.dim():
            yield "rank less", value[0]
            yield "scalar", value.flatten()[0]
        return
    yield "tensor", torch.ones(2)
    if isinstance(value, int | float):
        numbers = {"nan": math.nan, "infinite": math.inf, "minus infinite": -math.inf, "negative": -1.0, "zero": 0.0}
        if isinstance(value, int):
            numbers |= {"negative": -1, "zero": 0, "fraction": value + 0.5}
        yield from numbers.items()
        return
    yield "number", 7.5
    yield "list", []
    if isinstance(value, torch.dtype):
        yield "integers", torch.int64


def told(function: Callable[..., Any], spoiled: Arguments, argument: str, spoil: str) -> str:
    """Nothing if a call works, "ours" if its error is ours and names the argument, else what is wrong with it."""
    names = "|".join(spoiled) if spoil.startswith(MISMATCHES) else argument
    try:
        function(**fresh(spoiled))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).replace("\n", " ")
        ours = isinstance(error, TypeError | ValueError) and frame.filename.startswith(PACKAGE)
        if ours and re.match(rf"[\w, ]*\b({names})\b[^:]*: expected .*, got ", text):
            return "ours"
        return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {text[:110]}"
    return ""


def allowed(function: Callable[..., Any], argument: str) -> set[str]:
    """What may be given for an argument after all: by its annotation."""
    found = inspect.signature(function).parameters.get(argument)
    words = "" if found is None else str(found.annotation)
    by_annotation = {"none": "None", "number": "float", "tensor": "Tensor"}
    return {spoil for spoil, word in by_annotation.items() if re.search(rf"\b{word}\b", words)} | {"single", "meta"}


def wrong(room: str, key: str) -> Iterator[str]:
    module, catalogue, takes = CATALOGUES[room]
    entry, function = catalogue[key], function_of(module, catalogue, key)
    legal = {(name, spoil) for name, all_ in takes.get(key, {}).items() for spoil in all_.split(", ")}
    unused = set(legal)
    for turn in (0, 1):
        given = entry.draw(Typical(turn))
        sizes = Counter(size for value in given.values() for x in tensors_of(value) for size in x.shape)
        for argument, good in given.items():
            fine = allowed(function, argument)
            shared = {size for size, times in sizes.items() if times > 1}
            for spoil, bad in spoils(good, shared):
                answer = told(function, given | {argument: bad}, argument, spoil)
                if answer == "":
                    unused.discard((argument, spoil))
                    if spoil not in fine and (argument, spoil) not in legal:
                        yield f"{argument}: {spoil} was taken"
                elif answer != "ours":
                    yield f"{argument}: {spoil} gave {answer}"
    yield from (f"{argument}: {spoil} is not taken" for argument, spoil in unused)


@pytest.mark.parametrize(("room", "key"), KEYS)
@pytest.mark.filterwarnings("ignore")
def test_each_spoiled_argument_is_named(room, key) -> None:
    found = list(dict.fromkeys(wrong(room, key)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        ("figure", 7),
        ("figure", "no such thing"),
        ("figure", []),
        ("scale", 3),
        ("seed", "x"),
        ("seed", -1),
        ("out", None),
    ],
)
def test_an_experiment_is_not_begun_with_a_bad_argument(argument, bad, tmp_path) -> None:
    """Each takes seconds, so that not every spoil is tried."""
    given = {"figure": 1, "scale": "smoke", "seed": 0, "out": tmp_path / "out", argument: bad}
    assert told(dynamics.run_flow, given, argument, "") == "ours"
    assert not (tmp_path / "out").exists()
