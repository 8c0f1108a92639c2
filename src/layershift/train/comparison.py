"""A recipe's table: what the runs came to beside what was published, and whether the claims hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layershift.train.recipe import Claim, Recipe
from layershift.train.verdict import Difference, Verdict, difference, judge


class Cell(NamedTuple):
    """What one method came to in one setting.

    Attributes:
        setting: the title of the setting.
        method: its name in the recipe.
        weight: the λ of its penalty, None if it has none.
        searched: how many λ were compared on validation data.
        values: for each column, a number a run.
        stores: of these runs, without those of a λ that was not chosen; none where nothing was trained.
    """

    setting: str
    method: str
    weight: float | None
    searched: int
    values: Sequence[Sequence[float]]
    stores: Sequence[Path] = ()


class Judged(NamedTuple):
    """One comparison of a claim.

    Attributes:
        setting: where.
        column: the position of the column.
        better: the method that is claimed to be better.
        than: the one it is compared with.
        published: the published difference, better minus than; NaN if it was not published.
        found: ours, with its interval.
        verdict: what follows.
    """

    setting: str
    column: int
    better: str
    than: str
    published: float
    found: Difference
    verdict: Verdict


class Comparison(NamedTuple):
    """A whole table.

    Attributes:
        recipe: what was run.
        scale: at which scale.
        cells: row by row.
        judged: the claims.
        missing: settings that were not run, and why.
        command: how to get it again.
    """

    recipe: Recipe
    scale: str
    cells: Sequence[Cell]
    judged: Sequence[Judged]
    missing: Mapping[str, str]
    command: str


def judge_claims(recipe: Recipe, cells: Sequence[Cell], scale: str) -> list[Judged]:
    """Every comparison that the recipe's claims make, in every setting that was run.

    There is none at the scale "smoke", whose networks and data are others than the claims'.
    """
    if scale == "smoke":
        return []
    found = {(cell.setting, cell.method): cell for cell in cells}
    return [
        _compare(recipe, claim, found[setting, claim.better], found[setting, than])
        for claim in recipe.claims
        for setting in claim.settings or recipe.settings
        for than in claim.than
        if (setting, claim.better) in found and (setting, than) in found
    ]


def _compare(recipe: Recipe, claim: Claim, first: Cell, second: Cell) -> Judged:
    sides = [[v for v in cell.values[claim.column] if math.isfinite(v)] for cell in (first, second)]
    apart = difference(*sides) if all(sides) else Difference(math.nan, math.nan, math.nan)
    if any(len(side) < len(cell.values[claim.column]) for side, cell in zip(sides, (first, second), strict=True)):
        apart = Difference(apart.value, math.nan, math.nan)  # those that are left say nothing about the lost ones
    published = [published_number(recipe, cell.setting, cell.method, claim.column) for cell in (first, second)]
    better = recipe.columns[claim.column].better
    assert better in ("lower", "higher"), "a claim needs a column that says what is better"
    verdict = judge(apart, better="lower" if better == "lower" else "higher")
    return Judged(first.setting, claim.column, first.method, second.method, published[0] - published[1], apart, verdict)


def published_number(recipe: Recipe, setting: str, method: str, column: int) -> float:
    """What was published, NaN where nothing was."""
    numbers = recipe.published.get(setting, {}).get(method, ())
    number = numbers[column] if column < len(numbers) else None
    return math.nan if number is None else float(number)


def as_data(table: Comparison) -> dict[str, Any]:
    """The table as plain values for JSON; None where a number is not known."""
    recipe = table.recipe
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "scale": table.scale,
        "command": table.command,
        "columns": [vars(column) for column in recipe.columns],
        "cells": [
            {
                "setting": cell.setting,
                "method": cell.method,
                "weight": cell.weight,
                "searched": cell.searched,
                "values": [[plain(v) for v in values] for values in cell.values],
                "published": [
                    plain(published_number(recipe, cell.setting, cell.method, i)) for i in range(len(recipe.columns))
                ],
            }
            for cell in table.cells
        ],
        "claims": [
            {**judged._asdict(), "published": plain(judged.published), "found": [plain(v) for v in judged.found]}
            for judged in table.judged
        ],
        "missing": dict(table.missing),
    }


def plain(number: float) -> float | None:
    """A number as JSON has it."""
    return number if math.isfinite(number) else None
