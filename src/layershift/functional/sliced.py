r"""Wasserstein distances on the line, to N(0, 1) in closed form and between samples, and their sliced forms.

For samples $x_1\le\dots\le x_n$, edges $a_i=\Phi^{-1}(\tfrac{i-1}n)$ and $b_i=\Phi^{-1}(\tfrac in)$, $z_i=$ `clamp`
$(x_i,a_i,b_i)$, and the slice means $m_i=n\,(\varphi(a_i)-\varphi(b_i))$ of N(0, 1),

$$W_1=\sum_i x_i\left(2\Phi(z_i)-\tfrac{2i-1}n\right)+2\varphi(z_i)-\varphi(a_i)-\varphi(b_i),\qquad
W_2^2=\tfrac1n\sum_i(x_i-m_i)^2+1-\tfrac1n\sum_i m_i^2 .$$

No Gaussian is sampled. Edges depend on $n$ alone and are kept. The form of $W_2$ is a sum of what is positive, so
nothing cancels when the samples are close to normal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_choice, check_floating, check_not_empty, check_rank
from layershift.functional.gaussian import normal_cdf, normal_pdf

Order = Literal[1, 2]

_FLOAT32_SAMPLES = 1024


def wasserstein_normal(x: Tensor, p: Order = 1) -> Tensor:
    r"""$W_p$ between the empirical distribution of samples and N(0, 1), in closed form.

    Args:
        x: samples along the last dimension, shape `(…, n)`; ties are allowed.
        p: 1 or 2.

    Returns:
        $W_p$ (for p = 2 with the root taken), of shape `(…)`, in float32 or, for float64 input, float64. NaN among the
        samples gives NaN. Differentiable.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if there is no sample, or `p` has another value.

    Example:
        >>> wasserstein_normal(torch.zeros(5)), wasserstein_normal(torch.zeros(5), p=2)  # E|Z|, √E[Z²]
        (tensor(0.7979), tensor(1.))
    """
    check_choice("p", p, (1, 2))
    check_floating("x", x)
    check(x.dim() >= 1, "x", "samples of shape (…, n)", "shape ()")
    check_not_empty("x", x)
    dtype, n = accumulation_dtype(x), x.shape[-1]
    # The pieces are of size 1/n and rounding errors are not: many samples are summed in float64 where there is one.
    wide = torch.float64 if n > _FLOAT32_SAMPLES and x.device.type != "mps" else dtype
    x = x.to(dtype).sort(-1).values.to(wide)
    lower, upper, middle, constant, mean, rest = _normal_slices(n, wide, x.device)
    if p == 2:
        square: Tensor = (x - mean).square().mean(-1) + rest
        return square.sqrt().to(dtype)
    z = torch.clamp(x, lower, upper)
    pieces: Tensor = x * (2 * normal_cdf(z) - middle) + 2 * normal_pdf(z) - constant
    return pieces.sum(-1).to(dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _normal_slices(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """What `_normal_tables` keeps; a compiled graph holds the constants."""
    return _normal_tables(n, dtype, device)


@lru_cache(maxsize=32)
def _normal_tables(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Edges a and b, (2i - 1)/n, φ(a) + φ(b), the slice means m and 1 - mean(m²): what depends on n alone."""
    levels = torch.arange(n + 1, dtype=torch.float64) / n
    edges = torch.special.ndtri(levels)
    edges = (edges - edges.flip(0)) / 2  # 1 - i/n is rounded; the lower half is exact
    density = normal_pdf(edges)
    mean = n * (density[:-1] - density[1:])
    table = (
        edges[:-1],
        edges[1:],
        levels[:-1] + levels[1:],
        density[:-1] + density[1:],
        mean,
        1 - mean.square().mean(),
    )
    return tuple(values.to(dtype).to(device) for values in table)


