r"""The metric that batch normalisation puts on a neuron's weights, row by row and without matrices for each neuron.

A neuron $b$ enters the network as $\bar b=b/\|b\|_\Sigma$, a point of the ellipsoid $\Omega=\{b:b^T\Sigma b=1\}$. The
gradient flow of the normalised network moves $\bar b$ along the gradient of the plain network in the metric

$$G_b=\frac1{\|b\|^2}\Big(I-\frac{\Sigma bb^T\Sigma}{b^T\Sigma^2b}\Big)
\big[(I-bb^T\Sigma)(I-\Sigma bb^T)\big]^\dagger.$$

**What the metric is.** On tangent vectors, those with $b^T\Sigma u=0$, this comes to

$$u^TG_bv=\frac1{\|b\|^2}\,u^T\Big(I-\frac{bb^T}{\|b\|^2}\Big)v,$$

the metric of the round unit sphere, carried to $\Omega$ by $b\mapsto b/\|b\|$. Distances on $\Omega$ are therefore
angles, whatever $\Sigma$ is; $\Sigma$ decides only where on $\Omega$ a direction lies, and thereby what the network
computes there. The differential of $b\mapsto b/\|b\|$ and its inverse are all that is needed:

$$D_bu=\frac1{\|b\|}\Big(I-\frac{bb^T}{\|b\|^2}\Big)u,\qquad D_b^{-1}v=\|b\|\,(I-bb^T\Sigma)v,\qquad
G_b=D_b^TD_b,\qquad G_b^\dagger=D_b^{-1}D_b^{-T}.$$

Points are rows: shape `(…, d)`, on $\Omega$ unless said otherwise; $\Sigma$ is symmetric and positive definite.

References:
    C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch normalization",
    section 2.2, proposition 1. The paper's equations 2 and 3 print $b^T\Sigma b^T$ for $b^T\Sigma b$.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import check, check_broadcast, check_floating, check_readable, check_same_kind, fail


def check_covariance(argument: str, sigma: Tensor) -> None:
    """Raise unless ``sigma`` is symmetric and positive definite; reads its values, so not for a hot path."""
    _check_square(argument, sigma)
    values = torch.linalg.eigvalsh(_symmetric(argument, sigma))
    if not bool(values[0] > _rounding(sigma) * values[-1]):
        expected = "a positive definite matrix (of a lower rank, work on its range: see covariance_range)"
        fail(argument, expected, f"eigenvalues from {float(values[0]):.3g} to {float(values[-1]):.3g}")


def covariance_range(sigma: Tensor) -> Tensor:
    r"""An orthonormal basis of the range of $\Sigma$, where data of a lower rank live.

    Data with $\Sigma=E\,xx^T$ lie in that range with probability one. In the coordinates $U^Tx$ of a basis $U$ their
    matrix $U^T\Sigma U$ is positive definite, and neurons lose only what they never use.

    Args:
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        $U$ of shape `(d, r)`, the leading direction last.

    Raises:
        TypeError: if `sigma` is not floating point.
        ValueError: if it is not square, or not symmetric.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [-2.0, -2.0]])
        >>> basis = covariance_range(x.T @ x / 2)
        >>> (x @ basis).abs()
        tensor([[1.4142],
                [2.8284]])
    """
    _check_square("sigma", sigma)
    values, vectors = torch.linalg.eigh(_symmetric("sigma", sigma))
    basis: Tensor = vectors[:, values > _rounding(sigma) * values[-1]]
    return basis.to(sigma.dtype)


def sigma_norm(b: Tensor, sigma: Tensor) -> Tensor:
    r"""The norm $\|b\|_\Sigma=\sqrt{b^T\Sigma b}$ of any vectors.

    Args:
        b: vectors, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Norms of shape `(…)`.

    Example:
        >>> sigma_norm(torch.tensor([3.0, 1.0]), torch.diag(torch.tensor([5.0, 4.0])))
        tensor(7.)
    """
    check_metric(b, sigma)
    return (b @ sigma * b).sum(-1).sqrt()


def to_ellipsoid(b: Tensor, sigma: Tensor) -> Tensor:
    r"""The point $\bar b=b/\|b\|_\Sigma$ of $\Omega$ in the direction of any vector but 0.

    Args:
        b: vectors, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Points of shape `(…, d)`.

    Example:
        >>> to_ellipsoid(torch.tensor([3.0, 0.0]), torch.diag(torch.tensor([4.0, 1.0])))
        tensor([0.5000, 0.0000])
    """
    return b / sigma_norm(b, sigma)[..., None]


def tangent_projection(b: Tensor, u: Tensor, sigma: Tensor) -> Tensor:
    r"""The orthogonal projection $u-s\,s^Tu/\|s\|^2$, $s=\Sigma b$, onto the tangent space $\{u:b^T\Sigma u=0\}$.

    Args:
        b: points, shape `(…, d)`.
        u: vectors, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Tangent vectors of shape `(…, d)`.

    Example:
        >>> sigma = torch.diag(torch.tensor([4.0, 1.0]))
        >>> tangent_projection(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0]), sigma)
        tensor([0., 1.])
    """
    check_metric(b, sigma, u=u)
    s = b @ sigma
    return u - s * (_dot(s, u) / _dot(s, s))


def push(b: Tensor, u: Tensor) -> Tensor:
    r"""The differential $D_bu$ of $b\mapsto b/\|b\|$: a tangent vector of $\Omega$ as one of the unit sphere.

    Args:
        b: points, shape `(…, d)`.
        u: tangent vectors at `b`, shape `(…, d)`.

    Returns:
        Tangent vectors of the sphere at $b/\|b\|$, shape `(…, d)`.

    Example:
        >>> push(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
        tensor([0.0000, 0.5000])
    """
    check_vectors(b, u=u)
    square = _dot(b, b)
    return (u - b * (_dot(b, u) / square)) / square.sqrt()


def lift(b: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    r"""The inverse $D_b^{-1}v=\|b\|(I-bb^T\Sigma)v$ of `push`.

    Args:
        b: points, shape `(…, d)`.
        v: tangent vectors of the unit sphere at $b/\|b\|$, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Tangent vectors of $\Omega$ at `b`, shape `(…, d)`.

    Example:
        >>> lift(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.5]), torch.diag(torch.tensor([0.25, 1.0])))
        tensor([0., 1.])
    """
    check_metric(b, sigma, v=v)
    return _dot(b, b).sqrt() * (v - b * _dot(b @ sigma, v))


def inner_product(b: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""The inner product $u^TG_bv$ of tangent vectors; $\Sigma$ enters through $b$ alone.

    Args:
        b: points, shape `(…, d)`.
        u: tangent vectors at `b`, shape `(…, d)`.
        v: tangent vectors at `b`, shape `(…, d)`.

    Returns:
        Products of shape `(…)`.

    Example:
        >>> inner_product(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0]))
        tensor(0.7500)
    """
    check_vectors(b, u=u, v=v)
    return (push(b, u) * push(b, v)).sum(-1)


