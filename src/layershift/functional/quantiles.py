r"""Quantiles of a stream, to a fixed relative accuracy, from counts that merge by adding.

A number falls into the bin of its bfloat16: sign, exponent and seven bits of fraction. A bin is at most $2^{-7}$ wide
relative to its numbers, so that a quantile that is read from the counts is off by at most 0.8 % of its value;
interpolation inside the bin makes the usual error much smaller. Counting needs no logarithm and no choice of range from
the data, and merging is adding, so a stream gives what the batch gives.

References:
    C. Masson, J. E. Rim, H. K. Lee, 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
    guarantees", https://arxiv.org/abs/1908.10693 (bins in logarithmic steps; here of the float's own pattern).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import check, check_floating, check_rank
from layershift.functional.kept import constant, kept
from layershift.functional.sorting import ascending

RELATIVE_ACCURACY = 2.0**-7
"""A quantile is off by at most this part of its value, between 2^-24 and 2^24 in magnitude."""

_PER_OCTAVE = 128  # bfloat16 numbers between two powers of two
_BASE = (127 - 24) * _PER_OCTAVE - 1  # bit pattern below that of 2^-24: numbers up to it count as 0
_MAGNITUDES = 48 * _PER_OCTAVE  # up to 2^24; numbers beyond count as infinite
_ZERO = _MAGNITUDES + 2  # the bin of 0; to its left the negative numbers, to its right the positive ones
_INFINITY = 255 * _PER_OCTAVE  # bit pattern; those of NaN lie above
BINS = 2 * _ZERO + 1
"""Bins of a sketch, in ascending order; the first and the last count NaN and infinities, which no quantile takes in."""

_CHUNK = {"cpu": 2**18}  # numbers at a time, so that what lies between two passes stays in the cache


@constant
@kept(maxsize=8)
def _edges(device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower and upper edges of the bins of finite numbers; the bin of 0 has no width, the outermost are infinite."""
    pattern = torch.arange(_BASE, _BASE + _MAGNITUDES + 2, dtype=torch.int16)
    number = pattern.view(torch.bfloat16).double()
    edge = (number[1:] + number[:-1]) / 2  # bfloat16 rounds to the nearest
    zero, infinity = edge.new_zeros(1), edge.new_full((1,), torch.inf)
    inner, outer = torch.cat([zero, edge[:-1], infinity]), torch.cat([zero, edge[1:], infinity])
    lower, upper = torch.cat([-outer[1:].flip(0), inner]), torch.cat([-inner[1:].flip(0), outer])
    return lower.to(device), upper.to(device)


