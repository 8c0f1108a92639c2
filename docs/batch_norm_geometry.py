"""Figures, animation and table of the guide to batch normalisation's geometry: `python docs/batch_norm_geometry.py`.

Needs matplotlib, POT, SciPy and torchdiffeq. Draws each figure for light and for dark pages into `docs/images/`, with
an animation beside them, and writes what the page says to `docs/images/batch-norm-geometry.json`.
"""

from __future__ import annotations

import json
import math
import platform
import tempfile

import numpy as np
import torch
from _pictures import BLUE, GREEN, GREY, PURPLE, RED, Record, main
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from layershift.dynamics.experiments import run_flow
from layershift.dynamics.metric import to_ellipsoid
from layershift.report.flow.sections import VERDICTS, plus_minus

EXPERIMENTS = [("figure", 1), ("figure", 2), ("figure", 3), ("theorem", 2), ("theorem", 4), ("theorem", 5)]
MOVING = 60  # neurons of the animation
DRAWN = 40  # neurons of a circle

# What is computed


def record() -> Record:
    """All six experiments at their usual scale: verdicts and lines, and angles of the first three pictures."""
    found: Record = {}
    for kind, number in EXPERIMENTS:
        with tempfile.TemporaryDirectory() as folder:
            content = json.loads(run_flow(**{kind: number}, out=folder).read_text(encoding="utf-8"))
        kept = {key: content[key] for key in ("title", "settings", "claims", "plots", "shown")}
        kept["rings"] = [_rounded(ring, 2 if number < 5 else None) for ring in content["rings"]]
        found[f"{kind} {number}"] = kept | {"seconds": round(content["seconds"], 1)}
    return found | {"versions": {"torch": str(torch.__version__), "python": platform.python_version()}}


def _rounded(ring: Record, places: int | None) -> Record:
    """Angles to two places; of theorem 5 none, which the page does not draw."""
    if places is None:
        return {"title": ring["title"]}
    groups = {name: [[round(x, places) for x in at[:100]] for at in lists] for name, lists in ring["groups"].items()}
    return ring | {"groups": groups}


