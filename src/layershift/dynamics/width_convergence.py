r"""Convergence in the width (theorem 4): networks of several widths against one that is much wider.

Every width starts from draws of one distribution. The theorem says that a subsequence converges, and nothing of how
fast. For independent draws the output has the rate of the central limit theorem, $m^{-1/2}$. The measures have that of
empirical measures in $W_2$, which depends on the dimension of their support: $m^{-1/2}$ on a surface, up to a
logarithm, and $m^{-1/D}$ in $D>4$ dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import check, check_choice, check_count, check_number, check_seed, check_type
from layershift.dynamics.flows import flow
from layershift.dynamics.losses import activate
from layershift.dynamics.mean_field import GROUNDS, Ground, particle_wasserstein
from layershift.dynamics.metric import to_ellipsoid
from layershift.dynamics.velocities import Problem, check_problem

Draw = Callable[[int, int], tuple[Tensor, Tensor]]
"""Width and seed to a start: a of shape `(m,)`, b of shape `(m, d)`."""


class WidthRow(NamedTuple):
    """How far one narrow network is from the wide one, at one time.

    Attributes:
        width: its neurons.
        seed: of its start.
        time: in mean-field time.
        distance: $W_2$ between the two measures.
        output: root mean square of the difference of the two outputs over the data.
    """

    width: int
    seed: int
    time: float
    distance: float
    output: float


class Rate(NamedTuple):
    """The exponent r of an error that falls as $m^{-r}$, and its standard error over seeds.

    Attributes:
        value: the mean over seeds of the slope of each.
        stderr: NaN for one seed.
        n: seeds.
    """

    value: float
    stderr: float
    n: int


def convergence_in_width(
    problem: Problem,
    draw: Draw,
    reference: tuple[Tensor, Tensor],
    *,
    widths: Sequence[int],
    seeds: Iterable[int],
    times: Sequence[float],
    step: float = 0.02,
    ground: Ground = "geodesic",
) -> list[WidthRow]:
    """Run networks of several widths and compare each with a wide one at the same times.

    All follow the flow of eq. 10 by explicit steps, so what differs is the width alone.

    Args:
        problem: data, loss and activation.
        draw: the start of a width and seed.
        reference: a and b of the wide network at time 0. What it is short of the limit does not fall with the width.
        widths: neurons.
        seeds: of the starts.
        times: in mean-field time, ascending.
        step: of the integration.
        ground: of the distance, see `direction_distance`.

    Returns:
        A row for each width, seed and time.

    Raises:
        ValueError: if there is no width, or a time is negative.
        ModuleNotFoundError: if POT is not installed.
    """
    check_problem(problem)
    check_choice("ground", ground, GROUNDS)
    check_type("draw", draw, Callable, "a function of width and seed")  # type: ignore[arg-type]
    check_type("widths", widths, Sequence, "at least one width")
    check(len(widths) > 0, "widths", "at least one width", widths)
    for width in widths:
        check_count("widths", width)
    check_type("times", times, Sequence, "times from 0 on")
    check(len(times) > 0, "times", "times from 0 on", times)
    for time in times:
        check_number("times", time, "times from 0 on", least=0)
    check_type("seeds", seeds, Iterable, "seeds")
    seeds = tuple(seeds)
    for seed in seeds:
        check_seed("seeds", seed)
    at = torch.tensor(sorted({0.0, *times}), dtype=problem.x.dtype)
    places = [int(torch.searchsorted(at, time)) for time in times]

    def run(start: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        found = flow(problem, *start, kind="batch_norm", times=at, method="euler", step=step)
        states = [(found.a[k], found.b[k]) for k in places]
        return [(a, b, outputs(problem, a, b)) for a, b in states]

    wide, rows = run(reference), []
    for seed in seeds:
        for width in widths:
            for time, (a, b, f), (other_a, other_b, g) in zip(times, run(draw(width, seed)), wide, strict=True):
                distance = particle_wasserstein(a, b, other_a, other_b, sigma=problem.sigma, ground=ground)
                gap = (f - g).square().mean().sqrt()
                rows.append(WidthRow(width, seed, float(time), float(distance), float(gap)))
    return rows


def outputs(problem: Problem, a: Tensor, b: Tensor) -> Tensor:
    r"""What the normalised network says for the data, $\frac1m\sum_ka_k\sigma(\bar b_k^Tx)$.

    Args:
        problem: data and activation.
        a: shape `(m,)`.
        b: directions of any length but 0, shape `(m, d)`.

    Returns:
        Shape `(n,)`.
    """
    return activate(problem.x @ to_ellipsoid(b, problem.sigma).mT, problem.activation) @ a / len(a)


def fitted_rate(rows: Iterable[WidthRow], *, of: str = "output") -> Rate:
    """The exponent of the width: each seed's least squares in logarithms, then mean and standard error over seeds.

    Args:
        rows: of one time.
        of: "output" or "distance".

    Returns:
        The rate; positive if the error falls with the width.

    Raises:
        ValueError: if there are fewer than two widths.

    Example:
        >>> rows = [WidthRow(m, 0, 1.0, 2 / m, 3 / m**0.5) for m in (8, 16, 64)]
        >>> round(fitted_rate(rows).value, 6), round(fitted_rate(rows, of="distance").value, 6)
        (0.5, 1.0)
    """
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, []).append((math.log(row.width), math.log(getattr(row, of))))
    slopes = []
    for points in by_seed.values():
        check(len(points) > 1, "rows", "at least two widths", len(points))
        x, y = torch.tensor(points, dtype=torch.float64).unbind(1)
        x = x - x.mean()
        slopes.append(-float((x * y).sum() / x.square().sum()))
    found = torch.tensor(slopes, dtype=torch.float64)
    error = float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    return Rate(float(found.mean()), error, len(found))
