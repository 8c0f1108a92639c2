r"""Distances between paired samples, each with its standard error: exact, sliced, and between Gaussian fits.

Sample $i$ of both sides comes from the same input, so pairs are what is independent. Each standard error is
$\sqrt{\operatorname{var}_i\psi_i/n}$ with $\psi_i$ the influence of pair $i$ on the distance, which for optimal
transport is the sum of the dual potentials at its two ends. No resampling is needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from layershift._checks import (
    accumulation_dtype,
    check_choice,
    check_count,
    check_floating,
    check_rank,
    check_readable,
    import_extra,
)
from layershift.functional.bounds import check_pairs, mean_projection
from layershift.functional.gaussian import safe_root
from layershift.functional.sorting import ascending_order
from layershift.functional.wasserstein1d import Order

_DIRECT = 10**9  # operations: up to here distances are computed without the cancellation of a matrix product
_PIVOTS = 10**7


class Transport(NamedTuple):
    """A distance and its standard error over pairs, NaN for one pair; each of shape `()`."""

    value: Tensor
    stderr: Tensor


class SlicedTransport(NamedTuple):
    r"""A sliced distance on the scale of the distance itself.

    Attributes:
        value: $SW_1/c_d$ or $\sqrt d\,SW_2$, which is at most $W_p$, shape `()`.
        stderr: its standard error over pairs and directions, shape `()`; NaN for one pair.
        lower: the value less three standard errors of the directions, and no less than the distance of the means: a
            lower bound on $W_p$ between the samples, shape `()`.
    """

    value: Tensor
    stderr: Tensor
    lower: Tensor


def exact_wasserstein(x: Tensor, y: Tensor, *, p: Order = 1) -> Transport:
    r"""$W_p$ between two samples of equal size by a linear program (POT).

    It runs on the CPU in float64; its cost grows as $n^3$. Not differentiable.

    Args:
        x: samples of shape `(N, d)`.
        y: the same inputs' samples at another time, in the same order, shape `(N, d)`.
        p: 1 or 2; the root is taken.

    Returns:
        The distance between the empirical distributions, and its standard error over pairs. NaN among the samples gives
        NaN.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if shapes differ, there is no sample, or `p` has another value.
        ModuleNotFoundError: if POT is not installed.

    References:
        E. del Barrio, J.-M. Loubes, 2019, "Central limit theorems for empirical transportation cost in general
        dimension".

    Example:
        >>> x = torch.randn(64, 5)
        >>> round(float(exact_wasserstein(x, x + torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])).value), 4)
        5.0
    """
    check_choice("p", p, (1, 2))
    check_pairs(x, y)
    check_readable("x", x)
    ot = import_extra("ot", extra="ot")
    cost = _costs(x.detach(), y.detach(), p).numpy()
    if np.isfinite(cost).all():
        _, log = ot.emd2([], [], cost, numItermax=_PIVOTS, log=True)
        influence = torch.as_tensor(np.asarray(log["u"]) + np.asarray(log["v"]))
    else:
        influence = torch.full((len(x),), torch.nan, dtype=torch.float64)
    result = _rooted(influence.to(x.device, accumulation_dtype(x)), p)
    return Transport(*result)


def _costs(x: Tensor, y: Tensor, p: int) -> Tensor:
    """Distances to the power p, in float64 on the CPU; those of pairs without cancellation."""
    x, y = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
    direct = len(x) * x.numel() <= _DIRECT
    centre = y.mean(0)
    mode = "donot_use_mm_for_euclid_dist" if direct else "use_mm_for_euclid_dist"
    costs = torch.cdist(x - centre, y - centre, compute_mode=mode)
    costs.diagonal().copy_(torch.linalg.vector_norm(x - y, dim=1))
    return costs if p == 1 else costs.square_()


def _rooted(influence: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """The mean's root and the standard error of that, from influences on the power p whose mean is the distance's."""
    power = influence.mean().clamp(min=0)
    error = influence.std() / math.sqrt(len(influence)) if len(influence) > 1 else torch.full_like(power, torch.nan)
    if p == 1:
        return power, error
    value = safe_root(power)
    return value, torch.where(value > 0, error / (2 * value), error)


def gaussian_fit_wasserstein(x: Tensor, y: Tensor) -> Transport:
    r"""$W_2$ between the Gaussians of the samples' means and covariances, which is at most their own $W_2$ (Gelbrich).

    With the centred samples as rows of $X$ and $Y$, the trace of the Bures formula is the sum of the singular values of
    $XY^T/n$: no covariance is formed, and the cost is that of the smaller of $n$ and $d$.

    Args:
        x: samples of shape `(N, d)`.
        y: the same inputs' samples at another time, in the same order, shape `(N, d)`.

    Returns:
        The distance for covariances divided by n, and its standard error over pairs.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if shapes differ or there is no sample.

    References:
        M. Gelbrich, 1990, "On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert
        spaces".

    Example:
        >>> x = torch.randn(100, 4, dtype=torch.float64)
        >>> round(float(gaussian_fit_wasserstein(x, x + 1).value), 6)
        2.0
    """
    check_pairs(x, y)
    n = len(x)
    # In float64: what the two traces leave of each other is the square of a distance that may be small.
    x, y = x.detach().to(torch.float64), y.detach().to(torch.float64)
    move = x.mean(0) - y.mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    finite = x.isfinite().all() & y.isfinite().all()
    x, y = torch.where(finite, x, 0), torch.where(finite, y, 0)  # a factorisation of NaN would raise
    (qx, rx), (qy, ry) = torch.linalg.qr(x), torch.linalg.qr(y)
    u, s, vh = torch.linalg.svd(rx @ ry.mT / n)
    u, v = qx @ u, qy @ vh.mT
    shared = n * ((u.square() * s).sum(1) + (v.square() * s).sum(1))
    influence = x.square().sum(1) + y.square().sum(1) - shared + 2 * ((x - y) @ move) + move.square().sum()
    return Transport(*_rooted(torch.where(finite, influence, torch.nan), 2))


def sliced_transport(x: Tensor, y: Tensor, move: Tensor, *, d: int, p: Order = 1) -> SlicedTransport:
    r"""A sliced distance between paired samples on the scale of $W_p$, from their projections.

    Along a direction, the distance exceeds that of the means, $|\langle\theta,\Delta\rangle|$, whose mean over *all*
    directions is known. So only the excess is averaged over the directions at hand:

    $$\frac{SW_1}{c_d}=\|\Delta\|+\frac1{c_d}\operatorname{mean}_\theta\left(W_1(\theta)-|\langle\theta,\Delta\rangle|
    \right),\qquad d\,SW_2^2=\|\Delta\|^2+d\operatorname{mean}_\theta\left(W_2^2(\theta)-\langle\theta,\Delta\rangle^2
    \right).$$

    For a translation the excess is 0, and no direction adds noise.

    Args:
        x: samples along unit directions, shape `(N, P)`.
        y: the same inputs' samples at another time, in the same order, shape `(N, P)`.
        move: the distance $\|\Delta\|$ of the samples' means, shape `()`.
        d: the dimension of the samples.
        p: 1 or 2.

    Returns:
        The distance on the scale of $W_p$, its standard error and a lower bound; multiply by `mean_projection(d)`, or
        divide by $\sqrt d$, for the sliced distance itself.

    Raises:
        TypeError: if projections are not floating point.
        ValueError: if shapes do not fit or an option has another value.

    Example:
        >>> x, theta = torch.randn(64, 5), torch.nn.functional.normalize(torch.randn(5, 16), dim=0)
        >>> shift = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])
        >>> round(float(sliced_transport(x @ theta, (x + shift) @ theta, shift.norm(), d=5).value), 4)
        5.0
    """
    check_choice("p", p, (1, 2))
    check_pairs(x, y)
    check_floating("move", move, x)
    check_rank("move", move, (0,), "()")
    check_count("d", d, "a dimension of at least 1")
    # Directions in rows, and in float64: an excess may be a small difference.
    x, y = x.mT.to(torch.float64), y.mT.to(torch.float64)
    move = move.to(torch.float64)
    influence = _influence(x, y, p)
    along, scale = (x.mean(1) - y.mean(1)).abs(), 1 / mean_projection(d) if p == 1 else d
    excess = (influence.mean(1) - along.pow(p)).clamp(min=0) * scale
    count, n = influence.shape
    spread = excess.std() / math.sqrt(count) if count > 1 and d > 1 else torch.zeros_like(move)
    power = move.pow(p) + excess.mean()
    lower = move.pow(p) + (excess.mean() - 3 * spread).clamp(min=0)
    over_pairs = influence.mean(0).var() * scale**2 / n if n > 1 else torch.full_like(move, torch.nan)
    error = (over_pairs + spread.square()).sqrt()
    if p == 2:
        power, lower = safe_root(power), safe_root(lower)
        error = torch.where(power > 0, error / (2 * power), error)
    return SlicedTransport(power, error, lower)


def _influence(x: Tensor, y: Tensor, p: int) -> Tensor:
    """What each pair adds to the distance on the line, to the power p: the dual potentials at both ends, `(P, N)`."""
    n = x.shape[1]
    if p == 1:
        # The potential falls where more of x than of y lies below, and rises where less does.
        joined, order = ascending_order(torch.cat([x, y], 1))
        step = torch.where(order < n, 1, -1).cumsum(1)[:, :-1].sign()
        potential = torch.nn.functional.pad(-(step * joined.diff(dim=1)).cumsum(1), (1, 0))
        potential = torch.empty_like(potential).scatter(1, order, potential)
        return potential[:, :n] - potential[:, n:]
    (sorted_x, order_x), (sorted_y, order_y) = ascending_order(x), ascending_order(y)
    # The convex potential whose slope is the optimal map, by the trapezoidal rule, and its conjugate.
    rises = sorted_x.diff(dim=1) * (sorted_y[:, 1:] + sorted_y[:, :-1]) / 2
    convex = torch.nn.functional.pad(rises.cumsum(1), (1, 0))
    conjugate = sorted_x * sorted_y - convex
    at_x = torch.empty_like(x).scatter(1, order_x, sorted_x.square() - 2 * convex)
    at_y = torch.empty_like(y).scatter(1, order_y, sorted_y.square() - 2 * conjugate)
    return at_x + at_y
