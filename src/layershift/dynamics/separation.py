r"""Starts that separate (theorem 5), starts that do not, and what the least loss is.

Theorem 5 asks that the support of $\rho_0$ parts $\{r_0\}\times\Omega$ from $\{-r_0\}\times\Omega$: no curve from one
to the other may miss it. Finitely many particles never do that. Their neighbourhoods do, from some radius on, and that
radius says how well a finite start stands for one that separates.

With the metric $G$ the plane's $R\times\Omega$ is a flat cylinder: a is the height, the angle of b the way around.
Discs around particles part top from bottom as soon as a chain of them closes around it. `separation_radius` finds the
smallest radius for which one does.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_floating,
    check_generator,
    check_not_empty,
    check_number,
    check_readable,
)
from layershift.dynamics.losses import activate, loss_values
from layershift.dynamics.metric import to_ellipsoid
from layershift.dynamics.velocities import Problem, check_problem
from layershift.functional.sliced import directions

Start = Literal["graph", "filled", "cone", "axis", "point"]
STARTS: tuple[Start, ...] = ("graph", "filled", "cone", "axis", "point")


def start(
    kind: Start,
    m: int,
    sigma: Tensor,
    *,
    r0: float = 1.0,
    half_angle: float = math.pi / 12,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw a start: "graph" and "filled" separate as m grows, the others do not.

    Args:
        kind: "graph": a = 0, directions uniform on the sphere, so that the support of the limit is $\{0\}\times\Omega$;
            "filled": a uniform on $[-r_0,r_0]$ and directions uniform; "cone": a as there, directions within an angle
            of the last axis; "axis": a as there, directions along the first axis alone, both ways; "point": all
            neurons the same, $a=r_0/2$ along the last axis.
        m: neurons.
        sigma: $\Sigma$, shape `(d, d)`.
        r0: the largest |a|.
        half_angle: of the cone, in radians.
        seed: of the draw.

    Returns:
        a of shape `(m,)`, and b of length 1, shape `(m, d)`, in the dtype of `sigma`.

    Raises:
        ValueError: if there is no such start or a number is out of range.

    Example:
        >>> a, b = start("graph", 4, torch.eye(3))
        >>> a, bool((b.norm(dim=1) - 1).abs().max() < 1e-6)
        (tensor([0., 0., 0., 0.]), True)
    """
    check_choice("kind", kind, STARTS)
    check(m >= 1, "m", "at least one neuron", m)
    check(0 < half_angle <= math.pi, "half_angle", "an angle in (0, π]", half_angle)
    g, d = torch.Generator().manual_seed(seed), len(sigma)
    b = directions(d, m, generator=g, device=sigma.device, dtype=sigma.dtype)
    a = r0 * (2 * torch.rand(m, generator=g, dtype=sigma.dtype) - 1).to(sigma.device)
    axis = torch.zeros(d, dtype=sigma.dtype, device=sigma.device)
    if kind == "graph":
        a = torch.zeros_like(a)
    elif kind == "cone":
        axis[-1] = 1
        across = b - b[:, -1:] * axis
        across = across / torch.linalg.vector_norm(across, dim=1, keepdim=True)
        turn = half_angle * torch.rand(m, 1, generator=g, dtype=sigma.dtype).to(sigma.device)
        b = turn.cos() * axis + turn.sin() * across
    elif kind == "axis":
        axis[0] = 1
        b = b[:, :1].sign() * axis
    elif kind == "point":
        axis[-1] = 1
        a, b = torch.full_like(a, r0 / 2), axis.repeat(m, 1)
    return a, b


def covering_radius(b: Tensor, *, probes: int = 10_000, generator: torch.Generator | None = None) -> Tensor:
    r"""The largest angle from any direction to the nearest neuron's, exact in the plane, else over random probes.

    Where all particles have a = 0, balls of this radius hold $\{0\}\times\Omega$ and so part top from bottom, in every
    dimension. Over probes it is a lower bound.

    Args:
        b: directions of any length but 0, shape `(m, d)`.
        probes: random directions, for d > 2.
        generator: their source.

    Returns:
        Radians, shape `()`.

    Raises:
        TypeError: if `b` is not floating point.
        ValueError: if it has another shape.

    Example:
        >>> print(f"{covering_radius(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])):.4f}")
        1.5708
    """
    check_floating("b", b)
    check(b.dim() == 2 and len(b) > 0 and b.shape[1] >= 2, "b", "shape (m, d) with d of 2 or more", b)
    check_count("probes", probes)
    check_generator("generator", generator)
    b = b.to(accumulation_dtype(b))
    if b.shape[1] == 2:
        angle = torch.atan2(b[:, 1], b[:, 0]).sort().values
        gaps = torch.cat([angle, angle[:1] + 2 * torch.pi]).diff()
        return gaps.max() / 2
    u = b / torch.linalg.vector_norm(b, dim=1, keepdim=True)
    at = directions(b.shape[1], probes, generator=generator, device=b.device, dtype=b.dtype)
    nearest = torch.cat([(part @ u.mT).amax(1) for part in torch.split(at, 1024)])
    return nearest.min().clamp(-1, 1).acos()


