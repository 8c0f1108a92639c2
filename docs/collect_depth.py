"""Put probes of one network, trained with several seeds, on one page: `python docs/collect_depth.py NAME PROBE …`.

Each PROBE is a folder that `layershift probe` wrote. The page `results/NAME.md` has the layers' distances and scores as
means ± standard deviations over seeds, and what came of the three claims of the paper. Intervals are Student's at 95 %
over seeds. The page says nothing of where the data and the runs lay.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import spearmanr, t

RESULTS = Path(__file__).parent / "results"
Probe = dict[str, Any]


def page(name: str, folders: Sequence[Path]) -> Path:
    """Write one page, and return where it is."""
    probes: list[Probe] = [json.loads((folder / "probe.json").read_text(encoding="utf-8")) for folder in folders]
    first = probes[0]
    about, splits = first["about"], first["splits"]
    lines = [f"# {about['title']}", ""]
    lines += [f"{len(probes)} seeds. Samples: {', '.join(f'{part} {n:,}' for part, n in splits.items())}."]
    lines += [
        f"Cost between labels: {about['cost of labels']}. Classifiers: {_without_seed(about['classifiers'])}.",
        "",
    ]
    lines += [*_layers(probes), "", "## Claims", "", *_claims(probes)]
    lines += ["", "## Over-thinking", "", *_overthinking(probes)]
    lines += ["", "## Early exits", "", *_exits(probes), "", "```console"]
    lines += [f"$ {_command(line)}" for folder in folders for line in _commands(folder)]
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join([*lines, "```", ""]), encoding="utf-8")
    return path


def _layers(probes: Sequence[Probe]) -> list[str]:
    splits = [split for split in ("train", "test") if split in probes[0]["splits"]]
    head = ["layer", *(f"W, {split}" for split in splits), "accuracy, %", "CF1, %", "OF1, %", "mAP, %"]
    rows = []
    for layer in probes[0]["layers"]:
        cells = [layer, *(_pm([_distance(p, split, layer) for p in probes], 4) for split in splits)]
        scores = [_one(p["scores"], split="test", layer=layer) for p in probes]
        cells += [_pm([100 * score[key] for score in scores], 2) for key in ("accuracy", "cf1", "of1", "map")]
        rows.append(cells)
    note = "W is the distance of the label distribution to the target; the scores are those of the test data, accuracy "
    return [*_table(head, rows), "", f"{note}is exact match. Mean ± standard deviation over seeds."]


def _claims(probes: Sequence[Probe]) -> list[str]:
    layers = probes[0]["layers"]
    depth = list(range(len(layers)))
    rows = []
    for split in ("train", "test"):
        ranks = [float(spearmanr(depth, [_distance(p, split, k) for k in layers]).statistic) for p in probes]
        falls = [sum(b < a for a, b in _steps([_distance(p, split, k) for k in layers])) for p in probes]
        drops = [_distance(p, split, layers[0]) - _distance(p, split, layers[-1]) for p in probes]
        shown = f"{_interval(drops, 4)}; rank correlation with depth {_pm(ranks, 2)}; "
        shown += f"falls at {_range(falls)} of {len(layers) - 1} steps"
        rows.append([f"W falls with depth, {split}: first layer minus output", shown, _verdict(drops)])
    for layer in layers[:-1]:
        drops = []
        for probe in probes:
            course = [row["mean"] for row in probe["epochs"] if row["layer"] == layer]
            drops.append(course[0] - course[-1])
        rows.append([f"W falls through the classifier's training: {layer}", _interval(drops, 4), _verdict(drops)])
    for k, row in enumerate(probes[0]["exits"]):
        gains = [100 * probe["exits"][k]["difference"] for probe in probes]
        rows.append(
            [f"exits raise test accuracy: {row['rule']['kind']}", f"{_interval(gains, 2)} points", _verdict(gains)]
        )
    return _table(["claim", "ours [95 % interval over seeds]", "verdict"], rows)


def _overthinking(probes: Sequence[Probe]) -> list[str]:
    tables = [probe["overthinking"] for probe in probes]
    head = ["", *(row["layer"] for row in tables[0]["rows"]), "output", "ideal"]
    rows = []
    for key, title in (
        ("first", "first right here, wrong at the output, %"),
        ("share", "right here, wrong at the output, %"),
    ):
        shares = [_pm([100 * table["rows"][k][key] for table in tables], 2) for k in range(len(tables[0]["rows"]))]
        ends = [_pm([100 * table[end] for table in tables], 2) for end in ("accuracy", "ideal")]
        rows.append([title, *shares, *(ends if key == "first" else ["", ""])])
    return _table(head, rows)


def _exits(probes: Sequence[Probe]) -> list[str]:
    head = ["rule", "accuracy, %", "full network, %", "gained, points", "operations, %", "chosen"]
    rows = []
    for k, row in enumerate(probes[0]["exits"]):
        own = [probe["exits"][k] for probe in probes]
        cells = [_pm([100 * one[key] for one in own], 2) for key in ("accuracy", "full_accuracy", "difference")]
        costs = [one["cost"] for one in own]
        cells.append("–" if None in costs else _pm([100 * cost for cost in costs], 1))
        chosen = "; ".join(
            ", ".join(f"{a} {b}" for a, b in one["rule"].items() if a not in ("kind", "task")) for one in own
        )
        rows.append([row["rule"]["kind"], *cells, chosen])
    return [
        *_table(head, rows),
        "",
        "Thresholds are chosen on validation data for accuracy; the numbers are those of the test data.",
    ]


def _distance(probe: Probe, split: str, layer: str) -> float:
    return float(_one(probe["depth"], split=split, layer=layer, method=probe["methods"][0])["mean"])


def _one(rows: Sequence[dict[str, Any]], **keys: str) -> dict[str, Any]:
    return next(row for row in rows if all(row[key] == value for key, value in keys.items()))


def _steps(values: Sequence[float]) -> list[tuple[float, float]]:
    return list(pairwise(values))


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _pm(values: Sequence[float | None], places: int) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    sd = f" ± {statistics.stdev(known):.{places}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{places}f}{sd}"


def _half(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def _interval(values: Sequence[float], places: int) -> str:
    mean, half = statistics.mean(values), _half(values)
    return f"{mean:+.{places}f} [{mean - half:+.{places}f}, {mean + half:+.{places}f}]"


def _verdict(values: Sequence[float]) -> str:
    mean, half = statistics.mean(values), _half(values)
    if mean - half > 0:
        return "agrees"
    return "disagrees" if mean + half < 0 else "undecided at this scale"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return [line(head), line(["---"] * len(head)), *(line(row) for row in rows)]


def _without_seed(text: str) -> str:
    return re.sub(r", seed \d+", "", text)


def _commands(folder: Path) -> list[str]:
    """How the network was trained, if a run was probed, and how it was probed."""
    about = json.loads((folder / "probe.json").read_text(encoding="utf-8"))["about"]
    run = yaml.safe_load((folder / "probe.yaml").read_text(encoding="utf-8"))["run"]
    trained = (
        [] if run is None else [yaml.safe_load((Path(run) / "config.yaml").read_text(encoding="utf-8"))["command"]]
    )
    return [*trained, about["command"]]


def _command(text: str) -> str:
    text = re.sub(r" --(out|data_root) \S+| data_root=\S+| --quiet", "", text)
    return re.sub(r"(=|\s)/\S*?(\w+/\w+)(?=\s|$)", r"\1runs/\2", text)  # of a run's folder the last two names


if __name__ == "__main__":
    print(page(sys.argv[1], [Path(folder) for folder in sys.argv[2:]]))
