r"""Sinkhorn's matrix scaling for many pairs of histograms that share one cost matrix.

With the kernel $K=e^{-C/\varepsilon}$, the plan of a sample is $T_{ij}=u_iK_{ij}v_j$, and one iteration is

$$u\leftarrow a\,/\,Kv,\qquad v\leftarrow b\,/\,K^Tu .$$

The kernel is the same for all samples, so each half is a product of a $K\times K$ with a $K\times B$ matrix. Samples
lie in columns: for few labels a BLAS is faster that way. `layershift.functional.scaling_domains` holds the numbers.

A sample that is slow is relaxed, $u\leftarrow u^{1-\omega}(a/Kv)^\omega$ with $1<\omega<2$; from the rate $\rho$ of its
plain iteration follows the best $\omega=2/(1+\sqrt{1-\rho})$ (Young), and with it a rate of $\omega-1$. A. Thibault,
L. Chizat, C. Dossal, N. Papadakis, 2021, "Overrelaxed Sinkhorn-Knopp algorithm for regularized optimal transport".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from layershift.functional.scaling_domains import SINGLE, Domain, choose_domain, exponent, plain_domain

_EVERY, _PLAIN = 10, 20  # iterations between two looks at the error, and before the first that is relaxed
_WORTH = 0.8  # the share of samples that still run at which the others are taken out of the batch
_SLOWEST = 0.9975  # the largest rate that a relaxation is chosen for
_ROUGH, _ROUGH_SHARE = 1e-5, 0.875  # float32 sees errors down to about 1e-6


class Scaling(NamedTuple):
    r"""The plan $T_{ij}=a_ib_je^{f_i+g_j-C_{ij}}$ for costs in units of ε; samples in rows.

    Attributes:
        f: potentials of the first histogram, shape `(B, K)`, finite also where its mass is 0.
        g: potentials of the second, likewise.
        cost: $\langle T,C\rangle$, shape `(B,)`.
        iterations: how many were done, shape `(B,)`.
        error: what the plan's rows are off by in total, relative to the mass, shape `(B,)`; its columns are exact.
    """

    f: Tensor
    g: Tensor
    cost: Tensor
    iterations: Tensor
    error: Tensor


def scale_kernel(a: Tensor, b: Tensor | None, cost: Tensor, *, reach: float, max_iter: int, tol: float) -> Scaling:
    r"""Iterate until the marginals of each sample are right.

    Where its range allows, up to 7/8 of the iterations run in float32, until the error is 1e-5; float64 has the last
    word.

    Args:
        a: histograms of shape `(B, K)`, in the dtype to work in.
        b: histograms of the same masses; None for `a` itself, which asks for a symmetric cost: the averaged iteration
            $u\leftarrow\sqrt{u\,a/Ku}$ then takes a few steps where the other takes thousands.
        cost: costs over ε, shape `(K, K)`.
        reach: the largest of them, or more, as a number.
        max_iter: the most iterations.
        tol: the error at which a sample is done; 0 for `max_iter` plain iterations of all.

    Returns:
        The scaling of each sample as it was when done, whenever the others were.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> scale_kernel(a, b, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), reach=1, max_iter=50, tol=1e-6).cost
        tensor([0.5000])
    """
    first, second = a.mT.contiguous(), None if b is None else b.mT.contiguous()
    start = torch.ones_like(first)
    excess: Tensor | None = None
    budget, count = max_iter - 1, torch.ones(len(a), dtype=torch.int64, device=a.device)  # one is done at the end
    if a.dtype == torch.float64 and reach <= SINGLE * exponent(torch.float32):
        single = plain_domain(cost.float(), reach)
        masses = (first.float(), None if second is None else second.float())
        rough = max(tol, _ROUGH) if tol > 0 else 0.0
        scaled, excess, steps, spent = _iterate(single, *masses, start.float(), int(budget * _ROUGH_SHARE), rough)
        usable = scaled.isfinite().all(0) & (scaled > 0).any(0)
        start, count, budget = torch.where(usable, scaled.to(a.dtype), start), count + steps, budget - spent
        excess = torch.where(usable, excess.to(a.dtype), 0)
    domain = choose_domain(cost, reach)
    held, other = domain.hold(first), None if second is None else domain.hold(second)
    v, _, steps, _ = _iterate(domain, held, other, domain.hold(start), budget, tol, excess)
    # The last iteration is done on potentials, which are known where there is no mass as well.
    f = -domain.log(domain.product(domain.rows, v))
    u = domain.scaled(held, f)
    g = f if other is None else -domain.log(domain.product(domain.columns, u))
    v = u if other is None else domain.scaled(other, g)
    error = (domain.plan(u, domain.product(domain.rows, v)) - first).abs().sum(0) / first.sum(0)
    sharp = domain.plan(u, domain.product(domain.weighted(cost), v)).sum(0)
    shift = domain.shift / 2
    return Scaling((f + shift).mT, (g + shift).mT, sharp, count + steps, error)


def _iterate(
    domain: Domain, a: Tensor, b: Tensor | None, v: Tensor, budget: int, tol: float, excess: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Each sample's second scaling and excess of ω when it was done, after how many steps, and how many were run."""
    result, count = v.clone(), torch.full_like(v[0], budget, dtype=torch.int64)
    samples, done = torch.arange(v.shape[1], device=v.device), torch.zeros_like(count, dtype=torch.bool)
    plain = _PLAIN if excess is None else 1
    excess = torch.zeros_like(domain.plan(v[0])) if excess is None else excess
    relax, before = excess.clone(), torch.full_like(excess, torch.inf)
    leave, signal = _may_read(v.device), _Signal(v.device)
    u, sums = torch.empty_like(v), domain.product(domain.rows, v)
    for step in range(1, budget + 1):
        if b is None:
            u = v = domain.mean(v, domain.divide(a, sums))
        elif tol > 0 and step > plain and step % _EVERY:
            u = domain.relaxed(u, domain.divide(a, sums), relax)
            sums = domain.product(domain.columns, u, out=sums)
            v = domain.relaxed(v, domain.divide(b, sums), relax)
        else:  # so that each error that is looked at is that of a plan with exact columns
            u = domain.divide(a, sums, out=u)
            sums = domain.product(domain.columns, u, out=sums)
            v = domain.divide(b, sums, out=v)
        sums = domain.product(domain.rows, v, out=sums)
        if step % _EVERY or tol == 0:
            continue
        mass = domain.plan(a)
        error = (domain.plan(u, sums) - mass).abs_().sum(0)
        left = ~done & ~(error > tol * mass.sum(0))  # what is not a number stops
        if step >= plain:
            relax = _relaxation(relax, error, before)
        before = error
        if not leave:
            result, count = torch.where(left, v, result), torch.where(left, step, count)
            excess, done = torch.where(left, relax, excess), done | left
            if signal.all(done):
                return result, excess, count, step
            continue
        columns = left.nonzero().squeeze(1)
        if len(columns) == 0:
            continue
        who = samples[columns]
        result[:, who], count[who], excess[who] = v.index_select(1, columns), step, relax[columns]
        done = done | left
        columns = (~done).nonzero().squeeze(1)
        if len(columns) == 0:
            return result, excess, count, step
        if len(columns) <= _WORTH * len(done):
            a, u, v, sums = (x.index_select(1, columns) for x in (a, u, v, sums))
            b = None if b is None else b.index_select(1, columns)
            samples, done, relax, before = (x[columns] for x in (samples, done, relax, before))
    if leave:
        columns = (~done).nonzero().squeeze(1)
        result[:, samples[columns]], excess[samples[columns]] = v[:, columns], relax[columns]
    else:
        result, excess = torch.where(done, result, v), torch.where(done, excess, relax)
    return result, excess, count, budget


