"""What the geometry chapter says of a real network is in its record."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("matplotlib")
    return importlib.import_module("neuron_speeds")


@pytest.fixture(scope="module")
def found():
    return json.loads((IMAGES / "neuron-speeds.json").read_text())


def test_the_table_is_made_from_the_record(script, found) -> None:
    page = (ROOT / "docs" / "guide" / "batch-norm-geometry.md").read_text()
    assert script.table(found) in page, "run: python docs/neuron_speeds.py --table"


def test_what_the_text_says_is_in_the_record(found) -> None:
    slopes, lengths = found["slopes"], found["lengths"]
    assert all(abs(value - 1) < 0.05 for value in slopes["length before"])
    assert all(abs(value + 0.5) < 0.1 for value in slopes["direction before"])
    assert all(
        after < before - 0.05
        for before, after in zip(*(slopes[f"length {w}"] for w in ("before", "after")), strict=True)
    )
    assert all(after < before for before, after in zip(lengths["before"], lengths["after"], strict=True))
    courses = {decay: [run["effective_rate"] for run in runs] for decay, runs in found["courses"].items()}
    ends = {decay: [run[-1] / run[0] for run in runs] for decay, runs in courses.items()}
    assert max(ends["0.0"]) < 1 < min(ends["0.0005"])


def test_pictures_are_small(script) -> None:
    names = [f"neuron-speeds-{name}-{theme}.svg" for name in script.FIGURES for theme in ("light", "dark")]
    assert all((IMAGES / name).stat().st_size < 150_000 for name in names)
