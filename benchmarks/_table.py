"""Write docs/performance.md from benchmarks/results/*.json: no figure on that page is typed by hand.

`python benchmarks/_table.py --html OUT` writes the same tables as one HTML file whose columns can be sorted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
TEMPLATE = Path(__file__).with_name("_page.html")
STYLE = ROOT / "src" / "layershift" / "report" / "templates" / "frame.css"

Record = dict[str, Any]

HEAD = """# Performance

Every figure is a median over interleaved rounds of one process, with its quartiles; a ratio is formed within a round.
`./dev bench` makes them all, `./dev bench NAME` one of them, and both write this page from `benchmarks/results/`;
the tables with columns that can be sorted are in `runs/performance.html` then. What was promised and missed is printed
as missed, and where a peer is faster the row says so.
"""

PROMISED = """What every benchmark was to reach. Behind a figure that was missed stands the floor that it met, if one
was measured in the same run.
"""

SIDE_BY_SIDE = """Ours and what others offer for the same job, in float32, with the same threads, in the same rounds.
The floor of a row is the least time that its bytes or its operations take on this machine: {rates}.
Growth is the exponent of seconds over the size that varies, fitted to all sizes. {versions}
"""

NO_GPU = """No figure here is of a GPU: none was at hand. `./dev bench gpu` makes them where there is one: unitization
against cuDNN's batch normalisation, PER against reading its input once, a monitor that never waits.
"""

NOT_YET = "No record yet: `./dev bench side_by_side` makes it.\n"

# Why a target was missed, from figures of the same record: a text, and the cases that it quotes ("…" is what follows
# the beginning of the missed case's name). Newer records carry their own reasons.
REASONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("critic", "one after another / together"): (
        "one after another takes {0} times the bare layers, and no more can be gained; together takes {1} times them",
        "one after another / bare…",
        "together / bare…",
    ),
    ("per", "projections / exact"): ("were the penalty `x.mean()`, it would be {0}", "projections / x.mean()…"),
    ("per", "peak memory of exact beyond the input, in inputs"): (
        "the gradient is as large as the input; a few numbers a sample are {excess} of it",
    ),
    ("per", "step with exact PER / without"): (
        "the plainest penalty of activations, Σ h² by hand, makes it {0}",
        "step with Σ h² by hand / without…",
    ),
    ("sinkhorn", "POT / ours, 100 iterations of all"): (
        "the bare products and divisions in float32, where most of ours run, would give {0}",
        "POT / the same in float32…",
    ),
}
NO_REASON = "no floor shown yet"


def number(value: float) -> str:
    """Three significant digits, without an exponent for everyday sizes."""
    return (
        f"{value:.3g}"
        if 1e-3 <= abs(value) < 1e3 or value == 0
        else f"{value:.2e}"
        if abs(value) < 1
        else f"{value:.0f}"
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that leaves the fewest zeros."""
    unit, factor = next((u, f) for u, f in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{number(seconds * factor)}\u00a0{unit}"  # a number and its unit stay on one line


def spread(quartiles: Sequence[float] | None) -> str:
    """Both quartiles."""
    return " – ".join(map(number, quartiles)) if quartiles else ""


def target(case: Mapping[str, Any]) -> str:
    """What the case was to reach."""
    return "" if case["target"] is None else f"{'≤' if case['sense'] == '<=' else '≥'} {number(case['target'])}"


def value(case: Mapping[str, Any]) -> str:
    """The figure, with more digits where rounding would hide that it missed its target."""
    shown = number(case["value"])
    return f"{case['value']:.6g}" if case["met"] is False and shown == number(case["target"]) else shown


def why(record: Record, case: Mapping[str, Any]) -> str:
    """What stands in the way of a case that missed its target."""
    said = case.get("why") or _reason(record, case) or NO_REASON
    low, high = case["quartiles"] or (case["value"],) * 2
    return f"{said}; the target lies within the quartiles" if low <= case["target"] <= high else said


def _reason(record: Record, case: Mapping[str, Any]) -> str:
    values = {other["name"]: other["value"] for other in record["cases"]}
    for (benchmark, start), (text, *names) in REASONS.items():
        if benchmark == record["benchmark"] and case["name"].startswith(start):
            found = [values.get(name.replace("…", case["name"].removeprefix(start))) for name in names]
            if None not in found:
                return text.format(*map(number, found), excess=number(case["value"] - case["target"]))
    return ""


def device(record: Record) -> str:
    """What the record's figures are of."""
    return record["machine"]["gpu"] or record["machine"]["cpu"]


def plain(text: object) -> str:
    """Text in which nothing ends a line or a cell, or begins a tag."""
    return " ".join(str(text).splitlines()).replace("|", "\\|").replace("<", "&lt;")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(map(plain, cells))} |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)]) + "\n"


def records_table(records: Sequence[Record]) -> str:
    """Where and when each record was made, and by which command."""

    def where(machine: Mapping[str, Any]) -> str:
        parts = (machine["gpu"], machine["cpu"], f"{machine['threads']} threads", f"torch {machine['torch']}")
        return ", ".join(str(part) for part in parts if part)

    rows = [(r["benchmark"], f"`{r['command']}`", where(r["machine"]), r["date"][:10]) for r in records]
    return table(["benchmark", "command", "machine", "date"], rows)


PROMISED_HEADER = ["benchmark", "case", "median", "quartiles", "n", "target", "verdict", "device", "behind it"]