def separation_radius(a: Tensor, b: Tensor) -> Tensor:
    r"""The smallest radius at which discs around the particles part top from bottom of the cylinder; d = 2.

    Half the longest gap in the best chain of particles that closes around the cylinder. The chain is found by a minimal
    spanning tree: an edge that closes a way around it is never shorter than the tree's own edges on that way.

    Args:
        a: shape `(m,)`.
        b: directions of any length but 0, shape `(m, 2)`.

    Returns:
        In the metric's units, radians at equal a; $\pi$ at most. Shape `()`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit.

    References:
        C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch
        normalization", section 3.3.

    Example:
        >>> turn = torch.arange(8) * torch.pi / 4
        >>> b = torch.stack([turn.cos(), turn.sin()], 1)
        >>> print(f"{separation_radius(torch.zeros(8), b):.4f}")  # half of 45°
        0.3927
        >>> print(f"{separation_radius(torch.zeros(4), b[:4]):.4f}")  # half of the 225° that are left open
        1.9635
    """
    check_floating("a", a)
    check_floating("b", b, a)
    check_readable("b", b)
    check_not_empty("b", b)
    check(b.dim() == 2 and b.shape[1] == 2, "b", "directions in the plane, shape (m, 2)", b)
    check(a.shape == b.shape[:1], "a", f"shape ({len(b)},)", a)
    a, angle = a.to(torch.float64), torch.atan2(b[:, 1], b[:, 0]).to(torch.float64)
    turn = torch.remainder(angle - angle[:, None] + math.pi, 2 * math.pi) - math.pi  # from row to column, the short way
    rise = a - a[:, None]
    near = torch.hypot(rise, turn)
    height = _unrolled(near, turn)
    # A way round the cylinder: along the tree from one end of an edge to the other, and back over the edge.
    closes = (height[:, None] + turn - height).abs() > math.pi
    far = torch.hypot(rise, 2 * math.pi - turn.abs())  # the same edge the long way; for a particle and itself, 2π
    # The long way has the other winding, so it closes a way around where the short one does not; so does a full turn.
    return torch.where(closes, near, far).min() / 2


def _unrolled(distance: Tensor, turn: Tensor) -> Tensor:
    """Angles along the minimal spanning tree from the first particle on, not taken back to one turn (Prim)."""
    m = len(distance)
    height = torch.zeros(m, dtype=distance.dtype, device=distance.device)
    best, parent = distance[0].clone(), torch.zeros(m, dtype=torch.long, device=distance.device)
    outside = torch.ones(m, dtype=torch.bool, device=distance.device)
    outside[0] = False
    for _ in range(m - 1):
        nearest = torch.where(outside, best, torch.inf).argmin()
        height[nearest] = height[parent[nearest]] + turn[parent[nearest], nearest]
        outside[nearest] = False
        closer = distance[nearest] < best
        best, parent = torch.where(closer, distance[nearest], best), torch.where(closer, nearest, parent)
    return height


def least_loss(problem: Problem, b: Tensor, *, cutoff: float = 1e-10) -> tuple[Tensor, Tensor]:
    r"""The least squared loss over all measures whose directions are among those given.

    The output is linear in $\nu(db)=\int a\,\rho(da,db)$, and any signed $\nu$ has a $\rho$. So for given directions
    this is least squares. Over a grid of all directions it is an upper bound on the infimum over all measures, and
    tends to it as the grid is refined. Over the directions that a network is confined to it is a bound that the network
    cannot go below.

    Args:
        problem: with the squared loss.
        b: directions of any length but 0, shape `(K, d)`.
        cutoff: singular values below this share of the largest are taken as 0.

    Returns:
        The loss, shape `()`, and the mass $\nu$ of each direction, shape `(K,)`, in float64 on the CPU.

    Raises:
        ValueError: if the loss is another one.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
        >>> problem = Problem.of(x, x[:, 0].abs())
        >>> b = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
        >>> loss, mass = least_loss(problem, b)
        >>> bool(loss < 1e-12), mass.round(decimals=6)
        (True, tensor([1., 1.], dtype=torch.float64))
    """
    check_problem(problem)
    check_floating("b", b)
    check_readable("b", b)
    check(b.dim() == 2 and b.shape[1] == problem.x.shape[1] and len(b) > 0, "b", "directions of shape (K, d)", b)
    check_number("cutoff", cutoff, "a share of the largest singular value, 0 or more", least=0)
    check(problem.loss == "squared", "problem", "the squared loss", repr(problem.loss))
    x, y, sigma, rows = (z.detach().to("cpu", torch.float64) for z in (*problem[:3], b))
    features = activate(x @ to_ellipsoid(rows, sigma).mT, problem.activation)
    mass = torch.linalg.lstsq(features, y[:, None], rcond=cutoff, driver="gelsd").solution[:, 0]
    return loss_values(features @ mass, y, "squared").mean(), mass


def circle(count: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Directions in the plane, evenly spaced.

    Args:
        count: how many.
        dtype: of the result.

    Returns:
        Shape `(count, 2)`.

    Example:
        >>> circle(4).round().abs()
        tensor([[1., 0.],
                [0., 1.],
                [1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    turn = torch.arange(count, dtype=dtype) * (2 * math.pi / count)
    return torch.stack([turn.cos(), turn.sin()], 1)
