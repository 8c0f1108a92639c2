"""A recipe's whole grid: data, the search for λ on validation data, all seeds, the table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layershift._checks import check
from layershift.train.comparison import Cell, Comparison, as_data, judge_claims
from layershift.train.comparison_text import markdown
from layershift.train.config import Config, ScaleName
from layershift.train.display import sweep_shown
from layershift.train.folder import folder_of
from layershift.train.recipe import Recipe, load_recipe
from layershift.train.run import Run, read_records
from layershift.train.statistics import last, read_statistic

Sweep = Callable[[Sequence[Config]], list[Run]]


def reproduce(
    name: str | Path | Recipe,
    out: str | Path,
    *,
    scale: ScaleName = "laptop",
    changes: Mapping[str, Any] | None = None,
    methods: Sequence[str] = (),
    settings: Sequence[str] = (),
    seeds: int | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
    command: str = "",
) -> Comparison:
    """Run a table or a figure of a paper, and compare.

    Runs that are in the folder already are kept, interrupted ones continue, so the same command goes on where it was
    stopped. Where a method's λ is a list, each is tried with the first seed, and the one with the best validation
    result after the last epoch is kept for all seeds. Settings whose data are not there are left out, and the table
    says so.

    Args:
        name: of a recipe, the path of a file, or a recipe.
        out: the folder of its runs; `table.md` and `table.json` are written to it.
        scale: how much is computed.
        changes: values that all runs share instead of the recipe's, see `Config.changed`.
        methods: only these.
        settings: only these.
        seeds: how many; by the recipe's scale, if None.
        workers: how many runs at a time, each in a process of its own; by default one, on a cluster as many as fit.
        cluster: address of a Ray cluster, instead of this machine.
        overwrite: remove earlier runs first.
        progress: show what is done.
        command: how this was called, for the table.

    Returns:
        The table.

    Raises:
        ValueError: if the recipe or a change makes no sense.
        DataError: if none of its data are there.
        RunError: if the folder holds runs of another configuration.
    """
    from layershift._checks import check_choice
    from layershift.train.data.files import DataError

    recipe = name if isinstance(name, Recipe) else load_recipe(name)
    for method in methods:
        check_choice("methods", method, tuple(recipe.methods))
    for setting in settings:
        check_choice("settings", setting, tuple(recipe.settings))
    for key in changes or {}:
        given = key.partition(".")[0] in _OF_THE_GRID
        check(not given, "changes", "values that a recipe's runs can share, not what tells them apart", repr(key))
    count = recipe.seeds_at(scale) if seeds is None else seeds
    check(count >= 1, "seeds", "at least 1", count)
    grid = Grid(recipe, scale, dict(changes or {}))
    wanted, missing = _at_hand(grid, settings or tuple(recipe.settings))
    if not wanted:
        raise DataError("; ".join(dict.fromkeys(missing.values())))

    def run(configs: Sequence[Config]) -> list[Run]:
        return sweep_shown(configs, out, workers=workers, cluster=cluster, progress=progress)

    if recipe.kind == "cost":
        return _write(
            Comparison(
                recipe, scale, cells := _costs(grid, methods), judge_claims(recipe, cells, scale), missing, command
            ),
            out,
        )
    places = [(setting, method) for setting in wanted for method in methods or recipe.methods]
    if overwrite:
        _clear(grid, places, count, out)
    cells = _cells(grid, places, count, run)
    return _write(Comparison(recipe, scale, cells, judge_claims(recipe, cells, scale), missing, command), out)


_OF_THE_GRID = ("method", "method_options", "seed", "scale", "group", "penalty_weight")


def _write(table: Comparison, out: str | Path) -> Comparison:
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "table.md").write_text(markdown(table), encoding="utf-8")
    (Path(out) / "table.json").write_text(json.dumps(as_data(table), indent=2) + "\n", encoding="utf-8")
    return table


class Grid:
    """A recipe's configurations at one scale, with changes."""

    def __init__(self, recipe: Recipe, scale: ScaleName, changes: Mapping[str, Any]) -> None:
        self.recipe, self.scale, self.changes = recipe, scale, changes

    def weights(self, setting: str, method: str) -> list[float]:
        """The λ that are compared."""
        return self.recipe.weights(method, setting, self.scale)

    def config(self, setting: str, method: str, seed: int = 0, weight: float | None = None) -> Config:
        """One run."""
        config = self.recipe.configure(method, setting=setting, scale=self.scale, seed=seed, weight=weight)
        return config.changed(self.changes).resolved()


