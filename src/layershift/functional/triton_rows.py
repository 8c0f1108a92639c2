"""The four passes of `rows` as Triton's kernels: one read for moments, one read and one write to apply them, and so on.

Everything runs on the GPU's stream, nothing waits for it, and sums have a fixed order: the same input gives the same
bits. The first call for a dtype and a kind of shape compiles (Triton keeps the result on disk).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype
from layershift.functional.triton_support import available, on_device, power_of_two, warps

__all__ = ["apply_rows", "available", "combine_rows", "row_moments", "row_sums"]

_TILE = 4096  # numbers that a program holds at a time; half as many where loads cannot take several at once
_CHANNELS = 64  # neighbours of a tile along channels: 128 bytes at least
_PROGRAMS = 1024  # so many keep a large GPU busy
_DEPTH = 64  # tiles that one program goes through at most


class _Plan(NamedTuple):
    """How rows are cut into tiles: `rows` channels times `cols` positions."""

    rows: int
    cols: int
    blocks: int  # of channels, of each sample
    across: int  # tiles along positions
    unit: int  # what positions and strides are multiples of

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler has to know."""
        tile = self.rows * self.cols
        known = {"ROWS": self.rows, "COLS": self.cols, "UNIT": self.unit}
        return known | {"num_warps": warps(tile), "enable_fp_fusion": True}

    def splits(self, samples: int) -> tuple[int, int]:
        """In how many parts programs share the sum over a row, and how many tiles a part has."""
        wanted = min(-(-_PROGRAMS // (samples * self.blocks)), -(-self.across // 4))
        splits = min(max(wanted, -(-self.across // _DEPTH)), _PROGRAMS)
        tiles = -(-self.across // splits)
        return -(-self.across // tiles), tiles


def row_moments(x: Tensor, pivot: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's mean and mean square about a pivot, in one pass.

    Args:
        x: shape `(N, C, …)`, any strides.
        pivot: shape `(N, C)` or `(1, C)`, in the accumulation dtype; by default each row's mean.

    Returns:
        The pivot, the mean of x − pivot and the mean of its square, in the accumulation dtype, `(N, C)` but for a
        pivot that was given. Without positions they are NaN.
    """
    samples, channels, size = _sizes(x)
    if x.numel() == 0:
        nothing = torch.full((samples, channels), torch.nan, dtype=_wide(x), device=x.device)
        return (nothing if pivot is None else pivot), nothing, nothing
    if pivot is not None:
        total, product = _sums(None, x, pivot)
        return pivot, total / size, product / size
    from layershift.functional import row_kernels

    x, strides = _regular(x)
    plan = plan_of(channels, size, strides)
    splits, tiles = plan.splits(samples)
    parts = torch.empty(3, splits, samples, channels, dtype=_wide(x), device=x.device)
    with on_device(x):
        row_kernels.moments[(samples * plan.blocks * splits,)](
            x, *parts, *strides, samples, channels, size, plan.blocks, splits, tiles, BIG=big(x), **plan.options
        )
        if splits > 1:
            rows, deep = samples * channels, power_of_two(splits)
            wide = max(2048 // deep, 1)
            merged = parts.new_empty(3, samples, channels)
            row_kernels.merge[(-(-rows // wide),)](
                *parts, *merged, rows, size, tiles * plan.cols, splits, ROWS=wide, SPLITS=deep,
                num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
            parts = merged
    made_pivot, mean, square = parts.reshape(3, samples, channels).unbind()
    return made_pivot, mean, square


def apply_rows(x: Tensor, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale·(x − pivot) + shift`, with a number of each table for each row.

    Args:
        x: shape `(N, C, …)`, any strides.
        pivot: a shape that broadcasts to `(N, C)`.
        scale: likewise.
        shift: likewise.

    Returns:
        A tensor like `x`, in its dtype and memory format.
    """
    from layershift.functional import row_kernels

    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    _, channels, size = _sizes(x)
    tables = [_table(t, x) for t in (pivot, scale, shift)]
    x, strides = _regular(x)
    out, out_strides = _regular(y)
    plan = plan_of(channels, size, strides, out_strides)
    with on_device(x):
        row_kernels.affine[(len(x) * plan.blocks * plan.across,)](
            x, out, *tables, *(t.stride(0) for t in tables), *strides, *out_strides, channels, size,
            plan.blocks, plan.across, BIG=big(x), **plan.options,
        )  # fmt: skip
    return y if out is y else y.copy_(out)


def row_sums(dy: Tensor, x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's sums of `dy` and of `dy·(x − pivot)`, in one pass over both.

    Args:
        dy: the shape of `x`, any strides; what is expanded is not written out.
        x: shape `(N, C, …)`, any strides.
        pivot: a shape that broadcasts to `(N, C)`.

    Returns:
        Both sums, in the accumulation dtype, shape `(N, C)`.
    """
    total, product = _sums(dy, x, pivot)
    return total, product


def combine_rows(dy: Tensor, x: Tensor, pivot: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a·dy + b·(x − pivot) + c`, with a number of each table for each row.

    Args:
        dy: the shape of `x`, any strides.
        x: shape `(N, C, …)`, any strides.
        pivot: a shape that broadcasts to `(N, C)`.
        a: likewise.
        b: likewise.
        c: likewise.

    Returns:
        A tensor like `x`, in its dtype and memory format.
    """
    from layershift.functional import row_kernels

    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx
    _, channels, size = _sizes(x)
    tables = [_table(t, x) for t in (pivot, a, b, c)]
    x, strides = _regular(x)
    dy, dy_strides = _regular(dy)
    out, out_strides = _regular(dx)
    plan = plan_of(channels, size, strides, out_strides)
    with on_device(x):
        row_kernels.combine[(len(x) * plan.blocks * plan.across,)](
            dy, x, out, *tables, *(t.stride(0) for t in tables), *dy_strides, *strides, *out_strides, channels, size,
            plan.blocks, plan.across, DY_UNIT=_unit(size, dy_strides), BIG=big(x), **plan.options,
        )  # fmt: skip
    return dx if out is dx else dx.copy_(out)


def _sums(dy: Tensor | None, x: Tensor, pivot: Tensor) -> Tensor:
    """Sums of `dy` (or of x − pivot) and of its product with x − pivot, shape `(2, N, C)`."""
    from layershift.functional import row_kernels

    samples, channels, size = _sizes(x)
    if x.numel() == 0:
        return torch.zeros(2, samples, channels, dtype=_wide(x), device=x.device)
    table = _table(pivot, x)
    x, strides = _regular(x)
    weights, weight_strides = (x, strides) if dy is None else _regular(dy)
    plan = plan_of(channels, size, strides)
    splits, tiles = plan.splits(samples)
    parts = torch.empty(2, splits, samples, channels, dtype=_wide(x), device=x.device)
    with on_device(x):
        row_kernels.sums[(samples * plan.blocks * splits,)](
            weights, x, table, *parts, *weight_strides, *strides, table.stride(0), samples, channels, size,
            plan.blocks, splits, tiles, ITSELF=dy is None, DY_UNIT=_unit(size, weight_strides), BIG=big(x),
            **plan.options,
        )  # fmt: skip
    return parts.sum(1) if splits > 1 else parts[:, 0]


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Samples, channels, positions."""
    return x.shape[0], x.shape[1], x.shape[2:].numel()


def _wide(x: Tensor) -> torch.dtype:
    return accumulation_dtype(x)


def big(x: Tensor) -> bool:
    """Whether a place within a sample can lie beyond what 32 bits count; where a sample begins is counted in 64."""
    return sum((n - 1) * abs(s) for n, s in zip(x.shape[1:], x.stride()[1:], strict=True)) >= 2**31 - 2**16


def _table(table: Tensor, x: Tensor) -> Tensor:
    """A table in the accumulation dtype, of shape `(N, C)`, a channel's neighbour next to it."""
    table = table.to(_wide(x)).expand(x.shape[:2])
    return table if table.stride(1) == 1 or x.shape[1] == 1 else table.contiguous()


def _regular(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """A tensor, or a copy, whose positions follow each other at one distance; its strides by sample, channel, position.

    Contiguous maps, maps in channels_last, and whatever is expanded over all positions are so.
    """
    step, reach = 0, 0
    for n, s in zip(reversed(x.shape[2:]), reversed(x.stride()[2:]), strict=True):
        if n == 1:
            continue
        if reach == 0:
            step, reach = s, n
        elif s == step * reach:
            reach *= n
        else:
            x = x.contiguous()
            return x, (x.stride(0), x.stride(1), 1)
    return x, (x.stride(0), x.stride(1), step)


def plan_of(channels: int, size: int, *strides: tuple[int, int, int]) -> _Plan:
    """Tiles that run along positions, or along channels where these are neighbours in memory."""
    sample, channel, position = strides[0]
    unit = math.gcd(*(_unit(size, s) for s in strides))
    if channel == 1 and position != 1 and channels > 1:
        tile = _TILE if math.gcd(channels, position, sample) % 4 == 0 else _TILE // 2
        rows = min(power_of_two(channels), max(_CHANNELS, tile // power_of_two(size)))
        cols = min(power_of_two(size), max(tile // rows, 1))
    else:
        tile = _TILE if unit % 4 == 0 else _TILE // 2
        cols = min(power_of_two(size), tile)
        rows = min(power_of_two(channels), tile // cols)
    return _Plan(rows, cols, -(-channels // rows), -(-size // cols), unit)


def _unit(size: int, strides: tuple[int, int, int]) -> int:
    """A power of two that divides positions and strides, where positions are neighbours in memory."""
    sample, channel, position = strides
    return math.gcd(16, size, sample, channel) if position == 1 else 1
