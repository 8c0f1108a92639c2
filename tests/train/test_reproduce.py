"""A recipe's grid: what is searched by what, what is kept, what is left out, and that every recipe runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import layershift.train.cost as cost
import layershift.train.reproduce as module
from layershift.monitor import Record, Store
from layershift.train.comparison import Cell, Comparison
from layershift.train.comparison_text import markdown
from layershift.train.config import Config
from layershift.train.data.files import DataError
from layershift.train.folder import RunError, folder_of
from layershift.train.recipe import Recipe, load_recipe, parse_recipe, recipes
from layershift.train.reproduce import reproduce
from layershift.train.run import Run, read_records
from layershift.train.statistics import last, read_statistic

SMALL = {
    "title": "small",
    "config": {"data": "digits", "model": "small_cnn", "epochs": 1, "batch_size": 256, "every": 0},
    "settings": {"A": {}, "B": {"learning_rate": 0.02}},
    "methods": {
        "vanilla": {},
        "per": {"penalty": "PER", "penalty_options": {"reduction": "sum"}, "penalty_weight": [1e-2, 1e-4]},
    },
    "columns": [
        {"title": "error, %", "statistic": "error"},
        {"title": "validation", "statistic": "last", "options": {"measure": "val/accuracy"}, "better": "higher"},
    ],
    "claims": [{"better": "per", "than": ["vanilla"]}],
    "seeds": 2,
}


def recipe(**changes: Any) -> Recipe:
    return parse_recipe("small", {**SMALL, **changes})


def written(out: Path) -> dict[str, Any]:
    return json.loads((out / "table.json").read_text())


def marks(out: Path) -> dict[str, int]:
    """When each run's files were last written."""
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("last.ckpt")}


class Pretended:
    """A sweep that trains nothing: stores with numbers that a function of the configuration makes up."""

    def __init__(self, numbers: Callable[[Config], dict[str, float]]) -> None:
        self.numbers, self.calls = numbers, []

    def __call__(self, configs: Sequence[Config], out: str | Path, **_: Any) -> list[Run]:
        self.calls.append([(c.group.partition("/")[0], c.method, c.penalty_weight, c.seed) for c in configs])
        runs = []
        for config in configs:
            folder = folder_of(config, out)
            folder.path.mkdir(parents=True, exist_ok=True)
            records = [Record(9, "", name, value) for name, value in {"val/loss": 1.0, **self.numbers(config)}.items()]
            folder.store.unlink(missing_ok=True)
            with Store(folder.store) as store:
                store.write(records)
            runs.append(Run(folder.path, folder.store, "new", records[-1]))
        return runs


def chosen(table: Comparison, method: str = "per") -> list[float | None]:
    return [cell.weight for cell in table.cells if cell.method == method]


# The search


def test_the_coefficient_is_chosen_by_validation_and_never_by_test(monkeypatch, tmp_path) -> None:
    """The best on validation data is made the worst on test data."""

    def numbers(config: Config) -> dict[str, float]:
        good = {1e-4: 0.6, 1e-3: 0.9, 1e-2: 0.7}.get(config.penalty_weight, 0.5)
        return {"val/accuracy": good, "test/accuracy": 1 - good}

    sweep = Pretended(numbers)
    monkeypatch.setattr(module, "sweep_shown", sweep)
    per = {**SMALL["methods"]["per"], "penalty_weight": [1e-4, 1e-3, 1e-2]}
    table = reproduce(recipe(methods={"vanilla": {}, "per": per}), tmp_path)
    assert chosen(table) == [1e-3, 1e-3]
    assert [cell.searched for cell in table.cells] == [0, 3, 0, 3]
    first, second = sweep.calls
    assert first == [(setting, "per", weight, 0) for setting in "ab" for weight in (1e-4, 1e-3, 1e-2)]
    assert second == [
        (setting, method, weight, seed)
        for setting in "ab"
        for method, weight in (("vanilla", 0), ("per", 1e-3))
        for seed in (0, 1)
    ]
    assert [cell.values[0][0] for cell in table.cells] == pytest.approx([50, 90, 50, 90])


@pytest.mark.parametrize("broken", [{"val/accuracy": math.nan}, {"val/accuracy": 0.5, "val/loss": math.nan}])
def test_a_run_that_broke_is_never_chosen(broken: dict[str, float], monkeypatch, tmp_path) -> None:
    """Nor one whose scores are NaN, some of which are right by chance."""

    def numbers(config: Config) -> dict[str, float]:
        return {**(broken if config.penalty_weight == 1e-2 else {"val/accuracy": 0.1}), "test/accuracy": 0.5}

    monkeypatch.setattr(module, "sweep_shown", Pretended(numbers))
    assert chosen(reproduce(recipe(), tmp_path)) == [1e-4, 1e-4]


