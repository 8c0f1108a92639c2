r"""The normal distribution in closed form: cdf, quantile, partial moments, and the W2 between two Gaussians."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layershift._checks import accumulated, accumulation_dtype, check, check_broadcast, check_choice, check_floating

_INVERSE_ROOT_2PI = 1 / math.sqrt(2 * math.pi)


def normal_pdf(x: Tensor) -> Tensor:
    r"""Density of N(0, 1), $\varphi(x)=e^{-x^2/2}/\sqrt{2\pi}$.

    Example:
        >>> normal_pdf(torch.tensor([0.0, torch.inf]))
        tensor([0.3989, 0.0000])
    """
    check_floating("x", x)
    density: Tensor = torch.exp(-0.5 * x.square()) * _INVERSE_ROOT_2PI
    return density


def normal_cdf(x: Tensor) -> Tensor:
    r"""Distribution function of N(0, 1), $\Phi(x)$, with full relative accuracy in the lower tail.

    Example:
        >>> normal_cdf(torch.tensor([-1.0, 0.0, torch.inf]))
        tensor([0.1587, 0.5000, 1.0000])
    """
    check_floating("x", x)
    value: Tensor = 0.5 * torch.special.erfc(x * -math.sqrt(0.5))  # ndtr loses the tail
    return value


def normal_quantile(p: Tensor) -> Tensor:
    r"""Quantile function of N(0, 1), $\Phi^{-1}(p)$; infinite at 0 and 1.

    Example:
        >>> normal_quantile(torch.tensor([0.0, 1e-30, 0.5]))
        tensor([    -inf, -11.4640,   0.0000])
    """
    check_floating("p", p)
    value: Tensor = torch.special.ndtri(p.to(accumulation_dtype(p))).to(p.dtype)
    return value


def normal_partial_moment(a: Tensor, b: Tensor, order: int = 0) -> Tensor:
    r"""Partial moment of N(0, 1), $\int_a^b x^k\varphi(x)\,dx$.

    Args:
        a: lower limits, any shape; may be $-\infty$.
        b: upper limits, of a shape that broadcasts with `a`; may be $\infty$.
        order: the power k: 0, 1 or 2.

    Returns:
        Values of the broadcast shape.

    Raises:
        TypeError: if a limit is not floating point.
        ValueError: if `order` has another value.

    Example:
        >>> a, b = torch.tensor(-torch.inf), torch.tensor(torch.inf)
        >>> [float(normal_partial_moment(a, b, k)) for k in (0, 1, 2)]
        [1.0, 0.0, 1.0]
    """
    check_floating("a", a)
    check_floating("b", b, a)
    check_broadcast("b", b, a.shape)
    check_choice("order", order, (0, 1, 2))
    if order == 1:
        return normal_pdf(a) - normal_pdf(b)
    # Φ(b) - Φ(a) from the tail on whose side the interval lies, where nothing cancels.
    upper = a + b > 0
    mass = torch.where(upper, normal_cdf(-a) - normal_cdf(-b), normal_cdf(b) - normal_cdf(a))
    return mass if order == 0 else mass + _edge_term(a) - _edge_term(b)


def _edge_term(x: Tensor) -> Tensor:
    """`x φ(x)`, 0 at infinity."""
    finite: Tensor = torch.where(x.isinf(), 0.0, x)
    return finite * normal_pdf(x)


def gaussian_wasserstein(mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor) -> Tensor:
    r"""W2 between two Gaussians.

    $$W_2^2=\lVert\mu-\nu\rVert^2+\operatorname{tr}A+\operatorname{tr}B-
      2\operatorname{tr}(A^{1/2}BA^{1/2})^{1/2},$$

    where the last trace is the sum of the singular values of $F^TG$ for any factors $A=FF^T$, $B=GG^T$. Differentiable
    once, also where eigenvalues repeat; where the distance is 0 so is its gradient.

    Args:
        mean_x: means of shape `(…, d)`.
        covariance_x: symmetric positive semidefinite matrices of shape `(…, d, d)`.
        mean_y: as `mean_x`.
        covariance_y: as `covariance_x`.

    Returns:
        $W_2$, the root taken, of shape `(…)`. Nothing is smaller than about the root of the dtype's precision: equal
        Gaussians may come out at 1e-8 in float64.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if the shapes do not fit.

    References:
        D. Dowson, B. Landau, 1982, "The Fréchet distance between multivariate normal distributions".

    Example:
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> zero = torch.zeros(3, dtype=torch.float64)
        >>> round(float(gaussian_wasserstein(zero, eye, zero, 4 * eye)), 6)  # √3
        1.732051
    """
    for argument, mean, covariance in (("x", mean_x, covariance_x), ("y", mean_y, covariance_y)):
        check_floating(f"mean_{argument}", mean, mean_x)
        check_floating(f"covariance_{argument}", covariance, mean_x)
        check(mean.dim() >= 1, f"mean_{argument}", "a tensor of shape (…, d)", mean)
        d = mean_x.shape[-1]
        check(mean.shape[-1] == d > 0, f"mean_{argument}", f"shape (…, {d or 'd'}), as mean_x", mean)
        fits = covariance.dim() >= 2 and covariance.shape[-2:] == (d, d)
        got = f"shapes {tuple(mean.shape)} and {tuple(covariance.shape)}"
        check(fits, f"covariance_{argument}", f"shape (…, {d}, {d}) beside means of shape (…, {d})", got)
        check_broadcast(f"mean_{argument}", mean, mean_x.shape)
        check_broadcast(f"covariance_{argument}", covariance[..., 0], mean_x.shape)
        check_broadcast(f"covariance_{argument}", covariance, covariance_x.shape)
    mean_x, covariance_x, mean_y, covariance_y = accumulated(mean_x, covariance_x, mean_y, covariance_y)
    fidelity: Tensor = _Fidelity.apply(covariance_x, covariance_y)
    traces = covariance_x.diagonal(dim1=-2, dim2=-1).sum(-1) + covariance_y.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (mean_x - mean_y).square().sum(-1) + (traces - 2 * fidelity).clamp(min=0)
    return safe_root(square)


def safe_root(square: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0.

    Args:
        square: numbers that are not negative, any shape.

    Returns:
        Their roots.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> torch.autograd.grad(safe_root(x), x)
        (tensor([0.]),)
    """
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0 * square)  # NaN stays


