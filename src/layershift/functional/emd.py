"""Exact optimal transport between label distributions: linear programs, or a closed form where all costs are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layershift._checks import accumulation_dtype, check_readable, import_extra
from layershift.functional.entropic import check_histograms
from layershift.functional.label_distance import total_variation, zero_one_cost

_PIVOTS = 10**7


def emd(a: Tensor, b: Tensor, cost: Tensor) -> Tensor:
    r"""Exact optimal transport between the rows of two tables of histograms: a linear program a sample (POT).

    It runs on the CPU in float64, sample by sample, wherever the tensors lie. A cost that is 0 on the diagonal and one
    number elsewhere is recognised, and $c$ times the total variation returned, on any device, without POT. To see that,
    the cost is read.

    Gradients by `a` and `b` are the dual potentials, that by `cost` is the plan; where the solution is not unique they
    are one choice of several.

    Args:
        a: histograms of shape `(B, K)`. A row of zeros (a sample without a label), or one not finite, gives NaN.
        b: histograms of shape `(B, K)`; each row is scaled to the sum of that of `a`.
        cost: costs of shape `(K, K)`.

    Returns:
        Costs of shape `(B,)`; differentiable once.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if shapes do not fit.
        ModuleNotFoundError: if POT is needed and not installed.

    Example:
        >>> from layershift.functional import label_cost
        >>> a, b = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]])
        >>> emd(a, b, label_cost(torch.tensor([[0.0], [1.0], [2.0]])))  # (1² + 2²) / 2
        tensor([2.5000])
    """
    check_histograms(a, b, cost)
    check_readable("cost", cost)
    dtype = torch.promote_types(
        accumulation_dtype(cost), torch.promote_types(accumulation_dtype(a), accumulation_dtype(b))
    )
    a, b, cost = a.to(dtype), b.to(dtype), cost.to(dtype)
    if not cost.requires_grad and is_zero_one(cost):
        mass_a, mass_b = a.sum(1, keepdim=True), b.sum(1, keepdim=True)
        known = torch.where((mass_a > 0) & (mass_b > 0), 0.0, torch.nan).squeeze(1)
        return cost[0, -1] * total_variation(a, b * (mass_a / mass_b)) + known
    exact: Tensor = _Exact.apply(a, b, cost)
    return exact


def is_zero_one(cost: Tensor) -> bool:
    """Whether a cost is 0 on the diagonal and one number, not negative, elsewhere; this reads the tensor.

    Args:
        cost: costs of shape `(K, K)`.

    Returns:
        Whether it is.

    Example:
        >>> is_zero_one(3 * zero_one_cost(4))
        True
    """
    constant = cost[0, -1]
    pattern = constant * zero_one_cost(len(cost), device=cost.device, dtype=cost.dtype)
    return bool(((cost == pattern).all() & (constant >= 0)).item())


class _Exact(torch.autograd.Function):
    """POT's network simplex, sample by sample."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, cost: Tensor) -> Tensor:
        ot = import_extra("ot", extra="ot")
        costs = np.ascontiguousarray(cost.detach().to("cpu", torch.float64).numpy())
        sides = [x.detach().to("cpu", torch.float64).numpy() for x in (a, b)]
        slopes = any(ctx.needs_input_grad)
        values, by_a, by_b = np.full(len(a), np.nan), np.full(a.shape, np.nan), np.full(a.shape, np.nan)
        plans = torch.zeros((len(a), *cost.shape) if ctx.needs_input_grad[2] else (), dtype=torch.float64)
        for i, (x, y) in enumerate(zip(*sides, strict=True)):
            if not (0 < x.sum() < np.inf and 0 < y.sum() < np.inf and np.isfinite(costs).all()):
                continue
            y = y * (x.sum() / y.sum())
            if not slopes:
                rows, columns = x > 0, y > 0  # what has no mass moves none
                part = np.ascontiguousarray(costs[np.ix_(rows, columns)])
                values[i] = ot.emd2(
                    x[rows], y[columns], part, numItermax=_PIVOTS, check_marginals=False, center_dual=False
                )
                continue
            plan, log = ot.emd(x, y, costs, numItermax=_PIVOTS, log=True, center_dual=False)
            values[i] = (plan * costs).sum()
            by_a[i], by_b[i] = _potentials(x, y, costs, np.asarray(log["u"]))
            if ctx.needs_input_grad[2]:
                plans[i] = torch.from_numpy(plan)
        if slopes:
            ctx.save_for_backward(torch.from_numpy(by_a), torch.from_numpy(by_b), plans)
        return torch.from_numpy(values).to(a)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        by_a, by_b, plans = (x.to(gradient) for x in ctx.saved_tensors)
        by_cost = torch.einsum("b,bij->ij", gradient, plans) if ctx.needs_input_grad[2] else None
        return gradient[:, None] * by_a, gradient[:, None] * by_b, by_cost


def _potentials(x: np.ndarray, y: np.ndarray, costs: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dual potentials, known where there is no mass as well, and of equal parts in the cost."""
    v = (costs - u[:, None])[x > 0].min(0)
    u = (costs - v)[:, y > 0].min(1)
    v = (costs - u[:, None]).min(0)
    level = (x @ u - y @ v) / (2 * x.sum())
    return u - level, v + level
