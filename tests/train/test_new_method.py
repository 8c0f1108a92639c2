"""A newcomer follows the page about a method of one's own, word by word; recipes in the documents can be read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from layershift.monitor import open_store
from layershift.train.recipe import Recipe, load_recipe, recipes
from layershift.train.statistics import STATISTICS

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"```(python|yaml|console)\n(.*?)```", (GUIDE / page).read_text(), flags=re.DOTALL)


@pytest.mark.slow
def test_a_newcomer_adds_a_method(tmp_path: Path) -> None:
    """Python goes into mine.py, YAML into mine.yaml, and commands are typed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    typed = 0
    for kind, text in blocks("new-method.md"):
        if kind == "python":
            with (tmp_path / "mine.py").open("a") as file:
                file.write(text)
        elif kind == "yaml":
            (tmp_path / "mine.yaml").write_text(text)
        else:
            for line in re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE):
                done = subprocess.run(
                    ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, done.stderr
                typed += 1
    assert typed == 3
    table = json.loads((tmp_path / "runs" / "mine-smoke" / "table.json").read_text())
    assert [(cell["setting"], cell["method"]) for cell in table["cells"]] == [
        (setting, method) for setting in ("ResNet-56", "ResNet-110") for method in ("vanilla", "mine", "rms")
    ]
    assert {cell["weight"] for cell in table["cells"] if cell["method"] == "mine"} <= {1e-2, 1e-3}
    assert all(0 < value < 100 for cell in table["cells"] for value in cell["values"][0])
    text = (tmp_path / "runs" / "mine-smoke" / "table.md").read_text()
    assert text.count("| Unit variance |") == 2
    assert text.count("| Root mean square |") == 2
    with open_store(tmp_path / "runs" / "mine" / "seed0" / "run.db") as store:
        penalties = [record.value for record in store.records() if record.measure == "train/penalty"]
    assert penalties
    assert min(penalties) > 0


def test_recipes_in_the_documents_can_be_read(tmp_path: Path) -> None:
    found = [text for page in ("recipes.md", "new-method.md") for kind, text in blocks(page) if kind == "yaml"]
    assert len(found) == 4
    for text in found:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        assert load_recipe(path).methods


def test_the_page_of_recipes_lists_every_recipe_once() -> None:

    listed = re.findall(r"^\| `(\d/\w+)` \|", (GUIDE / "recipes.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == list(recipes())


def test_the_page_of_recipes_names_every_statistic_and_every_key() -> None:

    text = (GUIDE / "recipes.md").read_text()
    for name in (*STATISTICS, *(set(vars(Recipe)["__dataclass_fields__"]) - {"name"})):
        assert f"`{name}`" in text, name