def promised(records: Sequence[Record]) -> list[list[str]]:
    """Every case that has a target, those that were missed first."""
    rows = []
    for record in records:
        for case in record["cases"]:
            if case["target"] is None:
                continue
            behind = [case["detail"]] if case["met"] else [why(record, case), case["detail"]]
            cells = [record["benchmark"], case["name"], f"{value(case)} {case['unit']}"]
            cells += [spread(case["quartiles"]), str(case["n"] or ""), target(case)]
            cells += ["met" if case["met"] else "**missed**", device(record), ". ".join(filter(None, behind))]
            rows.append((case["met"], cells))
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


COMPARED_HEADER = ["function", "size", "device", "ours", "peer", "peer's", "ours / peer", "quartiles", "n", "verdict"]
COMPARED_HEADER += ["floor", "ours / floor", "growth", "peer's growth", "remark"]


def compared(row: Mapping[str, Any]) -> list[str]:
    """One function at one size beside one peer."""
    if row["absent"]:
        peer, verdict, remarks = ["", "", "", ""], "absent", [row["absent"]]
    else:
        slower, (low, high) = row["ratio"] > 1, row["quartiles"]
        verdict = ("**slower**" if slower else "faster") + (", within the spread" if low <= 1 <= high else "")
        remarks = [row["note"], row["why"]]
        if slower and not any(remarks):
            remarks = ["no reason shown yet"]
        peer = [duration(row["theirs"]), number(row["ratio"]), spread(row["quartiles"]), str(row["n"])]
    grown = ["" if e is None else f"{e:.2f}" for e in (row["exponent"], row["peer_exponent"])]
    floor = [f"{duration(row['floor'])} ({row['floor_of']})", number(row["distance"])]
    first = [row["function"], row["shape"], row["device"], duration(row["ours"]), row["peer"]]
    return [*first, *peer, verdict, *floor, *grown, "; ".join(filter(None, remarks))]


def largest(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each function and peer the row of the largest size."""
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["size"]):
        last[row["function"], row["peer"]] = row
    return [row for row in rows if last[row["function"], row["peer"]] is row]


def side_by_side(records: Sequence[Record]) -> Iterator[str]:
    """The comparison with peers: at the largest sizes, then each function size by size."""
    yield "## Side by side\n"
    held = [record for record in records if record.get("rows")]
    if not held:
        yield NOT_YET
    for record in held:
        yield SIDE_BY_SIDE.format(rates=rates(record), versions=plain(versions(record)))
        yield f"### At the largest sizes, {plain(device(record))}\n"
        yield table(COMPARED_HEADER, [compared(row) for row in largest(record["rows"])])
        for function in dict.fromkeys(row["function"] for row in record["rows"]):
            yield f"### {plain(function)}\n"
            cells = [compared(row)[1:] for row in record["rows"] if row["function"] == function]
            yield table(COMPARED_HEADER[1:], cells)


def rates(record: Record) -> str:
    """The measured rates in words."""
    stream, products = record["rates"]["GB/s by MiB"], record["rates"]["GFLOP/s"]
    told = ", ".join(f"{number(rate)} GB/s in {size} MiB" for size, rate in stream.items())
    call = duration(record["rates"]["seconds of a call"])
    return f"{told}, and {number(products)} GFLOP/s in products; the shortest call of an operation takes {call}"


def versions(record: Record) -> str:
    """The peers' versions in words."""
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + "."


def others(record: Record) -> Iterator[str]:
    """The cases of a benchmark that were to reach nothing."""
    cases = [case for case in record["cases"] if case["target"] is None]
    if cases:
        yield f"## {plain(record['benchmark'])}\n"
        cells = [
            [c["name"], f"{number(c['value'])} {c['unit']}", spread(c["quartiles"]), c["n"] or "", c["detail"]]
            for c in cases
        ]
        yield table(["case", "median", "quartiles", "n", "detail"], cells)


def load(folder: Path = RESULTS) -> list[Record]:
    """All records, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def page(records: Sequence[Record] | None = None) -> str:
    """The whole page."""
    records = load() if records is None else records
    seen = [] if any(record["machine"]["gpu"] for record in records) else [NO_GPU]
    parts = [HEAD, *seen, records_table(records), "## What was promised\n", PROMISED]
    parts += [table(PROMISED_HEADER, promised(records)), *side_by_side(records)]
    for record in records:
        parts += others(record)
    return "\n".join(parts)


def html(records: Sequence[Record] | None = None) -> str:
    """The same tables as one HTML file that asks nothing of the network; everything in it is escaped."""
    from jinja2 import Environment  # the page in Markdown does without

    records = load() if records is None else records
    held = [record for record in records if record.get("rows")]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    tables = [
        ("Side by side", COMPARED_HEADER, [compared(row) for record in held for row in record["rows"]]),
        ("What was promised", PROMISED_HEADER, promised(records)),
    ]
    shown = [(title, header, [[c.replace("**", "") for c in row] for row in rows]) for title, header, rows in tables]
    facts = {"Machines": ", ".join(dict.fromkeys(map(device, records)))}
    facts["Torch"] = ", ".join(dict.fromkeys(record["machine"]["torch"] for record in records))
    dates = [record["date"][:10] for record in records]
    facts["Dates"] = " – ".join(sorted({min(dates), max(dates)}))
    for record in held:
        facts |= {"Rates": rates(record), "Peers": versions(record).removeprefix("Versions: ")}
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(style=STYLE.read_text(), tables=shown, facts=facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", metavar="OUT", help="write one HTML file instead of docs/performance.md")
    options = parser.parse_args()
    if options.html is None:
        PAGE.write_text(page())
        return
    out = Path(options.html)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html(), encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