def test_nothing_is_chosen_without_validation_data(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(module, "sweep_shown", Pretended(lambda config: {"test/accuracy": 0.5}))
    with pytest.raises(ValueError, match=r"^data_options: expected validation data, to choose λ by, got none$"):
        reproduce(recipe(), tmp_path)


def test_settings_are_searched_apart_and_ties_go_to_the_first(monkeypatch, tmp_path) -> None:
    def numbers(config: Config) -> dict[str, float]:
        good = 0.9 if config.group.startswith("b") and config.penalty_weight == 1e-4 else 0.5
        return {"val/accuracy": good, "test/accuracy": 0.5}

    monkeypatch.setattr(module, "sweep_shown", Pretended(numbers))
    assert chosen(reproduce(recipe(), tmp_path)) == [1e-2, 1e-4]


def test_language_models_are_chosen_by_the_validation_loss(monkeypatch, tmp_path) -> None:
    def numbers(config: Config) -> dict[str, float]:
        good = config.penalty_weight == 1e-4
        return {"val/loss": 3.0 if good else math.inf, "val/accuracy": 1 - good, "test/perplexity": 99.0 if good else 1}

    monkeypatch.setattr(module, "sweep_shown", Pretended(numbers))
    assert chosen(reproduce(recipe(settings={"A": {}}), tmp_path)) == [1e-4]


# What is run


def test_only_what_is_asked_for_is_run(monkeypatch, tmp_path) -> None:
    sweep = Pretended(lambda config: {"val/accuracy": 0.5, "test/accuracy": 0.5})
    monkeypatch.setattr(module, "sweep_shown", sweep)
    table = reproduce(recipe(), tmp_path, methods=["vanilla"], settings=["B"], seeds=3, scale="paper")
    assert sweep.calls == [[("b", "vanilla", 0, seed) for seed in range(3)]]
    assert [(cell.setting, cell.method) for cell in table.cells] == [("B", "vanilla")]
    assert table.judged == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["batch"]}, r"^methods: expected one of 'vanilla', 'per', got 'batch'$"),
        ({"settings": ["C"]}, r"^settings: expected one of 'A', 'B', got 'C'$"),
        ({"seeds": 0}, r"^seeds: expected at least 1, got 0$"),
        ({"changes": {"seed": 3}}, r"^changes: expected values that a recipe's runs can share, .* got 'seed'$"),
        ({"changes": {"group": "x"}}, r"^changes: expected values that a recipe's runs can share, .* got 'group'$"),
        ({"changes": {"method_options.norm": "x"}}, r"^changes: .* got 'method_options.norm'$"),
        ({"changes": {"epoch": 3}}, r"^configuration: expected one of .*, got 'epoch'$"),
        ({"changes": {"epochs": 0}}, r"^epochs: expected at least 1, got 0$"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is(options: dict[str, Any], message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        reproduce(recipe(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


ABSENT = {"A": {}, "B": {"data": "cifar10"}, "C": {"data": "ptb"}, "D": {"data": "cifar10"}}


def test_settings_without_data_are_left_out_and_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(module, "sweep_shown", Pretended(lambda config: {"val/accuracy": 0.5, "test/accuracy": 0.5}))
    found = recipe(settings=ABSENT)
    table = reproduce(found, tmp_path, changes={"data_root": str(tmp_path / "nothing")})
    assert {cell.setting for cell in table.cells} == {"A"}
    assert list(table.missing) == ["B", "C", "D"]
    text = (tmp_path / "table.md").read_text()
    assert text.count("\nNot run: B; D. cifar10: not found in ") == 1
    assert text.count("\nNot run: C. Penn Treebank: no data in ") == 1
    assert written(tmp_path)["missing"] == table.missing


def test_no_data_at_all_is_one_error_that_says_each_thing_once(tmp_path) -> None:
    with pytest.raises(DataError, match=r"^cifar10: not found in .*; Penn Treebank: no data in ") as error:
        reproduce(recipe(settings=ABSENT), tmp_path, settings=["B", "C", "D"], changes={"data_root": str(tmp_path)})
    assert str(error.value).count("cifar10: not found") == 1
    with pytest.raises(DataError, match=r"^cifar10: not found"):
        reproduce("1/table1", tmp_path, scale="laptop", changes={"data_root": str(tmp_path)})


def test_a_cost_is_of_the_same_rounds_and_the_first_method_stays(monkeypatch, tmp_path) -> None:
    seconds = {"vanilla": [1.0, 2.0], "batch": [2.0, 3.0], "per": [3.0, 8.0]}
    asked: list[list[str]] = []

    def step_seconds(configs: dict[str, Config]) -> dict[str, list[float]]:
        asked.append(list(configs))
        return {name: seconds[name] for name in configs}

    monkeypatch.setattr(cost, "step_seconds", step_seconds)
    columns = [{"title": "s", "statistic": "seconds"}, {"title": "ratio", "statistic": "ratio"}]
    found = recipe(kind="cost", columns=columns, methods={"vanilla": {}, "batch": {}, "per": {}}, settings={"": {}})
    table = reproduce(found, tmp_path)
    assert table.cells[1] == Cell("", "batch", None, 0, [[2.0, 3.0], [2.0, 1.5]])
    assert table.cells[2].weight == 3e-5
    reproduce(found, tmp_path, methods=["per"])
    assert asked == [["vanilla", "batch", "per"], ["vanilla", "per"]]


# Real runs


def test_tables_are_of_the_stores_and_finished_runs_are_kept(tmp_path) -> None:
    found = recipe()
    table = reproduce(found, tmp_path, command="layershift reproduce small")
    assert (tmp_path / "table.md").read_text() == markdown(table)
    assert len(marks(tmp_path)) == 2 * (2 + 2 + 1)  # settings × (vanilla, the chosen λ, the other λ with one seed)
    data = written(tmp_path)
    for cell in table.cells:
        several = f"/weight{cell.weight:g}" if cell.searched > 1 else ""
        stores = [
            tmp_path / (cell.setting.lower() + several) / cell.method / f"seed{seed}" / "run.db" for seed in range(2)
        ]
        again = [
            [read_statistic(read_records(store), column.statistic, column.options) for store in stores]
            for column in found.columns
        ]
        assert cell.values == again
        assert [c["values"] for c in data["cells"] if (c["setting"], c["method"]) == cell[:2]] == [again]
        if cell.searched:
            good = {
                weight: last(
                    read_records(tmp_path / cell.setting.lower() / f"weight{weight:g}" / "per" / "seed0" / "run.db"),
                    measure="val/accuracy",
                )
                for weight in (1e-2, 1e-4)
            }
            assert good[cell.weight] == max(good.values())
    before = marks(tmp_path)
    again = reproduce(found, tmp_path, command="layershift reproduce small")
    assert (again.cells, marks(tmp_path)) == (table.cells, before)


def test_runs_are_added_continued_refused_and_removed(tmp_path) -> None:
    found = recipe(settings={"A": {}}, methods={"vanilla": {}}, claims=[])
    one = reproduce(found, tmp_path, seeds=1)
    before = marks(tmp_path)
    two = reproduce(found, tmp_path, seeds=2)
    assert two.cells[0].values[0][:1] == one.cells[0].values[0]
    assert before.items() < marks(tmp_path).items()
    with pytest.raises(RunError, match=r"holds a run of another configuration: learning_rate \(asked for 0.03, found"):
        reproduce(found, tmp_path, changes={"learning_rate": 0.03})
    changed = reproduce(found, tmp_path, changes={"learning_rate": 0.03}, overwrite=True)
    assert changed.cells[0].values != two.cells[0].values
    assert set(marks(tmp_path)) == {f"a/vanilla/seed{seed}/checkpoints/last.ckpt" for seed in range(2)}


def test_two_lambdas_that_are_one_configuration_otherwise_lie_apart(tmp_path) -> None:
    found = recipe(settings={"A": {}}, seeds=1)
    configs = [found.configure("per", weight=weight, scale="laptop") for weight in (1e-2, 1e-4)]
    assert replace(configs[0], group="", penalty_weight=0) == replace(configs[1], group="", penalty_weight=0)
    assert folder_of(configs[0], tmp_path).path != folder_of(configs[1], tmp_path).path


@pytest.mark.slow
def test_workers_change_no_number(tmp_path) -> None:
    one = reproduce(recipe(), tmp_path / "one", settings=["A"])
    two = reproduce(recipe(), tmp_path / "two", settings=["A"], workers=2)
    assert [cell[:5] for cell in two.cells] == [cell[:5] for cell in one.cells]
    assert [len(set(cell.stores)) for cell in one.cells] == [len(cell.values[0]) for cell in one.cells]


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_every_recipe_runs_at_smoke(name: str, tmp_path) -> None:
    """All rows of the table, each with a number, without any files of data."""
    found = load_recipe(name)
    table = reproduce(name, tmp_path, scale="smoke", changes={"data_root": str(tmp_path / "nothing")})
    assert [(cell.setting, cell.method) for cell in table.cells] == [
        (s, m) for s in found.settings for m in found.methods
    ]
    assert not table.missing
    for cell in table.cells:
        if found.kind == "grid":
            assert {len(values) for values in cell.values} == {found.seeds_at("smoke")}
            assert cell.weight in (*found.weights(cell.method, cell.setting, "smoke"), None)
        assert any(all(math.isfinite(value) for value in values) for values in cell.values)
    text = (tmp_path / "table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == len(table.cells) + 2
    for number in (n for row in found.published.values() for numbers in row.values() for n in numbers if n is not None):
        assert any(f"{number:.{column.places}f}" in text for column in found.columns)
    assert len(written(tmp_path)["cells"]) == len(table.cells)
