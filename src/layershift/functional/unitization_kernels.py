"""Triton's kernels for unitization's rule: from a table of rows to scales and shifts, and its derivative by hand.

A table `(N, C)` is read by channels, `COLS` of them and all samples a program, for what a batch has one of for each
channel, and by samples, all channels a program, for what each sample has one of. In the formulas of `unitize`, with
g the sum of dy·(x − μ) over a row and B the bracket: dB = g·γ/σ, and what α, γ, β, σ, μ and the sample's norm get.
"""

# Triton's language is not quite Python's.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(table, n, c, N, C):
    inside = (n < N)[:, None] & (c < C)[None, :]
    at = n.to(tl.int64)[:, None] * C + c[None, :]
    return tl.load(table + at, mask=inside, other=0.0), at, inside


@triton.jit
def _about(square, mean, centre):
    """Mean squares about another centre."""
    return square + centre * (centre - 2 * mean)


@triton.jit
def _bracket(s, alpha, eps, BOUNDED: tl.constexpr):
    """What multiplies x̂, and its derivatives by α and by s."""
    r = tl.sqrt_rn(s + eps)
    if BOUNDED:
        b = 1 / (1 + alpha * (r - 1))
        by_alpha = -b * b * (r - 1)
        by_s = -b * b * alpha / (2 * r)
    else:
        p = 1 / r
        b = (1 - alpha) + alpha * p
        by_alpha = p - 1
        by_s = -0.5 * alpha * p * p * p
    return b, by_alpha, by_s


@triton.jit(do_not_specialize=["N"])
def pool(pivot, mean, square, relative, inverse, pooled, variance, N, C, eps, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Mean and variance of each channel; the mean relative to the first sample's pivot too, where nothing cancels."""
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    reference = tl.load(pivot + c, mask=c < C, other=0.0)
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, N, ROWS):
        n = start + tl.arange(0, ROWS)
        p, _, inside = _load(pivot, n, c, N, C)
        m, _, _ = _load(mean, n, c, N, C)
        total += tl.where(inside, (p - reference[None, :]) + m, 0.0)
    offset = tl.sum(total, 0) / N
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, N, ROWS):
        n = start + tl.arange(0, ROWS)
        p, _, inside = _load(pivot, n, c, N, C)
        m, _, _ = _load(mean, n, c, N, C)
        q, _, _ = _load(square, n, c, N, C)
        total += tl.where(inside, _about(q, m, offset[None, :] - (p - reference[None, :])), 0.0)
    v = tl.sum(total, 0) / N
    tl.store(relative + c, offset, mask=c < C)
    tl.store(inverse + c, 1 / tl.sqrt_rn(v + eps), mask=c < C)
    tl.store(pooled + c, reference + offset, mask=c < C)
    tl.store(variance + c, v, mask=c < C)


@triton.jit
def _centre(pivot, relative, at, c, C):
    """μ − pivot of a sample's channels."""
    p = tl.load(pivot + at, mask=c < C, other=0.0) - tl.load(pivot + c, mask=c < C, other=0.0)
    return tl.load(relative + c, mask=c < C, other=0.0) - p


@triton.jit
def scales(
    pivot, mean, square, relative, inverse, alpha, weight, bias, norms, scale, shift, C, factor, eps,
    COLS: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """Each sample's s, and with it scales and shifts."""
    n = tl.program_id(0).to(tl.int64)
    total = tl.zeros([COLS], tl.float32)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)
        at = n * C + c
        m = tl.load(mean + at, mask=c < C, other=0.0)
        q = tl.load(square + at, mask=c < C, other=0.0)
        i = tl.load(inverse + c, mask=c < C, other=0.0)
        total += _about(q, m, _centre(pivot, relative, at, c, C)) * i * i
    s = tl.sum(total, 0) * factor
    tl.store(norms + n, s)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)
        at = n * C + c
        b, _, _ = _bracket(s, tl.load(alpha + c, mask=c < C, other=0.0), eps, BOUNDED)
        a = b * tl.load(inverse + c, mask=c < C, other=0.0)
        if WEIGHT:
            a *= tl.load(weight + c, mask=c < C, other=0.0)
        t = -a * _centre(pivot, relative, at, c, C)
        if BIAS:
            t += tl.load(bias + c, mask=c < C, other=0.0)
        tl.store(scale + at, a, mask=c < C)
        tl.store(shift + at, t, mask=c < C)


