r"""Layers upon layers of small noise (theorems 2 and 3): the backward heat equation, and how far it is from a target.

A layer that is trained with noise of variance $h$ moves what it is given by $h\nabla\log\mu$, nearly. Many such layers,
each trained on the outputs of the one before, follow

$$\dot x=\nabla\log\mu_t(x)+\sigma(x),\qquad\partial_t\mu_t=-\Delta\mu_t-\nabla\cdot(\mu_t\sigma),$$

the heat equation run backwards where $\sigma=0$. This is steepest *descent of entropy* in $W_2$. It is not, as theorems
2 and 3 say, steepest descent of $W_2^2$ to a target: no target stands in the equation. For a target $\nu$ and the
optimal map $T_t$ that carries the layer $\mu_t$ to it,

$$\tfrac12\frac d{dt}W_2^2(\mu_t,\nu)=E_{\mu_t}[\nabla\cdot T_t]-m+E_{\mu_t}\langle x-T_t(x),\sigma(x)\rangle,$$

so that without $\sigma$ the distance falls while the map to the target contracts on average and rises while it expands.
It always rises once the layer has less entropy than the target.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import (
    accumulation_dtype,
    check,
    check_broadcast,
    check_count,
    check_floating,
    check_not_empty,
    check_number,
    check_rank,
    check_real,
    check_type,
)
from layershift.dynamics.residual_teacher import MapForm, Residual, optimal_map
from layershift.functional.transport import Transport, exact_wasserstein


class Flow(NamedTuple):
    """Particles on their way through the layers.

    Attributes:
        times: the noise that all layers so far were trained with, shape `(steps + 1,)`.
        points: the outputs after each layer, the inputs first, shape `(steps + 1, N, m)`.
    """

    times: Tensor
    points: Tensor


def denoising_flow(
    points: Tensor,
    *,
    t: float,
    steps: int,
    residual: Residual | None = None,
    noise: float | None = None,
    form: MapForm = "exact",
) -> Flow:
    r"""What a stack of layers makes of points, each layer the optimal map for the outputs of the one before.

    A layer stands for the time $h=t/\text{steps}$. By default it is the optimal map for noise of variance $h$ and the
    teacher $x+h\sigma(x)$. The factor $h$ is not in the paper; without it there is no velocity, since a step of
    $\sigma$ does not shrink with $h$.

    A finite number of points does not let $h\to0$: once the noise is smaller than the gaps between points, the optimal
    map is the identity, and nothing moves. Hence `noise`, a variance $b$ apart from the step. Scores are then those of
    the points smoothed by $N(0,bI)$, and a layer goes the share $h/b$ of the way of the optimal map for noise $b$. With
    $b=h$ this is known as blurring mean shift. Shapes thinner than $\sqrt b$ are not seen.

    The equation is ill-posed, and $b$ is all that tames it. A ripple $\cos kx$ on an even density grows at the rate
    $k^2e^{-k^2b/2}$, at most $2/(eb)$. What sampling leaves, of order $1/\sqrt n$, has become lumps after a time of
    about $\tfrac e4\,b\log n$: some five times $b$ for 1000 points. The lumps then stay where they are, and the points
    do not follow the equation any more.

    Args:
        points: inputs of equal weight, shape `(N, m)`.
        t: the noise of all layers together, positive.
        steps: the number of layers, 1 or more.
        residual: $\sigma$, as in `optimal_map`; None for 0.
        noise: $b$, no less than $h$; $h$ by default. A fifth of `t` or more keeps clear of lumps.
        form: which map the layers learn, as in `optimal_map`.

    Returns:
        Times and points, without gradients.

    Raises:
        TypeError: if `points` is not floating point.
        ValueError: if `points` has another shape or no row, or a number is out of range.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", lemma 1, theorems 2 and 3.
        Y. Cheng, 1995, "Mean shift, mode seeking, and clustering".

    Example:
        >>> points = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
        >>> flow = denoising_flow(points, t=0.25, steps=10, noise=0.1)
        >>> print(f"{flow.points[-1].var() / points.var():.2f}")  # 1 - 2t = 0.5 and what the smoothing keeps
        0.61
    """
    check_floating("points", points)
    check_rank("points", points, (2,), "(N, m)")
    check_not_empty("points", points)
    check_number("t", t, "a positive time", above=0)
    check_count("steps", steps, "at least 1 layer")
    h = t / steps
    b = h if noise is None else noise
    check_number("noise", b, f"at least the time of a layer, {h:g}", least=h)
    check_type("residual", residual, (Callable, NoneType), "a function or None")  # type: ignore[arg-type]

    def learned(x: Tensor) -> Tensor:
        scaled = None if residual is None else lambda y: b * residual(y)
        return x + (h / b) * (optimal_map(x, x, scaled, b, form=form) - x)

    with torch.no_grad():
        states = [points.to(accumulation_dtype(points))]
        for _ in range(steps):
            states.append(learned(states[-1]))
    return Flow(torch.linspace(0, t, steps + 1, device=points.device, dtype=states[0].dtype), torch.stack(states))


def flow_wasserstein(points: Tensor, target: Tensor) -> Transport:
    r"""$W_2$ to a target along a flow, by exact transport (POT).

    Two samples of one distribution are not at distance 0. What lies near the distance of two independent samples of the
    target is sampling.

    Args:
        points: particles at each time, shape `(T, N, m)`, as `Flow.points`.
        target: as many points of the target, shape `(N, m)`.

    Returns:
        Distances and their standard errors over particles, each of shape `(T,)`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit.
        ModuleNotFoundError: if POT is not installed.

    Example:
        >>> x = torch.randn(20, 2)
        >>> moved = torch.stack([x, x + torch.tensor([3.0, 4.0])])
        >>> flow_wasserstein(moved, x).value
        tensor([0., 5.])
    """
    check_floating("points", points)
    check_rank("points", points, (3,), "(T, N, m)")
    check_not_empty("points", points)
    check_floating("target", target, points)
    check(target.shape == points.shape[1:], "target", f"shape {tuple(points.shape[1:])}, as the points", target)
    found = [exact_wasserstein(state, target, p=2) for state in points]
    return Transport(torch.stack([one.value for one in found]), torch.stack([one.stderr for one in found]))


def backward_heat(covariance: Tensor, t: float | Tensor) -> Tensor:
    r"""The covariance of a Gaussian that follows the backward heat equation, $\Sigma_t=\Sigma_0-2tI$.

    The mean stays. At $t=\lambda_{\min}/2$ the Gaussian has lost a dimension, and the equation has no solution beyond.

    Args:
        covariance: $\Sigma_0$, shape `(…, m, m)`.
        t: the time, a number or a tensor that broadcasts with `(…)`.

    Returns:
        $\Sigma_t$ of shape `(…, m, m)`, NaN where there is none.

    Raises:
        TypeError: if `covariance` is not floating point.
        ValueError: if it is not square.

    Example:
        >>> backward_heat(torch.eye(1), torch.tensor([0.25, 0.5, 0.75])).flatten()
        tensor([0.5000, 0.0000,    nan])
    """
    check_floating("covariance", covariance)
    square = covariance.dim() >= 2 and covariance.shape[-1] == covariance.shape[-2] > 0
    check(square, "covariance", "a tensor of shape (…, m, m)", covariance)
    check_real("t", t, "a time or a tensor of times")
    covariance = covariance.to(accumulation_dtype(covariance))
    t = torch.as_tensor(t, dtype=covariance.dtype, device=covariance.device)
    check_broadcast("t", t, covariance.shape[:-2])
    t = t[..., None, None]
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    exists = 2 * t <= torch.linalg.eigvalsh(covariance)[..., :1, None]
    return torch.where(exists, covariance - 2 * t * eye, torch.nan)
