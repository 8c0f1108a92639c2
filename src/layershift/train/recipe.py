"""Recipes: the tables and figures of the papers, and one's own, as YAML files.

A recipe says which networks are trained by which methods, at which scale, what is read off the runs, what was published
and what is claimed. Its runs are the grid settings × methods × seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from layershift.train.config import SCALES, Config, ScaleName
from layershift.train.methods import METHODS
from layershift.train.values import load_yaml, merged

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Column:
    """A number that is read off each run; see `layershift.train.statistics`.

    Attributes:
        title: what it is called, with its unit.
        statistic: the name of a statistic.
        options: its keyword arguments.
        better: whether less or more of it is better; None if neither is.
        places: decimal places that are shown.
    """

    title: str
    statistic: str
    options: Mapping[str, Any] = field(default_factory=dict)
    better: str | None = "lower"
    places: int = 2


@dataclass(frozen=True)
class Claim:
    """What the paper says: in each setting, a method is better than others, in one column.

    Attributes:
        better: the method.
        than: the others.
        settings: the settings that it is claimed for; all, if empty.
        column: the position of the column.
    """

    better: str
    than: Sequence[str]
    settings: Sequence[str] = ()
    column: int = 0


@dataclass(frozen=True)
class Recipe:
    """One table or figure.

    Attributes:
        name: such as `1/table3`.
        title: one line.
        about: what was done, what was left open and how it is settled here, in Markdown.
        config: what all runs share, at the published setting.
        scales: what the smaller scales change: fields of `Config`, and `seeds`.
        settings: what the table's row groups change, by their titles; `penalty_weights` for those that are searched
            there, by method.
        methods: what each method is: fields of `Method`; `title`, and `config` for what it changes of the
            configuration. A `penalty_weight` that is a list is searched on validation data.
        columns: what is read off each run.
        published: by setting and method, a number for each column, None where there is none.
        claims: what the paper says of them.
        seeds: how many, at the published setting.
        kind: "grid" for trained runs, "cost" for the time of a step.
    """

    name: str
    title: str
    about: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Sequence[Column] = ()
    published: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    seeds: int = 1
    kind: str = "grid"

    def seeds_at(self, scale: ScaleName) -> int:
        """How many seeds at a scale."""
        return int(self.scales.get(scale, {}).get("seeds", self.seeds))

    def title_of(self, method: str) -> str:
        """What a method is called in the table."""
        return str(self.methods[method].get("title", method))

    def weights(self, method: str, setting: str, scale: ScaleName) -> list[float]:
        """The weights λ that are searched, or the only one: the scale's, else the setting's, else the method's."""
        chosen = self.methods[method].get("penalty_weight")
        for place in (self.settings[setting], self.scales.get(scale, {})):
            chosen = place.get("penalty_weights", {}).get(method, chosen)
        return [float(w) for w in chosen] if isinstance(chosen, list) else [] if chosen is None else [float(chosen)]

    def configure(
        self, method: str, *, setting: str = "", scale: ScaleName = "paper", seed: int = 0, weight: float | None = None
    ) -> Config:
        """The configuration of one run.

        Args:
            method: one of `methods`.
            setting: one of `settings`; the first, if empty.
            scale: which scale.
            seed: of the run.
            weight: λ, if it is searched.

        Returns:
            The configuration; the values of setting, method and scale are laid over the recipe's, in this order.

        Raises:
            ValueError: for a method or a setting that the recipe has not.
        """
        from layershift._checks import check_choice

        setting = setting or next(iter(self.settings))
        check_choice("method", method, tuple(self.methods))
        check_choice("setting", setting, tuple(self.settings))
        entry = self.methods[method]
        definition = {k: v for k, v in entry.items() if k not in ("title", "config", "penalty_weight")}
        rows, reduced = (_of_a_run(values) for values in (self.settings[setting], self.scales.get(scale, {})))
        within = self.scales.get(scale, {}).get("within", {})
        values: dict[str, Any] = {}
        for layer in (self.config, rows, entry.get("config", {}), reduced, within.get(setting, {})):
            values = merged(values, layer)
        config = Config(scale=scale).changed(values)
        config = replace(config, method=method, method_options=definition, seed=seed)
        weights = self.weights(method, setting, scale)
        chosen = weight if weight is not None else weights[0] if weights else None
        parts = [slug(setting), f"weight{chosen:g}" if len(weights) > 1 else ""]
        return replace(config, group="/".join(part for part in parts if part), penalty_weight=chosen)


