"""Copy tables of reproduced recipes into the documentation: `python docs/collect.py OUT [OUT …]`.

Each OUT is a folder that `layershift reproduce` wrote. The page is named after the recipe, and says nothing of where
the data and the runs lay.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def page(out: Path) -> Path:
    """Write one page, and return where it is."""
    name = json.loads((out / "table.json").read_text(encoding="utf-8"))["recipe"]
    text = (out / "table.md").read_text(encoding="utf-8")
    text = re.sub(r"(--data[_-]root[= ])\S+", r"\1DATA", re.sub(r" --out[= ]\S+", "", text))
    text = re.sub(r"not found in \S+\. Put", "not found in DATA. Put", re.sub(r"root='[^']*'", "root='DATA'", text))
    path = RESULTS / f"{name.replace('/', '-')}.md"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(page(Path(folder)))