def metric_gradient(b: Tensor, g: Tensor, sigma: Tensor) -> Tensor:
    r"""The gradient in the metric, from the Euclidean one.

    $$\|b\|^2\,(I-bb^T\Sigma)(I-\Sigma bb^T)\,g$$

    This is $G_b^\dagger P_bg$ of the paper's theorem 2. Its equation prints the negative gradient, a velocity, under
    the sign of a derivative; here it is the gradient.

    Args:
        b: points, shape `(…, d)`.
        g: Euclidean gradients at `b`, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Tangent vectors of shape `(…, d)`.

    Example:
        >>> sigma = torch.diag(torch.tensor([4.0, 1.0]))
        >>> metric_gradient(torch.tensor([0.5, 0.0]), torch.tensor([7.0, 1.0]), sigma)
        tensor([0.0000, 0.2500])
    """
    check_metric(b, sigma, g=g)
    s = b @ sigma
    t = g - s * _dot(b, g)
    return _dot(b, b) * (t - b * _dot(s, t))


def retract(b: Tensor, u: Tensor, sigma: Tensor) -> Tensor:
    r"""A step from $b$ along $u$ that stays on $\Omega$: the straight step on the unit sphere, scaled back.

    $$\frac{w}{\|w\|_\Sigma},\qquad w=b+\Big(I-\frac{bb^T}{\|b\|^2}\Big)u.$$

    It follows the geodesic to second order, and it is where a gradient step of the normalised network leads.

    Args:
        b: points, shape `(…, d)`.
        u: tangent vectors at `b`, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Points of shape `(…, d)`.

    Example:
        >>> retract(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.eye(2))
        tensor([0.7071, 0.7071])
    """
    check_metric(b, sigma, u=u)
    return to_ellipsoid(b * (1 - _dot(b, u) / _dot(b, b)) + u, sigma)


