r"""Entropic optimal transport as one operation: forward by matrix scaling, backward by the conditions of optimality."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layershift._checks import check, check_floating
from layershift.functional.label_distance import check_rows_alike
from layershift.functional.scaling import scale_kernel

_BLOCK = 2**22  # numbers in a block of B × K × K
_RIDGE = 1e-11


def check_histograms(a: Tensor, b: Tensor, cost: Tensor) -> None:
    """Raise unless these are two tables of histograms and a cost matrix between their entries.

    Args:
        a: histograms of shape `(B, K)`.
        b: histograms of shape `(B, K)`.
        cost: costs of shape `(K, K)`.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if shapes do not fit.
    """
    check_rows_alike(a, b)
    check_floating("cost", cost, a)
    check(
        cost.shape == (a.shape[1], a.shape[1]),
        "cost",
        f"shape {(a.shape[1], a.shape[1])} beside K = {a.shape[1]}",
        cost,
    )


def entropic(a: Tensor, b: Tensor | None, cost: Tensor, eps: float, max_iter: int, tol: float) -> tuple[Tensor, ...]:
    """Entropic transport for a cost matrix whose largest entry is 1; differentiable.

    Args:
        a: histograms of shape `(B, K)`, in the dtype to work in.
        b: histograms of the same masses, or None for `a` itself and a symmetric cost.
        cost: costs of shape `(K, K)`.
        eps: the regularisation.
        max_iter: the most iterations.
        tol: the error at which a sample is done.

    Returns:
        Sharp costs and objectives, each `(B,)`; both potentials, `(B, K)`; iterations and errors, `(B,)`. Only the
        first two have gradients.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> entropic(a, b, 1 - torch.eye(2), 1.0, 100, 1e-6)[0]
        tensor([0.5000])
    """
    found: tuple[Tensor, ...] = _Entropic.apply(a, b, cost, eps, max_iter, tol)
    return found


class _Entropic(torch.autograd.Function):
    """Sharp cost and objective in float64, potentials, iterations and errors, for a matrix whose largest entry is 1."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor | None, cost: Tensor, eps: float, max_iter: int, tol: float
    ) -> tuple[Tensor, ...]:
        with torch.autocast(a.device.type, enabled=False):
            found = scale_kernel(a, b, cost / eps, reach=1 / eps, max_iter=max_iter, tol=tol)
        second, mass = a if b is None else b, a.sum(1)
        # Where nothing lies there is nothing to transport.
        known = torch.where((mass > 0) & (second.sum(1) > 0), 0.0, torch.nan)
        f, g = found.f + (mass.log() / 2 + known)[:, None], found.g + (mass.log() / 2)[:, None]
        level = ((second * g).sum(1) - (a * f).sum(1)) / (2 * mass)
        f, g = (f + level[:, None]) * eps, (g - level[:, None]) * eps
        value = (a * f).sum(1) + (second * g).sum(1)
        ctx.save_for_backward(a, b, cost, f, g)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        error = found.error + known
        ctx.mark_non_differentiable(f, g, found.iterations, error)
        return found.cost * eps + known, value, f, g, found.iterations, error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_sharp: Tensor | None, by_value: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        a, b, cost, f, g = ctx.saved_tensors
        second = a if b is None else b
        by_a, by_b, by_cost = torch.zeros_like(a), torch.zeros_like(a), torch.zeros_like(cost)
        if by_value is not None:
            by_a, by_b = by_value[:, None] * f, by_value[:, None] * g
        if by_sharp is not None or ctx.needs_input_grad[2]:
            width = max(_BLOCK // cost.numel(), 1)
            for start in range(0, len(a), width):
                part = slice(start, start + width)
                # Rows and columns of the plan, each of sum 1; known where there is no mass, too.
                exponent = (f[part, :, None] + g[part, None, :] - cost) / ctx.eps
                log_mass = a[part].sum(1).log()[:, None]
                rows = torch.exp(exponent + (second[part].log() - log_mass)[:, None, :])
                plan = a[part, :, None] * rows
                if by_value is not None:
                    by_cost += torch.einsum("b,bij->ij", by_value[part], plan)
                if by_sharp is not None:
                    columns = torch.exp(exponent + (a[part].log() - log_mass)[:, :, None])
                    slope_a, slope_b = _sharp_slopes(a[part], second[part], cost, rows, columns)
                    by_a[part] += by_sharp[part, None] * slope_a
                    by_b[part] += by_sharp[part, None] * slope_b
                    moved = 1 - (cost - slope_a[:, :, None] - slope_b[:, None, :]) / ctx.eps
                    by_cost += torch.einsum("b,bij->ij", by_sharp[part], plan * moved)
        if b is None:
            return by_a + by_b, None, by_cost, None, None, None
        return by_a, by_b, by_cost, None, None, None


def _sharp_slopes(a: Tensor, b: Tensor, cost: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    r"""The derivatives $\varphi$ and $\psi$ of the sharp cost by both histograms.

    They solve $\varphi+P\psi=\operatorname{diag}(PC^T)$ and $\psi+Q\varphi=\operatorname{diag}(QC)$, with $P$ the
    plan's rows and $Q$ its columns, each of sum 1.
    """
    mean_a, mean_b = (rows * cost).sum(2), (columns * cost).sum(1)
    columns, mass = columns.mT, a.sum(1, keepdim=True)
    # A constant moves freely from one to the other, and so it does in each part of a plan that falls apart: the ridge
    # holds it where the system does not.
    system = -(columns @ rows) + (b / mass)[:, None, :]
    system.diagonal(dim1=1, dim2=2).add_(1 + _RIDGE)
    right = mean_b - (columns @ mean_a[..., None]).squeeze(-1)
    psi = torch.linalg.solve_ex(torch.nan_to_num(system), right).result
    phi = mean_a - (rows @ psi[..., None]).squeeze(-1)
    level = ((a * phi).sum(1, keepdim=True) - (b * psi).sum(1, keepdim=True)) / (2 * mass)
    return phi - level, psi + level
