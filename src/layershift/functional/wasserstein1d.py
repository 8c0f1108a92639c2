r"""Wasserstein distances on the line: to N(0, 1) in closed form, and between samples.

For samples $x_1\le\dots\le x_n$, edges $a_i=\Phi^{-1}(\tfrac{i-1}n)$ and $b_i=\Phi^{-1}(\tfrac in)$, $z_i=$ `clamp`
$(x_i,a_i,b_i)$, and the slice means $m_i=n\,(\varphi(a_i)-\varphi(b_i))$ of N(0, 1),

$$W_1=\sum_i x_i\left(2\Phi(z_i)-\tfrac{2i-1}n\right)+2\varphi(z_i)-\varphi(a_i)-\varphi(b_i),\qquad
W_2^2=\tfrac1n\sum_i(x_i-m_i)^2+1-\tfrac1n\sum_i m_i^2 .$$

No Gaussian is sampled. Edges depend on $n$ alone and are kept. The form of $W_2$ is a sum of what is positive, so
nothing cancels when the samples are close to normal.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_broadcast, check_choice, check_floating, check_not_empty
from layershift.functional.gaussian import normal_cdf, normal_pdf, safe_root
from layershift.functional.kept import constant, kept
from layershift.functional.sorting import ascending

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
    return wasserstein_normal_sorted(ascending(x.to(accumulation_dtype(x))), p)


def wasserstein_normal_sorted(x: Tensor, p: Order = 1) -> Tensor:
    """What `wasserstein_normal` gives, for samples that ascend along the last dimension; nothing is checked.

    Args:
        x: ascending samples in float32 or float64, shape `(…, n)`.
        p: 1 or 2.

    Returns:
        $W_p$ of shape `(…)`, in the dtype of `x`.

    Example:
        >>> wasserstein_normal_sorted(torch.tensor([-50.0, 50.0]))  # 50 - E|Z|
        tensor(49.2021)
    """
    # The pieces are of size 1/n and rounding errors are not: many samples are summed in float64 where there is one.
    wide = torch.float64 if x.shape[-1] > _FLOAT32_SAMPLES and x.device.type != "mps" else x.dtype
    edges, middle, constant, mean, rest = _normal_slices(x.shape[-1], wide, x.device)
    if p == 2:
        square: Tensor = (x - mean).square().mean(-1) + rest
        return square.sqrt().to(x.dtype)
    z = torch.clamp(x.to(wide), edges[:-1], edges[1:])
    pieces: Tensor = x * (2 * normal_cdf(z) - middle) + 2 * normal_pdf(z) - constant
    return pieces.sum(-1).to(x.dtype)


@constant
def _normal_slices(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """What `_normal_tables` keeps; a compiled graph holds the constants."""
    return _normal_tables(n, dtype, device)


@kept(maxsize=32)
def _normal_tables(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """All edges, (2i - 1)/n, φ(a) + φ(b), the slice means m and 1 - mean(m²): what depends on n alone."""
    levels = torch.arange(n + 1, dtype=torch.float64, device="cpu") / n
    edges = torch.special.ndtri(levels)
    edges = (edges - edges.flip(0)) / 2  # 1 - i/n is rounded; the lower half is exact
    density = normal_pdf(edges)
    mean = n * (density[:-1] - density[1:])
    table = (
        edges,
        levels[:-1] + levels[1:],
        density[:-1] + density[1:],
        mean,
        1 - mean.square().mean(),
    )
    return tuple(values.to(dtype).to(device) for values in table)


def normal_edges(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""What parts N(0, 1) into slices of equal mass, $\Phi^{-1}(\tfrac in)$ for $i=0,\dots,n$; not to be written to.

    Args:
        n: how many slices.
        dtype: of the result.
        device: where it lies.

    Returns:
        Ascending edges, the outermost infinite, shape `(n + 1,)`.

    Example:
        >>> normal_edges(2, torch.float32, torch.device("cpu"))
        tensor([-inf, 0., inf])
    """
    edges: Tensor = _normal_slices(n, dtype, device)[0]
    return edges


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
        check_floating(argument, samples, x)
        check(samples.dim() >= 1, argument, "samples of shape (…, n)", "shape ()")
        check_not_empty(argument, samples)
    check_broadcast("y", y[..., :1], x[..., :1].shape)
    dtype = torch.promote_types(accumulation_dtype(x), accumulation_dtype(y))
    x, y = ascending(x.to(dtype)), ascending(y.to(dtype))
    n, m = x.shape[-1], y.shape[-1]
    if n == m:
        gaps = (x - y).abs()
        return gaps.mean(-1) if p == 1 else safe_root(gaps.square().mean(-1))
    at_x, at_y, weights = _common_levels(n, m, dtype, x.device)
    gaps = (x.index_select(-1, at_x) - y.index_select(-1, at_y)).abs()
    return (gaps * weights).sum(-1) if p == 1 else safe_root((gaps.square() * weights).sum(-1))


@constant
def _common_levels(n: int, m: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What `_level_tables` keeps; a compiled graph holds the constants."""
    return _level_tables(n, m, dtype, device)


@kept(maxsize=32)
def _level_tables(n: int, m: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples of x and of y meet between neighbouring levels of both, and the width of each piece."""
    levels = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)  # times n·m: whole numbers, so none is doubled
    at_x, at_y = torch.from_numpy(levels[:-1] // m), torch.from_numpy(levels[:-1] // n)
    weights = torch.from_numpy(np.diff(levels) / (n * m)).to(dtype)
    return at_x.to(device), at_y.to(device), weights.to(device)
