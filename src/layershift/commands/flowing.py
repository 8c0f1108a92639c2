"""Batch normalisation as geometry: `flow`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from layershift.commands.words import UsageError, say

if TYPE_CHECKING:
    from layershift.dynamics.experiments import FlowScale


def flow(*, figure: int | None, theorem: int | None, scale: FlowScale, seed: int, out: Path | None) -> None:
    """Run a figure or a theorem on batch normalisation as a metric: neurons as particles, and whether the claims hold.

    Figures: 1 speed by direction, 2 speed by length, 3 the first step. Theorems: 2 both flows are one, 4 many neurons
    tend to a mean field, 5 the global minimum. The folder OUT gets flow.json and report.html.
    """
    from layershift.dynamics import run_flow
    from layershift.report.flow import write_flow_page

    if (figure is None) == (theorem is None):
        raise UsageError("expected --figure 1, 2 or 3, or --theorem 2, 4 or 5, and not both")
    name = f"figure{figure}" if theorem is None else f"theorem{theorem}"
    folder = Path("runs") / f"flow-{name}" if out is None else out
    try:
        path = run_flow(figure=figure, theorem=theorem, scale=scale, seed=seed, out=folder)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _say_claims(path)
    say(f"Open {write_flow_page(path.parent)} in a browser; the numbers are in {path}.")


def _say_claims(path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", "expected", "found", "n", "holds")
    for row in json.loads(path.read_text(encoding="utf-8"))["claims"]:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.3g}"
        value = "–" if row["value"] is None else f"{row['value']:.4g}{spread}"
        holds = {True: "yes", False: "no", None: "–"}[row["holds"]]
        table.add_row(row["claim"], str(row["expected"]), value, str(row["n"]), holds)
    Console().print(table)
