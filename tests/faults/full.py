"""The fault suite in full: `python -m tests.faults.full` writes docs/faults.json and a table in docs/reliability.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD, PAGE = ROOT / "docs" / "faults.json", ROOT / "docs" / "reliability.md"
NUMBERS = ("tried", "right", "refused", "altered", "failed", "lost")
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
HEAD = ("fault", "what is tried", "cases", "correct", "refused", "other content", "failed", "records lost")


def run(seed: int, names: list[str]) -> dict[str, Any]:
    """Try all faults, or some; after each of them the record is written, in which the others keep their rows."""
    import torch
    from tests.faults.table import FAULTS

    if unknown := sorted(set(names) - set(FAULTS)):
        sys.exit(f"no such fault: {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
    torch.set_num_threads(1)
    for name in names or FAULTS:
        begin, entry = time.monotonic(), FAULTS[name]
        counts = entry.run(seed, True)
        numbers = {key: getattr(counts, key) for key in NUMBERS}
        row = {"name": name, "what": entry.what, "how": counts.how, **numbers}
        sys.stdout.write(f"{name}: {numbers}\n" + "".join(f"    {note}\n" for note in counts.notes[:20]))
        sys.stdout.flush()
        record = keep({**row, "seed": seed, "seconds": round(time.monotonic() - begin)}, list(FAULTS))
    return record


def keep(row: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """Put a row into the record."""
    import torch
    from filelock import FileLock

    import layershift

    with FileLock(Path(tempfile.gettempdir()) / "layershift-faults.lock"):
        old = json.loads(RECORD.read_text(encoding="utf-8"))["faults"] if RECORD.exists() else []
        rows = {other["name"]: other for other in [*old, row] if other["name"] in order}
        versions = {"torch": str(torch.__version__), "SQLite": sqlite3.sqlite_version}
        record = {
            "command": "./dev faults",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "system": platform.platform(),
                "python": platform.python_version(),
                "layershift": layershift.__version__,
                **versions,
            },
            "faults": [rows[name] for name in order if name in rows],
        }
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(record, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return record


def table(record: dict[str, Any]) -> str:
    """The counts in Markdown."""
    lines = [" | ".join(HEAD), " | ".join(["---"] * len(HEAD))]
    for row in record["faults"]:
        how = f" ({row['how']})" if row["how"] else ""
        lines.append(" | ".join([row["name"], row["what"] + how, *(f"{row[key]:,}" for key in NUMBERS)]))
    totals = [f"**{sum(row[key] for row in record['faults']):,}**" for key in NUMBERS]
    lines.append(" | ".join(["**all**", "", *totals]))
    machine = record["machine"]
    where = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "SQLite"))
    seeds = ", ".join(sorted({str(row["seed"]) for row in record["faults"]}))
    told = f"`{record['command']}`, seed {seeds}, {record['date'][:10]}: {where}, {machine['system']}."
    return "\n".join([*(f"| {line} |" for line in lines), "", told])


def page(record: dict[str, Any], text: str) -> str:
    """The page with the table of a record between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(record)}\n\n{END}{after}"


def main() -> int:
    """Run, write, and fail if anything failed or was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these faults; the others keep their rows")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    record = run(given.seed, given.names)
    tried, bad = (sum(row[key] for row in record["faults"]) for key in ("tried", "failed"))
    lost = sum(row["lost"] for row in record["faults"])
    sys.stdout.write(f"{tried:,} cases, {bad} failed, {lost} records lost\n")
    return int(bad + lost > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
