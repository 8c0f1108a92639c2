r"""The energy identity: the loss falls by the square of the particles' speed, measured by the metric.

$$\frac{dL}{dt}=-\frac1m\sum_k\left(\dot a_k^2+\langle\dot{\bar b}_k,G_{\bar b_k}\dot{\bar b}_k\rangle\right)
=-\frac1m\sum_k\left(\dot a_k^2+\lVert\dot b_k\rVert^2\right),$$

the first on $R\times\Omega$, the second for $(a,b)$ of any lengths in Euclidean space, in mean-field time. Hence the
loss never rises, and by Cauchy and Schwarz $W_2^2(\bar\rho_s,\bar\rho_t)\le(t-s)(L_s-L_t)$ with the distance of the
metric. The paper's proof of theorem 4 writes this for Euclidean lengths of $\dot{\bar b}$. Those differ by a bounded
factor, which is all that the proof needs, but equality does not hold for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import accumulated, check, check_floating, check_rank
from layershift.dynamics.metric import inner_product
from layershift.dynamics.velocities import Kind, Problem, velocity


def dissipation(
    problem: Problem, a: Tensor, b: Tensor, *, kind: Kind = "batch_norm", norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""The loss, and how fast it falls by the energy identity.

    Args:
        problem: data, loss and activation.
        a: shape `(m,)`.
        b: shape `(m, d)`; points of $\Omega$ for "manifold".
        kind: which flow, see `velocity`.
        norms: for "manifold", as in `velocity`: a neuron of length c has c² times the metric.

    Returns:
        The loss and $-dL/dt\ge0$, both of shape `()`.

    Raises:
        ValueError: if shapes do not fit or there is no such flow.
    """
    a_dot, b_dot, loss = velocity(problem, a, b, kind=kind, norms=norms)
    squares = inner_product(b, b_dot, b_dot) if kind == "manifold" else b_dot.square().sum(1)
    if norms is not None:
        squares = squares * norms.square()
    return loss, (a_dot.square() + squares).mean()


def energy_gap(times: Tensor, loss: Tensor, rate: Tensor) -> Tensor:
    """How far the loss that was lost is from the integral of its rate, by Simpson's rule.

    Args:
        times: an odd number of times at equal gaps, 3 or more, shape `(T,)`.
        loss: shape `(T,)`.
        rate: $-dL/dt$ by the identity, shape `(T,)`.

    Returns:
        The gap as a share of what was lost, shape `()`.

    Raises:
        ValueError: if the number of times is even or shapes differ.

    Example:
        >>> t = torch.linspace(0, 1, 11, dtype=torch.float64)
        >>> bool(energy_gap(t, (-t).exp(), (-t).exp()) < 1e-6)
        True
    """
    check_floating("times", times)
    check_rank("times", times, (1,), "(T,)")
    count = len(times)
    check(count % 2 == 1 and count >= 3, "times", "an odd number of times, 3 or more", count)
    for argument, x in (("loss", loss), ("rate", rate)):
        check_floating(argument, x, times)
        check(x.shape == times.shape, argument, f"shape ({count},), as the times", x)
    times, loss, rate = accumulated(times, loss, rate)
    weights = torch.ones_like(rate)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    lost = (weights * rate).sum() * (times[-1] - times[0]) / (3 * (count - 1))
    return (lost - (loss[0] - loss[-1])).abs() / (loss[0] - loss[-1])
