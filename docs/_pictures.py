"""How the guides' figures look, and how their scripts run: compute, record, draw for light and for dark pages."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

IMAGES = Path(__file__).parent / "images"
# Colours that part for colour-blind eyes too (Okabe and Ito), and ink for both kinds of page.
BLUE, RED, GREEN, PURPLE, GREY = "#1E7FC2", "#D55E00", "#009E73", "#CC79A7", "#8a8f98"
INK = {"light": "#3c4350", "dark": "#d5d9e0"}

Record = dict[str, Any]


def style(ink: str) -> dict[str, object]:
    """Transparent paper, and one ink for all that is not data."""
    inked = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor"), ink
    )
    return inked | {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.grid": True,
        "grid.color": ink,
        "grid.alpha": 0.15,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "font.size": 8.5,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "layershift",
    }


def main(
    name: str,
    *,
    record: Callable[[], Record],
    table: Callable[[Record], str],
    figures: Mapping[str, Callable[[Record], plt.Figure]],
    others: Mapping[str, Callable[[Record], str]] | None = None,
) -> None:
    """The command line of a script.

    Args:
        name: what its files in `docs/images` begin with; the record is `NAME.json`.
        record: computes everything.
        table: what the guide says in words, from the record.
        figures: each is drawn from the record into `NAME-FIGURE-light.svg` and `NAME-FIGURE-dark.svg`.
        others: text files beside them, by how their names end.
    """
    mpl.use("agg")
    parser = argparse.ArgumentParser(description=f"Compute, record and draw the figures {name}-….")
    parser.add_argument("--draw-only", action="store_true", help="from the record, without computing it again")
    parser.add_argument("--table", action="store_true", help="print the record's tables, and do nothing else")
    parser.add_argument("--out", type=Path, default=IMAGES, help="where figures go")
    parser.add_argument("--format", default="svg", help="of the figures: svg or png")
    given = parser.parse_args()
    path = IMAGES / f"{name}.json"
    if not given.draw_only and not given.table:
        path.write_text(json.dumps(record(), separators=(",", ":")) + "\n", encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    print(table(found))
    if given.table:
        return
    for ending, make in (others or {}).items():
        (given.out / f"{name}{ending}").write_text(make(found), encoding="utf-8")
    for theme, ink in INK.items():
        with mpl.rc_context(style(ink)):
            for figure_name, draw in figures.items():
                figure = draw(found)
                metadata = {"Date": None} if given.format == "svg" else None
                figure.savefig(given.out / f"{name}-{figure_name}-{theme}.{given.format}", metadata=metadata, dpi=160)
                plt.close(figure)
