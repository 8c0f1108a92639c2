"""Theorem 4 of the paper as an experiment: wider and wider networks, and the energy that they lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from layershift.dynamics.energy import dissipation, energy_gap
from layershift.dynamics.flows import flow
from layershift.dynamics.mean_field import Ground, particle_wasserstein
from layershift.dynamics.planar import SIGMA, ridge_problem
from layershift.dynamics.results import Claim, Curve, Experiment, Plot, claim_of
from layershift.dynamics.separation import start
from layershift.dynamics.velocities import Problem
from layershift.dynamics.width_convergence import WidthRow, convergence_in_width, fitted_rate


def planar_draw(m: int, seed: int) -> tuple[Tensor, Tensor]:
    """Independent neurons with a uniform on [-1, 1] and directions uniform on the circle.

    Args:
        m: neurons.
        seed: of the draw.

    Returns:
        a of shape `(m,)` and b of shape `(m, 2)`, in float64.
    """
    return start("filled", m, torch.eye(2, dtype=torch.float64), seed=seed)


def even_draw(m: int) -> tuple[Tensor, Tensor]:
    """Neurons that stand for the same distribution better than independent ones: a low-discrepancy sequence.

    Args:
        m: neurons.

    Returns:
        a of shape `(m,)` and b of shape `(m, 2)`, in float64.

    Example:
        >>> a, b = even_draw(256)
        >>> bool(a.mean().abs() < 0.02), bool(b.mean(0).abs().max() < 0.02)
        (True, True)
    """
    sequence = torch.quasirandom.SobolEngine(2)  # type: ignore[no-untyped-call]
    points: Tensor = sequence.draw(m, dtype=torch.float64) + 0.5 / m
    turn = 2 * math.pi * points[:, 1]
    return 2 * points[:, 0] - 1, torch.stack([turn.cos(), turn.sin()], 1)


def theorem4(
    *,
    widths: Sequence[int] = (8, 16, 32, 64, 128, 256, 512),
    reference: int = 2048,
    times: Sequence[float] = (0.0, 2.0, 10.0),
    n: int = 128,
    step: float = 0.02,
    seeds: int = 12,
    seed: int = 0,
) -> Experiment:
    """Theorem 4: trajectories of wider and wider networks converge, and their limit descends the energy.

    Starts are independent draws of one distribution; the reference stands for the limit.

    Args:
        widths: neurons.
        reference: neurons of the widest network.
        times: at which to compare, ascending; the energy is followed until the last.
        n: data.
        step: of the integration.
        seeds: starts of each width.
        seed: of the first.

    Returns:
        The experiment.
    """
    problem, last = ridge_problem(n, seed=seed), max(times)
    rows = convergence_in_width(
        problem,
        planar_draw,
        even_draw(reference),
        widths=widths,
        seeds=range(seed, seed + seeds),
        times=times,
        step=step,
    )
    claims = []
    for of, what, law in (
        ("distance", "W₂ to the widest network falls with the width", "positive; about 0.5 on a surface"),
        ("output", "The difference of the outputs falls with the width", "positive; 0.5 by the central limit theorem"),
    ):
        for time in times:
            rate = fitted_rate((row for row in rows if row.time == time), of=of)
            spread = rate.stderr * math.sqrt(rate.n) if rate.n > 1 else None
            note = "Exponent r of m⁻ʳ, one fit a seed. The theorem itself states no rate."
            holds = rate.value > 3 * rate.stderr if rate.n > 1 else rate.value > 0
            claims.append(Claim(f"{what}, at time {time:g}", law, rate.value, spread, rate.n, holds, note))
    claims += _energy_claims(problem, min(widths[-1], 128), last, min(seeds, 6), seed)
    settings = {"widths": list(widths), "widest": reference, "data": n, "covariance": f"diag{SIGMA}", "target": "|x1|"}
    settings |= {"activation": "ReLU", "step": step, "seeds": f"{seeds} from {seed} on"}
    settings |= {"start": "a uniform on [-1, 1], directions uniform", "distance": "exact W2, geodesic of the metric"}
    plots = [
        _by_width(rows, widths, times, "distance", "W₂ to the widest network"),
        _by_width(rows, widths, times, "output", "Difference of outputs, root mean square"),
    ]
    statement = (
        "If the starts of wider and wider networks converge weakly, a subsequence of their trajectories converges, "
        "uniformly on bounded times, to a solution of the mean-field equation."
    )
    return Experiment("theorem", 4, "The limit of many neurons", statement, settings, claims, plots)


def _by_width(rows: Sequence[WidthRow], widths: Sequence[int], times: Sequence[float], of: str, title: str) -> Plot:
    curves = []
    for time in times:
        own = [[getattr(r, of) for r in rows if r.width == width and r.time == time] for width in widths]
        values = torch.tensor(own, dtype=torch.float64)
        error = values.std(1).tolist() if values.shape[1] > 1 else None
        curves.append(Curve(f"time {time:g}", list(widths), values.mean(1).tolist(), error))
    law = [curves[-1].y[0] * math.sqrt(widths[0] / width) for width in widths]
    curves.append(Curve("m^(-1/2)", list(widths), law, look="theory"))
    note = "Bars: one standard deviation over seeds."
    return Plot(of, title, "neurons", title.split(",")[0], curves, "xy", note)


def _energy_claims(problem: Problem, m: int, last: float, seeds: int, seed: int) -> list[Claim]:
    smooth = problem._replace(activation="softplus")  # Simpson's rule needs a smooth rate
    times = torch.linspace(0, last, 201, dtype=torch.float64)
    gaps: list[float] = []
    rises: list[float] = []
    reach: list[float] = []
    chord: list[float] = []
    for own in range(seed, seed + seeds):
        found = flow(smooth, *planar_draw(m, own), kind="batch_norm", times=times, rtol=1e-8, atol=1e-10)
        rates = torch.stack([dissipation(smooth, a, b)[1] for a, b in zip(found.a, found.b, strict=True)])
        gaps.append(float(energy_gap(times, found.loss, rates)))
        rises.append(float(found.loss.diff().max()))
        grounds: tuple[tuple[Ground, list[float]], ...] = (("geodesic", reach), ("chordal", chord))
        for ground, into in grounds:
            moved = particle_wasserstein(
                found.a[0], found.b[0], found.a[20], found.b[20], sigma=smooth.sigma, ground=ground
            )
            into.append(float(moved.square() / (times[20] * (found.loss[0] - found.loss[20]))))
    return [
        claim_of(
            "dL/dt is minus the mean square of the particles' speed in the metric",
            gaps,
            expected="gap 0",
            holds=max(gaps) < 1e-5,
            note=f"Loss that was lost against the integral of the squares until time {last:g}, m = {m}, softplus; one "
            "number a seed.",
        ),
        claim_of(
            "The loss never rises along the flow",
            rises,
            expected="0 or less",
            holds=max(rises) <= 0,
            note="Largest change between 201 recorded times, one number a seed.",
        ),
        claim_of(
            "W₂² between two times is at most the time times the loss that was lost",
            reach,
            expected="1 or less",
            holds=max(reach) <= 1,
            note="Their ratio for the first tenth of the time, with the distance of the metric. With straight lines in "
            f"(a, b̄), for which the proof of theorem 4 writes it, {max(chord):.3g}.",
        ),
    ]
