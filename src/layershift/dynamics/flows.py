r"""Gradient flows of the three kinds, by explicit Euler steps or adaptive Runge and Kutta.

The flow of the normalised network in $(a,b)$ and that of the plain network on the manifold in $(a,\bar b)$ are one
(theorem 2): from the same start, $b_k(t)/\|b_k(t)\|_\Sigma=\bar b_k(t)$ for all times, if lengths other than
$\|b_k\|=1$ are given as `norms`. The flow conserves $\|b_k\|$, and no flow lets the loss rise.

Neither holds to the letter for steps of finite length, see `layershift.dynamics.steps`. The adaptive method integrates
in the space around sphere and manifold, and leaves them by its error.

References:
    C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch normalization",
    theorem 2 and eq. 10 to 15.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layershift._checks import (
    check,
    check_choice,
    check_floating,
    check_number,
    check_rank,
    check_readable,
    import_extra,
)
from layershift.dynamics.steps import step_
from layershift.dynamics.velocities import Chunk, Kind, Problem, VelocityField, count_of

Method: TypeAlias = Literal["adaptive", "euler"]


class Trajectory(NamedTuple):
    """Neurons at some times.

    Attributes:
        times: mean-field times, shape `(T,)`.
        a: output weights, shape `(T, m)`.
        b: input weights, shape `(T, m, d)`.
        loss: the mean loss, shape `(T,)`.
    """

    times: Tensor
    a: Tensor
    b: Tensor
    loss: Tensor


@torch.no_grad()
def flow(
    problem: Problem,
    a: Tensor,
    b: Tensor,
    *,
    kind: Kind,
    times: Tensor,
    method: Method = "adaptive",
    step: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    norms: Tensor | None = None,
    chunk: Chunk | None = None,
) -> Trajectory:
    r"""The gradient flow from given neurons, which are not changed.

    The derivative of ReLU and leaky ReLU jumps, and the adaptive method takes small steps wherever a neuron crosses a
    sample. Their flows cost more the tighter the tolerance, and more than those of tanh and softplus. The equations of
    normalised networks are stiff for a badly conditioned covariance: speeds go like the squared length of a neuron on
    the ellipsoid, so that the number of steps may grow like the condition number.

    Args:
        problem: samples, $\Sigma$, loss and activation.
        a: output weights at the first time, shape `(m,)`.
        b: input weights at the first time, shape `(m, d)`; on $\Omega$ for "manifold".
        kind: "batch_norm", "manifold" or "plain", as in `velocity`.
        times: mean-field times to record, rising, shape `(T,)`.
        method: "adaptive" (torchdiffeq's dopri5, some ten copies of the neurons in memory) or "euler".
        step: for "euler", the longest step; each interval between times is divided evenly.
        rtol: for "adaptive", the relative tolerance.
        atol: for "adaptive", the absolute tolerance.
        norms: for "manifold", as in `velocity`.
        chunk: as in `velocity`.

    Returns:
        Neurons and loss at the times.

    Raises:
        TypeError: if a tensor is not floating point, or dtypes differ.
        ValueError: if shapes do not fit, or an option is out of range.
        ModuleNotFoundError: if torchdiffeq is not installed, for "adaptive".

    Example:
        >>> x = torch.randn(50, 3)
        >>> problem = Problem.of(x, x[:, 0].relu())
        >>> times = torch.linspace(0, 4, 5)
        >>> found = flow(problem, torch.ones(20), torch.randn(20, 3), kind="batch_norm", times=times)
        >>> found.b.shape, bool((found.loss.diff() < 0).all())
        (torch.Size([5, 20, 3]), True)
    """
    check_choice("method", method, ("adaptive", "euler"))
    check_floating("times", times)
    check_rank("times", times, (1,), "(T,)")
    check_readable("times", times)
    moments = times.tolist()
    rising = len(moments) > 0 and all(s < t for s, t in pairwise(moments))
    check(rising, "times", "one time or more, rising", moments)
    field = VelocityField(problem, count_of(a), kind=kind, norms=norms, chunk=chunk)
    field(a, b)  # checks them
    if method == "euler":
        check(step is not None, "step", "a positive number for method 'euler'", step)
        check_number("step", step, "a positive number for method 'euler'", above=0)
        states_a, states_b = _euler(field, a, b, moments, float(step or 0))
    else:
        check(step is None, "step", "None for method 'adaptive' (it has tolerances)", step)
        states_a, states_b = _adaptive(field, a, b, times, rtol, atol)
    loss = torch.stack([field(u, v).loss for u, v in zip(states_a, states_b, strict=True)])
    return Trajectory(times, states_a, states_b, loss)


def _euler(field: VelocityField, a: Tensor, b: Tensor, times: list[float], longest: float) -> tuple[Tensor, Tensor]:
    a, b = a.detach().clone(), b.detach().clone()
    states_a, states_b = [a.clone()], [b.clone()]
    for start, stop in pairwise(times):
        steps = max(math.ceil((stop - start) / longest - 1e-9), 1)
        for _ in range(steps):
            step_(a, b, field(a, b), kind=field.kind, rate=(stop - start) / steps, sigma=field.problem.sigma)
        states_a.append(a.clone())
        states_b.append(b.clone())
    return torch.stack(states_a), torch.stack(states_b)


def _adaptive(
    field: VelocityField, a: Tensor, b: Tensor, times: Tensor, rtol: float, atol: float
) -> tuple[Tensor, Tensor]:
    check_number("rtol", rtol, "a positive number", above=0)
    check_number("atol", atol, "a positive number", above=0)
    if len(times) == 1:
        return a.detach().clone()[None], b.detach().clone()[None]
    odeint = import_extra("torchdiffeq", extra="dynamics").odeint

    def along(_: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        found = field(*state)
        return found.a, found.b  # joined into new memory before the field is asked again

    found: tuple[Tensor, Tensor] = odeint(
        along, (a.detach(), b.detach()), times.to(a), rtol=rtol, atol=atol, method="dopri5"
    )
    return found
