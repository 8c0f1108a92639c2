r"""PER, the projected error function regularisation of hidden activations.

For a sample $h\in\mathbb R^d$ and $\theta$ uniform on the sphere, with $\varphi(x)=E|x+Z|=x\,\mathrm{erf}(x/\sqrt2)+
\sqrt{2/\pi}\,e^{-x^2/2}$,

$$\mathrm{PER}(h)=E_\theta\,\varphi(\langle h,\theta\rangle).$$

The paper averages over 256 random directions. The mean has a closed form: $\varphi(\langle h,\theta\rangle)=
E_G|\langle\theta,h+G\rangle|$ with $G\sim N(0,I)$, so it depends on $r=\lVert h\rVert$ alone,

$$\mathrm{PER}(h)=\sqrt{\tfrac2\pi}\,M(-\tfrac12,\tfrac d2,-\tfrac{r^2}2),\qquad
\nabla\mathrm{PER}(h)=\tfrac1d\sqrt{\tfrac2\pi}\,M(\tfrac12,\tfrac d2+1,-\tfrac{r^2}2)\,h .$$

Two consequences that the name hides. The expected gradient is radial: PER bounds norms, it does not by itself
decorrelate units. And its minimum is at $h=0$: it is a pseudo-Huber penalty of the norm at scale $\sqrt d$, which the
task's loss has to balance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_floating,
    check_generator,
    check_rank,
    check_readable,
    check_type,
)
from layershift.functional import triton_per
from layershift.functional.kept import constant, kept
from layershift.functional.kummer import radial_scale, radial_series
from layershift.functional.triton_support import available

_HALF_NORMAL_MEAN = math.sqrt(2 / math.pi)


def per(
    x: Tensor,
    mode: Literal["exact", "projections"] = "exact",
    num_projections: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """PER of each sample, unreduced.

    Args:
        x: samples of shape `(N, d)`.
        mode: "exact" is the closed form; "projections" the paper's Algorithm 1, a mean over random directions that all
            samples share, whose gradient is the same in expectation but with noise about √(d / num_projections) times
            as large as itself.
        num_projections: how many directions "projections" draws.
        generator: source of the directions, on the device of `x`; by default the global one.

    Returns:
        Values of shape `(N,)`, in float32 or, for float64 input, float64. No sample, no value; NaN gives NaN. In the
        exact mode the relative error is below 1e-6 in float32 and 1e-11 in float64, for value and gradient, d up to
        1e7 and norms from 0 to 1e6. The exact mode is differentiable once.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if `x` has another shape, or an option another value.

    References:
        T. Joo, D. Kang, B. Kim, 2020, "Regularizing activations in neural networks via distribution matching with the
        Wasserstein metric", eq. 5, 6 and Algorithm 1. The closed form is ours.

    Example:
        >>> per(torch.zeros(1, 64))  # E|Z|
        tensor([0.7979])
        >>> x = torch.randn(4, 64, dtype=torch.float64)
        >>> generator = torch.Generator().manual_seed(0)
        >>> sampled = per(x, mode="projections", num_projections=20_000, generator=generator)
        >>> bool((sampled - per(x)).abs().max() < 0.02)
        True
    """
    check_choice("mode", mode, ("exact", "projections"))
    _check_samples("x", x)
    if mode == "exact":
        values: Tensor = _ExactPER.apply(x)
        return values.squeeze(0)
    check_count("num_projections", num_projections, "at least 1")
    check_generator("generator", generator)
    check_readable("x", x)
    noise = torch.randn(num_projections, x.shape[1], dtype=accumulation_dtype(x), device=x.device, generator=generator)
    projected: Tensor = _ProjectedPER.apply(x, noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True))
    return projected


def per_joint(xs: Sequence[Tensor]) -> Tensor:
    """Exact PER of several layers at once: for small layers the cost is the number of calls, and this is one.

    Args:
        xs: for each of L layers its samples, shape `(N, d_l)`; the same N everywhere.

    Returns:
        Values of shape `(L, N)`, float64 if any layer is, float32 otherwise.

    Raises:
        TypeError: if a layer is not floating point.
        ValueError: if there is no layer, one is not two-dimensional, or they differ in N.

    Example:
        >>> a, b = torch.randn(5, 100), torch.randn(5, 8)
        >>> torch.allclose(per_joint([a, b]), torch.stack([per(a), per(b)]))
        True
    """
    check_type("xs", xs, Sequence, "a sequence of layers' samples")
    check(len(xs) > 0, "xs", "at least one layer", "none")
    for x in xs:
        _check_samples("xs", x)
    check(len({x.shape[0] for x in xs}) == 1, "xs", "the same N in all layers", [tuple(x.shape) for x in xs])
    values: Tensor = _ExactPER.apply(*xs)
    return values


def _check_samples(argument: str, x: Tensor) -> None:
    check_floating(argument, x)
    check_rank(argument, x, (2,), "(N, d)")
    check(x.shape[1] > 0, argument, "at least one dimension", x)


@constant
def _constants(ds: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
    """The tables of `_tables`; a compiled graph holds them, not how they are made."""
    return _tables(ds, dtype, device)


@kept(maxsize=256)
def _tables(ds: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
    """Coefficients for value and gradient, highest first, each `(2, L, 1)`; the layers' 1/√c, `(L, 1)`."""
    series = [radial_series(d, 2e-12 if dtype == torch.float64 else 5e-8) for d in ds]
    powers = torch.zeros(max(map(len, series)), 2, len(ds), 1, dtype=torch.float64)
    for i, (d, polynomials) in enumerate(zip(ds, series, strict=True)):
        powers[: len(polynomials), :, i, 0] = torch.from_numpy(polynomials) * torch.tensor(
            [1.0, 1.0 / d], dtype=torch.float64
        )
    inverse_scale = torch.tensor([[radial_scale(d) ** -0.5] for d in ds], dtype=torch.float64)
    coefficients = (_HALF_NORMAL_MEAN * powers.flip(0)).to(dtype).to(device)
    return coefficients.unbind(0), inverse_scale.to(dtype).to(device)


