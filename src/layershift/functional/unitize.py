r"""Unitization: divide each sample by its norm, or a part of it, so that its distribution cannot drift far.

The four transformations of the paper, and the one that is trained: the practical one inside batch normalisation, which
is a rule from the table of rows to a scale and a shift like every other normaliser here.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_choice, check_floating, check_number
from layershift.functional import triton_unitize
from layershift.functional.normalize import (
    Pooling,
    affine_of,
    batch_norm_rows,
    check_rows,
    check_statistics,
    given_pool,
    pool_samples,
    pooled_gradient,
)
from layershift.functional.rows import Affine, Normalized, RowTable, normalize_rows
from layershift.functional.table_gradients import unitization_gradient

Divisor: TypeAlias = Literal["paper", "elements"] | float
Over: TypeAlias = Literal["sample", "position"]
Form: TypeAlias = Literal["practical", "bounded"]


def vanilla_unitization(x: Tensor, *, constant: Tensor | None = None) -> Tensor:
    r"""Each vector divided by its norm: $g(x)=x/\|x\|$, and a constant unit vector $c$ where $x=0$ (eq. 6).

    Args:
        x: vectors on the last dimension, shape `(…, d)`; norms accumulate in float32 at least and do not underflow.
        constant: $c$, shape `(d,)`; by default all numbers are $1/\sqrt d$.

    Returns:
        A tensor like `x`; its gradient where $x=0$ is 0.

    Raises:
        TypeError: if `x` is not a floating point tensor.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs", eq. 6.

    Example:
        >>> vanilla_unitization(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.7071, 0.7071]])
    """
    return modified_unitization(x, 1.0, constant=constant)


def modified_unitization(x: Tensor, alpha: float | Tensor, *, constant: Tensor | None = None) -> Tensor:
    r"""Partly unitized vectors: $g(x;\alpha)=x/(\alpha\|x\|+1-\alpha)$, and $c$ where $x=0$ and $\alpha=1$ (eq. 8).

    Args:
        x: vectors on the last dimension, shape `(…, d)`.
        alpha: $\alpha\in[0,1]$, a number or a tensor of shape `()`.
        constant: $c$, shape `(d,)`; by default all numbers are $1/\sqrt d$.

    Returns:
        A tensor like `x`, of norm at most $1/\alpha$.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if `alpha` is a number outside [0, 1].

    References:
        The same paper, eq. 8.

    Example:
        >>> modified_unitization(torch.tensor([[3.0, 4.0]]), 0.5)
        tensor([[1.0000, 1.3333]])
    """
    check_floating("x", x)
    if not isinstance(alpha, Tensor):
        check_number("alpha", alpha, "a number in [0, 1]", least=0, most=1)
    else:
        check_floating("alpha", alpha, x)
        check(alpha.dim() == 0, "alpha", "a number or a tensor of shape ()", alpha)
    check(x.dim() >= 1 and x.shape[-1] > 0, "x", "vectors of shape (…, d)", x)
    if constant is not None:
        check_floating("constant", constant, x)
        check(constant.shape == x.shape[-1:], "constant", f"shape {tuple(x.shape[-1:])}", constant)
    wide = x.to(accumulation_dtype(x))
    denominator = alpha * _norm(wide) + (1 - alpha)
    unit = torch.full_like(wide, x.shape[-1] ** -0.5) if constant is None else constant.to(wide.dtype)
    zero = denominator == 0  # only for a zero vector and alpha = 1
    return torch.where(zero, unit, wide / torch.where(zero, 1, denominator)).to(x.dtype)


def general_unitization(x: Tensor, alpha: Tensor) -> Tensor:
    r"""An $\alpha$ for each unit: $g(x;\alpha)_i=x_i/(\alpha_i(\|x\|-1)+1)$, and 0 where $x=0$ (eq. 9).

    Args:
        x: vectors on the last dimension, shape `(…, d)`.
        alpha: $\alpha\in[0,1]^d$, shape `(d,)`.

    Returns:
        A tensor like `x`, of norm at most $1/\min\alpha$.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if `alpha` has another shape.

    References:
        The same paper, eq. 9 and theorem 3.3.

    Example:
        >>> general_unitization(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0.0]))
        tensor([[0.6000, 4.0000]])
    """
    _check_vectors(x, alpha)
    wide = x.to(accumulation_dtype(x))
    # Not α(‖x‖ − 1) + 1: for α = 1 and a tiny norm that would cancel to nothing.
    denominator = alpha * _norm(wide) + (1 - alpha)
    zero = denominator == 0
    return torch.where(zero, 0, wide / torch.where(zero, 1, denominator)).to(x.dtype)


def practical_unitization(x: Tensor, alpha: Tensor, *, eps: float = 1e-5) -> Tensor:
    r"""What is trained in practice: $g(x;\alpha)=[\alpha/\sqrt{\|x\|^2+\varepsilon}+(1-\alpha)]\odot x$ (eq. 10).

    It keeps a linear part wherever $\alpha<1$: its outputs are not bounded, theorems 3.1 to 3.3 do not cover it; only
    $\|g(x)\|\le\max\alpha+(1-\min\alpha)\|x\|$ holds.

    Args:
        x: vectors on the last dimension, shape `(…, d)`.
        alpha: $\alpha$, shape `(d,)`.
        eps: $\varepsilon>0$.

    Returns:
        A tensor like `x`.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if `alpha` has another shape.

    References:
        The same paper, eq. 10.

    Example:
        >>> practical_unitization(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0.0]))
        tensor([[0.6000, 4.0000]])
    """
    _check_vectors(x, alpha)
    wide = x.to(accumulation_dtype(x))
    check_number("eps", eps, "a positive number", above=0)
    s = wide.square().sum(-1, keepdim=True)
    return (wide * _bracket(s, alpha.to(wide.dtype), eps, "practical")).to(x.dtype)


def _norm(x: Tensor) -> Tensor:
    """Euclidean norms on the last dimension, safe from underflow and overflow; their gradient at 0 is 0."""
    largest = x.detach().abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0, 1, largest)
    norm: Tensor = torch.linalg.vector_norm(x / largest, dim=-1, keepdim=True)
    return largest * norm


def _check_vectors(x: Tensor, alpha: Tensor) -> None:
    check_floating("x", x)
    check_floating("alpha", alpha, x)
    check(x.dim() >= 1 and x.shape[-1] > 0, "x", "vectors of shape (…, d)", x)
    check(alpha.shape == x.shape[-1:], "alpha", f"shape {tuple(x.shape[-1:])}", tuple(alpha.shape))


def unitization(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    eps: float = 1e-5,
    divisor: Divisor = "paper",
    over: Over = "sample",
    form: Form = "practical",
) -> Tensor:
    r"""Unitization inside batch normalisation.

    $$y=\gamma\,[p\,\alpha+(1-\alpha)]\,\hat x+\beta,\qquad p=1/\sqrt{s+\varepsilon},\qquad s=\sum\hat x^2/(n\cdot L)$$

    with $\hat x=(x-\mu)/\sqrt{\sigma^2+\varepsilon}$ as in batch normalisation; the sum runs over a sample, all its
    channels and all its $L$ positions. With $\alpha=0$ this is batch normalisation.

    Args:
        x: activations of shape `(N, C, …)`; the trailing dimensions are the $L$ positions, one if there are none.
        alpha: $\alpha$, shape `(C,)`.
        weight: $\gamma$, shape `(C,)`; ones by default.
        bias: $\beta$, shape `(C,)`; zeros by default.
        mean: $\mu$, shape `(C,)`; the batch's by default.
        variance: $\sigma^2$, shape `(C,)`; the batch's by default. Both or none.
        eps: $\varepsilon$, in both places.
        divisor: $n$. `"paper"` is $n=L$, by which the unitized branch $p\hat x$ has root mean square $\sqrt{L/C}$ (its
            norm is $L$; for 2-D input 1); `"elements"` is $n=C$, by which it has root mean square 1; or a number.
        over: `"sample"` takes one norm of each image (figure 1c of the paper); `"position"` one of each position's
            `C` numbers (figure 1b), where $L$ counts as 1, so that `"paper"` leaves the norm as it is.
        form: `"practical"` is the formula above (eq. 10); `"bounded"` replaces the bracket by
            $1/[\alpha(\sqrt{s+\varepsilon}-1)+1]$ (eq. 9), whose output's norm cannot exceed
            $\sqrt{nL}\,/\min\alpha$ for $0<\alpha\le 1$. Eq. 10 keeps a linear part: its outputs are unbounded.

    Returns:
        A tensor like `x`.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if shapes or options do not fit, `x` is empty, or a batch has one number for each channel.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        algorithms 1 and 2, eq. 9 and 10.

    Example:
        >>> x = torch.randn(4, 3)
        >>> unitization(x, torch.ones(3)).norm(dim=1)  # α = 1: every sample has norm 1
        tensor([1.0000, 1.0000, 1.0000, 1.0000])
    """
    return unitization_rows(
        x, alpha, weight, bias, mean=mean, variance=variance, eps=eps, divisor=divisor, over=over, form=form
    ).output


def unitization_rows(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    eps: float = 1e-5,
    divisor: Divisor = "paper",
    over: Over = "sample",
    form: Form = "practical",
    pooling: Pooling = pool_samples,
) -> Normalized:
    """`unitization` that also returns the batch's statistics, pooled as `pooling` says (for instance across ranks)."""
    check_floating("alpha", alpha)  # None is for the others alone
    check_rows(x, eps, alpha=alpha, weight=weight, bias=bias, mean=mean, variance=variance)
    check_statistics(x, mean, variance, pooling)
    check_choice("over", over, ("sample", "position"))
    check_choice("form", form, ("practical", "bounded"))
    size = x[0, 0].numel() if over == "sample" else 1
    total = _norm_divisor(divisor, x.shape[1], size)
    if over == "position" or size == 1:
        batch = batch_norm_rows(x, mean=mean, variance=variance, eps=eps, pooling=pooling)
        return batch._replace(output=_unitize_positions(batch.output, alpha, weight, bias, total, eps, form))

    def rule(
        table: RowTable,
        alpha: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        variance: Tensor | None,
    ) -> Affine:
        pool = given_pool(table, mean, variance) or pooling(table)
        inverse = torch.rsqrt(pool.variance + eps)
        s = (table.about(pool.centre) * inverse.square()).sum(1, keepdim=True) * (table.size / total)
        return affine_of(inverse * _bracket(s, alpha, eps, form), pool, weight, bias, remember=mean is None)

    known = None
    if mean is None and pooling is pool_samples:
        options: dict[str, Any] = {"eps": eps, "factor": size / total, "bounded": form == "bounded"}
        if triton_unitize.serves(x):
            return triton_unitize.unitize_rows(x, rule, alpha, weight, bias, **options)
        known = pooled_gradient(unitization_gradient, **options)
    parameters = (alpha, weight, bias, mean, variance)
    return normalize_rows(x, rule, parameters, pivot=None if mean is None else mean[None], gradient=known)


