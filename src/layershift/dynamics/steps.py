r"""Gradient descent in finite steps, in place and for many neurons.

A step is a gradient step of mean-field length `rate`: $\eta$ here is a learning rate of $m\eta$ for the parameters of
`TwoLayerBN`. Two things hold for steps that the flow does not have.

**Norms grow.** The gradient of the normalised network is orthogonal to $b$, so that a step $b^+=b-\eta g$ has

$$\|b^+\|^2=\|b\|^2+\eta^2\|g\|^2.$$

Norms never fall. As $g$ goes like $1/\|b\|$, a very short neuron is long after one step: the first-step amplification.

**On the manifold it is a rate of its own for each neuron.** Steps of the normalised network are steps on $\Omega$ with
the retraction of `layershift.dynamics.metric` and the rate $\eta/\|b_k\|^2$, exactly and not only for small $\eta$,
with norms that grow by the formula above. With `norms` that is what `kind="manifold"` does; without, norms stay 1,
which is another descent that differs by the order of $\eta$.

References:
    C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch normalization",
    sections 2 and 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import check, check_count, check_number, check_rank, check_type
from layershift.dynamics.metric import push, retract
from layershift.dynamics.velocities import ROW_NUMBERS, Chunk, Kind, Problem, Velocity, VelocityField, count_of, slices


class Descent(NamedTuple):
    """What was written down on the way down.

    Attributes:
        loss: the loss before each step, shape `(steps,)`.
        at: the steps after which neurons were recorded; 0 is the start.
        a: output weights then, shape `(len(at), m)`.
        b: input weights then, shape `(len(at), m, d)`.
    """

    loss: Tensor
    at: tuple[int, ...]
    a: Tensor
    b: Tensor


def descend(
    problem: Problem,
    a: Tensor,
    b: Tensor,
    *,
    kind: Kind,
    rate: float,
    steps: int,
    norms: Tensor | None = None,
    record: Sequence[int] = (),
    chunk: Chunk | None = None,
) -> Descent:
    r"""Descend by gradient steps over all samples; `a`, `b` and `norms` are changed in place.

    Args:
        problem: samples, $\Sigma$, loss and activation.
        a: output weights, shape `(m,)`.
        b: input weights, shape `(m, d)`; on $\Omega$ for "manifold", where they stay.
        kind: "batch_norm", "manifold" or "plain", as in `velocity`.
        rate: the step $\eta$ in mean-field time.
        steps: their number.
        norms: for "manifold", the norms $\|b_k\|$ of the normalised network's neurons, shape `(m,)`; they grow as its
            own would. None for norms that stay 1.
        record: after which steps to keep a copy of the neurons, from 0 to `steps`, rising.
        chunk: as in `velocity`.

    Returns:
        Losses and the recorded neurons.

    Raises:
        TypeError: if a tensor is not floating point, or dtypes differ.
        ValueError: if shapes do not fit, or an option is out of range.

    Example:
        >>> x = torch.randn(50, 3)
        >>> problem = Problem.of(x, x[:, 0].relu())
        >>> a, b = torch.ones(20), torch.randn(20, 3)
        >>> descent = descend(problem, a, b, kind="batch_norm", rate=0.1, steps=100, record=(0, 100))
        >>> bool(descent.loss[-1] < descent.loss[0])
        True
        >>> bool((descent.b[1].norm(dim=1) >= descent.b[0].norm(dim=1)).all())
        True
    """
    check_number("rate", rate, "a positive number", above=0)
    check_count("steps", steps, "a number of steps, 1 or more")
    check_type("record", record, Sequence, f"rising numbers from 0 to {steps}")
    at = tuple(record)
    rising = (
        all(isinstance(s, int) for s in at) and all(0 <= s <= steps for s in at) and all(s < t for s, t in pairwise(at))
    )
    check(rising, "record", f"rising numbers from 0 to {steps}", at)
    check_rank("b", b, (2,), "(m, d)")
    field = VelocityField(problem, count_of(a), kind=kind, norms=norms, chunk=chunk)
    losses, kept_a, kept_b = [], [], []
    for done in range(steps + 1):
        if done in at:
            kept_a.append(a.detach().clone())
            kept_b.append(b.detach().clone())
        if done < steps:
            found = field(a, b)
            losses.append(found.loss)
            step_(a, b, found, kind=kind, rate=rate, sigma=problem.sigma, norms=norms)
    kept = (torch.stack(kept_a), torch.stack(kept_b)) if at else (a.new_empty(0, len(a)), b.new_empty(0, *b.shape))
    return Descent(torch.stack(losses), at, *kept)


@torch.no_grad()
def step_(
    a: Tensor, b: Tensor, velocity: Velocity, *, kind: Kind, rate: float, sigma: Tensor, norms: Tensor | None = None
) -> None:
    r"""One explicit step along a velocity, in place: straight, or on the manifold by its retraction.

    Args:
        a: output weights, shape `(m,)`.
        b: input weights, shape `(m, d)`.
        velocity: of this kind, at `a` and `b`.
        kind: "batch_norm", "manifold" or "plain".
        rate: the length of the step in time.
        sigma: $\Sigma$, shape `(d, d)`.
        norms: of the normalised network's neurons, shape `(m,)`, which grow; None to have none.

    Example:
        >>> a, b = torch.zeros(1), torch.tensor([[1.0, 0.0]])
        >>> step_(a, b, Velocity(torch.ones(1), torch.tensor([[0.0, 1.0]]), torch.zeros(())), kind="manifold", rate=1.0,
        ...       sigma=torch.eye(2))
        >>> b
        tensor([[0.7071, 0.7071]])
    """
    a.add_(velocity.a, alpha=rate)
    if kind != "manifold":
        b.add_(velocity.b, alpha=rate)
        return
    for part in slices(len(b), max(ROW_NUMBERS // b.shape[1], 1)):
        move = rate * velocity.b[part]
        if norms is not None:
            norms[part] *= (1 + push(b[part], move).square().sum(1)).sqrt()
        b[part] = retract(b[part], move, sigma)
