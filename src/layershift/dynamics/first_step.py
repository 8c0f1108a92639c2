r"""Figure 3 of the paper as an experiment: the first step of a short neuron makes it long.

The gradient of a normalised neuron is at right angles to it, and of size $g/\lVert b\rVert$ where $g$ is that of its
twin of length 1. A step of rate $\eta$ therefore gives

$$\lVert b^+\rVert^2=\lVert b\rVert^2+\frac{\eta^2g^2}{\lVert b\rVert^2}.$$

The length that comes out is least, $\sqrt{2\eta g}$, for $\lVert b\rVert=\sqrt{\eta g}$. A neuron much shorter than
that is turned by nearly 90° once. It then is of length $\eta g/\lVert b\rVert$, so that it turns at the rate
$\eta/\lVert b^+\rVert^2=\lVert b\rVert^2/(\eta g^2)$: the shorter it began, the less it ever moves again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from layershift.dynamics.network import random_particles
from layershift.dynamics.planar import SIGMA, recorded_steps, ridge_problem
from layershift.dynamics.results import Claim, Curve, Experiment, Plot, claim_of

SCALES = tuple(10 ** (power / 4) for power in range(-12, 5))
"""Lengths from 0.001 to 10, four a decade."""


def first_step(
    *,
    m: int = 200,
    n: int = 256,
    rate: float = 0.05,
    scales: Sequence[float] = SCALES,
    steps: int = 100,
    sigma: tuple[float, float] = SIGMA,
    seeds: int = 3,
    seed: int = 0,
) -> Experiment:
    """Figure 3: lengths before and after the first step, and what becomes of them.

    For each length there is one network, all of whose neurons begin at it, with the same a and directions. All these
    networks compute the same function before the first step.

    Args:
        m: neurons.
        n: data.
        rate: of learning, per neuron.
        scales: lengths at the start.
        steps: of each network.
        sigma: the diagonal of the covariance.
        seeds: starts and data sets.
        seed: of the first.

    Returns:
        The experiment.
    """
    lengths, turns, slopes = [], [], []
    for own in range(seed, seed + seeds):
        problem = ridge_problem(n, seed=own, sigma=sigma)
        a, b = random_particles(2, m, seed=own, dtype=torch.float64)
        runs = [
            list(recorded_steps(problem, a, scale * b, kind="batch_norm", rate=rate, record=range(steps + 1)))
            for scale in scales
        ]
        lengths.append(torch.stack([torch.stack([_norm(state.b) for state in run]) for run in runs]))
        turns.append(torch.stack([torch.stack([(rate * state.turning).atan() for state in run]) for run in runs]))
        slopes.append(torch.stack([_norm(run[0].b_dot) * scale for run, scale in zip(runs, scales, strict=True)]))
    begun = torch.tensor(scales, dtype=torch.float64)
    found = Lengths(begun, torch.stack(lengths), torch.stack(turns), torch.stack(slopes), rate)
    chosen = {"neurons": m, "data": n, "covariance": f"diag{sigma}", "target": "|x1|", "activation": "ReLU"}
    chosen |= {"learning rate": rate, "steps": steps, "seeds": f"{seeds} from {seed} on"}
    return Experiment(
        "figure",
        3,
        "The first step",
        "The gradient of a short neuron is large and at right angles to it. So the first step makes a very short "
        "neuron long, and from the second step on no neuron is short enough to make the discrete dynamics unstable.",
        chosen | {"length from which the first step leads to the shortest": round(found.best, 4)},
        _claims(found),
        [_growth(found), _turns(found), _mobility(found)],
    )


class Lengths(NamedTuple):
    """What was recorded, for S seeds, K lengths at the start, T steps and m neurons.

    Attributes:
        start: lengths at the start, shape `(K,)`.
        length: before each step, shape `(S, K, T + 1, m)`.
        turn: by which the next step turns each neuron, in radians, shape `(S, K, T + 1, m)`.
        slope: size of the first gradient at length 1, as found at each length, shape `(S, K, m)`.
        rate: of learning.
    """

    start: Tensor
    length: Tensor
    turn: Tensor
    slope: Tensor
    rate: float

    @property
    def best(self) -> float:
        """The length from which the first step leads to the least root mean square of lengths."""
        return math.sqrt(self.rate) * float(self.slope.square().mean() ** 0.25)

    def rms(self, step: int) -> Tensor:
        """Root mean square of lengths over neurons and seeds, shape `(K,)`."""
        return self.length[:, :, step].square().mean((0, 2)).sqrt()


def _norm(b: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(b, dim=1)
    return length


def _claims(found: Lengths) -> list[Claim]:
    start, length = found.start, found.length
    square = start[:, None].square() + (found.rate * found.slope / start[:, None]).square()
    gap = (length[:, :, 1].square() / square - 1).abs().amax((1, 2))
    least = (length[:, :, 1:] / length[:, :, :-1]).amin((1, 2, 3))
    short = start < found.best / 10
    claims = [
        claim_of(
            "‖b⁺‖² = ‖b‖² + η²‖g‖² after the first step",
            gap,
            expected="0, up to rounding",
            holds=bool((gap < 1e-10).all()),
            note="Largest relative gap over neurons and lengths, one number a seed.",
        ),
        claim_of(
            f"No length ever falls, over {length.shape[2] - 1} steps",
            least,
            expected="1 or more",
            holds=bool((least >= 1 - 1e-12).all()),
            note="Least ratio of lengths after and before a step, one number a seed.",
        ),
    ]
    if int(short.sum()) > 1:
        logs = length[:, short, 1].square().mean(2).sqrt().log()
        x = start[short].log() - start[short].log().mean()
        exponent = (logs * x).sum(1) / x.square().sum()
        first = torch.rad2deg(found.turn[:, short, 0].median(2).values.amin(1))
        wide = (found.turn[:, short, 1:] > math.radians(10)).any(2).double().mean((1, 2))
        unit = int((start - 1).abs().argmin())
        learns = found.length[:, unit, 1].square().median(1).values / found.length[:, 0, 1].square().median(1).values
        below = f"Starts shorter than {found.best / 10:.2g}, a tenth of √(ηg)."
        claims += [
            claim_of(
                "Far below √(ηg), the shorter a neuron begins the longer it becomes",
                exponent,
                expected="exponent -1: ‖b⁺‖ ∝ 1/‖b‖",
                holds=bool((exponent + 1).abs().max() < 0.05),
                note=below,
            ),
            claim_of(
                "The first step turns such a neuron by, in degrees",
                first,
                expected="nearly 90",
                holds=bool((first > 80).all()),
                note=f"Median over neurons, the least over starts: what it pointed to is lost. {below}",
            ),
            claim_of(
                "From the second step on all of them are long enough to move steadily",
                wide,
                expected="share 0",
                holds=bool((wide == 0).all()),
                note=f"Share of neurons that some later step turns by more than 10°. {below} They are those whose "
                "first gradient happened to be small.",
            ),
            claim_of(
                "Short neurons keep learning faster, as in the flow",
                learns,
                expected="more than 1",
                holds=bool((learns > 1).all()),
                note=f"Median rate η/‖b‖² after the first step, from length {float(start[0]):.1g} over that from 1.",
            ),
        ]
    return claims


def _growth(found: Lengths) -> Plot:
    steps = found.length.shape[2] - 1
    shown = [k for k in (1, 10, 100) if k <= steps]
    curves = [Curve("before", found.start.tolist(), found.start.tolist(), look="theory")]
    theory = (found.start.square() + (found.rate / found.start).square() * found.slope.square().mean()).sqrt()
    curves.append(Curve("√(‖b‖² + η²g²/‖b‖²)", found.start.tolist(), theory.tolist(), look="theory"))
    curves += [
        Curve(f"after {k} step{'s' * (k > 1)}", found.start.tolist(), found.rms(k).tolist(), look="points")
        for k in shown
    ]
    return Plot("growth", "Length after some steps", "length at the start", "length, root mean square", curves, "xy")


def _turns(found: Lengths) -> Plot:
    chosen = [int((found.start - scale).abs().argmin()) for scale in (1e-3, 1e-2, 1e-1, 1, 10)]
    shown = sorted(set(chosen))
    steps = range(1, min(found.turn.shape[2], 21))
    turn = torch.rad2deg(found.turn).square().mean((0, 3)).sqrt()
    curves = [
        Curve(f"length {float(found.start[k]):g}", list(steps), [float(turn[k, step - 1]) for step in steps])
        for k in shown
    ]
    return Plot("turns", "How far a step turns a neuron", "step", "degrees, root mean square", curves, log="y")


def _mobility(found: Lengths) -> Plot:
    before = found.rate / found.start.square()
    after = (found.rate / found.length[:, :, 1].square()).transpose(0, 1).flatten(1).median(1).values
    x = found.start.tolist()
    curves = [
        Curve("before the first step", x, before.tolist(), look="theory"),
        Curve("after it", x, after.tolist(), look="points"),
    ]
    title = "The rate at which directions learn, η/‖b‖²"
    return Plot("mobility", title, "length at the start", "η/‖b‖², median", curves, "xy")
