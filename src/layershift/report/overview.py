"""What stands around the plots: the head of the page, the table of methods, the configuration of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np

from layershift.report import cost, figures, health, shift, summary
from layershift.report.data import Method, label
from layershift.report.finding import finding
from layershift.report.headline import HEADLINES
from layershift.report.series import merge_orders
from layershift.report.style import colour
from layershift.report.words import count, number


def head(methods: Sequence[Method], title: str | None) -> dict[str, Any]:
    """What was run, when, what came out, and the command that does it again."""
    metas = [run.meta for method in methods for run in method.runs]
    model, data = _said(metas, "model"), _said(metas, "data")
    named = label(methods) == "method"
    seeds = sorted({run.seed for method in methods for run in method.runs if run.seed is not None})
    what = f"{model} on {data}" if model and data else model or data or "The layers of a network"
    if len(metas) == 1 and not named and not model:
        what = f"The layers of {methods[0].runs[0].name}"
    each = {len(method.runs) for method in methods}
    runs = count(len(metas), "run")
    if named and len(each) == 1:
        runs = f"{count(len(methods), 'method')} × {count(each.pop(), 'seed')}"
    commands = list(dict.fromkeys(str(meta["command"]) for meta in metas if meta.get("command")))
    facts = {
        "Data": data,
        "Model": model,
        "Methods" if named else "Runs": ", ".join(method.name for method in methods),
        "Seeds": ", ".join(map(str, seeds)),
        "Run": _when(metas),
        "Monitoring": cost.fact(methods),
        "With": _versions(metas),
    }
    return {
        "title": title or (f"{what}: {runs}" if len(metas) > 1 else what),
        "finding": finding(methods),
        "facts": {name: fact for name, fact in facts.items() if fact},
        "commands": commands,
    }


def _said(metas: Sequence[Any], key: str) -> str:
    """What the runs' configurations say about something, if they say it in a word."""
    configs = [meta.get("config") for meta in metas]
    values = [config.get(key) for config in configs if isinstance(config, dict)]
    return ", ".join(dict.fromkeys(str(value) for value in values if isinstance(value, str | int | float)))


def _versions(metas: Sequence[Any]) -> str:
    """The library's version and revision, and PyTorch's."""
    versions = [meta["versions"] for meta in metas if isinstance(meta.get("versions"), dict)]
    revisions = sorted({str(meta["git_revision"])[:7] for meta in metas if meta.get("git_revision")})
    told = [
        f"{key} {', '.join(sorted({str(v[key]) for v in versions if key in v}))}" for key in ("layershift", "torch")
    ]
    told = [text for text in told if not text.endswith(" ")]
    return ", ".join([*told, *([f"revision {', '.join(revisions)}"] if revisions else [])])


def _when(metas: Sequence[Any]) -> str:
    """From the first start to the last end."""
    starts, ends = _times(metas, "started"), _times(metas, "finished")
    if not starts:
        return ""
    text = f"{min(starts).day} {min(starts):%B %Y, %H:%M}"
    if len(ends) < len(metas):
        return text
    minutes, seconds = divmod(round((max(ends) - min(starts)).total_seconds()), 60)
    return f"{text}, in {minutes} min {seconds} s" if minutes else f"{text}, in {seconds} s"


def _times(metas: Sequence[Any], key: str) -> list[datetime]:
    """The times under a key that can be read as such; those without a zone are taken as UTC."""
    times = []
    for meta in metas:
        with suppress(KeyError, ValueError):
            time = datetime.fromisoformat(str(meta[key]))
            times.append(time if time.tzinfo else time.replace(tzinfo=UTC))
    return times


def table(methods: Sequence[Method]) -> dict[str, Any]:
    """The table of methods: columns, and rows of cells (text, remark, mark)."""
    scores = summary.scores(methods)
    layers = summary.shared_layers(methods)
    rows = []
    for i, method in enumerate(methods):
        cells = []
        for score in scores:
            floor = score.floors[i]
            remark = f"floor {number(floor, 2)}" if np.isfinite(floor) else ""
            cells.append({"text": score.texts()[i], "remark": remark, "mark": score.marks()[i]})
        rows.append({"name": method.name, "colour": colour(method), "runs": len(method.runs), "cells": cells})
    spread = any(own.n > 1 for score in scores for own in score.spreads)
    remarks = {
        "headline": "mean ± sd" if spread else "",
        "distance": f"sliced W1, mean of {count(len(layers), 'layer')}{' ± sd' if spread else ''}",
        "time": f"median of a run{', mean ± sd' if spread else ''}",
        "loss": "mean ± sd" if spread else "",
    }
    columns = [{"title": score.title, "remark": remarks[score.key]} for score in scores]
    floor = any(np.isfinite(f) for score in scores for f in score.floors)
    return {"columns": columns, "rows": rows, "floor": floor, "spread": spread, "label": label(methods)}


def numbers(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Every plotted final number."""
    losses = ["test/loss", "val/loss", "train/loss"]
    network = [*(one.measure for one in HEADLINES), *losses, "step_seconds", *cost.MEASURES]
    shifts = [name for measure in shift.shift_measures(methods) for name in (measure, f"{measure}_seconds")]
    inner = ["normality", "normality_floor", *shifts, *figures.MOMENTS]
    inner += [*map(figures.quantile_name, figures.QUANTILES), *health.SHOWN]
    return summary.numbers(methods, network + inner)


def configurations(methods: Sequence[Method]) -> dict[str, Any]:
    """What the runs share, what differs between them, and where they lie."""
    runs = [run for method in methods for run in method.runs]
    flat = [summary.configuration(run) | cost.told(run) for run in runs]
    keys = merge_orders([list(f) for f in flat])
    same = {key: flat[0][key] for key in keys if len(flat) > 1 and len({f.get(key) for f in flat}) == 1}
    own = [
        {"name": run.name, "path": str(run.path), "values": {k: v for k, v in f.items() if k not in same}}
        for run, f in zip(runs, flat, strict=True)
    ]
    return {"same": same, "own": own}
