"""Batch, layer, instance and group normalisation: each a rule from a table of rows to a scale and a shift.

They differ in what they pool of the `(N, C)` table of first and second moments (see `rows`): batch normalisation pools
over the samples, layer normalisation over the channels, group normalisation over groups of channels, instance
normalisation nothing. Unitization (see `unitize`) pools as batch normalisation does and takes a norm of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_count, check_floating, check_not_empty, check_number
from layershift.functional.rows import Affine, Normalized, RowTable, RuleGradient, normalize_rows
from layershift.functional.table_gradients import TableGradient, batch_norm_gradient


class Pool(NamedTuple):
    """Statistics of a table's rows taken together.

    Attributes:
        mean: pooled mean.
        centre: the same, relative to the pivots of the rows.
        variance: pooled variance, not corrected for bias.
        size: how many numbers were pooled.
    """

    mean: Tensor
    centre: Tensor
    variance: Tensor
    size: Tensor | int


Pooling: TypeAlias = Callable[[RowTable], Pool]


def pool_samples(table: RowTable) -> Pool:
    """Pool a table over its samples: one mean and variance for each channel, shape `(1, C)`."""
    samples = table.mean.shape[0]
    mean, centre = _pooled_mean(table, 0)
    variance = table.about(centre).mean(0, keepdim=True)
    return Pool(mean, centre, variance, samples * table.size)


def _pooled_mean(table: RowTable, dim: int) -> tuple[Tensor, Tensor]:
    """The mean over a dimension of the table, as it is and relative to the pivots (where it does not cancel)."""
    reference = table.pivot.mean(dim, keepdim=True)
    offset = table.pivot - reference
    mean = (offset + table.mean).mean(dim, keepdim=True)
    return reference + mean, mean - offset


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Batch normalisation: $y = \gamma(x-\mu)/\sqrt{\sigma^2+\varepsilon}+\beta$ with statistics of each channel.

    Args:
        x: activations of shape `(N, C, …)`.
        weight: $\gamma$, shape `(C,)`; ones by default.
        bias: $\beta$, shape `(C,)`; zeros by default.
        mean: $\mu$, shape `(C,)`; the batch's by default.
        variance: $\sigma^2$, shape `(C,)`; the batch's, divided by the count, by default. Both or none.
        eps: $\varepsilon$.

    Returns:
        A tensor like `x`.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if shapes do not fit, `x` is empty, or a batch has one number for each channel.

    References:
        S. Ioffe, C. Szegedy, 2015, "Batch normalization", https://arxiv.org/abs/1502.03167, algorithm 1.

    Example:
        >>> x = torch.randn(8, 3, 4, 4)
        >>> torch.allclose(batch_norm(x), torch.nn.BatchNorm2d(3)(x), atol=1e-5)
        True
    """
    return batch_norm_rows(x, weight, bias, mean=mean, variance=variance, eps=eps).output


def batch_norm_rows(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    eps: float = 1e-5,
    pooling: Pooling = pool_samples,
) -> Normalized:
    """`batch_norm` that also returns the batch's statistics, pooled as `pooling` says (for instance across ranks)."""
    check_rows(x, eps, weight=weight, bias=bias, mean=mean, variance=variance)
    check_statistics(x, mean, variance, pooling)

    def rule(
        table: RowTable, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None
    ) -> Affine:
        pool = given_pool(table, mean, variance) or pooling(table)
        scale = torch.rsqrt(pool.variance + eps).expand_as(table.mean)
        return affine_of(scale, pool, weight, bias, remember=mean is None)

    parameters, pivot = (weight, bias, mean, variance), None if mean is None else mean[None]
    if x[0, 0].numel() > 1:
        known = pooled_gradient(batch_norm_gradient, eps=eps) if mean is None and pooling is pool_samples else None
        return normalize_rows(x, rule, parameters, pivot=pivot, gradient=known)
    if mean is None and pooling is pool_samples and not torch._C._are_functorch_transforms_active():
        return _batch_norm_vectors(x, weight, bias, eps)
    # Where a channel of a sample is one number, a channel of the batch is the row.
    normalized = normalize_rows(x.reshape(x.shape[:2]).T[None], rule, parameters, pivot=pivot)
    return normalized._replace(output=normalized.output[0].T.reshape(x.shape))


