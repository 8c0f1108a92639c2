"""What the documents say is run, or made from records."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


def test_the_benchmark_page_is_made_from_the_records() -> None:
    table = load(ROOT / "benchmarks" / "_table.py")
    assert table.page() == table.PAGE.read_text(), "run: python benchmarks/_table.py"
    assert list(table.RESULTS.glob("*.json"))


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", [p for p in DOCUMENTS if python_blocks(p)], ids=lambda p: p.stem)
def test_the_code_in_the_documents_runs(document, tmp_path, monkeypatch) -> None:
    """The Python blocks of one document run one after another, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in python_blocks(document):
        exec(compile(block, str(document), "exec"), namespace)
