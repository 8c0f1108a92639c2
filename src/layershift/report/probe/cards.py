"""Cards of single samples: picture, target, the largest shares at every layer, and the distance through depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from layershift.report.probe.data import ProbeResults

ROWS = 6
LEFT, RIGHT, CELL, CURVE = 104, 316, 17, 62
"""Where the columns of layers begin and end, the height of a row and that of the curve, in the drawing's own units."""

_KINDS = {
    "easy": "Easy: near the target from the first layers on",
    "hard": "Hard: far from the target up to the last layers",
    "confused": "Confused: near early, far in the end",
}


class Cell(NamedTuple):
    """A rectangle: place, width, how full its colour is, and what it says when it is touched."""

    x: float
    y: float
    width: float
    opacity: float
    text: str


class Card(NamedTuple):
    """What the page draws of a sample; lengths are those of the drawing.

    Attributes:
        id: its name.
        image: a data URI, or None.
        target: names of its labels.
        names: rows of the drawing: name shortened, name, whether it is a target, height of its middle.
        cells: the shares.
        curve: the distance through depth, as an SVG path.
        dots: for each layer x, y, whether it was right, and what it says.
        marks: dotted lines: x, y, end, and what it stands for.
        top: of the curve.
        largest: the distance that is drawn there; 0 is at the bottom.
        height: of the drawing.
    """

    id: str
    image: str | None
    target: list[str]
    names: list[tuple[str, str, bool, float]]
    cells: list[Cell]
    curve: str
    dots: list[tuple[float, float, bool, str]]
    marks: list[tuple[float, float, float, str]]
    top: float
    largest: float
    height: float


def groups(results: ProbeResults) -> list[tuple[str, str, list[Card]]]:
    """The gallery: for each kind its key, a title and the cards, the most typical first."""
    samples = results.rows("gallery")
    largest = max((x for s in samples for x in s.get("distances") or () if x is not None), default=1.0) or 1.0
    kinds = dict.fromkeys(str(sample.get("kind")) for sample in samples)
    return [
        (kind, _KINDS.get(kind, kind), [_card(results, s, largest) for s in samples if str(s.get("kind")) == kind])
        for kind in kinds
    ]


def _card(results: ProbeResults, sample: Mapping[str, Any], largest: float) -> Card:
    layers, labels = results.layers, results.labels
    width = (RIGHT - LEFT) / len(layers)
    target = [int(k) for k in sample.get("target") or () if 0 <= int(k) < len(labels)]
    table = sample.get("distributions") or []
    peak = {k: max((row[k] or 0.0 for row in table), default=0.0) for k in range(len(labels))}
    others = sorted((k for k in peak if k not in target), key=lambda k: (-peak[k], k))
    # Targets first, and then whatever the layers thought of; at least two of the latter.
    shown = [*target[: ROWS - 2], *others][:ROWS] if table else []
    names, cells = [], []
    for row, k in enumerate(shown):
        y = row * CELL
        names.append((_cut(labels[k]), labels[k], k in target, y + CELL / 2))
        for column, shares in enumerate(table):
            share = shares[k] or 0.0
            text = f"{layers[column]}, {labels[k]}: {share:.3f}"
            cells.append(Cell(LEFT + column * width, y, width, round(min(max(share, 0.0), 1.0) ** 0.5, 3), text))
    top = len(shown) * CELL + 16
    return Card(
        str(sample.get("id")),
        results.image(sample.get("image")),
        [labels[k] for k in target],
        names,
        cells,
        *_curve(results, sample, largest, width, top),
        top=top,
        largest=largest,
        height=top + CURVE + 20,
    )


def _curve(
    results: ProbeResults, sample: Mapping[str, Any], largest: float, width: float, top: float
) -> tuple[str, list[tuple[float, float, bool, str]], list[tuple[float, float, float, str]]]:
    """The path through the known distances, a dot for each, and the thresholds at the layers that they belong to."""

    def height(distance: float) -> float:
        return round(top + CURVE * (1 - min(distance / largest, 1.0)), 1)

    right = sample.get("correct") or []
    dots: list[tuple[float, float, bool, str]] = []
    for k, distance in enumerate(sample.get("distances") or ()):
        if distance is not None:
            good = bool(right[k]) if k < len(right) else False
            x = round(LEFT + (k + 0.5) * width, 1)
            text = f"{results.layers[k]}: W {distance:.3f}, {'right' if good else 'wrong'}"
            dots.append((x, height(distance), good, text))
    path = " ".join(f"{'L' if k else 'M'}{x} {y}" for k, (x, y, _, _) in enumerate(dots))
    told = results.mapping("difficulty")
    marks = []
    for part, limit in (("early", "small_early"), ("late", "large_late")):
        places = [results.layers.index(name) for name in told.get(part) or () if name in results.layers]
        level = (told.get("thresholds") or {}).get(limit)
        if places and level is not None and math.isfinite(level):
            ends = LEFT + min(places) * width, LEFT + (max(places) + 1) * width
            marks.append((ends[0], height(level), ends[1], f"{limit.replace('_', ', ')}: {level:.3f}"))
    return path, dots, marks


def _cut(name: str, limit: int = 15) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
