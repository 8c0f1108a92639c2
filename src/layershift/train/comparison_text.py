"""A recipe's table in Markdown."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence

from layershift.train.comparison import Cell, Comparison, Judged, published_number
from layershift.train.recipe import Column
from layershift.train.tables import Spread, pm

NOTES = {
    "grid": "Mean ± standard deviation over n runs with different seeds; published values as printed in the paper.",
    "cost": "Median [quartiles] of n steps, the methods' steps in turn; published values as printed in the paper.",
}


def markdown(table: Comparison) -> str:
    """The table with its claims, its notes and its command."""
    recipe, columns = table.recipe, table.recipe.columns
    several = len(recipe.settings) > 1
    weighted = any(cell.weight is not None for cell in table.cells)
    printed = [any(not math.isnan(_published(table, cell, i)) for cell in table.cells) for i in range(len(columns))]
    titles = [*["setting"] * several, "method", *["λ"] * weighted, "n"]
    for column, known in zip(columns, printed, strict=True):
        titles += [column.title, *["published"] * known]
    lines = [f"# {recipe.name}: {recipe.title}", "", _scale(table), "", *_head(titles)]
    for cell in table.cells:
        row = [*[cell.setting] * several, recipe.title_of(cell.method), *[_weight(cell)] * weighted, str(runs_of(cell))]
        for i, column in enumerate(columns):
            row += [
                (ours if recipe.kind == "grid" else quartiles)(cell, i, column),
                *[_number(_published(table, cell, i), column.places)] * printed[i],
            ]
        lines.append(_row(row))
    lines += ["", NOTES[recipe.kind], *_searched(table), *_missing(table), *_claims(table)]
    return "\n".join([*lines, *_command(table), ""])


def count(table: Comparison) -> str:
    """How many claims agree, disagree and are undecided."""
    if not table.judged:
        return "No claim was judged."
    verdicts = [judged.verdict for judged in table.judged]
    found = [f"{verdicts.count(v)} {word}" for v, word in _WORDS.items() if v in verdicts]
    return f"Of {len(verdicts)} comparisons {', '.join(found)}."


_WORDS = {"agrees": "agree", "disagrees": "disagree", "undecided": "are undecided"}


def runs_of(cell: Cell) -> int:
    """How many runs a cell rests on."""
    return max(len(values) for values in cell.values)


def ours(cell: Cell, index: int, column: Column) -> str:
    """Mean ± standard deviation of the finite numbers, and how many runs came to none, if any did."""
    values = cell.values[index]
    spread = Spread.of(filter(math.isfinite, values))
    lost = len(values) - spread.n
    return pm(spread, column.places) + (f" ({lost} of {len(values)} not finite)" if lost else "")


def quartiles(cell: Cell, index: int, column: Column) -> str:
    """Median [first quartile, third quartile]."""
    low, middle, high = statistics.quantiles(cell.values[index], n=4, method="inclusive")
    return f"{middle:.{column.places}f} [{low:.{column.places}f}, {high:.{column.places}f}]"


def _published(table: Comparison, cell: Cell, column: int) -> float:
    return published_number(table.recipe, cell.setting, cell.method, column)


def _scale(table: Comparison) -> str:
    """The scale, and what it changes: a reader must see what was not run as published."""
    changed = table.recipe.scales.get(table.scale, {})
    if not changed:
        return f"Scale: {table.scale}."
    return f"Scale: {table.scale}, which changes the published setting: `{json.dumps(changed, ensure_ascii=False)}`."


def _claims(table: Comparison) -> list[str]:
    if not table.judged:
        return []
    rows = [_row(_claim(table, judged)) for judged in table.judged]
    lines = ["", "## Claims", "", *_head(["claim", "published difference", "ours [95 % interval]", "verdict"]), *rows]
    note = "Better minus other; Welch's interval for the difference of the means, each for itself."
    return [*lines, "", f"{note} {count(table)}"]


def _claim(table: Comparison, judged: Judged) -> list[str]:
    recipe, column = table.recipe, table.recipe.columns[judged.column]
    where = f"{judged.setting}: " if judged.setting else ""
    what = f", {column.title}" if len(recipe.columns) > 1 else ""
    claim = f"{where}{recipe.title_of(judged.better)} {column.better} than {recipe.title_of(judged.than)}{what}"
    value, low, high = (_number(number, column.places, sign="+") or "–" for number in judged.found)
    interval = "" if math.isnan(judged.found.lower) else f" [{low}, {high}]"
    verdict = "undecided at this scale" if judged.verdict == "undecided" else judged.verdict
    return [claim, _number(judged.published, column.places, sign="+") or "–", value + interval, verdict]


def _searched(table: Comparison) -> list[str]:
    most = max((cell.searched for cell in table.cells), default=0)
    how = f"λ: the best of up to {most} on the validation data with the first seed; the test data had no part in it."
    return ["", how] if most > 1 else []


def _missing(table: Comparison) -> list[str]:
    """Each reason once, with all settings that it holds for."""
    settings: dict[str, list[str]] = {}
    for setting, why in table.missing.items():
        settings.setdefault(why, []).append(setting or "all")
    return [line for why, names in settings.items() for line in ("", f"Not run: {'; '.join(names)}. {why}")]


def _command(table: Comparison) -> list[str]:
    return ["", "```console", f"$ {table.command}", "```"] if table.command else []


def _head(titles: Sequence[str]) -> list[str]:
    return [_row(titles), "|" + " --- |" * len(titles)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _weight(cell: Cell) -> str:
    return "" if cell.weight is None else f"{cell.weight:g}"


def _number(number: float, places: int, sign: str = "") -> str:
    """A number; nothing for one that is not known, and no minus before zeros."""
    return "" if math.isnan(number) else f"{round(number, places) + 0.0:{sign}.{places}f}"