def table(found: Record, kind: str, number: int) -> str:
    """The verdicts of an experiment, as Markdown."""
    lines = ["| claim | expected | found | n | verdict |", "| --- | --- | --- | --- | --- |"]
    for row in found[f"{kind} {number}"]["claims"]:
        value, spread = (math.nan if row[key] is None else row[key] for key in ("value", "spread"))
        cells = [row["claim"], row["expected"], plus_minus(value, spread), str(row["n"]), VERDICTS[row["holds"]]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


# What is drawn


def draw_ellipse(_: Record) -> plt.Figure:
    """Directions on the unit circle, where they lie on Ω, and what a step of one length does there."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
    sigma = torch.diag(torch.tensor([5.0, 1.0], dtype=torch.float64))
    turn = torch.linspace(0, 2 * math.pi, 361, dtype=torch.float64)
    circle = torch.stack([turn.cos(), turn.sin()], 1)
    ellipse = to_ellipsoid(circle, sigma)
    even = torch.arange(24, dtype=torch.float64) * (2 * math.pi / 24)
    own = torch.stack([even.cos(), even.sin()], 1)
    bar = to_ellipsoid(own, sigma)
    left.plot(*circle.T, color=GREY, lw=1)
    left.plot(*ellipse.T, color=BLUE, lw=1.6)
    left.add_collection(LineCollection(torch.stack([own, bar], 1).numpy(), colors=GREY, linewidths=0.6))
    left.plot(*own.T, "o", color=GREY, ms=3)
    left.plot(*bar.T, "o", color=BLUE, ms=4)
    left.set(aspect="equal", title="Equal angles (grey) on Ω (blue), Σ = diag(5, 1)", xlabel="b₁", ylabel="b₂")
    degrees = torch.rad2deg(turn) - 180
    norm = ((circle @ sigma) * circle).sum(1).sqrt()
    speed = ellipse.square().sum(1)
    right.plot(degrees, 1 / norm, color=BLUE, label="1/‖b‖_Σ, how much faster b moves")
    right.plot(degrees, speed, color=RED, ls="--", label="its square, the factor of eq. 7 for b̄")
    right.set(
        xlabel="direction of b, degrees", ylim=(0, 1.15), title="The metric's factors", xticks=range(-180, 181, 90)
    )
    right.legend(loc="lower center")
    return figure


def circles(axes: Axes, groups: dict[str, list[float]], colours: list[str], title: str) -> None:
    """One circle of directions."""
    turn = np.linspace(0, 2 * np.pi, 121)
    axes.plot(np.cos(turn), np.sin(turn), color=GREY, lw=0.8)
    for (_, angles), colour in zip(groups.items(), colours, strict=True):
        at = np.asarray(angles[:DRAWN])
        x, y = np.cos(at), np.sin(at)
        nothing = np.full_like(x, np.nan)
        spokes = (np.stack([np.zeros_like(v), v, nothing], 1).ravel() for v in (x, y))  # one path, which keeps it small
        axes.plot(*spokes, color=colour, lw=0.5, alpha=0.5)
        axes.plot(x, y, "o", color=colour, ms=2, alpha=0.6, mew=0)
    axes.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), title=title)
    axes.set_axis_off()


def draw_direction(found: Record) -> plt.Figure:
    """Figure 1: speeds and directions, with and without."""
    own = found["figure 1"]
    figure, rows = plt.subplots(2, len(own["shown"]) + 1, figsize=(10.2, 3.9), width_ratios=[1.5] + [1] * 5)
    for row, ring, colour, k in zip(rows, own["rings"], (BLUE, PURPLE), (0, 1), strict=True):
        speeds = own["plots"][0]["curves"][k]
        row[0].plot(speeds["x"][::3], speeds["y"][::3], "o", ms=2, color=colour, mew=0)
        row[0].set(xticks=(-180, 0, 180), ylim=(0, None), ylabel=ring["title"].replace("batch ", "batch\n"))
        row[0].set_title("speed by direction, step 500" if k == 0 else "")
        for axes, iteration in zip(row[1:], own["shown"], strict=True):
            at = ring["iterations"].index(iteration)
            groups = {name: lists[at] for name, lists in ring["groups"].items()}
            circles(axes, groups, [colour], f"{iteration:,}" if k == 0 else "")
    return figure


def draw_length(found: Record) -> plt.Figure:
    """Figure 2: short neurons in blue, ten times longer ones in purple."""
    own = found["figure 2"]
    figure, row = plt.subplots(1, len(own["shown"]), figsize=(10.2, 2.0))
    (ring,) = own["rings"]
    for axes, iteration in zip(row, own["shown"], strict=True):
        at = ring["iterations"].index(iteration)
        circles(axes, {n: lists[at] for n, lists in ring["groups"].items()}, [BLUE, PURPLE], f"{iteration:,}")
    return figure


def draw_step(found: Record) -> plt.Figure:
    """Figure 3: lengths after the first step, and what they do to the rate."""
    figure, axes = plt.subplots(1, 3, figsize=(10.2, 3.1))
    for one, plot in zip(axes, found["figure 3"]["plots"], strict=True):
        lines(one, plot)
        one.legend(fontsize=7)
    return figure


def draw_width(found: Record) -> plt.Figure:
    """Theorems 4 and 5: convergence in the width, and starts that reach the minimum."""
    figure, axes = plt.subplots(1, 3, figsize=(10.2, 3.1))
    for one, plot in zip(axes, [*found["theorem 4"]["plots"], found["theorem 5"]["plots"][0]], strict=True):
        lines(one, plot)
        one.legend(fontsize=6.5)
    return figure


def lines(axes: Axes, plot: Record) -> None:
    """A plot of the record."""
    colours, dashes = iter((BLUE, PURPLE, GREEN, RED, "#E69F00")), iter(("--", ":"))
    for curve in plot["curves"]:
        if curve["look"] == "theory":
            axes.plot(curve["x"], curve["y"], color=GREY, ls=next(dashes), lw=1.2, label=curve["name"])
        elif curve["error"]:
            options = {"color": next(colours), "lw": 1.3, "elinewidth": 0.8, "capsize": 2}
            axes.errorbar(curve["x"], curve["y"], curve["error"], label=curve["name"], **options)
        else:
            look = {"marker": "o", "ms": 3, "lw": 0} if curve["look"] == "points" else {"lw": 1.4}
            axes.plot(curve["x"], curve["y"], color=next(colours), label=curve["name"], **look)
    axes.set(title=plot["title"], xlabel=plot["x_title"], ylabel=plot["y_title"])
    axes.set(**{f"{key}scale": "log" for key in plot["log"]})


FIGURES = {
    "ellipse": draw_ellipse,
    "direction": draw_direction,
    "length": draw_length,
    "step": draw_step,
    "width": draw_width,
}

ANIMATION = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Directions of neurons through training</title><style>
:root { color-scheme: light dark; } body { margin: 0; font: 13px system-ui, sans-serif; color: #7d8592; }
.row { display: flex; justify-content: center; gap: 12px; } figure { margin: 0; text-align: center; flex: 1;
  max-width: 250px; }
canvas { width: 100%; aspect-ratio: 1; } p { display: flex; gap: 12px; justify-content: center; margin: 6px; }
input { width: min(320px, 50%); }
</style></head><body><div class="row" id="row"></div>
<p><button id="play">Play</button><input id="at" type="range" min="0" value="0" aria-label="Frame">
<output id="name"></output></p>
<script>
const rings = DATA, colours = ["#1E7FC2", "#CC79A7"], row = document.getElementById("row");
const at = document.getElementById("at"), play = document.getElementById("play");
const name = document.getElementById("name");
const canvases = rings.map((ring) => {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  canvas.width = canvas.height = 500;
  figure.append(canvas, ring.title);
  row.append(figure);
  return canvas;
});
at.max = rings[0].frames[0].length - 1;
function draw() {
  rings.forEach((ring, k) => {
    const pen = canvases[k].getContext("2d");
    pen.clearRect(0, 0, 500, 500);
    pen.strokeStyle = "#8a8f98"; pen.globalAlpha = 1; pen.lineWidth = 1.5;
    pen.beginPath(); pen.arc(250, 250, 235, 0, 7); pen.stroke();
    ring.frames.forEach((frames, g) => frames[at.value].forEach((angle) => {
      const x = 250 + 235 * Math.cos(angle), y = 250 - 235 * Math.sin(angle);
      pen.strokeStyle = pen.fillStyle = colours[ring.colours[g]];
      pen.globalAlpha = 0.3; pen.beginPath(); pen.moveTo(250, 250); pen.lineTo(x, y); pen.stroke();
      pen.globalAlpha = 0.8; pen.beginPath(); pen.arc(x, y, 5, 0, 7); pen.fill();
    }));
  });
  name.textContent = "step " + rings[0].iterations[at.value];
}
let timer = null;
function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }
at.addEventListener("input", () => { stop(); draw(); });
play.addEventListener("click", () => {
  if (timer) return stop();
  if (at.value === at.max) at.value = 0;
  play.textContent = "Pause";
  timer = setInterval(() => { if (at.value === at.max) return stop(); at.value = +at.value + 1; draw(); }, 120);
});
draw();
</script></body></html>
"""


def animation(found: Record) -> str:
    """Figure 1's two networks and figure 2's one, some neurons of each, as a small page without a library."""
    rings = []
    for key, colours in (("figure 1", [[0], [1]]), ("figure 2", [[0, 1]])):
        for ring, own in zip(found[key]["rings"], colours, strict=True):
            title = "lengths 1 (blue) and 10" if key == "figure 2" else ring["title"]
            frames = [[at[: MOVING // len(own)] for at in lists[:41]] for lists in ring["groups"].values()]
            rings.append({"title": title, "colours": own, "frames": frames, "iterations": ring["iterations"][:41]})
    return ANIMATION.replace("DATA", json.dumps(rings, separators=(",", ":")))


def tables(found: Record) -> str:
    """The verdicts of all experiments."""
    return "\n".join(f"{kind} {number}\n{table(found, kind, number)}" for kind, number in EXPERIMENTS)


if __name__ == "__main__":
    main("batch-norm-geometry", record=record, table=tables, figures=FIGURES, others={".html": animation})
