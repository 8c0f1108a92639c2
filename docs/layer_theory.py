"""Figures and the table of the guide to layer theory: `python docs/layer_theory.py` (needs matplotlib and POT).

Draws each figure for light and for dark pages into `docs/images/`, and writes what the table says to
`docs/images/layer-theory.json`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable

import torch
from _pictures import BLUE, GREEN, GREY, RED, Record, main
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from layershift import functional as lf
from layershift.dynamics.denoising_flow import backward_heat, denoising_flow, flow_wasserstein
from layershift.dynamics.residual_teacher import optimal_map

BLUR, NOISE, TIME, STEPS, POINTS, SEEDS = 0.1, 0.02, 0.1, 20, 600, 5
SHOWN = 1500  # points of the picture


def even(n: int, g: torch.Generator) -> Tensor:
    """Numbers in [0, 1), one at random in each of n equal parts: their shapes differ little from draw to draw."""
    return (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=g, dtype=torch.float64)) / n


def moons(n: int, g: torch.Generator) -> Tensor:
    """Two half circles that reach into each other."""
    angle = 2 * torch.pi * even(n, g)
    x, y = angle.cos() - 0.5, angle.sin() - 0.25
    upper = (y > -0.25)[:, None]
    return torch.where(upper, torch.stack([x, y], 1), torch.stack([x + 1, y + 0.5], 1))


def ring(n: int, g: torch.Generator) -> Tensor:
    """A circle."""
    angle = 2 * torch.pi * even(n, g)
    return torch.stack([angle.cos(), angle.sin()], 1)


def mixture(n: int, g: torch.Generator) -> Tensor:
    """Five narrow Gaussians on a circle, of equal weight."""
    angle = torch.arange(n, dtype=torch.float64) % 5 * (2 * torch.pi / 5) + torch.pi / 2
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * normal(n, g)


SHAPES = {"moons": moons, "ring": ring, "mixture": mixture}


def normal(n: int, g: torch.Generator) -> Tensor:
    """Draws of N(0, I) in the plane."""
    return torch.randn(n, 2, generator=g, dtype=torch.float64)


def blurred(shape: str, g: torch.Generator, blur: float = BLUR, n: int = POINTS) -> Tensor:
    """Points of a shape with Gaussian noise on them."""
    return SHAPES[shape](n, g) + math.sqrt(blur) * normal(n, g)


def turn(x: Tensor) -> Tensor:
    """A teacher that turns everything by 90° in the time of the flow."""
    return torch.stack([-x[:, 1], x[:, 0]], 1) * (torch.pi / 2 / TIME)


# What is computed


def curves(seed: int) -> dict[str, list[float]]:
    """W2 along the flow to each target, for one seed."""
    g = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {}
    for shape, draw in SHAPES.items():
        x = blurred(shape, g)
        points = denoising_flow(x, t=TIME, steps=STEPS, noise=NOISE).points
        target = draw(POINTS, g)
        found[shape] = flow_wasserstein(points, target).value.tolist()
        found[f"{shape}: floor"] = [float(lf.exact_wasserstein(draw(POINTS, g), target, p=2).value)]
        if shape == "moons":
            found["moons, to the input"] = flow_wasserstein(points, x).value.tolist()
            found["moons, to one blurred more"] = flow_wasserstein(points, blurred(shape, g, 2 * BLUR)).value.tolist()
            turned = denoising_flow(x, t=TIME, steps=STEPS, noise=NOISE, residual=turn).points
            goal = torch.stack([-x[:, 1], x[:, 0]], 1)
            found["moons, teacher that turns"] = flow_wasserstein(turned, goal).value.tolist()
    return found


def lumps(noise: float, n: int = 1000) -> list[float]:
    """What is left of a Gaussian's variance at t = 0.25, for each seed."""
    left = []
    for seed in range(SEEDS):
        x = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        left.append(float(denoising_flow(x, t=0.25, steps=25, noise=noise).points[-1].var() / x.var()))
    return left


def smoothed_variance(noise: float, t: float) -> float:
    """The variance s² of N(0, 1) at a time of the smoothed equation, by which s² + b log s² falls as 2t."""
    low, high = 1e-9, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if middle + noise * math.log(middle) < 1 - 2 * t else (low, middle)
    return middle


def record() -> Record:
    """All curves of all seeds, and how they were made."""
    settings = {"blur": BLUR, "noise": NOISE, "time": TIME, "steps": STEPS, "points": POINTS, "seeds": SEEDS}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    runs = [curves(seed) for seed in range(SEEDS)]
    rounded = {name: [[round(v, 5) for v in run[name]] for run in runs] for name in runs[0]}
    variances = {str(noise): [round(v, 5) for v in lumps(noise)] for noise in (0.01, 0.1)}
    return {"settings": settings, "versions": versions, "curves": rounded, "variances": variances}


