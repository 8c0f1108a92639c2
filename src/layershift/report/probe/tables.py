"""A probe's tables as texts: scores by layer, over-thinking, early exits, and every number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layershift.report.parts import Table
from layershift.report.probe.data import ProbeResults, series, value
from layershift.report.probe.figures import SCORE_NAMES
from layershift.report.words import decimals, number

_TITLES = {"accuracy": "Accuracy, %", "cf1": "CF1, %", "of1": "OF1, %", "map": "mAP, %"}
_TITLES |= {"difference": "Accuracy gained, points", "flops": "FLOPs, share"}
_HIDDEN = ("rule", "layers", "shares", "unlabelled", "cost", "n")


def percent(share: float, stderr: float = math.nan) -> str:
    """A share in per cent, with its standard error if that is known.

    Example:
        >>> percent(0.6448, 0.0067), percent(0.5), percent(math.nan)
        ('64.48 ± 0.67', '50.00', '–')
    """
    if not math.isfinite(share):
        return "–"
    return f"{100 * share:.2f}" + (f" ± {100 * stderr:.2f}" if math.isfinite(stderr) else "")


def layers(results: ProbeResults) -> Table | None:
    """Scores and distance of each layer on the main data."""
    rows = [row for row in results.rows("scores") if row.get("split") == results.main]
    first = results.methods[0] if results.methods else ""
    far = [r for r in results.rows("depth") if r.get("split") == results.main and r.get("method") == first]
    if not rows and not far:
        return None
    table = [list(results.layers)]
    for key in SCORE_NAMES:
        pairs = zip(series(rows, results.layers, key), series(rows, results.layers, f"{key}_stderr"), strict=True)
        table.append([percent(*pair) for pair in pairs])
    means, errors = (series(far, results.layers, key) for key in ("mean", "stderr"))
    table.append([plus_minus(mean, error) for mean, error in zip(means, errors, strict=True)])
    titles = ["Layer", *(_TITLES[key] for key in SCORE_NAMES), "W"]
    return Table(titles, list(zip(*table, strict=True)))


def plus_minus(mean: float, stderr: float) -> str:
    """A mean with as many digits as its standard error allows.

    Example:
        >>> plus_minus(0.46412, 0.00483), plus_minus(0.46412, math.nan)
        ('0.4641 ± 0.0048', '0.464')
    """
    if not (math.isfinite(mean) and math.isfinite(stderr) and stderr > 0):
        return number(mean)
    places = decimals(stderr)
    return f"{mean:.{places}f} ± {stderr:.{places}f}"


def overthinking(results: ProbeResults) -> Table | None:
    """Tables 2 and 3 of the paper, with both ways to count."""
    found = results.mapping("overthinking")
    rows = found.get("rows") or []
    if not found:
        return None
    table = [
        [
            str(row.get("layer")),
            percent(value(row, "first"), value(row, "first_stderr")),
            percent(value(row, "share"), value(row, "share_stderr")),
        ]
        for row in rows
    ]
    total = sum(value(row, "first") for row in rows)
    table.append(["all of them", percent(total), "–"])
    table.append(["output, right", percent(value(found, "accuracy"), value(found, "accuracy_stderr")), "–"])
    table.append(["ideal", percent(value(found, "ideal"), value(found, "ideal_stderr")), "–"])
    return Table(["Layer", "First right here, wrong in the end, %", "Right here, wrong in the end, %"], table)


def exits(results: ProbeResults) -> Table | None:
    """Rules for early exits beside the full network."""
    rows = results.rows("exits")
    if not rows:
        return None
    scores = [key for key in SCORE_NAMES if any(key in row for row in rows)]
    hidden = {*_HIDDEN, *scores, *(key for row in rows for key in row if key.startswith("full_") or "_stderr" in key)}
    others = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in hidden]
    costs = any("cost" in row for row in rows)
    titles = ["Rule", *(_TITLES[key] for key in scores)]
    titles += ["Operations, %"] if costs else []
    titles += [_TITLES.get(key, key.replace("_", " ").capitalize()) for key in others]
    titles += ["Leave at each layer, %"] if any(row.get("shares") for row in rows) else []
    table = []
    full = rows[0]
    if any(f"full_{key}" in full for key in scores):
        own = {key: full.get(f"full_{key}") for key in (*scores, "accuracy_stderr")}
        table.append([*_line("full network", own, scores), *(["100"] if costs else []), *["–"] * len(others)])
    for row in rows:
        cells = _line(rule_name(row.get("rule")), row, scores)
        cells += [_rounded(100 * value(row, "cost"))] if costs else []
        cells += [_cell(row, key) for key in others]
        table.append(cells)
        if len(titles) > len(cells):
            cells.append(" / ".join(f"{100 * x:.0f}" for x in row.get("shares") or ()) or "–")
    return Table(titles, [[*row, *["–"] * (len(titles) - len(row))] for row in table])


def _line(name: str, row: Mapping[str, Any], scores: list[str]) -> list[str]:
    return [name, *(percent(value(row, key), value(row, f"{key}_stderr")) for key in scores)]


def _rounded(x: float) -> str:
    return f"{x:.1f}" if math.isfinite(x) else "–"


def _cell(row: Mapping[str, Any], key: str) -> str:
    if key == "difference":
        text = percent(value(row, key), value(row, f"{key}_stderr"))
        return f"+{text}" if value(row, key) > 0 else text
    found = row.get(key)
    return number(value(row, key)) if isinstance(found, int | float) else "–" if found is None else rule_name(found)


def rule_name(rule: Any) -> str:
    """A rule in words.

    Example:
        >>> rule_name({"kind": "label_count", "q": 0.9, "gamma": 0.75})
        'label count: q 0.9, gamma 0.75'
    """
    if isinstance(rule, Mapping):
        options = ", ".join(
            f"{key} {rule_name(inner) if isinstance(inner, Mapping | list) else inner}"
            for key, inner in rule.items()
            if key != "kind"
        )
        kind = str(rule.get("kind", "")).replace("_", " ")
        return f"{kind}: {options}" if kind and options else kind or options
    if isinstance(rule, list | tuple):
        return " / ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in rule)
    return str(rule)


def numbers(results: ProbeResults) -> list[dict[str, Any]]:
    """Every number of the page, a row each."""
    main = results.methods[0] if results.methods else ""
    to_epoch = "distance to epoch {}, {}".format
    return [
        *(_number(row, f"distance, {row.get('method')}", "mean") for row in results.rows("depth")),
        *(_number(row, key, key) for row in results.rows("scores") for key in SCORE_NAMES),
        *(_number(row, f"distance, {main}", "mean") for row in results.rows("epochs")),
        *(_number(row, to_epoch(row.get("other"), main), "mean") for row in results.rows("adjacent")),
    ]


def _number(row: Mapping[str, Any], measure: str, key: str) -> dict[str, Any]:
    stderr = value(row, "stderr" if key == "mean" else f"{key}_stderr")
    return {
        "split": row.get("split") or "history",
        "layer": row.get("layer"),
        "measure": measure,
        "epoch": "–" if row.get("epoch") is None else row["epoch"],
        "value": value(row, key),
        "stderr": stderr,
        "n": row.get("n"),
        "estimator": row.get("estimator") or {"accuracy": "exact match"}.get(key, ""),
    }