def metric_matrix(b: Tensor, sigma: Tensor) -> Tensor:
    r"""The matrix $G_b$; for looking at, since nothing else here makes matrices for each neuron.

    With $s=\Sigma b$ and $c=\|s\|^2b-s$ it is $\big(I-ss^T/\|s\|^2-cc^T/(\|s\|^4\|b\|^2)\big)/\|b\|^2$.

    Args:
        b: points, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Matrices of shape `(…, d, d)`, zero across $\Omega$.

    Example:
        >>> metric_matrix(torch.tensor([0.5, 0.0]), torch.diag(torch.tensor([4.0, 1.0])))
        tensor([[0., 0.],
                [0., 4.]])
    """
    check_metric(b, sigma)
    s, eye = b @ sigma, torch.eye(b.shape[-1], dtype=b.dtype, device=b.device)
    square, across = _dot(b, b)[..., None], s / s.norm(dim=-1, keepdim=True)
    c = (b - s / _dot(s, s)) / b.norm(dim=-1, keepdim=True)
    return (eye - _outer(across, across) - _outer(c, c)) / square


def inverse_metric_matrix(b: Tensor, sigma: Tensor) -> Tensor:
    r"""The matrix $G_b^\dagger=\|b\|^2(I-bb^T\Sigma)(I-\Sigma bb^T)$, likewise for looking at.

    Args:
        b: points, shape `(…, d)`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        Matrices of shape `(…, d, d)`.

    Example:
        >>> inverse_metric_matrix(torch.tensor([0.5, 0.0]), torch.diag(torch.tensor([4.0, 1.0])))
        tensor([[0.0000, 0.0000],
                [0.0000, 0.2500]])
    """
    check_metric(b, sigma)
    along = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device) - _outer(b, b @ sigma)
    return _dot(b, b)[..., None] * along @ along.mT


def check_vectors(b: Tensor, **vectors: Tensor) -> None:
    """Raise unless points are of shape `(…, d)`, and vectors at them broadcast with them."""
    check_floating("b", b)
    check(b.dim() >= 1 and b.shape[-1] > 0, "b", "points of shape (…, d)", b)
    for argument, x in vectors.items():
        check_same_kind(argument, x, b)
        check(x.shape[-1:] == b.shape[-1:], argument, f"shape (…, {b.shape[-1]})", x)
        check_broadcast(argument, x, b.shape)


def check_metric(b: Tensor, sigma: Tensor, **vectors: Tensor) -> None:
    """The same beside a matrix of shape `(d, d)`."""
    check_vectors(b, **vectors)
    check_same_kind("sigma", sigma, b)
    check(sigma.shape == (b.shape[-1],) * 2, "sigma", f"shape {(b.shape[-1],) * 2}", sigma)


def _dot(u: Tensor, v: Tensor) -> Tensor:
    """Products of rows, with a dimension left for broadcasting."""
    return (u * v).sum(-1, keepdim=True)


def _outer(u: Tensor, v: Tensor) -> Tensor:
    return u[..., :, None] * v[..., None, :]


def _check_square(argument: str, sigma: Tensor) -> None:
    check_floating(argument, sigma)
    check_readable(argument, sigma)
    square = sigma.dim() == 2 and sigma.shape[0] == sigma.shape[1] > 0
    check(square, argument, "a symmetric matrix of shape (d, d)", sigma)


def _symmetric(argument: str, sigma: Tensor) -> Tensor:
    """The matrix in float64, if it is symmetric up to rounding."""
    wide = sigma.detach().double()
    gap = float((wide - wide.mT).abs().max())
    if not gap <= _rounding(sigma) * float(wide.abs().max()):
        fail(argument, "a symmetric matrix", f"entries that differ from their mirror's by {gap:.3g}")
    return (wide + wide.mT) / 2


def _rounding(sigma: Tensor) -> float:
    """How small an eigenvalue that should be 0 may come out beside the largest, for a matrix that was rounded."""
    return float(4 * len(sigma) ** 0.5 * torch.finfo(sigma.dtype).eps)
