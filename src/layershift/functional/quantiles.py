r"""Quantiles of a stream, to a fixed relative accuracy, from counts that merge by adding.

A number falls into the bin of its sign, its exponent and the first seven bits of its fraction: the upper half of its
float32 pattern. Neighbouring edges differ at most by the factor $1 + 2^{-7}$, so that a quantile that is read from the
counts is off by at most 0.8 % of its value; interpolation inside the bin makes the usual error much smaller. Counting
needs no logarithm and no choice of range from the data, and merging is adding, so a stream gives what the batch gives.

References:
    C. Masson, J. E. Rim, H. K. Lee, 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
    guarantees", https://arxiv.org/abs/1908.10693 (bins in logarithmic steps; here of the float's own pattern).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from layershift._checks import check, check_floating, check_rank

RELATIVE_ACCURACY = 2.0**-7
"""A quantile is off by at most this part of its value, between 2^-24 and 2^24 in magnitude."""

_PER_OCTAVE = 128
_SMALLEST, _LARGEST = -24, 24  # exponents of two; smaller magnitudes count as 0, larger ones as infinite
_MAGNITUDES = (_LARGEST - _SMALLEST) * _PER_OCTAVE
_ZERO = _MAGNITUDES + 1  # the bin of 0; to its left the negative numbers, to its right the positive ones
BINS = 2 * _MAGNITUDES + 4
"""Bins of a sketch, in ascending order; the last one counts NaN and infinities, which no quantile takes in."""


@lru_cache(maxsize=8)
def _bin_of_pattern(device: torch.device) -> Tensor:
    """The bin of each of the 2^16 upper halves of a float32."""
    pattern = torch.arange(2**16)
    magnitude = pattern % 2**15
    rank = (magnitude - (127 + _SMALLEST) * _PER_OCTAVE + 1).clamp(0, _MAGNITUDES + 1)
    bins = torch.where(pattern >= 2**15, _ZERO - rank, _ZERO + rank)
    return torch.where(magnitude >= 255 * _PER_OCTAVE, BINS - 1, bins).to(device)


@lru_cache(maxsize=8)
def _edges(device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower and upper edges of the bins of finite numbers; the bin of 0 has no width, the outermost are infinite."""
    rank = torch.arange(_MAGNITUDES + 1)
    exponent, fraction = rank // _PER_OCTAVE + _SMALLEST, rank % _PER_OCTAVE
    edge = (1 + fraction / _PER_OCTAVE).double() * 2.0 ** exponent.double()
    zero, infinity = edge.new_zeros(1), edge.new_full((1,), torch.inf)
    inner, outer = torch.cat([zero, edge[:-1], infinity]), torch.cat([zero, edge[1:], infinity])
    lower, upper = torch.cat([-outer[1:].flip(0), inner]), torch.cat([-inner[1:].flip(0), outer])
    return lower.to(device), upper.to(device)


def quantile_sketch(x: Tensor) -> Tensor:
    """Count numbers in bins of equal relative width, row by row.

    Args:
        x: numbers, shape `(R, M)`.

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
    pattern = (x.float().contiguous().view(torch.int32) >> 16).bitwise_and_(2**16 - 1)
    bins = _bin_of_pattern(x.device)[pattern]
    counts = torch.zeros(x.shape[0], BINS, dtype=torch.int64, device=x.device)
    one = torch.ones((), dtype=torch.int64, device=x.device)
    return counts.scatter_add_(1, bins, one.expand_as(bins))  # bincount would wait for the GPU


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
    check(sketch.dim() == 2 and sketch.shape[1] == BINS, "sketch", f"shape (R, {BINS})", f"shape {tuple(sketch.shape)}")
    upto = sketch[:, :-1].cumsum(1).double()
    count = upto[:, -1:]
    rank = q.to(upto).clamp(0, 1) * (count - 1).clamp(min=0)
    rank = rank.expand(len(sketch), -1)
    found = torch.searchsorted(upto, rank.contiguous(), right=True).clamp(max=BINS - 2)
    inside = sketch.gather(1, found).double()
    place = (rank - upto.gather(1, found) + inside + 0.5) / inside
    lower, upper = (edge[found] for edge in _edges(sketch.device))
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
    return sketch[:, -1].double() / sketch.sum(1)