def table(found: Record) -> str:
    """W2 at the start, at its least and at the end, mean and standard deviation over seeds, as Markdown."""
    settings, all_curves = found["settings"], found["curves"]
    lines = ["| layers on | to | start | least | at t | end | two draws of the target |", "| --- " * 7 + "|"]
    rows = {
        **{shape: (shape, "what was blurred", f"{shape}: floor") for shape in SHAPES},
        "moons, to the input": ("moons", "the input (a teacher that changes nothing)", None),
        "moons, to one blurred more": ("moons", "the shape with twice the blur", None),
        "moons, teacher that turns": ("moons, σ turns them by 90°", "what the teacher makes of the input", None),
    }
    for name, (shape, target, floor) in rows.items():
        runs = torch.tensor(all_curves[name])
        at = runs.mean(0).argmin()
        cells = [spread(runs[:, 0]), spread(runs[:, at]), f"{float(at) / settings['steps'] * settings['time']:.3f}"]
        last = spread(torch.tensor(all_curves[floor])[:, 0]) if floor else ""
        lines.append("| " + " | ".join([shape, target, *cells, spread(runs[:, -1]), last]) + " |")
    return "\n".join(lines) + "\n"


def variance_table(found: Record) -> str:
    """What is left of a Gaussian's variance, in samples and by both equations, as Markdown."""
    lines = ["| noise of a layer | variance of the points | smoothed equation | equation |", "| --- " * 4 + "|"]
    for noise, left in found["variances"].items():
        smoothed = smoothed_variance(float(noise), 0.25)
        lines.append(f"| {noise} | {spread(torch.tensor(left))} | {smoothed:.3f} | 0.500 |")
    return "\n".join(lines) + "\n"


def spread(x: Tensor) -> str:
    """Mean and standard deviation."""
    return f"{float(x.mean()):.3f} ± {float(x.std()):.3f}"


# What is drawn


