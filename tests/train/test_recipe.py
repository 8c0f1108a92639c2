"""Recipes: what is refused and how it is said, which value wins, and the papers' numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from layershift.train.config import SCALES
from layershift.train.recipe import Recipe, load_recipe, parse_recipe, recipes, slug
from layershift.train.values import load_yaml, parse_yaml

NAMES = list(recipes())


def plain(**changes: Any) -> dict[str, Any]:
    """The smallest recipe that makes sense, with changes."""
    columns = [{"title": "test error, %", "statistic": "error"}]
    return {"title": "t", "methods": {"vanilla": {}, "batch": {}}, "columns": columns, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": {}}, r"recipe: expected one of 'title', .*, got 'metods'"),
        ({"methods": {}}, "methods: expected at least one, got none"),
        ({"methods": {"mine": None}}, r"methods.mine: expected its definition, or one of vanilla, .*, got neither"),
        ({"methods": {"mine": {"title": "Mine"}}}, r"methods.mine: expected its definition, .*, got neither"),
        ({"methods": {"mine": {"nrom": "batch"}}}, r"method_options: expected one of 'norm', .*, got 'nrom'"),
        ({"methods": {"per": {"config": {"lr": 1}}}}, r"configuration: expected one of 'accelerator', .*, got 'lr'"),
        ({"config": {"epoch": 3}}, r"configuration: expected one of 'accelerator', .*, got 'epoch'"),
        ({"config": {"epochs": "three"}}, r"epochs: expected int \| None, got 'three'"),
        ({"settings": {"a": {"momentums": 0}}}, r"configuration: expected one of .*, got 'momentums'"),
        ({"settings": {"a": {"penalty_weights": {"vcl": [1]}}}}, r"penalty_weights: expected one of .*, got 'vcl'"),
        ({"scales": {"huge": {}}}, r"scales: expected one of 'smoke', 'laptop', 'paper', got 'huge'"),
        ({"scales": {"smoke": {"epoch": 1}}}, r"configuration: expected one of .*, got 'epoch'"),
        ({"scales": {"smoke": {"within": {"a": {}}}}}, r"scales.smoke.within: expected one of '', got 'a'"),
        ({"scales": {"smoke": {"penalty_weights": {"per": [1]}}}}, r"penalty_weights: .*'batch', got 'per'"),
        ({"columns": []}, "columns: expected at least one, got none"),
        ({"columns": [{"title": "a", "statistic": "median"}]}, r"statistic: expected one of 'last', .*, got 'median'"),
        ({"columns": [{"title": "a", "statistic": "last"}]}, r"statistic last: expected its options .*'measure'"),
        ({"columns": [{"title": "a", "statistic": "error", "better": "up"}]}, r"columns.better: .*, got 'up'"),
        ({"published": {"a": {}}}, r"published: expected one of '', got 'a'"),
        ({"published": {"": {"per": [1]}}}, r"published.: expected one of 'vanilla', 'batch', got 'per'"),
        ({"published": {"": {"batch": 1}}}, r"published..batch: expected a list with a number for each column, got 1"),
        ({"published": {"": {"batch": [1, 2]}}}, r"published..batch: expected no more numbers than columns, got"),
        ({"claims": [{"better": "per", "than": ["batch"]}]}, r"claims: expected one of .*, got 'per'"),
        ({"claims": [{"better": "batch", "than": ["per"]}]}, r"claims: expected one of .*, got 'per'"),
        (
            {"claims": [{"better": "batch", "than": ["vanilla"], "settings": ["a"]}]},
            r"claims.settings: expected one of '', got 'a'",
        ),
        (
            {"claims": [{"better": "batch", "than": ["vanilla"], "column": 1}]},
            r"claims.column: expected the position of a column, got 1",
        ),
        (
            {
                "columns": [{"title": "a", "statistic": "error", "better": None}],
                "claims": [{"better": "batch", "than": ["vanilla"]}],
            },
            r"claims.column: expected a column that says what is better, got 0",
        ),
        ({"kind": "race"}, r"kind: expected one of 'grid', 'cost', got 'race'"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_recipe("mine", plain(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: [", "not a YAML file"),
        ("- title", "expected a mapping, got list"),
        ("extends: 1/table9", "extends: expected one of 1/cost, .*, got '1/table9'"),
        ("methods: {vanilla: }\ncolumns: [{title: a, statistic: error}]", "missing 1 required .*'title'"),
        ("title: a\nmethods: {vanilla: }\ncolumns: [{name: a}]", "unexpected keyword argument 'name'"),
        ("title: a\nmethods: [vanilla]", "has no attribute 'items'"),
        ("extends: 1/table1\nclaims: [{better: mine, than: [batch]}]", "claims: expected one of .*, got 'mine'"),
    ],
)
def test_errors_of_a_file_name_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{message}"):
        load_recipe(path)


def test_a_recipe_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"^recipe: expected one of 1/cost, .*2/table4, or a file, got 'nothing'$"):
        load_recipe("nothing")


def test_numbers_may_be_written_as_people_write_them() -> None:
    assert parse_yaml("[1e-3, 3E-4, 1e5, -2.5e+3, 1.e2, 1e]") == [1e-3, 3e-4, 1e5, -2500.0, 100.0, "1e"]
    recipe = parse_recipe(
        "mine",
        parse_yaml("{title: t, methods: {per: {penalty_weight: [1e-3, 1]}}, columns: []}")
        | {"columns": plain()["columns"]},
    )
    assert recipe.weights("per", "", "paper") == [0.001, 1.0]


LAYERED = plain(
    config={"epochs": 1, "momentum": 0.1, "model_options": {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}},
    settings={"one": {"model_options": {"b": 2, "c": 2, "d": 2, "e": 2}}, "two": {}},
    methods={"vanilla": {}, "batch": {"config": {"momentum": 0.3, "model_options": {"c": 3, "d": 3, "e": 3}}}},
    scales={
        "smoke": {
            "seeds": 7,
            "model_options": {"d": 4, "e": 4},
            "within": {"one": {"model_options": {"e": 5}}},
        }
    },
    seeds=4,
)  # fmt: skip


def test_the_recipe_gives_way_to_setting_method_scale_and_what_is_within_the_scale() -> None:
    recipe = parse_recipe("mine", LAYERED)
    config = recipe.configure("batch", setting="one", scale="smoke", seed=3)
    assert config.model_options == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert (config.epochs, config.momentum, config.scale, config.seed) == (1, 0.3, "smoke", 3)
    assert recipe.configure("batch", setting="one").model_options == {"a": 1, "b": 2, "c": 3, "d": 3, "e": 3}
    assert recipe.configure("vanilla", setting="two", scale="smoke").model_options["e"] == 4
    assert recipe.configure("vanilla") == recipe.configure("vanilla", setting="one")
    assert (recipe.seeds_at("smoke"), recipe.seeds_at("laptop"), recipe.seeds_at("paper")) == (7, 4, 4)


def test_unknown_rows_are_told() -> None:
    recipe = parse_recipe("mine", LAYERED)
    with pytest.raises(ValueError, match=r"^method: expected one of 'vanilla', 'batch', got 'per'$"):
        recipe.configure("per")
    with pytest.raises(ValueError, match=r"^setting: expected one of 'one', 'two', got 'three'$"):
        recipe.configure("batch", setting="three")


SEARCH = plain(
    methods={"vanilla": {}, "l1": {"penalty_weight": [1, 2]}, "l2": {"penalty_weight": 3}, "per": {}},
    settings={"one": {}, "two": {"penalty_weights": {"l1": [4, 5, 6]}}},
    scales={"smoke": {"penalty_weights": {"l1": [7, 8]}}, "laptop": {"penalty_weights": {"l2": [9, 10]}}},
)


def test_weights_are_the_scales_else_the_settings_else_the_methods() -> None:
    recipe = parse_recipe("mine", SEARCH)
    assert recipe.weights("l1", "one", "paper") == [1, 2]
    assert recipe.weights("l1", "two", "paper") == [4, 5, 6]
    assert recipe.weights("l1", "two", "smoke") == [7, 8]
    assert recipe.weights("l2", "one", "laptop") == [9, 10]
    assert recipe.weights("l2", "one", "paper") == [3]
    assert recipe.weights("per", "one", "paper") == []


def test_a_weight_that_is_searched_has_a_folder_of_its_own() -> None:
    recipe = parse_recipe("mine", SEARCH)
    tried = [recipe.configure("l1", setting="two", weight=weight) for weight in recipe.weights("l1", "two", "paper")]
    assert [(c.penalty_weight, c.group) for c in tried] == [
        (4, "two/weight4"), (5, "two/weight5"), (6, "two/weight6")
    ]  # fmt: skip
    assert (recipe.configure("l2").penalty_weight, recipe.configure("l2").group) == (3, "one")
    assert recipe.configure("per").resolved().penalty_weight == 3e-5  # the method's own
    assert recipe.configure("vanilla").resolved().penalty_weight == 0
    assert recipe.configure("l1").penalty_weight == 1


def test_a_recipe_is_extended(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    values = {"extends": "1/table1", "title": "Mine", "seeds": 2, "methods": {"mine": {"norm": "layer"}}}
    path.write_text(yaml.safe_dump(values))
    mine, base = load_recipe(path), load_recipe("1/table1")
    assert (mine.name, mine.title, mine.seeds) == ("mine", "Mine", 2)
    assert list(mine.methods) == [*base.methods, "mine"]
    assert mine.title_of("mine") == "mine"
    assert mine.title_of("per") == "PER"
    assert (mine.settings, mine.columns, mine.published) == (base.settings, base.columns, base.published)
    assert mine.configure("mine", scale="smoke").model_options == base.configure("batch", scale="smoke").model_options


def test_a_title_becomes_a_folder() -> None:
    assert slug("RE-VD-LSTM, WikiText-2") == "re-vd-lstm-wikitext-2"
    assert slug("a/b\\c  d:e") == "a-b-c-d-e"
    assert slug("") == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_that_comes_with_the_library(name: str) -> None:
    """It says what it is, has every scale, and no two of its runs share a folder."""
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.about
    assert "smoke" in recipe.scales
    for scale in SCALES:
        places = [
            (config.group, config.method, config.seed)
            for setting in recipe.settings
            for method in recipe.methods
            for weight in recipe.weights(method, setting, scale) or [None]
            for config in [recipe.configure(method, setting=setting, scale=scale, weight=weight).resolved()]
        ]
        assert len(set(places)) == len(places)
    assert {recipe.configure(m, setting=s, scale="smoke").data for m in recipe.methods for s in recipe.settings} <= {
        "digits",
        "markov_words",
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_is_claimed_is_what_was_published(name: str) -> None:
    """Each comparison of a claim holds for the published numbers, where both were published."""
    recipe = load_recipe(name)
    for claim in recipe.claims:
        sign = 1 if recipe.columns[claim.column].better == "higher" else -1
        for setting in claim.settings or recipe.settings:
            rows = recipe.published.get(setting, {})
            for than in claim.than:
                if claim.better in rows and than in rows:
                    assert sign * rows[claim.better][claim.column] > sign * rows[than][claim.column]


def numbers(recipe: Recipe, column: int) -> list[list[float | None]]:
    return [[row[column] for row in recipe.published[setting].values()] for setting in recipe.settings]


@pytest.mark.parametrize(
    ("name", "column", "printed"),
    [
        ("1/table1", 0, [[7.21, 6.95, 6.72], [6.90, 6.62, 6.19]]),
        ("1/table2", 0, [[37.45, 39.22, 37.30, 36.74]]),
        (
            "1/table3",
            0,
            [
                [8.43, 7.53, 7.80, 7.21], [29.45, 29.13, 30.30, 29.29],
                [6.73, 6.38, 6.45, 6.29], [26.50, 26.83, 26.30, 25.50],
                [6.74, 6.69, 6.26, 6.42], [27.53, 26.60, 25.86, 25.73],
            ],
        ),
        (
            "1/table4",
            1,
            [
                [122.0, 114.1, 115.2, 115.1, 114.5], [112.2, 108.5, 108.2, 110.4, 108.5],
                [81.1, 81.5, 81.2, 86.4, 80.7], [75.7, 75.1, 75.8, 80.5, 74.9],
                [132.7, 130.0, 131.1, 148.3, 129.6], [123.2, 122.7, 123.3, 131.6, 117.4],
                [94.5, 92.9, 94.2, 99.4, 92.6], [86.4, 86.1, 86.1, 90.5, 85.9],
            ],
        ),
        (
            "1/table4",
            0,
            [
                [123.2, 119.6, 120.5, 118.2, 118.5], [114.1, 112.2, 116.6, 113.6, 110.0],
                [84.9, 84.9, 84.5, 89.7, 84.1], [78.9, 78.3, 79.2, 83.7, 78.1],
                [138.9, 137.7, 136.0, 156.2, 134.2], [129.2, 128.6, 126.5, 138.1, 123.2],
                [99.6, 98.2, 98.8, 104.3, 98.1], [91.4, 90.5, 90.3, 95.5, 90.6],
            ],
        ),
        ("1/cost", 0, [[0.071, 0.083, 0.087, 0.093]]),
        ("2/table1", 0, [[91.79, 92.21], [93.99, 94.12], [94.34, 94.62]]),
        ("2/table2", 0, [[66.43, 67.49], [72.27, 73.31], [76.56, 77.58]]),
        ("2/table3", 2, [[78.12, 78.33]]),
        ("2/table3", 3, [[93.45, 93.22]]),
        ("2/table3", 4, [[76.47, 77.84]]),
        ("2/table3", 5, [[93.02, 93.33]]),
        (
            "2/table4",
            0,
            [[10.00, 10.00, 10.00, 71.63, 73.76, 79.54, 73.58, 70.68, 72.04, 10.00, 71.50, 81.88]],
        ),
    ],
)  # fmt: skip
def test_published_numbers_are_those_of_the_papers(name: str, column: int, printed: list[list[float]]) -> None:
    """Typed from the papers' tables once more, in the order in which they are printed."""
    assert numbers(load_recipe(name), column) == printed


