"""The house keeps its order: imports point down the list of rooms, and rooms on one floor do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import layershift

ROOT = Path(layershift.__file__).parent
FLOORS = [
    ["_version", "_checks", "_seeds", "_autograd"],
    ["functional"],
    ["nn", "capture"],
    ["recording"],
    ["regularization", "measure"],
    ["monitor"],
    ["probe", "dynamics", "train", "report", "integrations", "watch"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Names below ``layershift`` that a module imports, wherever in the module it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "layershift":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("layershift."):
                base = node.module.removeprefix("layershift.")
                below = {f"{base}.{alias.name}" for alias in node.names}
                known = {name for name in below if (ROOT / Path(*name.split("."))).with_suffix(".py").exists()}
                found |= known or {base}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("layershift.") for a in node.names if a.name.startswith("layershift.")}
    return found


def test_imports_point_down_the_list_of_rooms() -> None:
    wrong = []
    for path in modules():
        room = name_of(path).split(".")[0]
        for target in imports_of(path):
            other = target.split(".")[0]
            if other != room and FLOOR[other] >= FLOOR[room]:
                wrong.append(f"{name_of(path)} imports {target}")
    assert not wrong, wrong


def test_no_cycles_inside_a_room() -> None:
    graph = {name_of(path): imports_of(path) for path in modules()}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        for target in graph.get(name, ()):
            visit(target, (*trail, name))

    for name in graph:
        visit(name, ())


def test_modules_hold_one_idea() -> None:
    long = {name_of(path): n for path in modules() if (n := len(path.read_text().splitlines())) > 330}
    assert not long, f"split these modules: {long}"
