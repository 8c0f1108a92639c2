r"""How the scales and shifts of batch normalisation and unitization follow their table of rows, by hand.

Autograd finds the same from the rule (see `rows`), with three times as many operations on small tensors, which is what
a small layer costs. With the pooled variance $v$, $r=(v+\varepsilon)^{-1/2}$, each row's mean square $A$ about the
pooled mean, which lies at $c$ relative to its pivot, and the bracket $B$ of unitization (1 in batch normalisation),

$$\text{scale}=rB\gamma,\qquad\text{shift}=\beta-\text{scale}\cdot c,\qquad s=k\sum_cA\,r^2,\qquad B=B(\alpha,s).$$
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from layershift.functional.rows import RowTable


class TableGradient(NamedTuple):
    """Scales, and what the slopes of scales and shifts are worth for the table and the parameters.

    Attributes:
        scale: of each row, shape `(N, C)` or `(1, C)`.
        mean: the slope of the rows' means, shape `(N, C)`.
        square: of their mean squares, shape `(N, C)` or `(1, C)`.
        parameters: of each parameter of the rule, None where there is none.
    """

    scale: Tensor
    mean: Tensor
    square: Tensor
    parameters: tuple[Tensor | None, ...]


def batch_norm_gradient(
    table: RowTable, centre: Tensor, variance: Tensor, d_scale: Tensor, d_shift: Tensor, *parameters: Any, eps: float
) -> TableGradient:
    """Of batch normalisation with the batch's statistics.

    Args:
        table: of the rows.
        centre: the pooled mean relative to each pivot, shape `(N, C)`.
        variance: the pooled variance, shape `(1, C)`.
        d_scale: the slope of each row's scale, shape `(N, C)`.
        d_shift: of its shift, likewise.
        *parameters: weight, bias or None; what comes after them gets no gradient.
        eps: added to the variance.
    """
    weight, bias, *others = parameters
    inverse = torch.rsqrt(variance + eps)
    scale = inverse if weight is None else inverse * weight
    along = torch.addcmul(d_scale, d_shift, centre, value=-1)
    by_inverse = along.sum(0, keepdim=True)
    d_weight = None if weight is None else (by_inverse * inverse).squeeze(0)
    by_inverse = by_inverse if weight is None else by_inverse * weight
    d_mean, d_square = _of_table(table, centre, inverse, by_inverse, None, -scale * d_shift)
    slopes = (d_weight, None if bias is None else d_shift.sum(0), *(None for _ in others))
    return TableGradient(scale, d_mean, d_square, slopes)


def unitization_gradient(
    table: RowTable,
    centre: Tensor,
    variance: Tensor,
    d_scale: Tensor,
    d_shift: Tensor,
    *parameters: Any,
    eps: float,
    factor: float,
    bounded: bool,
) -> TableGradient:
    """Of unitization with the batch's statistics; arguments as in `batch_norm_gradient`.

    Args:
        table: of the rows.
        centre: the pooled mean relative to each pivot.
        variance: the pooled variance.
        d_scale: the slope of each row's scale.
        d_shift: of its shift.
        *parameters: α, weight, bias or None; what comes after them gets no gradient.
        eps: ε, in both places.
        factor: k.
        bounded: whether the bracket is that of eq. 9, not of eq. 10.
    """
    alpha, weight, bias, *others = parameters
    inverse = torch.rsqrt(variance + eps)
    squared, about = inverse.square(), table.about(centre)
    s = (about * squared).sum(1, keepdim=True) * factor + eps
    if bounded:  # B = 1/(1 + α(√s − 1))
        root = s.sqrt()
        bracket = torch.addcmul(1 - alpha, alpha, root).reciprocal()
        by_alpha, by_s = (1 - root) * bracket.square(), -0.5 * alpha * bracket.square() / root
    else:  # B = 1 − α + α/√s
        power = s.rsqrt()
        bracket = torch.addcmul(1 - alpha, alpha, power)
        by_alpha, by_s = power - 1, -0.5 * alpha * (power / s)
    weighted = inverse if weight is None else inverse * weight
    scale = bracket * weighted
    along = torch.addcmul(d_scale, d_shift, centre, value=-1)
    by_row = along * bracket
    d_weight = None if weight is None else (by_row.sum(0, keepdim=True) * inverse).squeeze(0)
    d_bracket = along * weighted
    d_s = (d_bracket * by_s).sum(1, keepdim=True) * factor
    by_inverse = (by_row if weight is None else by_row * weight) + 2 * d_s * about * inverse
    d_mean, d_square = _of_table(
        table, centre, inverse, by_inverse.sum(0, keepdim=True), d_s * squared, -scale * d_shift
    )
    d_bias = None if bias is None else d_shift.sum(0)
    slopes = ((d_bracket * by_alpha).sum(0), d_weight, d_bias, *(None for _ in others))
    return TableGradient(scale, d_mean, d_square, slopes)


def _of_table(
    table: RowTable, centre: Tensor, inverse: Tensor, d_inverse: Tensor, d_about: Tensor | None, d_centre: Tensor
) -> tuple[Tensor, Tensor]:
    """Slopes of means and mean squares, from those of 1/σ, of the mean squares about the pooled mean, and of that."""
    by_variance = inverse.pow(3) * d_inverse * (-0.5 / len(table.mean))
    d_about = by_variance if d_about is None else d_about + by_variance
    twice = 2 * d_about
    pooled = torch.addcmul(d_centre, twice, centre - table.mean).mean(0, keepdim=True)
    return torch.addcmul(pooled, twice, centre, value=-1), d_about
