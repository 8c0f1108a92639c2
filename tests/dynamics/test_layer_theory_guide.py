"""The guide to layer theory shows what its record says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
RECORD = IMAGES / "layer-theory.json"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("matplotlib")
    return importlib.import_module("layer_theory")


def test_the_tables_are_made_from_the_record(script) -> None:
    found = json.loads(RECORD.read_text())
    page = (ROOT / "docs" / "guide" / "layer-theory.md").read_text()
    for table in (script.table(found), script.variance_table(found)):
        assert table in page, "run: python docs/layer_theory.py --table"


def test_the_claims_beside_the_table_are_in_the_record(script) -> None:
    curves = {name: torch.tensor(runs) for name, runs in json.loads(RECORD.read_text())["curves"].items()}
    blur = script.BLUR / 2 / script.TIME  # the share of the time in which the equation takes the blur back
    for shape in script.SHAPES:
        mean = curves[shape].mean(0)
        until = round(blur * (len(mean) - 1)) + 1
        assert (mean[:until].diff() < 0).all()
        assert mean.min() > 5 * curves[f"{shape}: floor"].mean()
    for name in ("moons, to the input", "moons, to one blurred more"):
        assert (curves[name].diff(dim=1) > 0).all()
    turning = curves["moons, teacher that turns"]
    assert (turning[:, -1] < 0.5 * turning[:, 0]).all()