def _of_a_run(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("seeds", "penalty_weights", "within")}


def slug(title: str) -> str:
    """A title as a folder's name.

    Example:
        >>> slug("LeakyReLU, CIFAR-10")
        'leakyrelu-cifar-10'
    """
    return "-".join("".join(c if c.isalnum() or c == "-" else " " for c in title.lower()).split())


def recipes() -> dict[str, Path]:
    """The files of all recipes that come with the library, by name."""
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in sorted(FOLDER.rglob("*.yaml"))}


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe and check it.

    Args:
        name: of a recipe that comes with the library, or the path of a file of one's own, which may add to one of these
            by `extends: NAME`.

    Returns:
        The recipe.

    Raises:
        ValueError: if there is no such recipe, or it makes no sense; the message names the file and the place.

    Example:
        >>> load_recipe("1/table1").settings["ResNet-56"]["model_options"]["depth"]
        56
    """
    from layershift._checks import check_path

    check_path("recipe", name)
    known = recipes()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise ValueError(f"recipe: expected one of {', '.join(known)}, or a file, got {str(name)!r}")
    values = load_yaml(path)
    title = str(name) if str(name) in known else path.stem
    if "extends" in values:
        base = known.get(str(values["extends"]))
        if base is None:
            raise ValueError(f"{path}: extends: expected one of {', '.join(known)}, got {values['extends']!r}")
        values = merged(load_yaml(base), {k: v for k, v in values.items() if k != "extends"})
    try:
        return parse_recipe(title, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def parse_recipe(name: str, values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values.

    Raises:
        ValueError: if it makes no sense; the message names the place.
    """
    from layershift._checks import check, check_choice

    for key in values:
        check_choice("recipe", key, [f.name for f in fields(Recipe) if f.name != "name"])
    methods = {str(method): dict(entry or {}) for method, entry in values.get("methods", {}).items()}
    check(bool(methods), "methods", "at least one", "none")
    for method, entry in methods.items():
        known = method in METHODS or bool(set(entry) - {"title", "config"})
        check(known, f"methods.{method}", f"its definition, or one of {', '.join(METHODS)}", "neither")
    recipe = Recipe(
        **{
            **values,
            "name": name,
            "methods": methods,
            "columns": [Column(**column) for column in values.get("columns", [])],
            "claims": [Claim(**claim) for claim in values.get("claims", [])],
            "settings": {str(k): v or {} for k, v in values.get("settings", {"": {}}).items()},
        }
    )
    _check_names(recipe)
    for scale in SCALES:
        for setting in recipe.settings:
            for method in recipe.methods:
                recipe.configure(method, setting=setting, scale=scale).resolved()
    return recipe


def _check_names(recipe: Recipe) -> None:
    from layershift._checks import check, check_choice
    from layershift.train.statistics import check_statistic

    check_choice("kind", recipe.kind, ("grid", "cost"))
    check(bool(recipe.columns), "columns", "at least one", "none")
    for scale, changes in recipe.scales.items():
        check_choice("scales", scale, tuple(SCALES))
        for setting in changes.get("within", {}):
            check_choice(f"scales.{scale}.within", setting, tuple(recipe.settings))
    for place in (*recipe.scales.values(), *recipe.settings.values()):
        for method in place.get("penalty_weights", {}):
            check_choice("penalty_weights", method, tuple(recipe.methods))
    for column in recipe.columns:
        check_choice("columns.better", column.better, ("lower", "higher", None))
        if recipe.kind == "grid":
            check_statistic(column.statistic, column.options)
    for setting, rows in recipe.published.items():
        check_choice("published", setting, tuple(recipe.settings))
        for method, numbers in rows.items():
            check_choice(f"published.{setting}", method, tuple(recipe.methods))
            where = f"published.{setting}.{method}"
            check(isinstance(numbers, list), where, "a list with a number for each column", numbers)
            check(len(numbers) <= max(len(recipe.columns), 1), where, "no more numbers than columns", numbers)
    for claim in recipe.claims:
        for method in (claim.better, *claim.than):
            check_choice("claims", method, tuple(recipe.methods))
        for setting in claim.settings:
            check_choice("claims.settings", setting, tuple(recipe.settings))
        check(0 <= claim.column < len(recipe.columns), "claims.column", "the position of a column", claim.column)
        directed = recipe.columns[claim.column].better is not None
        check(directed, "claims.column", "a column that says what is better", claim.column)