def draw_maps(_: Record) -> plt.Figure:
    """Theorem 1: the two maps and what a regression finds, and how far they are apart."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3))
    data, t = torch.tensor([[-1.0], [-0.2], [0.9]], dtype=torch.float64), 0.1
    g = torch.Generator().manual_seed(0)
    clean = data[torch.randint(3, (60_000,), generator=g)]
    noisy = clean + math.sqrt(t) * torch.randn(clean.shape, generator=g, dtype=torch.float64)
    target = clean + bend(clean)
    edges = torch.linspace(-1.6, 1.6, 33, dtype=torch.float64)
    where = torch.bucketize(noisy[:, 0], edges)
    bins = [(float(noisy[where == b].mean()), float(target[where == b].mean())) for b in range(1, 33)]
    x = torch.linspace(-1.6, 1.6, 400, dtype=torch.float64)[:, None]
    left.plot(*zip(*bins, strict=True), "o", color=GREY, ms=3.5, label="mean of the teacher's outputs, in bins")
    left.plot(x, optimal_map(x, data, bend, t, form="printed"), color=RED, ls="--", label="as printed")
    left.plot(x, optimal_map(x, data, bend, t), color=BLUE, label="exact")
    left.plot(data, data + bend(data), "D", color=GREEN, ms=6, label="the data: input, teacher's output")
    left.set(xlabel="noisy input", ylabel="output", title="Two maps at noise of variance 0.1")
    left.set_ylim(-1.8, 3.4)
    left.legend(loc="upper left")

    times = torch.logspace(-4, 0, 30, dtype=torch.float64)
    grid = lf.normal_quantile((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[:, None]
    for points, label, colour in ((grid, "N(0, 1), 4000 points", BLUE), (data, "3 points", RED)):
        gaps = []
        for t in times.tolist():
            at = points.repeat(1 + 2000 // len(points), 1)[:4000]
            at = at + math.sqrt(t) * torch.randn(at.shape, generator=g, dtype=torch.float64)
            gap = optimal_map(at, points, bend, t) - optimal_map(at, points, bend, t, form="printed")
            gaps.append(float(gap.square().mean().sqrt()))
        right.loglog(times, gaps, color=colour, label=label)
    right.loglog(times[5:20], 4.5 * times[5:20], color=GREY, ls=":", lw=1)
    right.loglog(times[:15], 3.5 * times[:15].sqrt(), color=GREY, ls=":", lw=1)
    right.text(3e-3, 2.6e-2, "∝ t", color=GREY)
    right.text(1.2e-3, 0.19, "∝ √t", color=GREY)
    right.set(xlabel="variance t of the noise", ylabel="root mean square", title="Gap between the two")
    right.legend(loc="lower right")
    return figure


def bend(x: Tensor) -> Tensor:
    """The residual of the first figure."""
    return (3 * x).sin()


def draw_flow(_: Record) -> plt.Figure:
    """Theorems 2 and 3: points on their way through the layers."""
    shown = (0, STEPS // 4, STEPS // 2, STEPS)
    figure, rows = plt.subplots(len(SHAPES), len(shown) + 1, figsize=(8.4, 5.2))
    for row, (shape, draw) in zip(rows, SHAPES.items(), strict=True):
        g = torch.Generator().manual_seed(0)
        flow = denoising_flow(blurred(shape, g, n=SHOWN), t=TIME, steps=STEPS, noise=NOISE)
        for axes, k in zip(row, shown, strict=False):
            cloud(axes, flow.points[k], BLUE, f"layer {k}" if shape == "moons" else "")
        cloud(row[-1], draw(SHOWN, g), GREEN, "before the blur" if shape == "moons" else "")
    return figure


def cloud(axes: Axes, x: Tensor, colour: str, title: str) -> None:
    """One panel of points."""
    axes.scatter(x[:, 0], x[:, 1], s=1.8, color=colour, linewidths=0, rasterized=True)
    axes.set(xlim=(-2, 2), ylim=(-1.8, 1.8), xticks=[], yticks=[], aspect="equal", title=title)
    axes.grid(visible=False)


def draw_distance(found: Record) -> plt.Figure:
    """Theorems 2 and 3: when the distance to a target falls."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.2, 3.3))
    settings, all_curves = found["settings"], found["curves"]
    times = torch.linspace(0, settings["time"], settings["steps"] + 1)

    def band(axes: Axes, name: str, label: str, colour: str) -> None:
        runs = torch.tensor(all_curves[name])
        mean, deviation = runs.mean(0), runs.std(0)
        axes.plot(times, mean, color=colour, label=label)
        axes.fill_between(times, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)

    for shape, colour in zip(SHAPES, (BLUE, RED, GREEN), strict=True):
        band(left, shape, shape, colour)
        left.axhline(torch.tensor(all_curves[f"{shape}: floor"]).mean(), color=colour, ls=":", lw=1)
    left.axvline(BLUR / 2, color=GREY, ls="--", lw=1)
    left.set(title="To what was blurred", ylabel="W₂ to the target", xlabel="time t", ylim=(0, None))
    left.legend(loc="center left")
    band(middle, "moons, teacher that turns", "teacher turns by 90°", BLUE)
    band(middle, "moons, to one blurred more", "twice the blur", GREEN)
    band(middle, "moons, to the input", "the input itself", RED)
    middle.set(title="Moons, to other targets", xlabel="time t", ylim=(0, None))
    middle.legend()
    fine = torch.linspace(0, 0.499, 400, dtype=torch.float64)
    zero, eye = torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64)
    for width, colour in ((0.0, GREY), (0.5, BLUE), (0.8, GREEN), (1.0, RED)):
        distance = lf.gaussian_wasserstein(zero, backward_heat(eye, fine), zero, width**2 * eye)
        right.plot(fine, distance, color=colour, label=f"{width:g}")
    right.set(title="N(0, 1), to N(0, s²)", xlabel="time t", ylim=(0, 1.3))
    right.legend(title="s", loc="upper center", ncols=2)
    return figure


def draw_depth(_: Record) -> plt.Figure:
    """Theorem 4: the bound by depth, as printed and as proved."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3))
    depths = torch.arange(1, 101)
    growth: dict[str, Callable[[Tensor], Tensor]] = {
        "D = 1": lambda depth: torch.ones_like(depth),
        "D = 1 + log l": lambda depth: 1 + depth.log(),
        "D = √l": lambda depth: depth.sqrt(),
    }
    for (label, diameter), colour in zip(growth.items(), (BLUE, GREEN, RED), strict=True):
        constants = {"epsilon": 0.1, "s": 1.0, "C": 0.0, "m": 1, "D": diameter(depths.double())}
        left.loglog(depths, lf.composition_bound(depths, **constants), color=colour, label=f"{label}, printed")
        proof = lf.composition_bound(depths, **constants, form="proof")
        left.loglog(depths, proof, color=colour, ls="--", label=f"{label}, proof")
    left.set(xlabel="depth l", ylabel="bound on W₂²", title="ε = 0.1, s = 1, C = 0")
    left.legend(fontsize=7.5)
    right.semilogx(depths[1:], lf.composition_lipschitz(depths[1:]), color=BLUE)
    right.axhline(1, color=GREY, ls=":", lw=1)
    right.set(
        xlabel="depth l", title="How fast the teacher's step may change", ylabel="Lipschitz constant", ylim=(0, 1.1)
    )
    return figure


FIGURES = {"maps": draw_maps, "flow": draw_flow, "distance": draw_distance, "depth": draw_depth}


def tables(found: Record) -> str:
    """Both tables of the guide."""
    return f"{table(found)}\n{variance_table(found)}"


if __name__ == "__main__":
    main("layer-theory", record=record, table=tables, figures=FIGURES)