def quantile_sketch(x: Tensor, *, counts: Tensor | None = None) -> Tensor:
    """Count numbers in bins of equal relative width, row by row.

    Args:
        x: numbers, shape `(R, M)`.
        counts: a sketch of earlier numbers to add to, in place.

    Returns:
        Counts, shape `(R, BINS)`, int64. Sketches of two sets of numbers add up to the sketch of both.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if `x` has not two dimensions.

    Example:
        >>> a, b = torch.randn(1, 50), torch.randn(1, 70)
        >>> whole = quantile_sketch(torch.cat([a, b], dim=1))
        >>> torch.equal(whole, quantile_sketch(a) + quantile_sketch(b))
        True
    """
    check_floating("x", x)
    check_rank("x", x, (2,), "(R, M)")
    if counts is None:
        counts = torch.zeros(x.shape[0], BINS, dtype=torch.int64, device=x.device)
    one = torch.ones((), dtype=torch.int64, device=x.device)
    for part in torch.split(x, max(_CHUNK.get(x.device.type, 2**24) // max(len(x), 1), 1), dim=1):
        bins = _bin(part).long()
        counts.scatter_add_(1, bins, one.expand_as(bins))  # bincount would wait for the GPU
    return counts


def _bin(x: Tensor) -> Tensor:
    pattern = x.to(torch.bfloat16, memory_format=torch.contiguous_format).view(torch.int16)
    magnitude = pattern & 0x7FFF
    rank = (magnitude - _BASE).clamp_(0, _MAGNITUDES + 1)
    rank += magnitude.clamp_(_INFINITY - 1, _INFINITY).sub_(_INFINITY - 1)  # one further if not finite
    sign = pattern >> 15  # -1 or 0
    return rank.bitwise_xor_(sign).sub_(sign).add_(_ZERO)


def sketch_quantile(sketch: Tensor, q: Tensor) -> Tensor:
    r"""Quantiles of the finite numbers that a sketch has counted.

    The `q`-quantile lies at rank $q(n-1)$; numbers of a bin are taken as evenly spread in it.

    Args:
        sketch: counts of `quantile_sketch`, shape `(R, BINS)`.
        q: probabilities in [0, 1], shape `(Q,)` for all rows or `(R, Q)`.

    Returns:
        Quantiles, shape `(R, Q)`, float64; NaN where no finite number was counted, infinite beyond 2^24.

    Raises:
        ValueError: if `sketch` is not one.

    Example:
        >>> x = torch.arange(1001.0).unsqueeze(0)
        >>> sketch_quantile(quantile_sketch(x), torch.tensor([0.25, 0.5])).round().int()
        tensor([[250, 500]], dtype=torch.int32)
    """
    check(sketch.dim() == 2 and sketch.shape[1] == BINS, "sketch", f"shape (R, {BINS})", sketch)
    sketch = sketch[:, 1:-1]
    upto = sketch.cumsum(1)
    count = upto[:, -1:]
    rank = _ranks(q, count)
    found = torch.searchsorted(upto, rank.floor().long(), right=True).clamp(max=BINS - 3)
    return _between(found, rank, upto.gather(1, found), sketch.gather(1, found), count)


def number_quantile(x: Tensor, q: Tensor) -> Tensor:
    """What `sketch_quantile` gives of a `quantile_sketch` of numbers, without the counts: faster for few numbers.

    Args:
        x: numbers, shape `(R, M)`.
        q: probabilities in [0, 1], shape `(Q,)` for all rows or `(R, Q)`.

    Returns:
        Quantiles, shape `(R, Q)`, float64; NaN where no number is finite, infinite beyond 2^24.

    Raises:
        TypeError: if `x` is not a floating point tensor.
        ValueError: if `x` has not two dimensions.

    Example:
        >>> x, q = torch.randn(2, 100), torch.tensor([0.1, 0.5])
        >>> torch.equal(number_quantile(x, q), sketch_quantile(quantile_sketch(x), q))
        True
    """
    check_floating("x", x)
    check_rank("x", x, (2,), "(R, M)")
    bins = ascending(_bin(x))
    below, above = ((bins == end).sum(1, keepdim=True) for end in (0, BINS - 1))  # not finite
    count = x.shape[1] - below - above
    rank = _ranks(q, count)
    found = bins.gather(1, (below + rank.floor().long()).clamp(max=x.shape[1] - 1))
    before, upto = torch.searchsorted(bins, found), torch.searchsorted(bins, found, right=True)
    return _between((found.long() - 1).clamp(0, BINS - 3), rank, upto - below, upto - before, count)


def _ranks(q: Tensor, count: Tensor) -> Tensor:
    return (q.to(count.device, torch.float64).clamp(0, 1) * (count - 1).clamp(min=0)).expand(len(count), -1)


def _between(found: Tensor, rank: Tensor, upto: Tensor, inside: Tensor, count: Tensor) -> Tensor:
    """Numbers at ranks in the bins `found`, of which `upto` tells how many numbers lie there or below."""
    inside = inside.double()
    place = (rank - upto + inside + 0.5) / inside
    lower, upper = (edge[found] for edge in _edges(found.device))
    value = torch.where(lower.isinf() | upper.isinf(), lower + upper, lower + place.clamp(0, 1) * (upper - lower))
    return torch.where(count > 0, value, torch.nan)


def nonfinite_share(sketch: Tensor) -> Tensor:
    """The share of NaN and infinities among the numbers of a sketch.

    Args:
        sketch: counts of `quantile_sketch`, shape `(R, BINS)`.

    Returns:
        Shares, shape `(R,)`, float64; NaN where nothing was counted.

    Example:
        >>> nonfinite_share(quantile_sketch(torch.tensor([[1.0, torch.nan]])))
        tensor([0.5000], dtype=torch.float64)
    """
    return (sketch[:, 0] + sketch[:, -1]).double() / sketch.sum(1)
