"""From what was typed to a recipe and a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layershift.commands.words import UsageError

if TYPE_CHECKING:
    from layershift.train.config import Config
    from layershift.train.recipe import Recipe


def find_recipe(name: str) -> Recipe:
    """A recipe by its name or file.

    Raises:
        UsageError: if there is none.
    """
    from layershift.train.recipe import load_recipe

    try:
        return load_recipe(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def configure(
    given: Mapping[str, Any],
    recipe: str | None = None,
    setting: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Config:
    """A configuration from a recipe, if there is one, the options that were given, and changes."""
    from layershift.train.config import Config

    try:
        values = {**given, **(changes or {})}
        if recipe is None:
            if setting is not None:
                raise UsageError(f"--setting: expected --recipe with it, got {setting!r} alone")
            return Config().changed(values).resolved()
        found = find_recipe(recipe)
        named = {key: values.pop(key) for key in ("method", "scale", "seed", "penalty_weight") if key in values}
        return (
            found.configure(
                named.get("method", next(iter(found.methods))),
                setting=setting or "",
                scale=named.get("scale", "laptop"),
                seed=named.get("seed", 0),
                weight=named.get("penalty_weight"),
            )
            .changed(values)
            .resolved()
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
