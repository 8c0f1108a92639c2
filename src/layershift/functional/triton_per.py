"""Exact PER in one read of its input, as Triton's kernels; the formula is that of `per`.

The forward pass reads the input once, and writes two numbers a sample: the value and the factor of the gradient. A few
long samples are read by several programs each, whose sums a second, small kernel takes together. The backward pass
reads the input a second time and writes its gradient, the least that autograd allows: the forward pass does not know
what the values will be weighted with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layershift.functional.kept import kept
from layershift.functional.kummer import radial_series
from layershift.functional.triton_rows import big, plan_of
from layershift.functional.triton_support import on_device, power_of_two

_MANY = 512  # so many programs keep a large GPU busy


def per_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """PER of each sample and the factor of its gradient, `factor·x`.

    Args:
        x: samples of shape `(N, d)`, any strides.
        dtype: float32 or float64, in which to compute.

    Returns:
        Values and factors, shape `(N,)`.
    """
    from layershift.functional import per_kernels

    samples, size = x.shape
    value, factor = torch.empty(2, samples, dtype=dtype, device=x.device).unbind()
    if samples == 0:
        return value, factor
    coefficients = _coefficients(size, dtype, x.device)
    terms, plan = len(coefficients), plan_of(samples, size, _strides(x))
    splits, tiles = 1, plan.across
    if plan.blocks < _MANY and plan.across >= 8:
        splits = min(-(-2 * _MANY // plan.blocks), -(-plan.across // 4))
        tiles = -(-plan.across // splits)
        splits = -(-plan.across // tiles)
    layout = (*x.stride(), samples, size)
    with on_device(x):
        if splits == 1:
            per_kernels.radial[(plan.blocks,)](
                x, coefficients, value, factor, *layout, tiles, TERMS=terms, BIG=big(x[None]), **plan.options
            )
        else:
            parts, deep = torch.empty(splits, samples, dtype=dtype, device=x.device), power_of_two(splits)
            per_kernels.squares[(plan.blocks * splits,)](
                x, parts, *layout, splits, tiles, BIG=big(x[None]), **plan.options
            )
            rows = min(power_of_two(samples), max(2048 // deep, 1))
            per_kernels.radial_of_parts[(-(-samples // rows),)](
                parts, coefficients, value, factor, samples, size, splits, TERMS=terms, ROWS=rows, SPLITS=deep,
                num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return value, factor


def per_gradient(x: Tensor, grad: Tensor, factor: Tensor) -> Tensor:
    """`grad·factor·x`, in the dtype of `x` though computed in that of the factor.

    Args:
        x: samples of shape `(N, d)`, any strides.
        grad: the values' gradient, shape `(N,)`, any stride.
        factor: from `per_rows`.

    Returns:
        A tensor like `x`.
    """
    from layershift.functional import per_kernels

    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    samples, size = x.shape
    plan = plan_of(samples, size, _strides(x), _strides(out))
    with on_device(x):
        per_kernels.scaled[(plan.blocks * plan.across,)](
            x, grad, factor, out, *grad.stride(), *x.stride(), *out.stride(), samples, size, plan.across,
            BIG=big(x[None]), **plan.options,
        )  # fmt: skip
    return out


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Those of one sample whose channels are the rows of `x`."""
    return 0, x.stride(0), x.stride(1)


@kept(maxsize=256)
def _coefficients(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of value and gradient, highest first, shape `(terms, 2)`."""
    series = radial_series(size, 2e-12 if dtype == torch.float64 else 5e-8)
    powers = torch.from_numpy(series * (math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) / size))
    return powers.flip(0).to(dtype).to(device)
