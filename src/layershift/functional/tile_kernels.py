"""What Triton's kernels share: a tile of `ROWS` channels times `COLS` positions, wherever it lies in memory."""

# Triton's language is not quite Python's.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, D103

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def program(BACKWARDS: tl.constexpr):
    pid = tl.program_id(0)
    return tl.num_programs(0) - 1 - pid if BACKWARDS else pid


@triton.jit
def known(n, UNIT: tl.constexpr):
    """A number that the caller knows to be a multiple, said in a way that lets loads take several numbers at once."""
    return n // UNIT * UNIT


@triton.jit
def channels(block, ROWS: tl.constexpr, BIG: tl.constexpr):
    c = block * ROWS + tl.arange(0, ROWS)
    return c.to(tl.int64) if BIG else c


@triton.jit
def tile_of(x, c, i, C, L, sc, sl, dtype: tl.constexpr):
    inside = (c < C)[:, None] & (i < L)[None, :]
    return tl.load(x + c[:, None] * sc + i[None, :] * sl, mask=inside, other=0.0).to(dtype), inside


@triton.jit
def positions(tile, COLS: tl.constexpr, BIG: tl.constexpr):
    i = tile * COLS + tl.arange(0, COLS)
    return i.to(tl.int64) if BIG else i