@triton.jit
def norm_gradients(
    total, product, pivot, relative, inverse, alpha, weight, norms, d_norms, C, factor, eps,
    COLS: tl.constexpr, WEIGHT: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """What each sample's sum of x̂² gets, `factor·ds`."""
    n = tl.program_id(0).to(tl.int64)
    s = tl.load(norms + n)
    gradient = tl.zeros([COLS], tl.float32)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)
        at = n * C + c
        g = tl.load(product + at, mask=c < C, other=0.0)
        g -= _centre(pivot, relative, at, c, C) * tl.load(total + at, mask=c < C, other=0.0)
        g *= tl.load(inverse + c, mask=c < C, other=0.0)
        if WEIGHT:
            g *= tl.load(weight + c, mask=c < C, other=0.0)
        _, _, by_s = _bracket(s, tl.load(alpha + c, mask=c < C, other=0.0), eps, BOUNDED)
        gradient += g * by_s
    tl.store(d_norms + n, tl.sum(gradient, 0) * factor)


@triton.jit(do_not_specialize=["N"])
def table_gradients(
    total, product, pivot, mean, square, relative, inverse, alpha, weight, norms, d_norms,
    d_alpha, d_weight, d_bias, by_x, constant, N, C, size, eps,
    ROWS: tl.constexpr, COLS: tl.constexpr, WEIGHT: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """Parameters' gradients, and the tables of `dx = scale·dy + by_x·(x − pivot) + constant`."""
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    reference = tl.load(pivot + c, mask=c < C, other=0.0)[None, :]
    offset = tl.load(relative + c, mask=c < C, other=0.0)[None, :]
    i = tl.load(inverse + c, mask=c < C, other=0.0)[None, :]
    a = tl.load(alpha + c, mask=c < C, other=0.0)[None, :]
    w = tl.load(weight + c, mask=c < C, other=0.0)[None, :] if WEIGHT else 1.0
    alphas = tl.zeros([ROWS, COLS], tl.float32)
    weights = tl.zeros([ROWS, COLS], tl.float32)
    biases = tl.zeros([ROWS, COLS], tl.float32)
    inverses = tl.zeros([ROWS, COLS], tl.float32)
    means = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, N, ROWS):
        n = start + tl.arange(0, ROWS)
        t, at, inside = _load(total, n, c, N, C)
        g, _, _ = _load(product, n, c, N, C)
        p, _, _ = _load(pivot, n, c, N, C)
        m, _, _ = _load(mean, n, c, N, C)
        q, _, _ = _load(square, n, c, N, C)
        centre = offset - (p - reference)
        g -= centre * t
        s = tl.load(norms + n, mask=n < N, other=0.0)[:, None]
        ds = tl.load(d_norms + n, mask=n < N, other=0.0)[:, None]
        b, by_alpha, _ = _bracket(s, a, eps, BOUNDED)
        biases += t
        weights += g * b * i
        alphas += g * w * i * by_alpha
        inverses += tl.where(inside, g * w * b + 2 * ds * i * _about(q, m, centre), 0.0)
        means += tl.where(inside, 2 * ds * i * i * (centre - m) - t * w * b * i, 0.0)
    tl.store(d_alpha + c, tl.sum(alphas, 0), mask=c < C)
    tl.store(d_weight + c, tl.sum(weights, 0), mask=c < C)
    tl.store(d_bias + c, tl.sum(biases, 0), mask=c < C)
    # Of each sample's mean square: through the variance, the same for all; through its own norm.
    by_variance = (-0.5 * i * i * i * tl.sum(inverses, 0)[None, :]) / N
    by_mean = tl.sum(means, 0)[None, :] / N
    for start in range(0, N, ROWS):
        n = start + tl.arange(0, ROWS)
        p, at, inside = _load(pivot, n, c, N, C)
        ds = tl.load(d_norms + n, mask=n < N, other=0.0)[:, None]
        about = ds * i * i + by_variance
        tl.store(by_x + at, 2 * about / size, mask=inside)
        tl.store(constant + at, (by_mean - 2 * about * (offset - (p - reference))) / size, mask=inside)
