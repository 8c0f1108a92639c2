r"""Moments by way of one small table: a row for each sample, a column for each channel.

The table holds the first four central moments of each (sample, channel) row of `(N, C, …)` activations. Everything else
follows from it without touching the activations again: pooling rows gives the moments of a batch, a channel or a whole
layer (the mixture formula below), and the spread of the rows gives standard errors that know that the pixels of one
image are not independent samples.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_floating, check_not_empty


class MomentTable(NamedTuple):
    """Central moments of groups of numbers; all tensors share a shape, `(N, C)` as `moment_table` makes them.

    Attributes:
        size: how many numbers each group holds.
        mean: their mean.
        m2: their variance (divided by the size, not by one less).
        m3: their third central moment.
        m4: their fourth central moment.
    """

    size: Tensor
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor

    @property
    def skewness(self) -> Tensor:
        """`m3 / m2^1.5`; 0 for a normal distribution, NaN for a constant."""
        return self.m3 / self.m2**1.5

    @property
    def kurtosis(self) -> Tensor:
        """`m4 / m2²`; 3 for a normal distribution (nothing is subtracted), NaN for a constant."""
        return self.m4 / self.m2.square()


def moment_table(x: Tensor) -> MomentTable:
    """The central moments of each (sample, channel) row.

    Args:
        x: activations of shape `(N, C, …)`; the trailing dimensions are the numbers of a row, one if there are none.

    Returns:
        A table of shape `(N, C)`, in float32 or, for float64 input, float64.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if `x` has fewer than two dimensions or no element.

    Example:
        >>> x = torch.tensor([[[1.0, 3.0], [5.0, 5.0]]])
        >>> table = moment_table(x)
        >>> table.mean, table.m2
        (tensor([[2., 5.]]), tensor([[1., 0.]]))
    """
    check_floating("x", x)
    check(x.dim() >= 2, "x", "a tensor of shape (N, C, …)", x)
    check_not_empty("x", x)
    x = x.to(accumulation_dtype(x))
    size = torch.full(x.shape[:2], x[0, 0].numel(), dtype=x.dtype, device=x.device)
    if x.dim() == 2:
        zero = torch.zeros_like(x)
        return MomentTable(size, x, zero, zero, zero)
    rows = x.flatten(2)
    mean = rows.mean(-1)
    centred = rows - mean.unsqueeze(-1)
    square = centred.square()
    m2, m4 = square.mean(-1), torch.linalg.vector_norm(square, dim=-1).square() / size
    cube = square * centred if centred.requires_grad else centred.mul_(square)  # its place saves memory and time
    return MomentTable(size, mean, m2, cube.mean(-1), m4)


def pool_moments(table: MomentTable, dim: int | tuple[int, ...], *, keepdim: bool = False) -> MomentTable:
    r"""The moments of the union of groups.

    With weights $w_i$ proportional to the sizes, $\mu=\sum w_i\mu_i$ and $\delta_i=\mu_i-\mu$,

    $$m_2=\sum w_i(m_{2i}+\delta_i^2),\quad m_3=\sum w_i(m_{3i}+3\delta_i m_{2i}+\delta_i^3),\quad
    m_4=\sum w_i(m_{4i}+4\delta_i m_{3i}+6\delta_i^2m_{2i}+\delta_i^4).$$

    No term cancels against another, so that a mean that is large beside the spread does no harm.

    Args:
        table: moments of groups, any shape.
        dim: the dimensions whose groups are united.
        keepdim: keep them with size one.

    Returns:
        Moments of the unions.

    References:
        P. Pébay, 2008, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order
        statistical moments".

    Example:
        >>> x = torch.randn(3, 4, 5)
        >>> whole = pool_moments(moment_table(x), (0, 1))
        >>> torch.allclose(whole.m2, x.var(correction=0))
        True
    """
    size = table.size.sum(dim, keepdim=True)
    weight = table.size / size
    mean = (weight * table.mean).sum(dim, keepdim=True)
    shift = table.mean - mean
    square = shift.square()
    pooled = MomentTable(
        size,
        mean,
        (weight * (table.m2 + square)).sum(dim, keepdim=True),
        (weight * (table.m3 + shift * (3 * table.m2 + square))).sum(dim, keepdim=True),
        (weight * (table.m4 + 4 * shift * table.m3 + square * (6 * table.m2 + square))).sum(dim, keepdim=True),
    )
    return pooled if keepdim else MomentTable(*(field.squeeze(dim) for field in pooled))


class MomentSums(NamedTuple):
    r"""What a stream must keep to know four moments and how sure it is of them.

    A sample contributes $v = (1, e_1, e_2, e_3, e_4)$, where $e_k$ is the mean of $(x - c)^k$ over its numbers. Their
    sum of outer products is enough for all four moments and their standard errors, moves to another pivot $c$ by a
    linear map, and is merged by adding.

    Attributes:
        pivot: $c$, one for each unit, shape `(U,)`, float64.
        gram: $\sum_i v_i v_i^\top$, shape `(U, 5, 5)`, float64.
    """

    pivot: Tensor
    gram: Tensor


def moment_sums(table: MomentTable, *, pivot: Tensor | None = None) -> MomentSums:
    """Reduce a table over its samples.

    Args:
        table: moments of shape `(N, U)`; rows are independent samples, each counts once.
        pivot: where powers are taken about, shape `(U,)`; by default the mean over the samples. Any number near the
            mean serves; it must be finite.

    Returns:
        Sums over the samples.

    Example:
        >>> moment_sums(moment_table(torch.tensor([[1.0], [3.0]]))).gram[0, :2, :2]
        tensor([[2., 0.],
                [0., 2.]], dtype=torch.float64)
    """
    check(table.mean.dim() == 2, "table", "moments of shape (N, U)", table.mean)
    wide = torch.float32 if table.mean.device.type == "mps" else torch.float64  # the only device without float64
    mean, m2, m3, m4 = (field.to(wide) for field in table[1:])
    pivot = mean.mean(0) if pivot is None else pivot.to(wide)
    shift = mean - pivot
    square = shift.square()
    powers = torch.stack(
        [
            torch.ones_like(shift),
            shift,
            m2 + square,
            m3 + shift * (3 * m2 + square),
            m4 + 4 * shift * m3 + square * (6 * m2 + square),
        ]
    )
    by_unit = powers.permute(2, 0, 1).contiguous()
    return MomentSums(pivot, by_unit @ by_unit.mT)


def move_pivot(sums: MomentSums, pivot: Tensor) -> MomentSums:
    r"""Take the powers about another point: $E(x-c')^k=\sum_j\binom kj (c-c')^{k-j}E(x-c)^j$.

    Args:
        sums: sums over samples, for `(U,)` units.
        pivot: the new pivot, shape `(U,)`.

    Returns:
        The same sums about `pivot`.

    Example:
        >>> sums = moment_sums(moment_table(torch.tensor([[1.0], [3.0]])))
        >>> move_pivot(sums, torch.zeros(1, dtype=torch.float64)).gram[0, 0, 1]  # the sum of the numbers themselves
        tensor(4., dtype=torch.float64)
    """
    step = sums.pivot - pivot
    binomial = step.new_tensor([[comb(k, j) for j in range(5)] for k in range(5)])
    exponent = step.new_tensor([[max(k - j, 0) for j in range(5)] for k in range(5)])
    move = binomial * step[:, None, None] ** exponent
    return MomentSums(pivot, move @ sums.gram @ move.mT)


def merge_moment_sums(first: MomentSums, second: MomentSums) -> MomentSums:
    """The sums of two sets of samples together.

    Args:
        first: sums over some samples.
        second: sums over others, for the same units.

    Returns:
        Sums over all of them, about the pivot of `first`.

    Example:
        >>> x = torch.randn(10, 2, dtype=torch.float64)
        >>> parts = [moment_sums(moment_table(part)) for part in (x[:3], x[3:])]
        >>> merged = summarize_moments(merge_moment_sums(*parts))
        >>> torch.allclose(merged.value[:, 1], x.var(0, correction=0))
        True
    """
    return MomentSums(first.pivot, first.gram + move_pivot(second, first.pivot).gram)


class MomentSummary(NamedTuple):
    """Mean, variance, skewness and kurtosis with their standard errors.

    Attributes:
        n: how many samples, shape `(U,)`.
        value: the four moments, shape `(U, 4)`; variance without Bessel's correction, kurtosis 3 for a normal.
        stderr: their standard errors, shape `(U, 4)`; NaN for fewer than two samples.
    """

    n: Tensor
    value: Tensor
    stderr: Tensor


def summarize_moments(sums: MomentSums) -> MomentSummary:
    r"""The four moments and, by the delta method, their standard errors.

    About the mean, the gradients of $(\mu, m_2, m_3, m_4)$ with respect to $(E e_1, …, E e_4)$ are
    $(1,0,0,0)$, $(0,1,0,0)$, $(-3m_2,0,1,0)$ and $(-4m_3,0,0,1)$; the covariance of the averages is the covariance of
    the samples' $e$ divided by $n$. Samples are taken as independent, the numbers inside one are not.

    Args:
        sums: sums over samples, for `(U,)` units.

    Returns:
        Values and standard errors; skewness and kurtosis of a constant are NaN.

    Example:
        >>> summary = summarize_moments(moment_sums(moment_table(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))))
        >>> summary.value[0]  # mean, variance, skewness, kurtosis
        tensor([2.5000, 1.2500, 0.0000, 1.6400], dtype=torch.float64)
    """
    n = sums.gram[:, 0, 0]
    centred = move_pivot(sums, sums.pivot + sums.gram[:, 0, 1] / n)
    gram = centred.gram / n[:, None, None]
    _, m2, m3, m4 = gram[:, 0, 1:].unbind(-1)
    value = torch.stack([centred.pivot, m2, m3 / m2**1.5, m4 / m2.square()], -1)

    zero, one = torch.zeros_like(m2), torch.ones_like(m2)
    gradient = torch.stack(
        [
            torch.stack([one, zero, zero, zero], -1),
            torch.stack([zero, one, zero, zero], -1),
            torch.stack([-3 * m2, -1.5 * m3 / m2, one, zero], -1) / m2[:, None] ** 1.5,
            torch.stack([-4 * m3, -2 * m4 / m2, zero, one], -1) / m2[:, None].square(),
        ],
        -2,
    )
    mean = gram[:, 0, 1:]
    covariance = (gram[:, 1:, 1:] - mean[:, :, None] * mean[:, None, :]) / (n - 1)[:, None, None]
    variance = torch.einsum("uqj,ujk,uqk->uq", gradient, covariance, gradient)
    stderr = torch.where((n > 1)[:, None], variance.clamp(min=0).sqrt(), torch.nan)
    return MomentSummary(n, value, stderr)