def test_the_ratios_of_the_cost_follow_from_the_seconds() -> None:
    rows = load_recipe("1/cost").published[""]
    for seconds, ratio in rows.values():
        assert ratio == pytest.approx(seconds / rows["vanilla"][0], abs=5e-4)


LONG = [3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7]


@pytest.mark.parametrize(
    ("name", "method", "setting", "weights"),
    [
        ("1/table1", "per", "ResNet-110", LONG[:4]),
        ("1/table2", "per", "", LONG[:4]),
        ("1/table3", "per", "ReLU, CIFAR-10", LONG[:4]),
        ("1/table3", "per", "ELU, CIFAR-100", LONG[:4]),
        ("1/table3", "per", "ReLU, CIFAR-100", LONG),
        ("1/table3", "per", "LeakyReLU, CIFAR-100", LONG),
        ("1/table4", "per", "LSTM, PTB", LONG[:3]),
        ("1/table4", "l1", "RE-LSTM, PTB", LONG),
        ("1/table4", "l2", "VD-LSTM, PTB", LONG),
        ("1/table4", "l2", "VD-LSTM, WikiText-2", LONG[:3]),
    ],
)
def test_coefficients_are_searched_as_in_the_paper(name: str, method: str, setting: str, weights: list[float]) -> None:
    assert load_recipe(name).weights(method, setting, "paper") == weights


def test_schedules_are_those_of_the_unitization_paper() -> None:
    """Divided by 5 after 60, 120 and 160 of 200 epochs; for ImageNet after 30, 60 and 90 of 120."""
    for name, falls in (("2/table1", [60, 120, 160]), ("2/figure2", [60, 120, 160]), ("2/table3", [30, 60, 90])):
        config = load_recipe(name).configure("unitization").resolved()
        assert [part * config.epochs for part in config.milestones] == pytest.approx(falls)
        assert config.decay == 0.2
        assert math.isclose(config.learning_rate, 0.01 if name == "2/table3" else 0.05)


def test_recipes_are_read_as_they_stand() -> None:
    assert {"1/table1", "1/table2", "1/table3", "1/table4", "1/figure4", "1/figure5", "1/cost"} <= set(NAMES)
    assert {"2/table1", "2/table2", "2/table3", "2/table4", "2/figure2", "2/figure3"} <= set(NAMES)
    assert all("extends" not in load_yaml(path) for path in recipes().values())