def _cells(grid: Grid, places: Sequence[tuple[str, str]], seeds: int, run: Sweep) -> list[Cell]:
    tried = {place: [grid.config(*place, weight=w) for w in grid.weights(*place)] for place in places}
    searches = {place: configs for place, configs in tried.items() if len(configs) > 1}
    results = iter(run([config for configs in searches.values() for config in configs]) if searches else [])
    chosen = {
        place: max((_goodness(next(results)), -i) for i in range(len(configs)))[1]
        for place, configs in searches.items()
    }
    finals = {place: _seeded(grid, place, -chosen.get(place, 0), seeds) for place in places}
    runs = iter(run([config for configs in finals.values() for config in configs]))
    cells = []
    for place, configs in finals.items():
        own, weight = [next(runs) for _ in configs], configs[0].penalty_weight or None
        cells.append(Cell(*place, weight, len(tried[place]), _read(grid.recipe, own), [r.store for r in own]))
    return cells


def _seeded(grid: Grid, place: tuple[str, str], choice: int, seeds: int) -> list[Config]:
    weights = grid.weights(*place)
    first = grid.config(*place, weight=weights[choice] if weights else None)
    return [replace(first, seed=seed) for seed in range(seeds)]


def _costs(grid: Grid, chosen: Sequence[str]) -> list[Cell]:
    """A cell a method: seconds of a step, and their ratio to the recipe's first method's in the same round."""
    from layershift.train.cost import step_seconds

    known = list(grid.recipe.methods)
    methods = [method for method in known if method == known[0] or method in (chosen or known)]
    configs = {method: grid.config("", method) for method in methods}
    seconds = step_seconds(configs)
    reference = seconds[methods[0]]
    return [
        Cell(
            "",
            method,
            configs[method].penalty_weight or None,
            0,
            [seconds[method], [a / b for a, b in zip(seconds[method], reference, strict=True)]],
        )
        for method in methods
    ]


def _clear(grid: Grid, places: Sequence[tuple[str, str]], seeds: int, out: str | Path) -> None:
    for place in places:
        for choice in range(max(len(grid.weights(*place)), 1)):
            for config in _seeded(grid, place, choice, seeds):
                folder_of(config, out).clear()


def _goodness(run: Run) -> float:
    """How good a run is on the validation data after its last epoch; a run that broke is the worst."""
    records = read_records(run.store)
    by_accuracy = run.result.measure == "test/accuracy"
    measure = "val/accuracy" if by_accuracy else "val/loss"
    check(any(r.measure == measure for r in records), "data_options", "validation data, to choose λ by", "none")
    value, loss = last(records, measure=measure), last(records, measure="val/loss")
    if not (math.isfinite(value) and math.isfinite(loss)):  # scores that are NaN are right by chance
        return -math.inf
    return value if by_accuracy else -value


def _read(recipe: Recipe, runs: Sequence[Run]) -> list[list[float]]:
    records = [read_records(run.store) for run in runs]
    return [[read_statistic(found, column.statistic, column.options) for found in records] for column in recipe.columns]


def _at_hand(grid: Grid, settings: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The settings whose data can be read, and why the others cannot."""
    from layershift.train.components import build_data
    from layershift.train.data.files import DataError

    missing: dict[str, str] = {}
    seen: dict[str, str | None] = {}
    for setting in settings:
        config = grid.config(setting, next(iter(grid.recipe.methods)))
        key = json.dumps([config.data, config.data_root, config.data_options], sort_keys=True, default=str)
        if key not in seen:
            try:
                data = build_data(config)
                data.prepare_data()
                data.setup("fit")
                seen[key] = None
            except DataError as error:
                seen[key] = str(error)
        why = seen[key]
        if why is not None:
            missing[setting] = why
    return [setting for setting in settings if setting not in missing], missing