def _relaxation(excess: Tensor, error: Tensor, before: Tensor) -> Tensor:
    r"""Young's best $\omega-1$ for the rate ρ of the plain iteration, which is read off that of the relaxed one."""
    omega, rate = 1 + excess, (error / before).pow(1 / _EVERY).clamp(min=1e-3)
    plain = ((rate + excess).square() / (rate * omega.square())).clamp(max=_SLOWEST)
    best = 2 / (1 + (1 - plain).sqrt()) - 1
    return torch.where(error < before, best, excess / 2)


def _may_read(device: torch.device) -> bool:
    """Whether a look at a tensor costs nothing, so that samples which are done may leave the batch."""
    return device.type == "cpu"


class _Signal:
    """Whether all samples are done, without ever waiting for the device: an answer that is late costs steps alone."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
        self.sent: torch.cuda.Event | None = None
        self.answer = torch.zeros((), dtype=torch.bool, pin_memory=True) if self.cuda else None

    def all(self, done: Tensor) -> bool:
        if self.answer is None:
            return False
        if self.sent is not None:
            if not self.sent.query():  # type: ignore[no-untyped-call]
                return False
            if bool(self.answer):
                return True
        self.answer.copy_(done.all(), non_blocking=True)
        self.sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.sent.record()
        return False
