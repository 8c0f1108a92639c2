"""Triton's kernels for rows: what one channel of one sample holds, wherever it lies in memory.

A program takes a tile of `ROWS` channels of one sample times `COLS` positions. Strides are arguments, so that a tile
of a contiguous map runs along positions and one of a map in channels_last along channels, coalesced both times. Tables
have shape `(N, C)`, a channel's neighbour next to it; their stride from sample to sample may be 0.

Statistics are in the dtype of the tables they are written to or read from. A kernel that reads a tensor again goes
through it backwards, where the GPU's cache still holds the end of it.
"""

# Triton's language is not quite Python's.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl

from layershift.functional.tile_kernels import channels, known, positions, program, tile_of

_COUNTS = ["blocks", "splits", "tiles"]


@triton.jit(do_not_specialize=_COUNTS)
def moments(
    x, pivot, mean, square, sn, sc, sl, N, C, L, blocks, splits, tiles,
    ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """Mean, what rounding left of it, and mean square about it, of each row's part of `tiles` tiles; `(splits, N, C)`.

    The numbers are shifted by the mean of the first tile. It is one of a few tiles, which bounds what can cancel: a
    row's mean is at most √tiles of its standard deviations away from that of such a part.
    """
    dtype = pivot.dtype.element_ty
    pid = tl.program_id(0)
    split, n, block = pid % splits, pid // splits // blocks, pid // splits % blocks
    c = channels(block, ROWS, BIG)
    x += n.to(tl.int64) * known(sn, UNIT)
    L, sc = known(L, UNIT), known(sc, UNIT)
    first = split * tiles
    v, inside = tile_of(x, c, positions(first, COLS, BIG), C, L, sc, sl, dtype)
    shift = tl.sum(v, 1) / tl.minimum(L - first * COLS, COLS)
    total = tl.where(inside, v - shift[:, None], 0.0)
    squares = total * total
    for tile in range(first + 1, first + tiles):
        v, inside = tile_of(x, c, positions(tile, COLS, BIG), C, L, sc, sl, dtype)
        v = tl.where(inside, v - shift[:, None], 0.0)
        total += v
        squares += v * v
    size = tl.minimum(L - first * COLS, tiles * COLS)
    m = tl.sum(total, 1) / size
    centre = shift + m
    rest = m - (centre - shift)
    spread = tl.sum(squares, 1) / size - m * m
    at = (split.to(tl.int64) * N + n) * C + c
    tl.store(pivot + at, centre, mask=c < C)
    tl.store(mean + at, rest, mask=c < C)
    tl.store(square + at, tl.where(spread < 0, 0.0, spread) + rest * rest, mask=c < C)  # NaN stays NaN


@triton.jit(do_not_specialize=["rows", "splits"])
def merge(
    pivots, means, squares, pivot, mean, square, rows, L, span, splits,
    ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One table of the tables of parts, each of `span` positions but the last: nothing cancels."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.arange(0, SPLITS)
    inside = (part < splits)[:, None] & (row < rows)[None, :]
    at = part.to(tl.int64)[:, None] * rows + row[None, :]
    p = tl.load(pivots + at, mask=inside, other=0.0)
    m = tl.load(means + at, mask=inside, other=0.0)
    s = tl.load(squares + at, mask=inside, other=0.0)
    size = tl.where(part < splits, tl.minimum(L - part * span, span), 0)
    weight = (size.to(p.dtype) / L)[:, None]
    start = tl.load(pivots + row, mask=row < rows, other=0.0)
    offset = tl.sum(weight * ((p - start[None, :]) + m), 0)
    centre = start + offset
    p = tl.where(inside, p - centre[None, :], 0.0)
    tl.store(pivot + row, centre, mask=row < rows)
    tl.store(mean + row, tl.sum(weight * (p + m), 0), mask=row < rows)
    tl.store(square + row, tl.sum(weight * (s + p * (p + 2 * m)), 0), mask=row < rows)


@triton.jit(do_not_specialize=_COUNTS)
def sums(
    dy, x, pivot, total, product, dn, dc, dl, sn, sc, sl, pn, N, C, L, blocks, splits, tiles,
    ITSELF: tl.constexpr, DY_UNIT: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """Sums of `dy` and of `dy·(x − pivot)`, with x − pivot for `dy` if ITSELF; `(splits, N, C)`."""
    dtype = pivot.dtype.element_ty
    pid = tl.program_id(0)
    split, n, block = pid % splits, pid // splits // blocks, pid // splits % blocks
    c = channels(block, ROWS, BIG)
    dy += n.to(tl.int64) * known(dn, DY_UNIT)
    x += n.to(tl.int64) * known(sn, UNIT)
    L, sc, dc = known(L, UNIT), known(sc, UNIT), known(dc, DY_UNIT)
    p = tl.load(pivot + n.to(tl.int64) * pn + c, mask=c < C, other=0.0)[:, None]
    a_sum = tl.zeros([ROWS, COLS], dtype)
    b_sum = tl.zeros([ROWS, COLS], dtype)
    for tile in range(split * tiles, (split + 1) * tiles):
        i = positions(tile, COLS, BIG)
        v, inside = tile_of(x, c, i, C, L, sc, sl, dtype)
        v = tl.where(inside, v - p, 0.0)
        if ITSELF:
            a = v
        else:
            a, _ = tile_of(dy, c, i, C, L, dc, dl, dtype)
        a_sum += a
        b_sum += a * v
    at = (split.to(tl.int64) * N + n) * C + c
    tl.store(total + at, tl.sum(a_sum, 1), mask=c < C)
    tl.store(product + at, tl.sum(b_sum, 1), mask=c < C)


@triton.jit(do_not_specialize=["blocks"])
def affine(
    x, y, pivot, scale, shift, pn, an, bn, sn, sc, sl, yn, yc, yl, C, L, blocks, across,
    ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """`y = scale·(x − pivot) + shift`."""
    pid = program(True)
    n, block, tile = pid // across // blocks, pid // across % blocks, pid % across
    c, i = channels(block, ROWS, BIG), positions(tile, COLS, BIG)
    n = n.to(tl.int64)
    L, sn, sc, yn, yc = known(L, UNIT), known(sn, UNIT), known(sc, UNIT), known(yn, UNIT), known(yc, UNIT)
    p = tl.load(pivot + n * pn + c, mask=c < C, other=0.0)[:, None]
    a = tl.load(scale + n * an + c, mask=c < C, other=0.0)[:, None]
    b = tl.load(shift + n * bn + c, mask=c < C, other=0.0)[:, None]
    v, inside = tile_of(x + n * sn, c, i, C, L, sc, sl, pivot.dtype.element_ty)
    out = y + n * yn + c[:, None] * yc + i[None, :] * yl
    tl.store(out, (a * (v - p) + b).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def combine(
    dy, x, dx, pivot, a, b, shift, pn, an, bn, tn, dn, dc, dl, sn, sc, sl, yn, yc, yl, C, L, blocks, across,
    DY_UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """`dx = a·dy + b·(x − pivot) + shift`."""
    dtype = pivot.dtype.element_ty
    pid = program(True)
    n, block, tile = pid // across // blocks, pid // across % blocks, pid % across
    c, i = channels(block, ROWS, BIG), positions(tile, COLS, BIG)
    n = n.to(tl.int64)
    L, sn, sc, yn, yc = known(L, UNIT), known(sn, UNIT), known(sc, UNIT), known(yn, UNIT), known(yc, UNIT)
    dn, dc = known(dn, DY_UNIT), known(dc, DY_UNIT)
    p = tl.load(pivot + n * pn + c, mask=c < C, other=0.0)[:, None]
    u = tl.load(a + n * an + c, mask=c < C, other=0.0)[:, None]
    w = tl.load(b + n * bn + c, mask=c < C, other=0.0)[:, None]
    t = tl.load(shift + n * tn + c, mask=c < C, other=0.0)[:, None]
    g, _ = tile_of(dy + n * dn, c, i, C, L, dc, dl, dtype)
    v, inside = tile_of(x + n * sn, c, i, C, L, sc, sl, dtype)
    out = dx + n * yn + c[:, None] * yc + i[None, :] * yl
    tl.store(out, (u * g + (w * (v - p) + t)).to(dx.dtype.element_ty), mask=inside)
