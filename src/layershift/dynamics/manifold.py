r"""The manifold that batch normalisation trains on, for geoopt's optimisers.

Importing this module needs geoopt, of the extra `dynamics`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layershift._checks import check, check_same_kind, check_type, import_extra
from layershift.dynamics.metric import (
    check_covariance,
    inner_product,
    lift,
    metric_gradient,
    push,
    retract,
    sigma_norm,
    tangent_projection,
    to_ellipsoid,
)
from layershift.dynamics.network import TwoLayer

_geoopt: Any = import_extra("geoopt", extra="dynamics")


class BatchNormManifold(_geoopt.Manifold):  # type: ignore[misc]
    r"""Rows on $\Omega=\{b:b^T\Sigma b=1\}$ with the metric $G_b$ that batch normalisation induces.

    A plain network with its input weights here follows the network with batch normalisation: to first order in the step
    under `geoopt.optim.RiemannianSGD`, and exactly in the limit of a flow (theorem 2). The first step from $\|b_k\|=1$
    is the same to rounding, since `retr` is the image of a straight step on the unit sphere. Later ones differ, because
    the steps of the normalised network make its $b_k$ longer and its rate smaller.

    The metric is that of the round unit sphere, seen through $b\mapsto b/\|b\|$ (`layershift.dynamics.metric`). Hence
    geodesics, their transport and the distance, which is the angle, are all in closed form.

    $\Sigma$ must be positive definite. Data of a lower rank are to be given in coordinates of their range, see
    `layershift.dynamics.metric.covariance_range`.

    Args:
        sigma: $\Sigma$, shape `(d, d)`; its eigenvalues are read once.

    Raises:
        TypeError: if `sigma` is not floating point.
        ValueError: if it is not square, symmetric and positive definite.

    Example:
        >>> from layershift.dynamics.network import TwoLayerBN
        >>> normalised = TwoLayerBN(2, 10, sigma=torch.diag(torch.tensor([5.0, 1.0])))
        >>> plain = on_manifold(normalised.plain(), normalised.sigma)
        >>> optimizer = _geoopt.optim.RiemannianSGD(plain.parameters(), lr=0.1)
        >>> plain(torch.randn(8, 2)).square().mean().backward()
        >>> optimizer.step()
        >>> plain.b.manifold.check_point_on_manifold(plain.b)
        True
    """

    name = "BatchNorm"
    ndim = 1
    reversible = False
    sigma: Tensor

    def __init__(self, sigma: Tensor) -> None:
        super().__init__()
        check_covariance("sigma", sigma)
        self.register_buffer("sigma", sigma.detach().clone())

    def projx(self, x: Tensor) -> Tensor:
        r"""The point $x/\|x\|_\Sigma$ in the same direction: what batch normalisation makes of it."""
        return to_ellipsoid(x, self.sigma)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The orthogonal projection onto the tangent space."""
        return tangent_projection(x, u, self.sigma)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        r"""The gradient in the metric, $\|x\|^2(I-xx^T\Sigma)(I-\Sigma xx^T)u$."""
        return metric_gradient(x, u, self.sigma)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        r"""The product $u^TG_xv$ of tangent vectors, a number a row."""
        product = inner_product(x, u, u if v is None else v)
        return product[..., None] if keepdim else product

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """A step that stays on the manifold, of second order."""
        return retract(x, u, self.sigma)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The end of the geodesic that leaves along `u`: a great circle, scaled to the ellipsoid."""
        v = push(x, u)
        angle = v.norm(dim=-1, keepdim=True)
        return self.projx(_unit(x) * angle.cos() + v * torch.sinc(angle / torch.pi))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The tangent vector at `x` whose geodesic ends in `y`; 0 for the opposite of `x`, where many do."""
        start, end = _unit(x), _unit(y)
        across = end - start * (start * end).sum(-1, keepdim=True)
        length = across.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(x.dtype).tiny
        return lift(x, across * (self.dist(x, y, keepdim=True) / length.clamp(min=tiny)), self.sigma)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """The geodesic distance: the angle between the directions, accurate for small ones."""
        start, end = _unit(x), _unit(y)
        apart, together = (start - end).norm(dim=-1, keepdim=keepdim), (start + end).norm(dim=-1, keepdim=keepdim)
        return 2 * torch.atan2(apart, together)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport along the shortest geodesic, which keeps products."""
        start, end, w = _unit(x), _unit(y), push(x, v)
        tiny = torch.finfo(x.dtype).tiny
        share = (end * w).sum(-1, keepdim=True) / (1 + (start * end).sum(-1, keepdim=True)).clamp(min=tiny)
        return lift(y, w - share * (start + end), self.sigma)

    def random(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Points that are uniform in the metric's own volume: uniform directions."""
        self._assert_check_shape(_geoopt.utils.size2shape(*size), "x")
        drawn = torch.randn(*size, dtype=dtype or self.sigma.dtype, device=device, generator=generator)
        return _geoopt.ManifoldTensor(self.projx(drawn.to(self.sigma.device)), manifold=self)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Any:
        """A point that a seed fixes."""
        generator = None if seed is None else torch.Generator(device or "cpu").manual_seed(seed)
        return self.random(*size, dtype=dtype, device=device, generator=generator)

    def extra_repr(self) -> str:
        """The dimension."""
        return f"d={len(self.sigma)}"

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        if len(shape) >= 1 and shape[-1] == len(self.sigma):
            return True, None
        return False, f"`{name}` should have rows of length {len(self.sigma)}, but has shape {tuple(shape)}"

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        norm = sigma_norm(x, self.sigma)
        if torch.allclose(norm, torch.ones_like(norm), atol=atol, rtol=rtol):
            return True, None
        return False, f"`xᵀΣx != 1` with atol={atol}, rtol={rtol}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        # Beside the lengths of both factors, since those of Σx reach across a badly conditioned matrix.
        normal = x @ self.sigma
        across = (normal * u).sum(-1) / normal.norm(dim=-1)
        if bool((across.abs() <= atol + rtol * u.norm(dim=-1)).all()):
            return True, None
        return False, f"`xᵀΣu != 0` with atol={atol}, rtol={rtol}"


def on_manifold(network: TwoLayer, sigma: Tensor) -> TwoLayer:
    r"""Put the input weights of a plain network on the manifold of $\Sigma$, scaled to $\Omega$ where they are not.

    Args:
        network: a plain network, whose `b` is replaced by a `geoopt.ManifoldParameter`.
        sigma: $\Sigma$, shape `(d, d)`.

    Returns:
        The network.

    Raises:
        TypeError: if `sigma` is not floating point.
        ValueError: if it is not symmetric and positive definite, or has another size.

    Example:
        >>> network = on_manifold(TwoLayer(2, 5), torch.eye(2))
        >>> network.b.norm(dim=1)
        tensor([1., 1., 1., 1., 1.], grad_fn=<LinalgVectorNormBackward0>)
    """
    check_type("network", network, TwoLayer, "a TwoLayer")
    check_same_kind("sigma", sigma, network.b)
    manifold = BatchNormManifold(sigma)
    d = network.b.shape[1]
    check(len(sigma) == d, "sigma", f"shape ({d}, {d})", sigma)
    network.b = _geoopt.ManifoldParameter(manifold.projx(network.b.detach()), manifold=manifold)
    return network


def _unit(x: Tensor) -> Tensor:
    norm: Tensor = x.norm(dim=-1, keepdim=True)
    return x / norm
