"""The table of a recipe: what is shown, what is left out, what is told, and how claims are judged."""

from __future__ import annotations

import json
import math
import re

import pytest

from layershift.train.comparison import Cell, Comparison, as_data, judge_claims, published_number
from layershift.train.comparison_text import count, markdown, ours, quartiles
from layershift.train.recipe import Column, Recipe, parse_recipe

NAN, INF = math.nan, math.inf


def recipe(**changes) -> Recipe:
    values = {
        "title": "Test error",
        "methods": {"vanilla": {"title": "Plain"}, "per": {"title": "PER"}},
        "columns": [
            {"title": "error, %", "statistic": "error"},
            {"title": "accuracy, %", "statistic": "accuracy", "better": "higher", "places": 1},
        ],
        "published": {"": {"vanilla": [7.21], "per": [6.72]}},
        "claims": [{"better": "per", "than": ["vanilla"]}],
        **changes,
    }
    return parse_recipe("mine", values)


def cells(vanilla: list[float], per: list[float], setting: str = "") -> list[Cell]:
    return [
        Cell(setting, name, weight, searched, [values, [100 - value for value in values]])
        for name, weight, searched, values in (("vanilla", None, 0, vanilla), ("per", 1e-4, 4, per))
    ]


def table(found: Recipe, rows: list[Cell], *, scale: str = "laptop", missing=None, command="layershift reproduce mine"):
    return Comparison(found, scale, rows, judge_claims(found, rows, scale), missing or {}, command)


APART = cells([10.0, 11.0, 12.0], [2.0, 2.5, 3.0])
"""Clearly apart: PER is better."""


def test_the_whole_table() -> None:
    text = markdown(table(recipe(scales={"laptop": {"epochs": 3}}), APART))
    assert text == (
        "# mine: Test error\n\n"
        'Scale: laptop, which changes the published setting: `{"epochs": 3}`.\n\n'
        "| method | λ | n | error, % | published | accuracy, % |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| Plain |  | 3 | 11.00 ± 1.00 | 7.21 | 89.0 ± 1.0 |\n"
        "| PER | 0.0001 | 3 | 2.50 ± 0.50 | 6.72 | 97.5 ± 0.5 |\n\n"
        "Mean ± standard deviation over n runs with different seeds; published values as printed in the paper.\n\n"
        "λ: the best of up to 4 on the validation data with the first seed; the test data had no part in it.\n\n"
        "## Claims\n\n"
        "| claim | published difference | ours [95 % interval] | verdict |\n"
        "| --- | --- | --- | --- |\n"
        "| PER lower than Plain, error, % | -0.49 | -8.50 [-10.58, -6.42] | agrees |\n\n"
        "Better minus other; Welch's interval for the difference of the means, each for itself. "
        "Of 1 comparisons 1 agree.\n\n"
        "```console\n$ layershift reproduce mine\n```\n"
    )


def test_columns_that_say_nothing_are_left_out() -> None:
    """No setting if there is one, no λ without penalties, no published column without published numbers."""
    bare = recipe(published={}, claims=[], methods={"vanilla": {}})
    text = markdown(table(bare, cells([1.0], [1.0])[:1], command=""))
    assert "| method | n | error, % | accuracy, % |\n" in text
    assert "| vanilla | 1 | 1.00 | 99.0 |\n" in text
    for word in ("setting |", "λ", "published |", "Claims", "console", "Not run"):
        assert word not in text


def test_rows_of_several_settings_name_theirs_and_claims_too() -> None:
    found = recipe(
        settings={"A": {}, "B": {}},
        published={"B": {"per": [1.0]}},
        claims=[{"better": "per", "than": ["vanilla"], "settings": ["B"]}],
    )
    rows = [*cells([3.0], [2.0], "A"), *cells([3.0], [2.0], "B")]
    text = markdown(table(found, rows))
    assert "| setting | method | λ | n | error, % | published | accuracy, % |\n" in text
    assert "| A | PER | 0.0001 | 1 | 2.00 |  | 98.0 |\n" in text
    assert "| B | PER | 0.0001 | 1 | 2.00 | 1.00 | 98.0 |\n" in text
    assert "| B: PER lower than Plain, error, % | – | -1.00 | undecided at this scale |\n" in text
    assert "A: PER" not in text
    assert "Of 1 comparisons 1 are undecided." in text


def test_pipes_in_titles_do_not_break_the_table() -> None:
    found = recipe(
        columns=[{"title": "|median|", "statistic": "error"}], methods={"vanilla": {"title": "a|b"}, "per": {}}
    )
    lines = [line for line in markdown(table(found, APART)).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]} == {6}
    assert r"\|median\|" in lines[0]
    assert r"a\|b" in lines[2]


def test_nothing_is_minus_zero() -> None:
    rows = cells([5.0, 5.001, 5.0], [4.999, 5.0, 5.001])
    found = recipe(published={"": {"vanilla": [5.0], "per": [4.999]}})
    text = markdown(table(found, rows))
    assert "-0.00" not in text
    assert "| +0.00 | +0.00 [+0.00, +0.00] | undecided at this scale |" in text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1.0, 2.0, 3.0], "2.00 ± 1.00"),
        ([1.0], "1.00"),
        ([1.0, NAN, 3.0], "2.00 ± 1.41 (1 of 3 not finite)"),
        ([1.0, INF, -INF], "1.00 (2 of 3 not finite)"),
        ([INF, INF], "– (2 of 2 not finite)"),
        ([NAN], "– (1 of 1 not finite)"),
    ],
)
def test_lost_runs_are_told(values: list[float], shown: str) -> None:
    assert ours(Cell("", "per", None, 0, [values]), 0, Column("a", "error")) == shown


