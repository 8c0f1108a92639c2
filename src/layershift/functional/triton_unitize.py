"""Unitization with statistics of the batch, all of it Triton's kernels: nothing is left of a table's small operations.

Their launches would cost more than reading a map. Forward: moments, two kernels for the table, one to apply it.
Backward: sums, two kernels for the table, one to combine. The formula, its options and the oracle are `unitize`'s.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layershift.functional.rows import Normalized, Rule, _composition
from layershift.functional.triton_rows import apply_rows, combine_rows, row_moments, row_sums
from layershift.functional.triton_support import available, on_device, power_of_two, warps


def serves(x: Tensor) -> bool:
    """Whether the kernels can take `x`: as `available`, and statistics in single precision."""
    return x.dtype != torch.float64 and available(x)


def unitize_rows(
    x: Tensor,
    rule: Rule,
    alpha: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    factor: float,
    bounded: bool,
) -> Normalized:
    """`unitization_rows` with statistics of the batch.

    Args:
        x: shape `(N, C, …)`, more than one number a row.
        rule: the same from a table in PyTorch's operations, called with mean and variance None at the end; a gradient
            of the gradient comes from it.
        alpha: shape `(C,)`.
        weight: likewise, or None.
        bias: likewise, or None.
        eps: added to the variance and to s.
        factor: what a sample's mean squares of x̂, summed over channels, are multiplied with to give s.
        bounded: whether the bracket is that of eq. 9.

    Returns:
        The output, and mean, variance and size of the batch.
    """
    wide = [None if p is None else p.float() for p in (alpha, weight, bias)]
    output, mean, variance = _Unitize.apply(x, rule, eps, factor, bounded, *wide)
    return Normalized(output, mean, variance, x.numel() // x.shape[1])


class _Unitize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rule: Rule,
        eps: float,
        factor: float,
        bounded: bool,
        alpha: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        from layershift.functional import unitization_kernels as kernels

        samples, channels = x.shape[:2]
        alpha = alpha.contiguous()
        weight, bias = (None if p is None else p.contiguous() for p in (weight, bias))
        pivot, mean, square = row_moments(x)
        relative, inverse, pooled, variance = torch.empty(4, channels, device=x.device).unbind()
        scale, shift = torch.empty(2, samples, channels, device=x.device).unbind()
        norms = torch.empty(samples, device=x.device)
        known = {"WEIGHT": weight is not None, "BOUNDED": bounded}
        with on_device(x):
            kernels.pool[_by_channels(channels)](
                pivot, mean, square, relative, inverse, pooled, variance, samples, channels, eps, **_TILE
            )
            kernels.scales[(samples,)](
                pivot, mean, square, relative, inverse, alpha, _or(weight, alpha), _or(bias, alpha),
                norms, scale, shift, channels, factor, eps, BIAS=bias is not None, **_line(channels), **known,
            )  # fmt: skip
        y = apply_rows(x, pivot, scale, shift)
        ctx.rule, ctx.eps, ctx.factor, ctx.known = rule, eps, factor, known
        ctx.save_for_backward(x, alpha, weight, bias, pivot, mean, square, relative, inverse, scale, norms)
        ctx.mark_non_differentiable(pooled, variance)
        ctx.set_materialize_grads(False)
        return y, pooled, variance

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 8
        x, alpha, weight, bias, pivot, mean, square, relative, inverse, scale, norms = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient must have a gradient
            return _differentiable(ctx, dy, x, pivot, (alpha, weight, bias))
        from layershift.functional import unitization_kernels as kernels

        samples, channels = x.shape[:2]
        total, product = (t.contiguous() for t in row_sums(dy, x, pivot))
        d_norms = torch.empty_like(norms)
        d_alpha, d_weight, d_bias = torch.empty(3, channels, device=x.device).unbind()
        by_x, constant = torch.empty(2, samples, channels, device=x.device).unbind()
        given = (pivot, relative, inverse, alpha, _or(weight, alpha), norms, d_norms)
        with on_device(x):
            kernels.norm_gradients[(samples,)](
                total, product, *given, channels, ctx.factor, ctx.eps, **_line(channels), **ctx.known
            )
            kernels.table_gradients[_by_channels(channels)](
                total, product, pivot, mean, square, *given[1:], d_alpha, d_weight, d_bias, by_x, constant,
                samples, channels, x[0, 0].numel(), ctx.eps, **_TILE, **ctx.known,
            )  # fmt: skip
        dx = combine_rows(dy, x, pivot, scale, by_x, constant) if ctx.needs_input_grad[0] else None
        return (
            dx,
            None,
            None,
            None,
            None,
            d_alpha,
            *(None if p is None else d for p, d in ((weight, d_weight), (bias, d_bias))),
        )


def _differentiable(
    ctx: Any, dy: Tensor, x: Tensor, pivot: Tensor, parameters: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    y = _composition(x, ctx.rule, pivot.detach(), *parameters, None, None)[0]
    inputs = [x, None, None, None, None, *parameters]
    wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed and t is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True, allow_unused=True))
    return tuple(
        next(found) if needed and t is not None else None
        for t, needed in zip(inputs, ctx.needs_input_grad, strict=True)
    )


# 64 bytes of each sample: few channels are to be many programs.
_TILE = {"ROWS": 64, "COLS": 16, "num_warps": 4, "enable_fp_fusion": True}


def _by_channels(channels: int) -> tuple[int]:
    return (-(-channels // _TILE["COLS"]),)


def _line(channels: int) -> dict[str, int]:
    cols = min(power_of_two(channels), 1024)
    return {"COLS": cols, "num_warps": warps(cols), "enable_fp_fusion": True}


def _or(parameter: Tensor | None, other: Tensor) -> Tensor:
    """Something to point at for a kernel that will not look."""
    return other if parameter is None else parameter
