"""Figures 1 and 2 of the paper as experiments: speed against direction, and speed against length.

The paper states the covariance and the iterations. It does not state target, width, data or learning rate. Here the
target is |x1|, which two ReLU neurons along the first axis express; the rest are options with defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from layershift.dynamics.network import random_particles
from layershift.dynamics.planar import SIGMA, State, angle_from_axis, recorded_steps, ridge_problem
from layershift.dynamics.results import Claim, Curve, Experiment, Plot, Ring, claim_of
from layershift.dynamics.velocities import Kind, velocity

KINDS: Mapping[Kind, str] = {"batch_norm": "with batch normalisation", "plain": "without"}
NEAR = 30.0
"""Degrees that count as along an axis in figure 1."""
ARRIVED = 10.0
"""Degrees from the axis at which a neuron has arrived, in figure 2."""

Run = Mapping[int, State]
"""States by iteration."""


def frames_of(last: int, count: int, shown: Iterable[int] = ()) -> list[int]:
    """Iterations to record: evenly spread, and those that are shown.

    Args:
        last: the last iteration.
        count: how many steps the animation has.
        shown: more iterations.

    Returns:
        Ascending.

    Example:
        >>> frames_of(100, 4, [30])
        [0, 25, 30, 50, 75, 100]
    """
    return sorted({round(last * k / count) for k in range(count + 1)} | set(shown))


def speed_and_direction(
    *,
    m: int = 200,
    n: int = 256,
    rate: float = 0.005,
    at: int = 500,
    shown: Sequence[int] = (0, 2000, 4000, 6000, 8000),
    frames: int = 40,
    sigma: tuple[float, float] = SIGMA,
    seeds: int = 3,
    seed: int = 0,
) -> Experiment:
    """Figure 1: how fast neurons turn, by direction, and where they go, with and without batch normalisation.

    Args:
        m: neurons.
        n: data.
        rate: of learning, per neuron.
        at: the iteration at which speeds are read, at most the last one shown.
        shown: iterations whose directions stand side by side, from 0 on.
        frames: of the animation.
        sigma: the diagonal of the covariance.
        seeds: networks and data sets; pictures are of the first.
        seed: of the first.

    Returns:
        The experiment.
    """
    record = frames_of(max(shown), frames, [0, *shown, at])
    runs: list[Mapping[Kind, Run]] = []
    for own in range(seed, seed + seeds):
        problem = ridge_problem(n, seed=own, sigma=sigma)
        a, b = random_particles(2, m, seed=own, dtype=torch.float64)
        states = {kind: recorded_steps(problem, a, b, kind=kind, rate=rate, record=record) for kind in KINDS}
        runs.append({kind: {state.iteration: state for state in found} for kind, found in states.items()})
    chosen = {"neurons": m, "data": n, "covariance": f"diag{sigma}", "target": "|x1|", "activation": "ReLU"}
    chosen |= {"learning rate": rate, "seeds": f"{seeds} from {seed} on", "speeds at iteration": at}
    return Experiment(
        "figure",
        1,
        "Speed and direction",
        "With batch normalisation a neuron moves faster where it points along directions in which the data are small. "
        "That helps neurons to leave these directions and to gather in those in which the data are large.",
        chosen,
        _direction_claims(runs, at, max(shown)),
        [_speeds(runs[0], at, sigma), _losses(runs[0], KINDS)],
        [Ring(name, record, {name: [runs[0][kind][k].angle.tolist() for k in record]}) for kind, name in KINDS.items()],
        list(shown),
    )


def _direction_claims(runs: Sequence[Mapping[Kind, Run]], at: int, last: int) -> list[Claim]:
    def over(value: Callable[[Mapping[Kind, Run]], float]) -> Tensor:
        return torch.tensor([value(run) for run in runs], dtype=torch.float64)

    early = over(lambda run: _speed(run["batch_norm"][0]) / _speed(run["plain"][0]))
    later = over(lambda run: _speed(run["batch_norm"][at]) / _speed(run["plain"][at]))
    lost = [float(run[kind][at].loss / run[kind][0].loss) for kind in KINDS for run in runs[:1]]
    first, then = (
        {kind: over(lambda run, kind=kind, k=k: _contrast(run[kind][k])) for kind in KINDS}  # type: ignore[misc]
        for k in (0, at)
    )
    along = {kind: over(lambda run, kind=kind: _share_along(run[kind][last])) for kind in KINDS}  # type: ignore[misc]
    begun = over(lambda run: _share_along(run["plain"][0]))
    return [
        claim_of(
            f"At iteration {at} neurons turn faster with batch normalisation than without",
            later,
            expected="more than 1; about 10 in the paper's picture",
            holds=_surely(later > 1),
            note="Ratio of root mean squares over neurons. By then the losses are "
            f"{lost[0]:.2g} (with) and {lost[1]:.2g} (without) of what they were.",
        ),
        claim_of(
            "The metric alone makes them faster: the same before the first step",
            early,
            expected="more than 1",
            holds=_surely(early > 1),
            note="The same neurons and nearly the same outputs, so that the ratio is that of the two metrics.",
        ),
        claim_of(
            "With batch normalisation neurons turn faster where the data are small",
            first["batch_norm"],
            expected="more than 1, and more than without",
            holds=_surely(first["batch_norm"] > first["plain"].clamp(min=1)),
            note=f"Speed within {NEAR:.0f}° of the second axis over speed within {NEAR:.0f}° of the first, before the "
            f"first step. Without: {float(first['plain'].mean()):.2f}.",
        ),
        claim_of(
            f"The same at iteration {at}",
            then["batch_norm"],
            expected="more than 1",
            holds=_surely(then["batch_norm"] > 1),
            note=f"What is left to learn differs by then. Without: {float(then['plain'].mean()):.2f}.",
        ),
        claim_of(
            "With batch normalisation neurons gather along the large direction",
            along["batch_norm"],
            expected=f"more than without, and than {float(begun.mean()):.2f} at the start",
            holds=_surely(along["batch_norm"] > torch.maximum(along["plain"], begun)),
            note=f"Share of neurons within {NEAR:.0f}° of the first axis at iteration {last}.",
        ),
        claim_of("The same share without batch normalisation", along["plain"], expected="–", holds=None),
    ]


def _surely(each: Tensor) -> bool:
    """Whether it holds for every seed."""
    return bool(each.all())


def _speed(state: State) -> float:
    return float(state.turning.square().mean().sqrt())


def _contrast(state: State) -> float:
    off, square = angle_from_axis(state.angle), state.turning.square()
    return math.sqrt(float(square[off > 90 - NEAR].mean() / square[off < NEAR].mean()))


def _share_along(state: State, within: float = NEAR) -> float:
    return float((angle_from_axis(state.angle) < within).double().mean())


def _speeds(run: Mapping[Kind, Run], at: int, sigma: tuple[float, float]) -> Plot:
    curves = []
    for kind, name in KINDS.items():
        degrees, order = torch.rad2deg(run[kind][at].angle).sort()
        curves.append(Curve(name, degrees.tolist(), run[kind][at].turning[order].tolist(), look="points"))
    turn = torch.linspace(-torch.pi, torch.pi, 181, dtype=torch.float64)
    length = (sigma[0] * turn.cos().square() + sigma[1] * turn.sin().square()).sqrt()
    scale = max(max(curve.y) for curve in curves)
    curves.append(
        Curve("1/‖b‖ in the norm of Σ, scaled", torch.rad2deg(turn).tolist(), (scale / length).tolist(), look="theory")
    )
    title = f"Speed by direction at iteration {at:,}"
    return Plot("speeds", title, "direction of b, degrees", "speed, radians per unit of time", curves)


def _losses(run: Mapping[Kind, Run], names: Mapping[Kind, str]) -> Plot:
    curves = [
        Curve(name, list(run[kind]), [float(state.loss) for state in run[kind].values()])
        for kind, name in names.items()
    ]
    return Plot("loss", "Loss", "iteration", "loss", curves, log="y")


def speed_and_length(
    *,
    m: int = 200,
    n: int = 256,
    rate: float = 0.005,
    factor: float = 10.0,
    shown: Sequence[int] = (0, 2000, 4000, 6000, 8000, 10000),
    frames: int = 40,
    sigma: tuple[float, float] = SIGMA,
    seeds: int = 3,
    seed: int = 0,
) -> Experiment:
    """Figure 2: half of the neurons begin longer; each has a twin of length 1 with the same a and direction.

    Args:
        m: neurons, an even number.
        n: data.
        rate: of learning, per neuron.
        factor: how much longer the second half is.
        shown: iterations whose directions stand side by side, from 0 on.
        frames: of the animation.
        sigma: the diagonal of the covariance.
        seeds: networks and data sets; pictures are of the first.
        seed: of the first.

    Returns:
        The experiment.
    """
    record, half = frames_of(max(shown), frames, [0, *shown]), m // 2
    runs: list[Run] = []
    plain = []
    for own in range(seed, seed + seeds):
        problem = ridge_problem(n, seed=own, sigma=sigma)
        a, b = random_particles(2, half, seed=own, dtype=torch.float64)
        a, b = torch.cat([a, a]), torch.cat([b, factor * b])
        states = recorded_steps(problem, a, b, kind="batch_norm", rate=rate, record=record)
        runs.append({state.iteration: state for state in states})
        without = torch.linalg.vector_norm(velocity(problem, a, b, kind="plain").b, dim=1)
        plain.append(_ratio(without))
    groups = {"length 1": slice(0, half), f"length {factor:g}": slice(half, 2 * half)}
    shares = {
        name: [[_share_along(_part(state, part), ARRIVED) for state in run.values()] for run in runs]
        for name, part in groups.items()
    }
    chosen = {"neurons": m, "data": n, "covariance": f"diag{sigma}", "target": "|x1|", "activation": "ReLU"}
    chosen |= {"learning rate": rate, "lengths": f"1 and {factor:g}", "seeds": f"{seeds} from {seed} on"}
    curves = [Curve(name, record, torch.tensor(share).mean(0).tolist()) for name, share in shares.items()]
    arrived = Plot(
        "arrived", f"Share of neurons within {ARRIVED:.0f}° of the axis", "iteration", "share", curves,
        note=f"Mean over {seeds} seeds.",
    )  # fmt: skip
    first = {name: [_part(runs[0][k], part).angle.tolist() for k in record] for name, part in groups.items()}
    return Experiment(
        "figure",
        2,
        "Speed and length",
        "With batch normalisation the length of b does not change what a neuron computes, but a neuron c times as long "
        "moves c times more slowly. Short neurons settle first. Without it, speed does not depend on length.",
        chosen,
        _length_claims(runs, plain, shares, groups, factor, record),
        [arrived, _losses({"batch_norm": runs[0]}, {"batch_norm": "loss"})],
        [Ring("with batch normalisation", record, first)],
        list(shown),
    )


def _part(state: State, part: slice) -> State:
    return state._replace(a=state.a[part], b=state.b[part], b_dot=state.b_dot[part])


def _ratio(speed: Tensor) -> Tensor:
    """Speeds of the first half over those of their twins in the second; neurons that stand still are left out."""
    short, long = speed.chunk(2)
    return (short / long)[long > 0]


def _length_claims(
    runs: Sequence[Run],
    plain: Sequence[Tensor],
    shares: Mapping[str, list[list[float]]],
    groups: Mapping[str, slice],
    factor: float,
    record: Sequence[int],
) -> list[Claim]:
    moving = torch.cat([_ratio(torch.linalg.vector_norm(run[0].b_dot, dim=1)) for run in runs])
    turning = torch.cat([_ratio(run[0].turning) for run in runs])
    without = torch.cat(list(plain))
    pairs = "Pairs of neurons with the same a and direction, of all seeds, before the first step."
    claims = []
    for claim, values, expected in (
        (f"A neuron {factor:g} times shorter moves {factor:g} times faster", moving, factor),
        (f"and turns {factor**2:g} times faster", turning, factor**2),
        ("Without batch normalisation both move at the same speed", without, 1.0),
    ):
        holds = bool((values / expected - 1).abs().max() < 1e-9)
        claims.append(claim_of(claim, values, expected=f"{expected:g}", holds=holds, note=pairs))
    ends = {name: torch.tensor([share[-1] for share in found]) for name, found in shares.items()}
    short, long = ends.values()
    for name, found in shares.items():
        reached = [next((k for k, s in zip(record, share, strict=True) if s >= 0.5), None) for share in found]
        known = [k for k in reached if k is not None]
        late = f"{len(runs) - len(known)} of {len(runs)} seeds never got there." if len(known) < len(runs) else ""
        found_at = claim_of(
            f"Iteration by which half of the neurons of {name} have arrived",
            known or [math.nan],
            expected="–",
            holds=None,
            note=f"To the nearest recorded iteration. {late}".strip(),
        )
        claims.append(found_at._replace(n=len(known)))
    claims.append(
        claim_of(
            "At the end more of the short neurons have arrived",
            short.double() - long.double(),
            expected="more than 0",
            holds=bool((short > long).all()),
            note=f"Difference of the shares within {ARRIVED:.0f}° of the axis.",
        )
    )
    for name, part in groups.items():
        grown = [(_norm(run[record[-1]].b[part]) / _norm(run[0].b[part])).max() for run in runs]
        claims.append(
            claim_of(
                f"Lengths stay as they are: {name}",
                torch.stack(grown) - 1,
                expected="0 for the flow",
                holds=None,
                note="Largest growth of a neuron, as a share, under the discrete steps.",
            )
        )
    return claims


def _norm(b: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(b, dim=1)
    return length
