"""Write docs/benchmarks.md from benchmarks/results/*.json: no figure on that page is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Every figure is a median over interleaved rounds of one process, with its quartiles; a ratio is formed within a round.
`./dev bench` makes them all, `./dev bench NAME` one of them, and both write this page from `benchmarks/results/`.
A target that was missed is printed as missed.
"""


def number(value: float) -> str:
    """Three significant digits, without an exponent for everyday sizes."""
    return (
        f"{value:.3g}"
        if 1e-3 <= abs(value) < 1e3 or value == 0
        else f"{value:.2e}"
        if abs(value) < 1
        else f"{value:.0f}"
    )


def row(case: dict[str, Any]) -> str:
    """One case as a line of a Markdown table."""
    spread = " – ".join(map(number, case["quartiles"])) if case["quartiles"] else ""
    target = "" if case["target"] is None else f"{'≤' if case['sense'] == '<=' else '≥'} {number(case['target'])}"
    verdict = {None: "", True: "met", False: "**missed**"}[case["met"]]
    cells = [
        case["name"],
        f"{number(case['value'])} {case['unit']}",
        spread,
        case["n"] or "",
        target,
        verdict,
        case["detail"],
    ]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def section(record: dict[str, Any]) -> str:
    """One benchmark: where and how it ran, and its cases."""
    machine = record["machine"]
    where = ", ".join(
        str(part)
        for part in (machine["gpu"], machine["cpu"], f"{machine['threads']} threads", f"torch {machine['torch']}")
        if part
    )
    lines = [
        f"## {record['benchmark']}",
        "",
        f"`{record['command']}` on {where}; {record['date'][:10]}.",
        "",
        "| case | median | quartiles | n | target | verdict | detail |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(row, record["cases"]),
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return "\n".join([HEAD, *map(section, records)])


if __name__ == "__main__":
    PAGE.write_text(page())
