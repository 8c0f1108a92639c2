r"""Brackets of the distance that a layer has moved, and the bounds that theory puts on it.

Every bound here is on $W_1$, the earth mover's distance with Euclidean cost, unless it says $W_2$. Given samples, it is
a statement about the empirical distributions of these very samples, exact and not only asymptotic; what it says about
the distributions behind them is subject to sampling like any mean.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layershift._checks import (
    accumulated,
    accumulation_dtype,
    check,
    check_broadcast,
    check_choice,
    check_count,
    check_floating,
    check_number,
    check_real,
    check_samples,
)
from layershift.functional.wasserstein1d import Order

MomentForm: TypeAlias = Literal["printed", "jensen"]


class Bracket(NamedTuple):
    """Two numbers that the distance lies between, both of shape `()`."""

    lower: Tensor
    upper: Tensor


def shift_bracket(x: Tensor, y: Tensor, *, p: Order = 1) -> Bracket:
    r"""What the distance lies between, for nothing: both samples come from the same inputs.

    $$\|E x-E y\|\le W_p\le(E\|x-y\|^p)^{1/p}.$$

    Pairing each input with itself is a coupling, which gives the upper bound; no coupling moves the mean for less,
    which gives the lower one. Both hold exactly for the distance between the two empirical distributions. Any layer.

    Args:
        x: samples of shape `(N, d)`.
        y: the same inputs' samples at another time, in the same order, shape `(N, d)`.
        p: 1 or 2.

    Returns:
        The lower and the upper bound, each of shape `()`.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if shapes differ, there is no sample, or `p` has another value.

    Example:
        >>> shift_bracket(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [0.0]]))
        Bracket(lower=tensor(1.), upper=tensor(2.))
    """
    check_choice("p", p, (1, 2))
    check_pairs(x, y)
    difference = x.to(accumulation_dtype(x)) - y.to(accumulation_dtype(y))
    length = torch.linalg.vector_norm(difference, dim=1)
    upper = length.mean() if p == 1 else length.square().mean().sqrt()
    lower = torch.linalg.vector_norm(difference.mean(0))
    return Bracket(torch.minimum(lower, upper), upper)  # they may coincide, and rounding must not swap them


def check_pairs(x: Tensor, y: Tensor) -> None:
    """Raise unless both are samples `(N, d)` of one shape."""
    check_samples("x", x)
    check_samples("y", y, x)
    check(x.shape == y.shape, "y", f"the same inputs' samples, shape {tuple(x.shape)}", y)


def mean_projection(d: int) -> float:
    r"""The mean length of a unit vector's projection on a random line.

    $c_d=E|\theta_1|=\Gamma(d/2)/(\sqrt\pi\,\Gamma((d+1)/2))\approx\sqrt{2/(\pi d)}$.

    Args:
        d: dimension.

    Returns:
        $c_d$.

    Raises:
        ValueError: if `d` is not positive.

    Example:
        >>> mean_projection(1), round(mean_projection(3), 6)
        (1.0, 0.5)
    """
    check_count("d", d, "a dimension of at least 1")
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi) if d > 1 else 1.0


def sliced_lower_bound(sliced: Tensor, d: int, *, p: Order = 1) -> Tensor:
    r"""The lower bound that a sliced distance puts on the distance itself: $SW_1/c_d\le W_1$, $\sqrt d\,SW_2\le W_2$.

    Along a direction the best coupling of the samples costs at most what any coupling costs there, and the mean over
    directions of $|\langle\theta,v\rangle|$ is $c_d\|v\|$, that of its square $\|v\|^2/d$. Equal for translations. It
    needs the mean over *all* directions: one over a few is an estimate of the bound. Any layer.

    Args:
        sliced: $SW_p$, any shape.
        d: the dimension of the samples.
        p: 1 or 2.

    Returns:
        The bounds, in the shape of `sliced`.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> sliced_lower_bound(torch.tensor(0.5), 3)
        tensor(1.)
    """
    check_choice("p", p, (1, 2))
    check_floating("sliced", sliced)
    check_count("d", d, "a dimension of at least 1")
    return sliced / mean_projection(d) if p == 1 else sliced * math.sqrt(d)


def moment_bound(
    mean_x: Tensor, variance_x: Tensor, mean_y: Tensor, variance_y: Tensor, *, form: MomentForm = "jensen"
) -> Tensor:
    r"""The upper bound that first and second moments put on the distance (theorem 1). Any layer.

    As printed, and in the form that Jensen's inequality gives, which is never larger:

    $$W_1\le\sum_i\sigma_i^2+\sum_i\sigma_i'^2+\|\mu-\mu'\|+2,\qquad
      W_1\le\sqrt{\textstyle\sum_i\sigma_i^2}+\sqrt{\textstyle\sum_i\sigma_i'^2}+\|\mu-\mu'\|.$$

    For normalised layers these are $2d+2$ and $2\sqrt d$: the printed one also mixes units, $\sigma^2$ with $\sigma$.

    Args:
        mean_x: $\mu$, shape `(…, d)`.
        variance_x: $\sigma^2$, divided by n, shape `(…, d)`.
        mean_y: $\mu'$, as `mean_x`.
        variance_y: $\sigma'^2$, as `variance_x`.
        form: `"printed"` or `"jensen"`.

    Returns:
        Bounds of shape `(…)`.

    Raises:
        ValueError: if `form` has another value.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        theorem 1 and eq. 4.

    Example:
        >>> zero, one = torch.zeros(4), torch.ones(4)
        >>> moment_bound(zero, one, zero, one, form="printed"), moment_bound(zero, one, zero, one)
        (tensor(10.), tensor(4.))
    """
    check_choice("form", form, ("printed", "jensen"))
    names = ("mean_x", "variance_x", "mean_y", "variance_y")
    for argument, x in zip(names, (mean_x, variance_x, mean_y, variance_y), strict=True):
        check_floating(argument, x, mean_x)
        check(x.dim() >= 1 and x.shape[-1] == mean_x.shape[-1], argument, "shape (…, d), as the others", x)
        check_broadcast(argument, x, mean_x.shape)
    mean_x, variance_x, mean_y, variance_y = accumulated(mean_x, variance_x, mean_y, variance_y)
    moved: Tensor = torch.linalg.vector_norm(mean_x - mean_y, dim=-1)
    spreads = variance_x.sum(-1), variance_y.sum(-1)
    spread: Tensor = spreads[0] + spreads[1] + 2 if form == "printed" else spreads[0].sqrt() + spreads[1].sqrt()
    return moved + spread


def clipped_moment(x: Tensor, p: int, C: float | Tensor) -> Tensor:
    r"""The function of theorem 2, which changes at most as fast as its argument moves.

    $$f_{p,C}(x)=\frac1{p\,C^{p-1}\sqrt d}\sum_i\max(-C,\min(x_i,C))^p.$$

    Args:
        x: vectors on the last dimension, shape `(…, d)`.
        p: which power, 2 or more.
        C: where numbers are clipped, positive.

    Returns:
        Values of shape `(…)`.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if `p` or `C` is out of range.

    References:
        The same paper, theorem 2.

    Example:
        >>> clipped_moment(torch.tensor([[1.0, -3.0, 0.0, 2.0]]), 2, 2.0)  # (1 + 4 + 0 + 4) / (2·2·2)
        tensor([1.1250])
    """
    check_floating("x", x)
    check(isinstance(p, int) and p >= 2, "p", "a whole number, 2 or more", p)
    check_real("C", C, "a positive number", above=0, ranks=(0,))
    check(x.dim() >= 1, "x", "vectors of shape (…, d)", x)
    # Powers of numbers in [-1, 1]: those of the numbers themselves overflow.
    wide = x.to(accumulation_dtype(x))
    powers = (wide / C).clamp(-1, 1).pow(p).sum(-1)
    return powers * C / (p * math.sqrt(x.shape[-1]))


def high_moment_bound(x: Tensor, y: Tensor, *, p: int = 2, C: float | Tensor | None = None) -> Tensor:
    r"""The lower bound that moments of order p put on the distance: $|E f_{p,C}(x)-E f_{p,C}(y)|$ (theorem 2).

    It holds for every p and C, so also for those that the samples suggest. Any layer; samples need not be paired.

    Args:
        x: samples of shape `(N, d)`.
        y: samples of shape `(M, d)`.
        p: which power, 2 or more.
        C: where numbers are clipped; by default nowhere, at the largest number of both samples.

    Returns:
        The bound, shape `()`.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if `p` or `C` is out of range.

    References:
        The same paper, theorem 2 and eq. 5.

    Example:
        >>> high_moment_bound(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [-1.0]]))  # means agree
        tensor(0.5000)
    """
    check_samples("x", x)
    check_samples("y", y, x)
    check(x.shape[1] == y.shape[1], "y", f"shape (M, {x.shape[1]})", y)
    if C is None:
        C = torch.maximum(x.abs().amax(), y.abs().amax()).to(accumulation_dtype(x))
        C = torch.where(C == 0, 1, C)
    return (clipped_moment(x, p, C).mean() - clipped_moment(y, p, C).mean()).abs()


def unitization_bound(
    alpha: float | Tensor | None = None, norm_x: Tensor | float = math.inf, norm_y: Tensor | float = math.inf
) -> Tensor:
    r"""The upper bound on unitized outputs (theorems 3.1, 3.2, 3.3).

    | $\alpha$ | transformation | bound | where $\min\alpha=0$ |
    | --- | --- | --- | --- |
    | None | vanilla, eq. 6 | 2 (theorem 3.1) | |
    | a number | modified, eq. 8 | $2/\alpha$ (3.2) | $E\|x\|+E\|y\|$ |
    | a vector | general, eq. 9 | $2/\min\alpha$ (3.3) | $E\|x\|+E\|y\|+2$ |

    They do **not** hold for the practical transformation, eq. 10, which is the one that is trained: see
    `practical_bound`. Nor for outputs that are scaled by weights γ after the transformation.

    Args:
        alpha: None, a number in [0, 1] or a tensor of shape `()`, or a vector `(d,)`.
        norm_x: $E\|x\|$ of what is transformed, needed where $\alpha$ can be 0.
        norm_y: $E\|y\|$, likewise.

    Returns:
        The bound, shape `()`; infinite where $\min\alpha=0$ and norms are not given.

    Raises:
        ValueError: if `alpha` is a number outside [0, 1] or has more than one dimension.

    References:
        The same paper, eq. 6, 8, 9 and theorems 3.1, 3.2, 3.3.

    Example:
        >>> unitization_bound(), unitization_bound(0.5), unitization_bound(torch.tensor([0.1, 1.0]))
        (tensor(2.), tensor(4.), tensor(20.))
        >>> unitization_bound(0.0, 1.0, 2.0), unitization_bound(torch.tensor([0.0, 1.0]), 1.0, 2.0)
        (tensor(3.), tensor(5.))
    """
    if alpha is None:
        return torch.tensor(2.0)
    alpha = _checked(alpha, norm_x, norm_y, least=0, most=1)
    least = alpha.detach().min()
    unbounded = torch.as_tensor(norm_x + norm_y + (2 if alpha.dim() == 1 else 0), dtype=least.dtype)
    return torch.where(least > 0, 2 / least, unbounded.to(least.device))


def practical_bound(alpha: float | Tensor, norm_x: Tensor | float, norm_y: Tensor | float) -> Tensor:
    r"""The only upper bound on the outputs of the practical transformation, eq. 10, which keeps a linear part.

    $\|g(\hat x)\|\le\max|\alpha|+\max|1-\alpha|\,\|\hat x\|$, for α in [0, 1] $\max\alpha+(1-\min\alpha)\|\hat x\|$,
    gives

    $$W_1\le E\|g\|+E\|g'\|\le2\max|\alpha|+\max|1-\alpha|\,(E\|\hat x\|+E\|\hat x'\|).$$

    It grows with the norm of what is transformed: unless α = 1 everywhere, no constant bounds these outputs. Training
    leaves α free to leave [0, 1], and the bound still holds.

    Args:
        alpha: $\alpha$, shape `()` or `(d,)`, the same at both times.
        norm_x: $E\|\hat x\|$ of what is transformed.
        norm_y: $E\|\hat x'\|$ at the other time.

    Returns:
        The bound, shape `()`.

    References:
        The same paper, eq. 10.

    Example:
        >>> practical_bound(torch.tensor([0.5, 1.0]), 10.0, 12.0)
        tensor(13.)
    """
    alpha = _checked(alpha, norm_x, norm_y).detach()
    return 2 * alpha.abs().max() + (1 - alpha).abs().max() * (norm_x + norm_y)


def _checked(alpha: float | Tensor, norm_x: Tensor | float, norm_y: Tensor | float, **limits: float) -> Tensor:
    if not isinstance(alpha, Tensor):
        check_number("alpha", alpha, "a number in [0, 1]" if limits else "a finite number", **limits)
        alpha = torch.tensor(float(alpha))
    check_floating("alpha", alpha)
    check(alpha.dim() <= 1 and alpha.numel() > 0, "alpha", "a number or a vector of shape (d,)", alpha)
    for argument, norm in (("norm_x", norm_x), ("norm_y", norm_y)):
        if isinstance(norm, Tensor):
            check_floating(argument, norm, alpha)
            check(norm.dim() == 0, argument, "a number or a tensor of shape ()", norm)
        elif norm != math.inf:
            check_number(argument, norm, "a norm, or a tensor of norms", least=0)
    return alpha