class _Fidelity(torch.autograd.Function):
    r"""$\operatorname{tr}(A^{1/2}BA^{1/2})^{1/2}$.

    Derivatives of eigenvectors are infinite where eigenvalues meet, as they do in the identity; that of the trace is
    not: with $F^TG=U\Sigma V^T$ it is $\tfrac12GVU^TF^+$, half the optimal map between the Gaussians.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        values: Tensor = torch.linalg.svdvals(_factor(a)[0].mT @ _factor(b)[0])
        return values.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (f, f_inverse), (g, g_inverse) = map(_factor, ctx.saved_tensors)
        u, _, vh = torch.linalg.svd(f.mT @ g)
        maps = (g @ (u @ vh).mT @ f_inverse, f @ (u @ vh) @ g_inverse)
        by_a, by_b = (gradient[..., None, None] * (m + m.mT) / 4 for m in maps)
        return by_a.sum_to_size(ctx.saved_tensors[0].shape), by_b.sum_to_size(ctx.saved_tensors[1].shape)


def _factor(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix F with `F @ F.mT` equal to the covariance, singular ones too, and its pseudoinverse."""
    values, vectors = torch.linalg.eigh(covariance)
    root = values.clamp(min=0).sqrt()
    kept = values > values[..., -1:] * values.shape[-1] * torch.finfo(values.dtype).eps
    inverse = torch.where(kept, 1 / root, 0.0)
    return vectors * root.unsqueeze(-2), inverse.unsqueeze(-1) * vectors.mT
