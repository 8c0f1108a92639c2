r"""How sure a sliced W1 to N(0, I) is: its standard error, and what N(0, I) itself would show.

For samples $x_1\le\dots\le x_n$ of one projection with empirical distribution function $F_n$, $W_1=\int|F_n-\Phi|$. A
sample moves it by its influence $\psi$, piecewise linear with slope $-\operatorname{sign}(F_n-\Phi)$. Between two
samples that sign changes at most once, at $\Phi^{-1}(i/n)$, so $\psi$ is a cumulative sum over the sorted samples.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_count, check_floating
from layershift.functional.sorting import ascending_order
from layershift.functional.wasserstein1d import normal_edges, wasserstein_normal_sorted

_MANY, _LIMIT = 10**8, 1.2883791903


class NormalDistance(NamedTuple):
    """A sliced W1 to N(0, I) with what is needed to believe it.

    Attributes:
        value: the mean over directions, shape `(…,)`.
        stderr: its standard error over samples and directions, shape `(…,)`; NaN for one sample.
    """

    value: Tensor
    stderr: Tensor


def normal_distance(projections: Tensor) -> NormalDistance:
    r"""Sliced W1 between samples and N(0, I), with its standard error.

    With $\psi_{\theta i}$ the influence of sample $i$ on the distance along $\theta$,

    $$\operatorname{var}=\frac1n\operatorname{var}_i(\operatorname{mean}_\theta\psi_{\theta i})+\frac1P\left(
    \operatorname{var}_\theta W_\theta-\tfrac1n\operatorname{mean}_\theta\operatorname{var}_i\psi_{\theta i}\right)_+.$$

    The first term knows that all directions see the same samples; the second is what other directions would have given.
    In simulations (16 to 1000 samples, 4 to 256 directions; shifted, scaled, rectified and mixed normals) it was 0.95
    to 1.25 times the spread of repeated sampling. Near N(0, I), where the distance has a kink and the influence
    vanishes in the limit, it is up to 1.6 times too wide. One direction tells nothing of others: its error bar is its
    own alone.

    Args:
        projections: samples along unit directions, shape `(…, n, P)`.

    Returns:
        The distance and its standard error.

    Raises:
        TypeError: if `projections` is not floating point.
        ValueError: if there is no sample or no direction.

    Example:
        >>> distance = normal_distance(3 + torch.randn(1000, 1))
        >>> abs(distance.value - 3) < 4 * distance.stderr
        tensor(True)
    """
    check_floating("projections", projections)
    shape = tuple(projections.shape)
    check(len(shape) >= 2 and 0 not in shape[-2:], "projections", "shape (…, n, P) with n, P ≥ 1", f"shape {shape}")
    n, count = shape[-2:]
    x, order = ascending_order(projections.mT.to(accumulation_dtype(projections)))
    distance = wasserstein_normal_sorted(x)
    value = distance.mean(-1)
    if n == 1:
        return NormalDistance(value, torch.full_like(value, torch.nan))

    crossing = torch.clamp(normal_edges(n, x.dtype, x.device)[1:-1], x[..., :-1], x[..., 1:])
    rises = torch.nn.functional.pad((x[..., :-1] + x[..., 1:] - 2 * crossing).cumsum(-1), (1, 0))
    influence = torch.zeros_like(rises).scatter(-1, order, rises)
    variance = influence.mean(-2).var(-1) / n
    if count > 1:
        variance += (distance.var(-1) - influence.var(-1).mean(-1) / n).clamp(min=0) / count
    return NormalDistance(value, variance.sqrt())


def normal_floor(n: int) -> float:
    r"""The mean of W1 between n samples of N(0, 1) and N(0, 1): what no distance at this n goes below on average.

    $E\int|F_n-\Phi|=\int E|B-np|/n$ with $B$ binomial of $p=\Phi(x)$, and $E|B-np|=2k\binom nk p^k(1-p)^{n-k+1}$ with
    $k=\lfloor np\rfloor+1$. It rises to $\sqrt{2/(\pi n)}\int\sqrt{\Phi(1-\Phi)}=1.288/\sqrt n$, 0.4 % below at
    $n=10^3$ and 1e-5 below at $n=10^8$, from where on that is returned.

    Args:
        n: how many samples.

    Returns:
        The mean distance.

    References:
        P. Diaconis, S. Zabell, 1991, "Closed form summation for classical distributions: variations on a theme of de
        Moivre", eq. 1.1.

    Example:
        >>> round(normal_floor(1), 4)  # E|X - Y| of two independent standard normals
        1.1284
    """
    check_count("n", n, "a number of samples, 1 or more")
    return _floor(n)


@lru_cache(maxsize=64)
def _floor(n: int) -> float:
    if n > _MANY:  # the binomial coefficients below lose digits
        return _LIMIT / math.sqrt(n)
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64, device="cpu")
    p, log_p, log_q = torch.special.ndtr(x), torch.special.log_ndtr(x), torch.special.log_ndtr(-x)
    k = (n * p).floor().clamp(max=n - 1) + 1
    size = torch.tensor(float(n), dtype=torch.float64, device="cpu")
    choose = torch.lgamma(size + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
    deviation = 2 * k * torch.exp(choose + k * log_p + (size - k + 1) * log_q)
    return float(torch.trapezoid(deviation, x)) / n
