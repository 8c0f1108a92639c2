"""Theorem 5 of the paper as an experiment: which starts reach the global minimum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from layershift.dynamics.losses import activate
from layershift.dynamics.metric import to_ellipsoid
from layershift.dynamics.planar import SIGMA, centred_sample, recorded_steps
from layershift.dynamics.results import Claim, Curve, Experiment, Plot, Ring, claim_of
from layershift.dynamics.separation import STARTS, Start, circle, least_loss, separation_radius, start
from layershift.dynamics.velocities import Problem

NAMES = {
    "graph": "a = 0, all directions",
    "filled": "all a, all directions",
    "cone": "directions within 15° of the second axis",
    "axis": "directions ± the first axis",
    "point": "all neurons the same",
}
REACHED = 1e-3
"""The share of the loss at the start, above the least one, at which the minimum counts as reached."""


def mirrored_problem(n: int = 128, *, seed: int = 0) -> Problem:
    r"""Three softplus neurons as a teacher, on data that are the same above and below the first axis.

    The teacher is the same above and below as well. So a network whose neurons all lie along the first axis feels no
    force off it. Softplus has the smooth derivative that theorem 5 asks for. The least loss is 0, that of the teacher.

    Args:
        n: data, an even number.
        seed: of their draw.

    Returns:
        The problem, in float64.

    Example:
        >>> problem = mirrored_problem(8)
        >>> bool((problem.y[:4] - problem.y[4:]).abs().max() < 1e-12)
        True
    """
    sigma = torch.diag(torch.tensor(SIGMA, dtype=torch.float64))
    x = centred_sample(n, sigma, seed=seed, mirrored=True)
    turn = torch.deg2rad(torch.tensor([70.0, -70.0, 180.0], dtype=torch.float64))
    b = to_ellipsoid(torch.stack([turn.cos(), turn.sin()], 1), sigma)
    y = activate(x @ b.mT, "softplus") @ torch.tensor([2.0, 2.0, -2.0], dtype=torch.float64)
    return Problem(x, y, sigma, "squared", "softplus")


def theorem5(
    *,
    m: int = 200,
    n: int = 128,
    rate: float = 0.05,
    steps: int = 1500,
    widths: Sequence[int] = (2, 4, 8, 16, 32),
    grid: int = 720,
    seeds: int = 3,
    seed: int = 0,
) -> Experiment:
    """Theorem 5: from a start that separates, the flow that converges ends at the global minimum.

    Args:
        m: neurons of each start.
        n: data, an even number.
        rate: of the explicit steps.
        steps: their number.
        widths: smaller networks that begin with all directions.
        grid: directions of the convex problem that says what the least loss is.
        seeds: starts and data sets.
        seed: of the first.

    Returns:
        The experiment.
    """
    record = sorted({round(steps * k / 40) for k in range(41)})
    losses: dict[str, list[list[float]]] = {kind: [] for kind in STARTS}
    radii: dict[str, list[float]] = {kind: [] for kind in STARTS}
    floors: dict[str, list[float]] = {"all": [], "axis": [], "point": []}
    narrow: dict[int, list[float]] = {width: [] for width in widths}
    pictures: dict[str, list[list[float]]] = {}
    for own in range(seed, seed + seeds):
        problem = mirrored_problem(n, seed=own)
        directions = circle(grid)
        floors["all"].append(float(least_loss(problem, directions)[0]))
        floors["axis"].append(float(least_loss(problem, circle(2))[0]))
        floors["point"].append(min(float(least_loss(problem, one[None])[0]) for one in directions))
        for kind in STARTS:
            a, b = start(kind, m, problem.sigma, seed=own)
            radii[kind].append(float(separation_radius(a, b)))
            states = list(recorded_steps(problem, a, b, kind="batch_norm", rate=rate, record=record))
            losses[kind].append([float(state.loss) for state in states])
            pictures.setdefault(kind, [state.angle.tolist() for state in states])
        for width in widths:
            a, b = start("filled", width, problem.sigma, seed=own)
            *_, end = recorded_steps(problem, a, b, kind="batch_norm", rate=rate, record=[0, steps])
            narrow[width].append(float(end.loss))
    gaps = {
        kind: torch.tensor([(run[-1] - low) / (run[0] - low) for run, low in zip(runs, floors["all"], strict=True)])
        for kind, runs in losses.items()
    }
    chosen = {"neurons": m, "data": n, "covariance": f"diag{SIGMA}", "activation": "softplus", "learning rate": rate}
    chosen |= {"target": "three neurons, the same above and below the first axis", "steps": steps}
    chosen |= {"grid": grid, "seeds": f"{seeds} from {seed} on"}
    return Experiment(
        "theorem",
        5,
        "Which starts reach the minimum",
        "If the support of the start parts large positive from large negative output weights, for all directions, and "
        "the mean-field flow converges, then its limit is a global minimum.",
        chosen,
        [*_claims(gaps, losses, floors, radii), _narrow_claim(narrow, losses["filled"])],
        [_courses(losses, record, floors), _widths(narrow, m, losses["filled"])],
        [
            Ring(NAMES[kind].removeprefix("directions "), record, {NAMES[kind]: pictures[kind]})
            for kind in ("graph", "cone", "axis")
        ],
        [record[round(40 * share)] if len(record) > 40 else record[0] for share in (0, 0.05, 0.1, 0.25, 1)],
    )


def _claims(
    gaps: dict[str, Tensor],
    losses: dict[str, list[list[float]]],
    floors: dict[str, list[float]],
    radii: dict[str, list[float]],
) -> list[Claim]:
    claims = [
        claim_of(
            "The least loss of any measure on the grid of directions",
            floors["all"],
            expected="0, the teacher's",
            holds=max(floors["all"]) < 1e-8,
            note="A convex problem: least squares in the mass of each direction.",
        )
    ]
    said: dict[Start, tuple[str, str]] = {
        "graph": ("reaches the minimum", f"share left, under {REACHED:g}"),
        "filled": ("reaches the minimum", f"share left, under {REACHED:g}"),
        "cone": ("does not separate, and reaches the minimum all the same", f"share left, under {REACHED:g}"),
        "axis": ("does not separate, and fails", f"share left, over {REACHED:g}"),
        "point": ("does not separate, and fails", f"share left, over {REACHED:g}"),
    }
    for kind, (verb, expected) in said.items():
        reached = gaps[kind] < REACHED
        fails = kind in ("axis", "point")
        note = f"Discs of radius {math.degrees(sum(radii[kind]) / len(radii[kind])):.0f}° around the neurons separate."
        if kind == "cone":
            note += " The condition is sufficient and not necessary: the flow turns neurons out of the cone."
        if fails:
            ends = torch.tensor([run[-1] for run in losses[kind]])
            low = torch.tensor(floors[kind])
            if kind == "axis":
                note += " It is a saddle: rounding errors grow, and lead the neurons off the axis in the end."
            where = "on that axis" if kind == "axis" else "with one direction, the best of the grid,"
            note += (
                f" No measure {where} has a loss under {float(low.mean()):.3g}; it ends at {float(ends.mean()):.3g}."
            )
        claims.append(
            claim_of(
                f"Start with {NAMES[kind]}: it {verb}",
                gaps[kind],
                expected=expected,
                holds=bool((~reached if fails else reached).all()),
                note=note,
            )
        )
    return claims


def _narrow_claim(narrow: dict[int, list[float]], wide: list[list[float]]) -> Claim:
    shares = {
        width: [end / run[0] < REACHED for end, run in zip(ends, wide, strict=True)] for width, ends in narrow.items()
    }
    told = ", ".join(f"{width} neurons {sum(own)} of {len(own)}" for width, own in shares.items())
    least = min(narrow)
    return claim_of(
        f"A narrow network with all directions reaches the minimum, {least} neurons",
        [float(x) for x in shares[least]],
        expected="share 1",
        holds=all(shares[least]),
        note=f"Share of starts that reach it. The theorem is about the limit of many neurons. By width: {told}.",
    )


def _courses(losses: dict[str, list[list[float]]], record: Sequence[int], floors: dict[str, list[float]]) -> Plot:
    curves = [Curve(NAMES[kind], list(record), torch.tensor(runs).mean(0).tolist()) for kind, runs in losses.items()]
    low = sum(floors["axis"]) / len(floors["axis"])
    curves.append(Curve("least on the first axis", [record[0], record[-1]], [low, low], look="theory"))
    return Plot("courses", "Loss by start", "step", "loss, mean over seeds", curves, log="y")


def _widths(narrow: dict[int, list[float]], m: int, wide: list[list[float]]) -> Plot:
    ends = {**narrow, m: [run[-1] for run in wide]}
    x = [float(width) for width, own in ends.items() for _ in own]
    y = [value for own in ends.values() for value in own]
    title = f"Loss at the end by width, {NAMES['filled']}"
    return Plot("widths", title, "neurons", "loss", [Curve("one start", x, y, look="points")], log="xy")