class _ExactPER(torch.autograd.Function):
    """One norm a sample, then a short polynomial for the value and the factor of the gradient together.

    What a training step pays for small layers is the number of operations, so all layers share one table `(L, N)`.
    """

    @staticmethod
    def forward(ctx: Any, *xs: Tensor) -> Tensor:
        dtype = torch.float64 if any(x.dtype == torch.float64 for x in xs) else torch.float32
        ctx.on_gpu = all(available(x) for x in xs)
        if ctx.on_gpu:
            made = [triton_per.per_rows(x, dtype) for x in xs]
            ctx.save_for_backward(*(factors for _, factors in made), *xs)
            return torch.stack([values for values, _ in made])
        (p, *lower), inverse_scale = _constants(tuple(x.shape[1] for x in xs), dtype, xs[0].device)
        norms = torch.stack([torch.linalg.vector_norm(x, dim=1, dtype=dtype) for x in xs])
        square = norms.mul_(inverse_scale).square_().add_(1)  # w² = 1 + s/c
        t = torch.rsub(square.reciprocal(), 1, alpha=2)
        w = square.sqrt_()
        for coefficients in lower:
            p = torch.addcmul(coefficients, p, t)
        values, factors = p.unbind(0)
        ctx.save_for_backward(factors / w, *xs)
        weighted: Tensor = values * w
        return weighted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        if ctx.on_gpu:
            saved, half = ctx.saved_tensors, len(ctx.saved_tensors) // 2
            return tuple(map(triton_per.per_gradient, saved[half:], grad, saved[:half]))
        factors, *xs = ctx.saved_tensors
        rows = (grad * factors).unsqueeze(-1).unbind(0)
        return tuple(_scaled(x, row) for x, row in zip(xs, rows, strict=True))


def _scaled(x: Tensor, row: Tensor) -> Tensor:
    """`x * row` in the dtype of `x`, computed in that of `row`: a factor near 1/d would underflow in half precision."""
    return x * row if x.dtype == row.dtype else torch.mul(x, row).to(x.dtype)


class _ProjectedPER(torch.autograd.Function):
    """Algorithm 1: the gradient is erf(⟨h, θ⟩/√2) θ averaged over the directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, directions: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            projected = x.to(directions.dtype) @ directions.mT
        slope = torch.erf(projected * math.sqrt(0.5))
        ctx.save_for_backward(slope, directions)
        ctx.dtype = x.dtype
        values = projected * slope + _HALF_NORMAL_MEAN * torch.exp(-0.5 * projected.square())
        return values.mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        slope, directions = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            gradient = (slope * (grad / len(directions)).unsqueeze(-1)) @ directions
        return gradient.to(ctx.dtype), None
