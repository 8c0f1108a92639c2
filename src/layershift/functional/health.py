r"""How alike a layer's samples are, and in how many directions they differ: estimates that few samples do not bias.

With fewer samples than units the eigenvalues of a sample covariance say more about the number of samples than about the
layer: N samples of white noise never show more than N − 1 directions. The traces of the covariance and of its square
have unbiased estimates at every N, though, whatever the distribution, and the effective rank of order 2 needs no more.
All of it follows from one matrix of sums over samples, which merges by adding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_floating
from layershift.functional.kept import constant, kept

_PROBES = 32


class SampleSums(NamedTuple):
    r"""What a stream must keep of its samples: sums of $u u^\top$ with $u=(1, e, y, \lVert y\rVert^2)$, $y = x - c$.

    Attributes:
        pivot: $c$, shape `(…, k)`.
        gram: $\sum_i u_i u_i^\top$, shape `(…, k + 3, k + 3)`; $e$ is any further number of a sample.
    """

    pivot: Tensor
    gram: Tensor


def sample_sums(points: Tensor, extra: Tensor | None = None, *, pivot: Tensor | None = None) -> SampleSums:
    """Reduce points over samples.

    Args:
        points: shape `(…, N, k)`; rows are independent samples.
        extra: a further number of each sample, shape `(…, N)`; 0 by default.
        pivot: where squares are taken about, shape `(…, k)`; by default the mean. Any point near the mean serves.

    Returns:
        Sums over the samples.

    Example:
        >>> sample_sums(torch.tensor([[1.0], [3.0]])).gram[1:, 2]  # extra, the point and its square, by the point
        tensor([0., 2., 0.])
    """
    pivot = points.mean(-2) if pivot is None else pivot
    centred = points - pivot.unsqueeze(-2)
    square = centred.square().sum(-1, keepdim=True)
    further = torch.zeros_like(square) if extra is None else extra.unsqueeze(-1).to(square)
    u = torch.cat([torch.ones_like(square), further, centred, square], -1)
    return SampleSums(pivot, u.mT @ u)


def merge_sample_sums(first: SampleSums, second: SampleSums) -> SampleSums:
    r"""The sums of two sets of samples together.

    Sums move to another pivot, $y' = y + \delta$ and $\lVert y'\rVert^2=\lVert y\rVert^2+2\delta^\top y+
    \lVert\delta\rVert^2$, by a change of rows and the same change of columns.

    Args:
        first: sums over some samples.
        second: sums over others.

    Returns:
        Sums over all of them, about the pivot of `first`.

    Example:
        >>> x = torch.randn(10, 3, dtype=torch.float64)
        >>> merged = merge_sample_sums(sample_sums(x[:4]), sample_sums(x[4:]))
        >>> torch.allclose(summarize_samples(merged).rank, effective_rank(x))
        True
    """
    step = (second.pivot - first.pivot).unsqueeze(-1)
    gram = second.gram
    for _ in range(2):  # rows, and the rows of the transpose
        points = gram[..., 2:-1, :]
        square = gram[..., -1:, :] + 2 * step.mT @ points + step.square().sum(-2, keepdim=True) * gram[..., :1, :]
        gram = torch.cat([gram[..., :2, :], points + step * gram[..., :1, :], square], -2).mT
    return SampleSums(first.pivot, first.gram + gram)


class SampleSummary(NamedTuple):
    """What sums over samples tell; all tensors share a shape.

    Attributes:
        n: how many samples.
        extra: the mean of the further number.
        extra_stderr: its standard error.
        similarity: the mean product of two different samples, as a share of the mean square of one.
        similarity_stderr: its standard error, by the delta method.
        rank: the effective rank, see `effective_rank`.
        rank_stderr: its standard error, as it is for normal samples.
    """

    n: Tensor
    extra: Tensor
    extra_stderr: Tensor
    similarity: Tensor
    similarity_stderr: Tensor
    rank: Tensor
    rank_stderr: Tensor


def summarize_samples(sums: SampleSums, *, size: int | Tensor | None = None) -> SampleSummary:
    r"""Similarity and effective rank of samples, with standard errors.

    The similarity of samples $x_i$ is $\sum_{i\ne j}x_i^\top x_j/(N-1)\sum_i\lVert x_i\rVert^2$: 1 where all are the
    same, 0 where they have nothing in common.

    Where points are `k` random projections of longer samples (`size` > `k`, columns from N(0, I/k)), the effective rank
    is that of the samples before: for $W=P\Sigma P^\top$,

    $$E(\operatorname{tr}W)^2=(\operatorname{tr}\Sigma)^2+\tfrac2k\operatorname{tr}\Sigma^2,\qquad
    E\operatorname{tr}W^2=(1+\tfrac1k)\operatorname{tr}\Sigma^2+\tfrac1k(\operatorname{tr}\Sigma)^2.$$

    Args:
        sums: sums over samples.
        size: how many numbers a sample has, if the points are projections of it; a number or shape `(…,)`.

    Returns:
        Similarity: NaN for one sample, or where all is 0. Rank: NaN for fewer than four samples, or where they differ
        by no more than rounding errors.

    Example:
        >>> summary = summarize_samples(sample_sums(torch.randn(64, 200, dtype=torch.float64)))
        >>> bool((summary.rank - 200).abs() < 5 * summary.rank_stderr)
        True
    """
    gram, k = sums.gram, sums.pivot.shape[-1]
    n = gram[..., 0, 0]
    mean = gram[..., 0, 1:] / n.unsqueeze(-1)
    covariance = gram[..., 1:, 1:] - n[..., None, None] * mean.unsqueeze(-1) * mean.unsqueeze(-2)
    covariance = covariance / (n - 1).clamp(min=1)[..., None, None]
    extra_stderr = (covariance[..., 0, 0].clamp(min=0) / n).sqrt()

    centre = sums.pivot + mean[..., 1:-1]
    spread = covariance[..., 1:-1, 1:-1]
    total = spread.diagonal(dim1=-2, dim2=-1).sum(-1)
    power = centre.square().sum(-1) + total * (n - 1) / n
    similarity = 1 - total / power
    # The sample's influence is linear in (y, ‖y‖²), so that its variance is a quadratic form of their covariance.
    shared = 2 * (1 - similarity).unsqueeze(-1) * centre + 2 * similarity.unsqueeze(-1) * mean[..., 1:-1]
    influence = torch.cat([shared, -similarity.unsqueeze(-1)], -1) / power.unsqueeze(-1)
    variance = (influence.unsqueeze(-2) @ covariance[..., 1:, 1:] @ influence.unsqueeze(-1))[..., 0, 0]
    similarity_stderr = (variance.clamp(min=0) / n).sqrt()

    fourth = _fourth_power(gram, mean[..., 1:-1], n) / (n - 1)
    rank, rank_stderr = _rank(n, spread, total, fourth, k, k if size is None else size)
    known = (n > 3) & (total > 1e-12 * power) & fourth.isfinite()
    nan = torch.full_like(n, torch.nan)
    return SampleSummary(
        n,
        mean[..., 0],
        torch.where(n > 1, extra_stderr, nan),
        torch.where(n > 1, similarity, nan),
        torch.where(n > 1, similarity_stderr, nan),
        torch.where(known, rank, nan),
        torch.where(known, rank_stderr, nan),
    )


def effective_rank(x: Tensor, *, corrected: bool = True) -> Tensor:
    r"""In how many directions samples differ: the exponential of the order-2 entropy of their covariance's eigenvalues.

    $$\frac{(\sum\lambda)^2}{\sum\lambda^2}=\frac{(\operatorname{tr}\Sigma)^2}{\operatorname{tr}\Sigma^2},$$

    $r$ if $r$ of them are equal and the others 0; never more than the exponential of Shannon's entropy. From a sample
    covariance's own eigenvalues it is less than $N-1$, whatever the truth. Corrected, numerator and denominator are
    unbiased for every distribution: with $S$ the sample covariance, $Q=\sum\lVert x_i-\bar x\rVert^4/(N-1)$ and
    $c=(N-1)/N(N-2)(N-3)$,

    $$\widehat{\operatorname{tr}\Sigma^2}=c\,[(N-1)(N-2)\operatorname{tr}S^2+(\operatorname{tr}S)^2-NQ],\quad
    \widehat{(\operatorname{tr}\Sigma)^2}=c\,[2\operatorname{tr}S^2+(N^2-3N+1)(\operatorname{tr}S)^2-NQ].$$

    The quotient is kept within [1, d]. For white noise of d units its standard deviation is near 2d/N, also where d is
    many times N.

    Args:
        x: samples of shape `(…, N, d)`.
        corrected: False puts the sample covariance's own traces into the formula.

    Returns:
        Shape `(…,)`, in float64 where the device has it; NaN for fewer than four samples, or where they do not differ.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if `x` has fewer than two dimensions or no element.

    References:
        O. Roy, M. Vetterli, 2007, "The effective rank: a measure of effective dimensionality" (Shannon's entropy); T.
        Himeno, T. Yamada, 2014, "Estimations for some functions of covariance matrix in high dimension under
        non-normality and its applications" (the unbiased traces).

    Example:
        >>> x = torch.randn(32, 500, dtype=torch.float64)
        >>> corrected, plain = effective_rank(x), effective_rank(x, corrected=False)
        >>> bool(350 < corrected <= 500), bool(plain < 31)
        (True, True)
    """
    check_floating("x", x)
    check(x.dim() >= 2 and 0 not in x.shape, "x", "samples of shape (…, N, d), N, d ≥ 1", f"shape {tuple(x.shape)}")
    sums = sample_sums(x.to(wide_dtype(x)))
    if corrected:
        return summarize_samples(sums).rank
    spread = sums.gram[..., 2:-1, 2:-1]
    total = spread.diagonal(dim1=-2, dim2=-1).sum(-1)
    power = total + x.shape[-2] * sums.pivot.square().sum(-1)
    rank = total.square() / spread.square().sum((-2, -1))
    return torch.where((total > 1e-12 * power) & (sums.gram[..., 0, 0] > 3), rank, torch.nan)


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype that sums over samples are kept in: float64 wherever the device has it.

    Example:
        >>> wide_dtype(torch.zeros(1, dtype=torch.float16))
        torch.float64
    """
    return accumulation_dtype(x) if x.device.type == "mps" else torch.float64


def _fourth_power(gram: Tensor, mean: Tensor, n: Tensor) -> Tensor:
    r"""$\sum\lVert y-m\rVert^4$ of points about the pivot, from their sums."""
    square = mean.square().sum(-1)
    by_square = gram[..., -1, :]
    along = (mean * by_square[..., 2:-1]).sum(-1)
    quadratic = (mean * (gram[..., 2:-1, 2:-1] @ mean.unsqueeze(-1)).squeeze(-1)).sum(-1)
    about = by_square[..., -1] + 4 * quadratic - 4 * along + 2 * square * by_square[..., 0] - 3 * n * square.square()
    return about.clamp(min=0)


def _rank(
    n: Tensor, spread: Tensor, total: Tensor, fourth: Tensor, k: int, size: int | Tensor
) -> tuple[Tensor, Tensor]:
    """The effective rank and its standard error, from the covariance of `k` numbers that stand for `size`."""
    size = size if isinstance(size, Tensor) else torch.full_like(n, size)
    share = spread / total[..., None, None]  # a trace of 1: no over- or underflow
    second = share.square().sum((-2, -1))
    weight = (n - 1) / (n * (n - 2) * (n - 3))
    kurtosis = n * fourth / total.square()
    of_square = weight * ((n - 1) * (n - 2) * second + 1 - kurtosis)
    squared = weight * (2 * second + n.square() - 3 * n + 1 - kurtosis)
    projected = size > k
    before = (of_square - squared / k) / (1 + 1 / k - 2 / k**2)
    noise = torch.where(projected, of_square / before, 1).square() / n.square() + projected / k**2
    squared = torch.where(projected, squared - 2 / k * before, squared)
    of_square = torch.where(projected, before, of_square)
    rank = torch.where(of_square > 0, squared / of_square, size)
    rank = torch.minimum(rank.clamp(min=1), size)
    # 8/N · ‖S/tr S − S²/tr S²‖² + 4/N²: of the logarithm of the quotient, for normal samples; the norm by random signs.
    # A projection is a sample of directions: the same with k.
    once = share @ _signs(k, share.dtype, share.device)
    twice = share @ once
    difference = once - twice / second[..., None, None]
    relative = 8 * (1 / n + projected / k) * difference.square().sum((-2, -1)) / _PROBES + 4 * noise
    return rank, rank * relative.sqrt()


@constant
@kept(maxsize=16)
def _signs(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random signs whose products with a matrix tell its norm, the same at every call."""
    generator = torch.Generator().manual_seed(size)
    return (torch.randint(2, (size, _PROBES), generator=generator) * 2 - 1).to(device, dtype, non_blocking=True)
