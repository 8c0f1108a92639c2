r"""Entropic optimal transport between label distributions that share one cost matrix, and its divergence.

The plan of a sample is that which minimises, over plans with marginals $a$ and $b$ of mass $m$,

$$W_\varepsilon(a,b)=\min_T\,\langle T,C\rangle+\varepsilon\sum_{ij}T_{ij}\log\frac{m\,T_{ij}}{a_ib_j},\qquad
T_{ij}=\tfrac1m a_ib_j\,e^{(f_i+g_j-C_{ij})/\varepsilon} .$$

Entropy that is not relative to $a$ and $b$ gives the same plan. The relative one has potentials $f$ and $g$ that are
finite where there is no mass, and so are its gradients.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check_choice, check_count, check_number
from layershift.functional.entropic import check_histograms, entropic


class Sinkhorn(NamedTuple):
    r"""What `sinkhorn` found; in the units of the cost matrix.

    Attributes:
        cost: the sharp cost $\langle T,C\rangle$, shape `(B,)`.
        value: the regularised objective $W_\varepsilon$, shape `(B,)`.
        potential_a: $f$ of shape `(B, K)`, the derivative of `value` by `a`; detached.
        potential_b: $g$, likewise. Of the constant that may move from one to the other it is fixed that
            $\langle a,f\rangle=\langle b,g\rangle$.
        iterations: how many were done, shape `(B,)`.
        error: $\sum_i|\sum_jT_{ij}-a_i|/m$, shape `(B,)`; the other marginal is exact.
        converged: whether that is at most `tol`, shape `(B,)`.
    """

    cost: Tensor
    value: Tensor
    potential_a: Tensor
    potential_b: Tensor
    iterations: Tensor
    error: Tensor
    converged: Tensor


def sinkhorn(
    a: Tensor, b: Tensor, cost: Tensor, eps: float = 0.01, max_iter: int = 2000, tol: float = 1e-6
) -> Sinkhorn:
    r"""Entropic optimal transport between the rows of two tables of histograms, by Sinkhorn's iteration.

    All samples share the kernel, so half an iteration is one product of a `B × K` with a `K × K` matrix. Whether
    numbers or their logarithms are held is chosen by `eps`, see `layershift.functional.scaling`; below 1/1050 an
    iteration needs $BK^2$ exponentials. Slow samples are over-relaxed.

    Every 10 iterations the error of each sample is looked at, and one that is done keeps its result. On the CPU it also
    leaves the batch. A GPU is never waited for: it stops at the first answer that has arrived, at `max_iter` at the
    latest.

    `value` is differentiated by the envelope theorem: its gradients are the potentials and the plan. Those of `cost`
    are exact, too; they come from the linear system that the optimality conditions give (Luise et al.), of size $K$ a
    sample. Both hold at the solution: for a sample that has not converged they are approximate. Once only.

    Args:
        a: histograms of shape `(B, K)`. Entries may be 0. A row of zeros (a sample without a label) gives NaN.
        b: histograms of shape `(B, K)`, the sum of each row that of the row of `a`. That is not checked; where it does
            not hold, `converged` is False.
        cost: costs $C$ of shape `(K, K)`, not negative.
        eps: the regularisation as a share of the largest cost: $\varepsilon=$ `eps` $\cdot\max C$. For a strength
            that does not follow the matrix give `eps / cost.max()`.
        max_iter: the most iterations.
        tol: the error at which a sample is done. It is reached in float64 whatever the input; 0 for exactly `max_iter`
            plain iterations.

    Returns:
        Costs, potentials and how far the iteration came; in float32 or, if an input is float64, float64.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if shapes do not fit or an option is out of range.

    References:
        M. Cuturi, 2013, "Sinkhorn distances: lightspeed computation of optimal transport"; G. Luise et al., 2018,
        "Differential properties of Sinkhorn approximation for learning with Wasserstein distance".

    Example:
        >>> a, b = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.2, 0.8]])
        >>> result = sinkhorn(a, b, torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]))
        >>> result.cost, result.converged
        (tensor([1.3000]), tensor([True]))
    """
    check_histograms(a, b, cost)
    check_options(eps, max_iter, tol)
    return _solve(a, b, cost, eps, max_iter, tol)


def sinkhorn_divergence(
    a: Tensor,
    b: Tensor,
    cost: Tensor,
    eps: float = 0.01,
    max_iter: int = 2000,
    tol: float = 1e-6,
    *,
    form: Literal["debiased", "printed"] = "debiased",
    of: Literal["cost", "value"] = "cost",
    warn: bool = True,
) -> Tensor:
    r"""The Sinkhorn divergence: entropic transport less what a distribution is from itself.

    | `form` | | as ε → 0 |
    | --- | --- | --- |
    | `"debiased"` | $W(a,b)-\tfrac12W(a,a)-\tfrac12W(b,b)$ | $W$ |
    | `"printed"` | $2W(a,b)-W(a,a)-W(b,b)$, eq. 18 of the paper | $2W$ |

    $W$ is the sharp cost $\langle T,C\rangle$ or the objective with entropy. For costs whose kernel is positive
    definite, as squared distances, the divergence of the latter is not negative (Feydy et al.), but it is further from
    exact transport. That of the sharp cost may fall below 0 when ε is large.

    Args:
        a: histograms of shape `(B, K)`; see `sinkhorn`.
        b: histograms of shape `(B, K)`.
        cost: costs of shape `(K, K)`, symmetric: $W(a,a)$ is found by an iteration that relies on it.
        eps: the regularisation as a share of the largest cost.
        max_iter: the most iterations.
        tol: the error at which a sample is done.
        form: see above.
        of: "cost" for the sharp cost, "value" for the regularised objective.
        warn: whether to say so when samples did not converge. This waits for a GPU once, at the end.

    Returns:
        Divergences of shape `(B,)`; differentiable once, as `sinkhorn` is. A row of zeros gives NaN.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if shapes do not fit or an option has another value.

    Warns:
        RuntimeWarning: if a sample did not converge.

    References:
        "Interpret deep neural networks by layer behaviors", appendix D, eq. 18; A. Genevay, G. Peyré, M. Cuturi, 2018,
        "Learning generative models with Sinkhorn divergences"; J. Feydy et al., 2019, "Interpolating between optimal
        transport and MMD using Sinkhorn divergences".

    Example:
        >>> a, b = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> sinkhorn_divergence(a, b, cost), sinkhorn_divergence(a, b, cost, form="printed")
        (tensor([0.7000]), tensor([1.4000]))
    """
    check_choice("form", form, ("debiased", "printed"))
    check_choice("of", of, ("cost", "value"))
    divergence, converged = converging_divergence(a, b, cost, eps, max_iter, tol, form=form, of=of)
    if warn:
        # A row of zeros is NaN in the result, and told by that.
        missed = int(((~converged) & (divergence == divergence)).sum())
        if missed:
            text = f"sinkhorn_divergence: {missed} of {len(a)} samples did not converge in {max_iter} iterations at "
            warnings.warn(f"{text}eps={eps:g}; raise max_iter, tol or eps", RuntimeWarning, stacklevel=2)
    return divergence


def converging_divergence(
    a: Tensor, b: Tensor, cost: Tensor, eps: float, max_iter: int, tol: float, *, form: str, of: str
) -> tuple[Tensor, Tensor]:
    """What `sinkhorn_divergence` gives, and beside it whether each sample converged; nothing is read.

    Args:
        a: histograms of shape `(B, K)`.
        b: histograms of shape `(B, K)`.
        cost: costs of shape `(K, K)`.
        eps: the regularisation as a share of the largest cost.
        max_iter: the most iterations.
        tol: the error at which a sample is done.
        form: "debiased" or "printed".
        of: "cost" or "value".

    Returns:
        Divergences of shape `(B,)`; truth values of shape `(B,)`.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> converging_divergence(a, b, 1 - torch.eye(2), 0.1, 100, 1e-6, form="printed", of="cost")
        (tensor([2.]), tensor([True]))
    """
    check_histograms(a, b, cost)
    check_options(eps, max_iter, tol)
    between = _solve(a, b, cost, eps, max_iter, tol)
    within = _solve(torch.cat([a.to(between.cost.dtype), b.to(between.cost.dtype)]), None, cost, eps, max_iter, tol)
    cross, (self_a, self_b) = getattr(between, of), getattr(within, of).chunk(2)
    converged = between.converged & torch.stack(within.converged.chunk(2)).all(0)
    divergence = cross - (self_a + self_b) / 2
    return (2 * divergence if form == "printed" else divergence), converged


def check_options(eps: float, max_iter: int, tol: float) -> None:
    """Raise unless Sinkhorn's iteration can run with these."""
    check_number("eps", eps, "a positive number", above=0)
    check_count("max_iter", max_iter, "a number of iterations, 1 or more")
    check_number("tol", tol, "a number, 0 or more", least=0)


def _solve(a: Tensor, b: Tensor | None, cost: Tensor, eps: float, max_iter: int, tol: float) -> Sinkhorn:
    """`sinkhorn` without checks; None for b is a itself and a symmetric cost."""
    dtype = accumulation_dtype(cost)
    for x in (a, b):
        dtype = dtype if x is None else torch.promote_types(dtype, accumulation_dtype(x))
    wide = torch.float64 if a.device.type != "mps" else torch.float32
    largest = cost.to(wide).amax()
    largest = torch.where(largest > 0, largest, 1)
    scaled = cost.to(wide) / largest
    other = None if b is None else b.to(wide)
    found = entropic(a.to(wide), other, scaled, eps, max_iter, tol)
    sharp, value, f, g, iterations, error = found
    in_units = (x * largest for x in (sharp, value, f.detach(), g.detach()))
    sharp, value, f, g = (x.to(dtype) for x in in_units)
    return Sinkhorn(sharp, value, f.detach(), g.detach(), iterations, error.to(dtype), error <= tol)