def _batch_norm_vectors(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Normalized:
    """PyTorch's own kernel, for one number a row; with momentum 1 its running statistics are the batch's."""
    wide, samples = accumulation_dtype(x), x.shape[0]
    mean, unbiased = torch.zeros(2, x.shape[1], dtype=wide, device=x.device).unbind()
    weight, bias = (None if p is None else p.to(wide) for p in (weight, bias))
    y = torch.nn.functional.batch_norm(x, mean, unbiased, weight, bias, training=True, momentum=1.0, eps=eps)
    return Normalized(y, mean, unbiased * ((samples - 1) / samples), samples)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Layer normalisation: statistics of each sample over its channels and positions; weight and bias by channel.

    Args:
        x: activations of shape `(N, C, …)`.
        weight: shape `(C,)`; ones by default.
        bias: shape `(C,)`; zeros by default.
        eps: added to the variance.

    Returns:
        A tensor like `x`.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if shapes do not fit or `x` is empty.

    References:
        J. L. Ba, J. R. Kiros, G. E. Hinton, 2016, "Layer normalization", https://arxiv.org/abs/1607.06450, eq. 3.

    Example:
        >>> x = torch.randn(8, 3)
        >>> torch.allclose(layer_norm(x), torch.nn.functional.layer_norm(x, (3,)), atol=1e-5)
        True
    """
    return group_norm(x, 1, weight, bias, eps=eps)


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Instance normalisation: statistics of each channel of each sample.

    Args:
        x: activations of shape `(N, C, …)`.
        weight: shape `(C,)`; ones by default.
        bias: shape `(C,)`; zeros by default.
        eps: added to the variance.

    Returns:
        A tensor like `x`.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if shapes do not fit, `x` is empty, or a channel of a sample has one number.

    References:
        D. Ulyanov, A. Vedaldi, V. Lempitsky, 2016, "Instance normalization", https://arxiv.org/abs/1607.08022.

    Example:
        >>> x = torch.randn(8, 3, 5)
        >>> torch.allclose(instance_norm(x), torch.nn.functional.instance_norm(x), atol=1e-5)
        True
    """
    check_rows(x, eps, least=-math.inf, weight=weight, bias=bias)  # as PyTorch's, which takes any
    check(x[0, 0].numel() > 1, "x", "more than one number in each channel of a sample", x)
    return _group_norm(x, x.shape[1], weight, bias, eps)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Group normalisation: statistics of each sample over each group of consecutive channels.

    Args:
        x: activations of shape `(N, C, …)`.
        num_groups: how many groups; it divides `C`.
        weight: shape `(C,)`; ones by default.
        bias: shape `(C,)`; zeros by default.
        eps: added to the variance.

    Returns:
        A tensor like `x`.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if shapes do not fit or `x` is empty.

    References:
        Y. Wu, K. He, 2018, "Group normalization", https://arxiv.org/abs/1803.08494, eq. 7.

    Example:
        >>> x = torch.randn(8, 6, 5)
        >>> torch.allclose(group_norm(x, 2), torch.nn.functional.group_norm(x, 2), atol=1e-5)
        True
    """
    check_rows(x, eps, least=-math.inf, weight=weight, bias=bias)  # as PyTorch's, which takes any
    channels = x.shape[1]
    check_count("num_groups", num_groups, f"a divisor of {channels}")
    check(channels % num_groups == 0, "num_groups", f"a divisor of {channels}", num_groups)
    return _group_norm(x, num_groups, weight, bias, eps)


def _group_norm(x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    def rule(table: RowTable, weight: Tensor | None, bias: Tensor | None) -> Affine:
        grouped = RowTable(table.size, *(field.reshape(len(field), num_groups, -1) for field in table[1:]))
        mean, centre = _pooled_mean(grouped, 2)
        variance = grouped.about(centre).mean(2, keepdim=True)
        pool = Pool(mean, centre.flatten(1), variance, 0)
        scale = torch.rsqrt(variance + eps).expand_as(centre).flatten(1)
        return affine_of(scale, pool, weight, bias, remember=False)

    return normalize_rows(x, rule, (weight, bias)).output


def given_pool(table: RowTable, mean: Tensor | None, variance: Tensor | None) -> Pool | None:
    """Statistics that were given, as if they had been pooled; None if they were not."""
    if mean is None or variance is None:
        return None
    return Pool(mean, mean - table.pivot, variance, 0)


def pooled_gradient(gradient: Callable[..., TableGradient], **options: Any) -> RuleGradient:
    """The gradient of a rule that pools over the samples."""

    def of_table(table: RowTable, d_scale: Tensor, d_shift: Tensor, *parameters: Tensor | None) -> TableGradient:
        pool = pool_samples(table)
        return gradient(table, pool.centre, pool.variance, d_scale, d_shift, *parameters, **options)

    return of_table


def affine_of(scale: Tensor, pool: Pool, weight: Tensor | None, bias: Tensor | None, *, remember: bool) -> Affine:
    """`y = weight·scale·(x − mean) + bias`, relative to the rows' pivots."""
    scale = scale if weight is None else scale * weight
    shift = -scale * pool.centre if bias is None else torch.addcmul(bias, scale, pool.centre, value=-1)
    if not remember:
        return Affine(scale, shift)
    return Affine(scale, shift, pool.mean.flatten(), pool.variance.flatten(), pool.size)


def check_rows(x: Tensor, eps: float, *, least: float = 0.0, **parameters: Tensor | None) -> None:
    """Raise unless `x` is a batch of channels and every parameter has one number for each channel."""
    check_floating("x", x)
    check(x.dim() >= 2, "x", "a tensor of shape (N, C, …)", x)
    check_not_empty("x", x)
    check_number("eps", eps, "a finite number" if math.isinf(least) else f"a number, {least:g} or more", least=least)
    for name, parameter in parameters.items():
        if parameter is not None:
            check_floating(name, parameter, x)
            check(parameter.shape == x.shape[1:2], name, f"shape ({x.shape[1]},)", parameter)


def check_statistics(x: Tensor, mean: Tensor | None, variance: Tensor | None, pooling: Pooling) -> None:
    """Raise unless statistics are given, or the batch is large enough to have a variance."""
    check((mean is None) == (variance is None), "mean, variance", "both or neither", "one of them")
    if mean is None and pooling is pool_samples:
        check(x.numel() > x.shape[1], "x", "more than one number for each channel", x)
