r"""The Laplace distribution in closed form, and Wasserstein distances of samples to it.

Density $e^{-|x|/b}/(2b)$, distribution function $F$, quantile function $Q$ and its integral

$$G(u)=\int_0^uQ=-(b+|Q(u)|)\,\min(u,1-u),\qquad\int_0^1Q^2=2b^2 .$$

For samples $x_1\le\dots\le x_n$, edges $a_i=Q(\tfrac{i-1}n)$ and $b_i=Q(\tfrac in)$, $z_i=$ `clamp` $(x_i,a_i,b_i)$,
$u_i=F(z_i)$, and slice means $m_i=n\,[G(\tfrac in)-G(\tfrac{i-1}n)]$,

$$W_1=\sum_ix_i\left(2u_i-\tfrac{2i-1}n\right)-2G(u_i)+G(\tfrac{i-1}n)+G(\tfrac in),\qquad
W_2^2=\tfrac1n\sum_i(x_i-m_i)^2+2b^2-\tfrac1n\sum_im_i^2 .$$

No Laplacian is sampled. What depends on $n$ alone is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_choice, check_floating, check_not_empty, check_number
from layershift.functional.kept import constant, kept
from layershift.functional.sorting import ascending
from layershift.functional.wasserstein1d import Order

_FLOAT32_SAMPLES = 1024


def laplace_cdf(x: Tensor, scale: float = 1.0) -> Tensor:
    """Distribution function of the Laplace distribution around 0, with full relative accuracy in the lower tail.

    Args:
        x: numbers, any shape.
        scale: b, the mean magnitude; the standard deviation is √2 b.

    Returns:
        Probabilities, of the shape of `x`.

    Example:
        >>> laplace_cdf(torch.tensor([-torch.inf, 0.0, torch.inf]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    check_floating("x", x)
    check_number("scale", scale, "a positive number", above=0)
    tail = 0.5 * torch.exp(-x.abs() / scale)
    return torch.where(x < 0, tail, 1 - tail)


def laplace_quantile(p: Tensor, scale: float = 1.0) -> Tensor:
    """Quantile function of the Laplace distribution around 0; infinite at 0 and 1.

    Args:
        p: probabilities, any shape.
        scale: b, the mean magnitude.

    Returns:
        Numbers, of the shape of `p`.

    Example:
        >>> laplace_quantile(torch.tensor([0.0, 0.25, 0.75]))
        tensor([   -inf, -0.6931,  0.6931])
    """
    check_floating("p", p)
    check_number("scale", scale, "a positive number", above=0)
    tail = scale * torch.log(2 * torch.minimum(p, 1 - p))
    return torch.where(p < 0.5, tail, -tail)


def wasserstein_laplace(x: Tensor, p: Order = 1, *, scale: float = 1.0) -> Tensor:
    r"""$W_p$ between the empirical distribution of samples and a Laplace distribution around 0, in closed form.

    Args:
        x: samples along the last dimension, shape `(…, n)`; ties are allowed.
        p: 1 or 2.
        scale: b, the mean magnitude; the standard deviation is √2 b.

    Returns:
        $W_p$ (for p = 2 with the root taken), of shape `(…)`, in float32 or, for float64 input, float64. NaN among the
        samples gives NaN. Differentiable.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if there is no sample, or an option has another value.

    Example:
        >>> wasserstein_laplace(torch.zeros(5)), wasserstein_laplace(torch.zeros(5), p=2)  # E|X|, √E[X²]
        (tensor(1.), tensor(1.4142))
    """
    check_choice("p", p, (1, 2))
    check_number("scale", scale, "a positive number", above=0)
    check_floating("x", x)
    check(x.dim() >= 1, "x", "samples of shape (…, n)", "shape ()")
    check_not_empty("x", x)
    # All is proportional to the scale, so the tables are those of scale 1.
    x = ascending(x.to(accumulation_dtype(x))) / scale
    wide = torch.float64 if x.shape[-1] > _FLOAT32_SAMPLES and x.device.type != "mps" else x.dtype
    edges, middle, constant, mean, rest = _slices(x.shape[-1], wide, x.device)
    if p == 2:
        root: Tensor = ((x - mean).square().mean(-1) + rest).sqrt()
        return root.to(x.dtype) * scale
    z = torch.clamp(x.to(wide), edges[:-1], edges[1:])
    tail = 0.5 * torch.exp(-z.abs())
    pieces: Tensor = x * (2 * torch.where(z < 0, tail, 1 - tail) - middle) + 2 * (1 + z.abs()) * tail + constant
    return pieces.sum(-1).to(x.dtype) * scale


@constant
def _slices(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """What `_tables` keeps; a compiled graph holds the constants."""
    return _tables(n, dtype, device)


@kept(maxsize=32)
def _tables(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Of scale 1: all edges, (2i - 1)/n, G at both edges added, the slice means m and 2 - mean(m²)."""
    levels = torch.arange(n + 1, dtype=torch.float64, device="cpu") / n
    edges = laplace_quantile(levels)
    edges = (edges - edges.flip(0)) / 2  # 1 - i/n is rounded; the lower half is exact
    share = torch.minimum(levels, levels.flip(0))
    integral = torch.where(share > 0, -(1 + edges.abs()) * share, 0.0)
    mean = n * integral.diff()
    table = (edges, levels[:-1] + levels[1:], integral[:-1] + integral[1:], mean, 2 - mean.square().mean())
    return tuple(values.to(dtype).to(device) for values in table)
