"""Whether plain values, as YAML gives them, fit the types that a dataclass asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_types(record: Any) -> None:
    """Raise unless every field of a dataclass holds what its annotation says; a whole number is a number, too.

    Raises:
        ValueError: for the first that does not.
    """
    from layershift._checks import check

    hints = get_type_hints(type(record))
    for field in fields(record):
        value = getattr(record, field.name)
        check(fits(value, hints[field.name]), field.name, str(field.type), repr(value))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type.

    Example:
        >>> fits(1, float), fits("1", float), fits(True, int), fits([1, "a"], list[int]), fits(None, int | None)
        (True, False, False, False, True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)