def test_a_lost_run_decides_nothing() -> None:
    """Those that are left may be the lucky ones."""
    for lost in (NAN, INF):
        found = table(recipe(), cells([10.0, 11.0, 12.0, 11.5], [2.0, 2.5, 3.0, lost]))
        (judged,) = found.judged
        assert judged.verdict == "undecided"
        assert judged.found.value == pytest.approx(2.5 - 11.125)
        assert math.isnan(judged.found.lower)
        assert "| -8.62 | undecided at this scale |" in markdown(found)
    (judged,) = table(recipe(), cells([10.0, 11.0], [NAN, NAN])).judged
    assert math.isnan(judged.found.value)
    assert judged.verdict == "undecided"


def test_settings_that_were_not_run_are_told() -> None:
    text = markdown(table(recipe(), APART, missing={"": "mnist: not found in /data.", "B": "ptb: not found."}))
    assert "\nNot run: all. mnist: not found in /data.\n" in text
    assert "\nNot run: B. ptb: not found.\n" in text


def test_claims_are_judged_by_the_direction_of_their_column() -> None:
    both = [{"better": "per", "than": ["vanilla"], "column": column} for column in (0, 1)]
    assert [j.verdict for j in judge_claims(recipe(claims=both), APART, "paper")] == ["agrees", "agrees"]
    worse = cells([2.0, 2.5, 3.0], [10.0, 11.0, 12.0])
    assert [j.verdict for j in judge_claims(recipe(claims=both), worse, "paper")] == ["disagrees", "disagrees"]
    found = table(recipe(claims=both), worse)
    assert "| PER higher than Plain, accuracy, % | – | -8.5 [-10.6, -6.4] | disagrees |" in markdown(found)
    assert count(found) == "Of 2 comparisons 2 disagree."


def test_claims_are_judged_where_both_methods_were_run_and_never_at_smoke() -> None:
    assert judge_claims(recipe(), APART, "smoke") == []
    assert judge_claims(recipe(), APART[:1], "laptop") == []
    assert count(table(recipe(), APART, scale="smoke")) == "No claim was judged."
    assert "## Claims" not in markdown(table(recipe(), APART, scale="smoke"))


def test_one_claim_is_as_many_comparisons_as_settings_and_others() -> None:
    found = recipe(
        methods={"vanilla": {}, "per": {}, "batch": {}},
        settings={"A": {}, "B": {}},
        published={},
        claims=[{"better": "per", "than": ["vanilla", "batch"]}],
    )
    rows = [cell for setting in "AB" for cell in (*APART, APART[0]._replace(method="batch"))]
    rows = [cell._replace(setting="AB"[i // 3]) for i, cell in enumerate(rows)]
    judged = judge_claims(found, rows, "laptop")
    assert [(j.setting, j.than) for j in judged] == [(s, m) for s in "AB" for m in ("vanilla", "batch")]


def test_published_numbers_may_be_missing_or_fewer_than_columns() -> None:
    found = recipe(published={"": {"vanilla": [None, 3], "per": [1.5]}})
    assert math.isnan(published_number(found, "", "vanilla", 0))
    assert published_number(found, "", "vanilla", 1) == 3
    assert math.isnan(published_number(found, "", "per", 1))
    assert math.isnan(published_number(found, "other", "per", 0))


def test_the_table_as_data_is_strict_json() -> None:
    found = table(recipe(), cells([10.0, NAN, INF], [2.0, 2.5, 3.0]), missing={"B": "absent"})
    data = json.loads(json.dumps(as_data(found), allow_nan=False))
    assert data["cells"][0]["values"] == [[10.0, None, None], [90.0, None, None]]
    assert data["cells"][0]["published"] == [7.21, None]
    assert data["cells"][1] | {"values": None} == {
        "setting": "", "method": "per", "weight": 1e-4, "searched": 4, "values": None, "published": [6.72, None],
    }  # fmt: skip
    assert data["claims"][0]["published"] == pytest.approx(-0.49)
    assert data["claims"][0]["found"] == [-7.5, None, None]
    assert data["claims"][0]["verdict"] == "undecided"
    assert data["missing"] == {"B": "absent"}
    assert [column["title"] for column in data["columns"]] == ["error, %", "accuracy, %"]


def test_a_cost_shows_median_and_quartiles() -> None:
    cell = Cell("", "per", None, 0, [[5.0, 1.0, 2.0, 4.0, 3.0]])
    assert quartiles(cell, 0, Column("seconds", "seconds", places=1)) == "3.0 [2.0, 4.0]"
    found = recipe(kind="cost", columns=[{"title": "s", "statistic": "seconds"}], claims=[], published={})
    rows = [cell._replace(method="vanilla", values=[[1.0, 1.0]])]
    assert "| Plain | 2 | 1.00 [1.00, 1.00] |" in markdown(table(found, rows))
