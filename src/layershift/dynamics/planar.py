"""Data and starts in the plane that the experiments share, and a recorder of explicit steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import check
from layershift.dynamics.metric import push
from layershift.dynamics.steps import step_
from layershift.dynamics.velocities import Kind, Problem, VelocityField

SIGMA = (5.0, 1.0)
"""The diagonal of the covariance in the paper's figures."""


def centred_sample(n: int, sigma: Tensor, *, seed: int = 0, mirrored: bool = False) -> Tensor:
    r"""Gaussian draws, moved and stretched so that their mean is 0 and their second moment is $\Sigma$, exactly.

    So assumption 1 holds for the uniform distribution on the sample, and the normaliser's $\Sigma$ is the data's own.

    Args:
        n: draws, more than d.
        sigma: $\Sigma$, shape `(d, d)`.
        seed: of the draws.
        mirrored: whether the sample is closed under a change of the last coordinate's sign; for diagonal $\Sigma$ and
            even n.

    Returns:
        Shape `(n, d)`, in the dtype of `sigma`.

    Raises:
        ValueError: if there are too few draws, or n is odd for a mirrored sample.

    Example:
        >>> sigma = torch.diag(torch.tensor([5.0, 1.0], dtype=torch.float64))
        >>> x = centred_sample(8, sigma)
        >>> bool((x.T @ x / 8 - sigma).abs().max() < 1e-12), bool(x.mean(0).abs().max() < 1e-12)
        (True, True)
    """
    d = len(sigma)
    check(n > d, "n", f"more than {d} draws", n)
    check(not (mirrored and n % 2), "n", "an even number for a mirrored sample", n)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n // 2 if mirrored else n, d, generator=g, dtype=torch.float64)
    if mirrored:
        other = x.clone()
        other[:, -1] *= -1
        x = torch.cat([x, other])
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.mT @ x / n)
    white = torch.linalg.solve_triangular(root, x.mT, upper=False).mT
    made: Tensor = white @ torch.linalg.cholesky(sigma.to("cpu", torch.float64)).mT
    return made.to(sigma)


def ridge_problem(n: int = 256, *, seed: int = 0, sigma: tuple[float, float] = SIGMA) -> Problem:
    r"""The target $|x_1|$ on Gaussian data in the plane: two ReLU neurons, along the first axis, express it.

    Args:
        n: data.
        seed: of their draw.
        sigma: the diagonal of $\Sigma$.

    Returns:
        A problem with the squared loss and ReLU, in float64.

    Example:
        >>> ridge_problem(16).y.shape
        torch.Size([16])
    """
    metric = torch.diag(torch.tensor(sigma, dtype=torch.float64))
    x = centred_sample(n, metric, seed=seed)
    return Problem(x, x[:, 0].abs(), metric, "squared", "relu")


class State(NamedTuple):
    """A network on its way, before the step of that number.

    Attributes:
        iteration: how many steps were made.
        a: shape `(m,)`.
        b: shape `(m, d)`.
        b_dot: velocities, shape `(m, d)`.
        loss: shape `()`.
    """

    iteration: int
    a: Tensor
    b: Tensor
    b_dot: Tensor
    loss: Tensor

    @property
    def angle(self) -> Tensor:
        """Directions in the plane, in radians, shape `(m,)`."""
        return torch.atan2(self.b[:, 1], self.b[:, 0])

    @property
    def turning(self) -> Tensor:
        """How fast directions turn, in radians per time, shape `(m,)`."""
        speed: Tensor = torch.linalg.vector_norm(push(self.b, self.b_dot), dim=1)
        return speed


def recorded_steps(
    problem: Problem,
    a: Tensor,
    b: Tensor,
    *,
    kind: Kind,
    rate: float,
    record: Collection[int],
) -> Iterator[State]:
    """Gradient descent with explicit steps, told at some iterations.

    Args:
        problem: data, loss and activation.
        a: shape `(m,)`.
        b: shape `(m, d)`.
        kind: "batch_norm" or "plain".
        rate: of learning, per neuron: mean-field time per step.
        record: iterations; the last of them is where it ends.

    Yields:
        The states, in order.

    Example:
        >>> from layershift.dynamics.network import random_particles
        >>> a, b = random_particles(2, 4, dtype=torch.float64)
        >>> [state.iteration for state in recorded_steps(ridge_problem(8), a, b, kind="plain", rate=0.1, record=[0, 5])]
        [0, 5]
    """
    wanted, field = set(record), VelocityField(problem, len(a), kind=kind)
    a, b = a.detach().clone(), b.detach().clone()
    for iteration in range(max(wanted) + 1):
        found = field(a, b)
        if iteration in wanted:
            yield State(iteration, a.clone(), b.clone(), found.b.clone(), found.loss)
        step_(a, b, found, kind=kind, rate=rate, sigma=problem.sigma)


def angle_from_axis(angle: Tensor) -> Tensor:
    """Degrees between directions and the first axis, whichever way it points.

    Args:
        angle: radians, any shape.

    Returns:
        From 0 to 90, in that shape.

    Example:
        >>> angle_from_axis(torch.tensor([0.0, torch.pi / 2, torch.pi]))
        tensor([ 0., 90.,  0.])
    """
    return torch.rad2deg(torch.atan2(angle.sin().abs(), angle.cos().abs())).round(decimals=4)
