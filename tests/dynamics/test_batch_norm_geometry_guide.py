"""The guide to batch normalisation's geometry shows what its record says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
RECORD = IMAGES / "batch-norm-geometry.json"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("matplotlib")
    return importlib.import_module("batch_norm_geometry")


@pytest.fixture(scope="module")
def found(script):
    return json.loads(RECORD.read_text())


def value(found, experiment: str, words: str) -> float:
    (row,) = [row for row in found[experiment]["claims"] if words in row["claim"]]
    return row["value"]


def test_the_tables_are_made_from_the_record(script, found) -> None:
    page = (ROOT / "docs" / "guide" / "batch-norm-geometry.md").read_text()
    for kind, number in script.EXPERIMENTS:
        assert script.table(found, kind, number) in page, "run: python docs/batch_norm_geometry.py --table"


def test_what_the_text_says_is_in_the_record(found) -> None:
    assert 5 < value(found, "figure 1", "turn faster with batch") < 15, "the order of magnitude"
    assert value(found, "figure 1", "metric alone") < 1
    small = next(row for row in found["figure 1"]["claims"] if "where the data are small" in row["claim"])
    assert round(small["value"]) == 7
    assert float(small["note"].rsplit("Without: ")[1].rstrip(".")) < 2
    assert round(100 * value(found, "figure 3", "move steadily")) == 15
    assert value(found, "figure 3", "keep learning faster") < 0.05
    narrow = found["theorem 5"]["claims"][-1]["note"]
    assert "2 neurons 0 of 3, 4 neurons 2 of 3, 8 neurons 3 of 3" in narrow
    assert all(found[f"{kind} {k}"]["seconds"] < 120 for kind, k in (("figure", 1), ("theorem", 4), ("theorem", 5)))


def test_pictures_are_small_and_the_animation_asks_for_nothing(script, found) -> None:
    names = [f"batch-norm-geometry-{name}-{theme}.svg" for name in script.FIGURES for theme in ("light", "dark")]
    assert all((IMAGES / name).stat().st_size < 150_000 for name in names)
    page = (IMAGES / "batch-norm-geometry.html").read_text()
    assert page == script.animation(found)
    assert "http" not in page
