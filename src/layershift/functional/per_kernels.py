"""Triton's kernels for exact PER: each sample's norm in one read, and the two short polynomials of it."""

# Triton's language is not quite Python's.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl

from layershift.functional.tile_kernels import channels, known, positions, program, tile_of


@triton.jit
def _squares(x, c, first, tiles, C, L, sc, sl, dtype: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BIG: tl.constexpr):  # fmt: skip  # noqa: E501
    total = tl.zeros([ROWS, COLS], dtype)
    for tile in range(first, first + tiles):
        v, _ = tile_of(x, c, positions(tile, COLS, BIG), C, L, sc, sl, dtype)
        total += v * v
    return tl.sum(total, 1)


@triton.jit
def _evaluate(s, coefficients, value, factor, c, C, L, dtype: tl.constexpr, TERMS: tl.constexpr):
    """With w² = 1 + s/max(L, 8) and t = 1 − 2/w²: p₀(t)·w and p₁(t)/w, coefficients from the highest power."""
    scale = tl.maximum(L, 8).to(dtype)
    if dtype == tl.float32:
        square = tl.div_rn(s, scale) + 1
        t = 1 - tl.div_rn(tl.full(s.shape, 2, dtype), square)
        w = tl.sqrt_rn(square)
    else:
        square = s / scale + 1
        t = 1 - 2 / square
        w = tl.sqrt(square)
    p = tl.load(coefficients) + tl.zeros_like(t)
    q = tl.load(coefficients + 1) + tl.zeros_like(t)
    for i in tl.static_range(1, TERMS):
        p = p * t + tl.load(coefficients + 2 * i)
        q = q * t + tl.load(coefficients + 2 * i + 1)
    tl.store(value + c, p * w, mask=c < C)
    tl.store(factor + c, q / w, mask=c < C)


@triton.jit(do_not_specialize=["tiles"])
def radial(
    x, coefficients, value, factor, sc, sl, C, L, tiles,
    TERMS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """PER of each sample and the factor of its gradient, in one read of the samples."""
    dtype = value.dtype.element_ty
    c = channels(program(False), ROWS, BIG)
    s = _squares(x, c, 0, tiles, C, known(L, UNIT), known(sc, UNIT), sl, dtype, ROWS, COLS, BIG)
    _evaluate(s, coefficients, value, factor, c, C, L, dtype, TERMS)


@triton.jit(do_not_specialize=["splits", "tiles"])
def squares(
    x, parts, sc, sl, C, L, splits, tiles,
    ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """Sums of squares of parts of the samples, `(splits, C)`."""
    pid = program(False)
    split, c = pid % splits, channels(pid // splits, ROWS, BIG)
    L, sc = known(L, UNIT), known(sc, UNIT)
    s = _squares(x, c, split * tiles, tiles, C, L, sc, sl, parts.dtype.element_ty, ROWS, COLS, BIG)
    tl.store(parts + split.to(tl.int64) * C + c, s, mask=c < C)


@triton.jit(do_not_specialize=["splits"])
def radial_of_parts(
    parts, coefficients, value, factor, C, L, splits,
    TERMS: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """PER and its factor from the sums of parts."""
    c, part = program(False) * ROWS + tl.arange(0, ROWS), tl.arange(0, SPLITS)
    inside = (part < splits)[:, None] & (c < C)[None, :]
    s = tl.sum(tl.load(parts + part.to(tl.int64)[:, None] * C + c[None, :], mask=inside, other=0.0), 0)
    _evaluate(s, coefficients, value, factor, c, C, L, value.dtype.element_ty, TERMS)


@triton.jit
def scaled(
    x, grad, factor, out, gc, sc, sl, yc, yl, C, L, across,
    ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """`grad·factor·x`, computed in the dtype of the factor: near 1/d it would underflow in half precision."""
    pid = program(True)
    c, i = channels(pid // across, ROWS, BIG), positions(pid % across, COLS, BIG)
    L, sc, yc = known(L, UNIT), known(sc, UNIT), known(yc, UNIT)
    row = tl.load(grad + c * gc, mask=c < C, other=0.0) * tl.load(factor + c, mask=c < C, other=0.0)
    v, inside = tile_of(x, c, i, C, L, sc, sl, factor.dtype.element_ty)
    tl.store(out + c[:, None] * yc + i[None, :] * yl, (row[:, None] * v).to(out.dtype.element_ty), mask=inside)