def _norm_divisor(divisor: Divisor, channels: int, size: int) -> float:
    """`n·L` of the formula."""
    if isinstance(divisor, str):
        check_choice("divisor", divisor, ("paper", "elements"))
        return float(size * (size if divisor == "paper" else channels))
    check_number("divisor", divisor, "'paper', 'elements' or a positive number", above=0)
    return float(divisor) * size


def _bracket(s: Tensor, alpha: Tensor, eps: float, form: Form) -> Tensor:
    """What multiplies `x̂`: eq. 10, or eq. 9 with the norm kept away from zero."""
    if form == "practical":
        return torch.addcmul(1 - alpha, alpha, torch.rsqrt(s + eps))
    return 1 / (1 + alpha * (torch.sqrt(s + eps) - 1))


def _unitize_positions(
    x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None, total: float, eps: float, form: Form
) -> Tensor:
    """A norm for each position is no function of the rows' moments: plain operations."""
    wide = x.to(accumulation_dtype(x))
    s = wide.square().sum(1, keepdim=True) / total
    column = (-1,) + (1,) * (x.dim() - 2)
    weight, bias = (None if p is None else p.to(wide.dtype).view(column) for p in (weight, bias))
    scale = _bracket(s, alpha.to(wide.dtype).view(column), eps, form)
    scale = scale if weight is None else scale * weight
    y = wide * scale if bias is None else torch.addcmul(bias, wide, scale)
    return y.to(x.dtype)