def wasserstein(x: Tensor, y: Tensor, p: Order = 1) -> Tensor:
    r"""$W_p$ between two samples on the line, exact for equal and unequal sizes.

    $W_p^p=\int_0^1|F_x^{-1}(t)-F_y^{-1}(t)|^p\,dt$; both quantile functions are constant between the
    levels $i/n$ and $j/m$.

    Args:
        x: samples along the last dimension, shape `(…, n)`.
        y: samples of shape `(…, m)`, leading dimensions as those of `x` or broadcasting with them.
        p: 1 or 2.

    Returns:
        $W_p$ (for p = 2 with the root taken), of shape `(…)`. Differentiable; where the distance is 0 so is its
        gradient.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if one is empty, or `p` has another value.

    Example:
        >>> wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0, 3.0, 3.0]))
        tensor(1.)
    """
    check_choice("p", p, (1, 2))
    for argument, samples in (("x", x), ("y", y)):
        check_floating(argument, samples)
        check(samples.dim() >= 1, argument, "samples of shape (…, n)", "shape ()")
        check_not_empty(argument, samples)
    dtype = torch.promote_types(accumulation_dtype(x), accumulation_dtype(y))
    x, y = x.to(dtype).sort(-1).values, y.to(dtype).sort(-1).values
    n, m = x.shape[-1], y.shape[-1]
    if n == m:
        gaps = (x - y).abs()
        return gaps.mean(-1) if p == 1 else _root(gaps.square().mean(-1))
    at_x, at_y, weights = _common_levels(n, m, dtype, x.device)
    gaps = (x.index_select(-1, at_x) - y.index_select(-1, at_y)).abs()
    return (gaps * weights).sum(-1) if p == 1 else _root((gaps.square() * weights).sum(-1))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _common_levels(n: int, m: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What `_level_tables` keeps; a compiled graph holds the constants."""
    return _level_tables(n, m, dtype, device)


@lru_cache(maxsize=32)
def _level_tables(n: int, m: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples of x and of y meet between neighbouring levels of both, and the width of each piece."""
    levels = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)  # times n·m: whole numbers, so none is doubled
    at_x, at_y = torch.from_numpy(levels[:-1] // m), torch.from_numpy(levels[:-1] // n)
    weights = torch.from_numpy(np.diff(levels) / (n * m)).to(dtype)
    return at_x.to(device), at_y.to(device), weights.to(device)


def _root(square: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), square)


def directions(
    d: int,
    num: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent uniform directions on the unit sphere.

    Args:
        d: dimension.
        num: how many.
        generator: source of randomness; directions are drawn on its device, so that a CPU generator gives the same
            ones everywhere. By default the global one of `device`.
        device: where the result lies.
        dtype: of the result.

    Returns:
        Rows of length 1, shape `(num, d)`.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> torch.allclose(directions(3, 2).norm(dim=1), torch.ones(2))
        True
    """
    check(d >= 1, "d", "a dimension of at least 1", d)
    check(num >= 1, "num", "at least 1", num)
    drawn_on = device if generator is None else generator.device
    noise = torch.randn(num, d, generator=generator, device=drawn_on, dtype=dtype)
    unit: Tensor = noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    return unit.to(device)


def sliced_wasserstein_normal(
    x: Tensor,
    p: Order = 1,
    num_projections: int = 256,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""$W_p$ to N(0, 1) of samples along random directions.

    The mean is the sliced $W_1$ to N(0, I) for p = 1; for p = 2 the sliced $W_2$ is the root of the mean square.
    For its standard error and for what N(0, I) itself would show see `layershift.functional.normal_distance`.

    Args:
        x: samples of shape `(N, d)`.
        p: 1 or 2.
        num_projections: how many directions are drawn, unless `directions` are given.
        directions: unit rows of shape `(P, d)`.
        generator: source of the directions.

    Returns:
        $W_p$ along each direction, shape `(P,)`.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if shapes do not fit, there is no sample, or an option has another value.

    Example:
        >>> x = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
        >>> bool(sliced_wasserstein_normal(x).mean() < 0.06)
        True
    """
    return wasserstein_normal(_project(_directions_for(x, num_projections, directions, generator), "x", x), p)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    p: Order = 1,
    num_projections: int = 256,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""$W_p$ between two samples along random directions.

    Args:
        x: samples of shape `(N, d)`.
        y: samples of shape `(M, d)`.
        p: 1 or 2.
        num_projections: how many directions are drawn, unless `directions` are given.
        directions: unit rows of shape `(P, d)`.
        generator: source of the directions.

    Returns:
        $W_p$ along each direction, shape `(P,)`.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if shapes do not fit, there is no sample, or an option has another value.

    Example:
        >>> x = torch.randn(50, 16)
        >>> sliced_wasserstein(x, x, num_projections=3)
        tensor([0., 0., 0.])
    """
    rows = _directions_for(x, num_projections, directions, generator)
    return wasserstein(_project(rows, "x", x), _project(rows, "y", y), p)


def _directions_for(x: Tensor, num: int, given: Tensor | None, generator: torch.Generator | None) -> Tensor:
    check_floating("x", x)
    check_rank("x", x, (2,), "(N, d)")
    dtype = accumulation_dtype(x)
    if given is None:
        check(num >= 1, "num_projections", "at least 1", num)
        return directions(x.shape[1], num, generator=generator, device=x.device, dtype=dtype)
    fits = given.dim() == 2 and given.shape[1] == x.shape[1]
    check(fits, "directions", f"shape (P, {x.shape[1]})", f"shape {tuple(given.shape)}")
    return given.to(dtype)


def _project(rows: Tensor, argument: str, x: Tensor) -> Tensor:
    """Coordinates along each direction, shape `(P, N)`, never in half precision."""
    check_floating(argument, x)
    check_rank(argument, x, (2,), "(N, d)")
    check_not_empty(argument, x)
    check(x.shape[1] == rows.shape[1], argument, f"shape (N, {rows.shape[1]})", f"shape {tuple(x.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x.to(rows.dtype).mT
