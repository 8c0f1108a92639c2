"""Leave a probed network early: `exits`, and what it shares with `probe`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershift.commands.words import UsageError, say

if TYPE_CHECKING:
    from layershift.probe import ExitSearch, LayerOutputs


def exits(
    *,
    folder: Path,
    rules: list[str],
    objective: str,
    within: float | None,
    layers: list[str],
    save: Path | None,
) -> None:
    """Choose where a probed network may stop, on its validation data, and see on test data what that costs and brings.

    The page of the probe is written again. With --save the first rule's network goes into a file that
    layershift.probe.EarlyExit.load reads.
    """
    from layershift.probe import LayerOutputs, replace_exits
    from layershift.report.probe import write_probe_report

    validation, test = (_outputs(LayerOutputs, folder, part) for part in ("val", "test"))
    shares = json.loads((folder / "exits.json").read_text(encoding="utf-8"))["costs"]
    chosen = rules or list(rules_for(validation.task))
    try:
        searches = [search_rule(validation, rule, objective, within, shares, layers) for rule in chosen]
        rows = [exit_row(test, search, shares, layers) for search in searches]
    except ValueError as error:
        raise UsageError(str(error)) from error
    replace_exits(folder, rows)
    save_exits(folder, shares, searches)
    _say_exits(searches, rows)
    if save is not None:
        _save_early_exit(folder, searches[0], layers, save)
    say(f"Open {write_probe_report(folder)} in a browser.")


def rules_for(task: str) -> tuple[str, ...]:
    """The kinds of rule that make sense for a task."""
    return ("label_count", "agreement") if task == "multi_label" else ("confidence", "entropy", "agreement")


def search_rule(
    validation: LayerOutputs,
    rule: str,
    objective: str,
    within: float | None,
    shares: Mapping[str, float] | None,
    layers: Sequence[str] = (),
) -> ExitSearch:
    """The rule of a kind that does best on validation data."""
    from layershift.probe import search_exits

    return search_exits(
        validation,
        kind=rule,  # type: ignore[arg-type]
        objective=objective,  # type: ignore[arg-type]
        within=within,
        layers=layers or None,
        costs=shares,
    )


def exit_row(
    test: LayerOutputs, search: ExitSearch, shares: Mapping[str, float] | None, layers: Sequence[str] = ()
) -> dict[str, Any]:
    """What a rule that was chosen is worth on test data."""
    from layershift.probe import evaluate_exits

    return evaluate_exits(test, search.best.rule, layers=layers or None, costs=shares).row()


def save_exits(out: Path, shares: Mapping[str, float] | None, searches: Sequence[ExitSearch]) -> None:
    """What was searched: for each rule the trade-off on the validation data."""
    found = [
        {
            "objective": search.objective,
            "n": search.n,
            "best": {"rule": search.best.rule.to_dict(), "value": search.best.value, "cost": search.best.cost},
            "full": {"value": search.full.value, "cost": search.full.cost},
            "frontier": [
                {"rule": point.rule.to_dict(), "value": point.value, "cost": point.cost} for point in search.frontier()
            ],
        }
        for search in searches
    ]
    text = json.dumps({"costs": shares, "validation": found}, indent=1)
    (out / "exits.json").write_text(text + "\n", encoding="utf-8")


def _save_early_exit(folder: Path, search: ExitSearch, layers: Sequence[str], path: Path) -> None:
    from layershift.commands.subject import find_subject
    from layershift.probe import EarlyExit, Probe
    from layershift.train.values import load_yaml

    chosen = load_yaml(folder / "probe.yaml")
    run = None if chosen["run"] is None else Path(chosen["run"])
    subject = find_subject(run, chosen["changes"], checkpoint=chosen["checkpoint"])
    found = Probe.load(folder / "probe", subject.model)
    EarlyExit.from_probe(found, search.best.rule, layers=layers or None).save(path)
    say(f"{path} holds the network that stops early; layershift.probe.EarlyExit.load reads it.")


def _outputs(kind: type[LayerOutputs], folder: Path, part: str) -> LayerOutputs:
    path = folder / "outputs" / f"{part}.npz"
    if not path.is_file() or not (folder / "exits.json").is_file():
        raise UsageError(f"{folder}: expected the folder of a finished layershift probe, got one without {path.name}")
    return kind.load(path)


def _say_exits(searches: Sequence[ExitSearch], rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    objective = searches[0].objective
    table = Table("rule", f"{objective}, validation, %", "accuracy, test, %", "gained, points", "operations, %")
    for column in table.columns[1:]:
        column.justify = "right"
    full = rows[0]
    table.add_row("full network", f"{100 * searches[0].full.value:.2f}", _percent(full, "full_accuracy"), "–", "100.0")
    for search, row in zip(searches, rows, strict=True):
        rule = dict(row["rule"])
        name = f"{rule.pop('kind')} " + ", ".join(f"{key} {value}" for key, value in rule.items())
        cost = "–" if row["cost"] is None else f"{100 * row['cost']:.1f}"
        table.add_row(
            name, f"{100 * search.best.value:.2f}", _percent(row, "accuracy"), _percent(row, "difference"), cost
        )
    console = Console()
    console.print(table)
    note = f"Chosen on {searches[0].n} validation samples; test n = {full['n']}, ± standard error, gains by pairs."
    console.print(note, highlight=False)


def _percent(row: Mapping[str, Any], key: str) -> str:
    return f"{100 * row[key]:.2f} ± {100 * row[f'{key}_stderr']:.2f}"
