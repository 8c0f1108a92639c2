r"""Neurons as a measure: distances between measures of particles, and the energy that they lose.

A network of m neurons is the measure $\bar\rho_m=\frac1m\sum_k\delta_{(a_k,\bar b_k)}$ on $M=R\times\Omega$ with
$\Omega=\{b^T\Sigma b=1\}$. The paper compares such measures by $W_2$ with the distance of $M$ under the metric $G$.
That distance has a closed form: `layershift.dynamics.metric` shows that $(\Omega,G)$ is the unit sphere, seen through
$\bar b\mapsto\bar b/\lVert\bar b\rVert$. So it is the angle between the directions, whatever $\Sigma$ is, in every
dimension.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from layershift._checks import (
    accumulated,
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_floating,
    check_generator,
    check_not_empty,
    check_readable,
    import_extra,
)
from layershift.dynamics.metric import to_ellipsoid
from layershift.functional.sliced import directions, sliced_wasserstein

Ground = Literal["geodesic", "chordal", "arc", "correlation"]
GROUNDS: tuple[Ground, ...] = ("geodesic", "chordal", "arc", "correlation")

_PAIRS = 2**24  # costs of an exact transport: 128 MB
_PIVOTS = 10**7


def direction_distance(b: Tensor, other: Tensor, *, sigma: Tensor, ground: Ground = "geodesic") -> Tensor:
    r"""Distances on $\Omega$ from every row to every row.

    Args:
        b: directions of any length but 0, shape `(m, d)`.
        other: shape `(n, d)`.
        sigma: $\Sigma$, shape `(d, d)`.
        ground: "geodesic": that of the paper's metric $G$, the angle between the directions; "chordal": the straight
            line between points of $\Omega$; "arc": along the ellipse, for d = 2 alone (higher ellipsoids have no closed
            form); "correlation": the angle $\arccos(\bar b^T\Sigma\bar b')$, whose cosine is the correlation of what
            the two neurons see.

    Returns:
        Shape `(m, n)`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit, or "arc" is asked for in another dimension.
        ModuleNotFoundError: for "arc", if SciPy is not installed.

    Example:
        >>> b, sigma = torch.eye(2), torch.diag(torch.tensor([5.0, 1.0]))
        >>> for ground in ("geodesic", "chordal", "arc", "correlation"):
        ...     print(ground, round(float(direction_distance(b[:1], b[1:], sigma=sigma, ground=ground)), 4))
        geodesic 1.5708
        chordal 1.0954
        arc 1.1785
        correlation 1.5708
    """
    check_choice("ground", ground, GROUNDS)
    check_floating("b", b)
    check_floating("sigma", sigma, b)
    check(sigma.dim() == 2 and len(sigma) == sigma.shape[1] > 0, "sigma", "shape (d, d)", sigma)
    for argument, rows in (("b", b), ("other", other)):
        check_floating(argument, rows, b)
        check(rows.dim() == 2 and sigma.shape == (rows.shape[1],) * 2, argument, f"shape (m, {len(sigma)})", rows)
    b, other, sigma = accumulated(b, other, sigma)
    bar, bar_other = to_ellipsoid(b, sigma), to_ellipsoid(other, sigma)
    if ground == "chordal":
        chord: Tensor = torch.cdist(bar, bar_other, compute_mode="donot_use_mm_for_euclid_dist")
        return chord
    if ground == "arc":
        return _arc(bar, bar_other, sigma)
    if ground == "correlation":
        root = torch.linalg.cholesky(sigma)
        bar, bar_other = bar @ root, bar_other @ root
    u, v = (x / torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (bar, bar_other))
    # Half the chord: an angle by its cosine would lose half of the digits near 0.
    near = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist") / 2
    far = torch.cdist(u, -v, compute_mode="donot_use_mm_for_euclid_dist") / 2
    angle: Tensor = 2 * torch.atan2(near, far)
    return angle


def _arc(b: Tensor, other: Tensor, sigma: Tensor) -> Tensor:
    """The shorter way along the ellipse, by the incomplete elliptic integral of the second kind."""
    check(b.shape[1] == 2, 'ground "arc"', "directions in the plane", f"d = {b.shape[1]}")
    special = import_extra("scipy.special", extra="ot")
    values, vectors = torch.linalg.eigh(sigma.to(torch.float64))
    long, short = (1 / value.sqrt() for value in values)  # half axes: eigenvalues ascend

    def along(rows: Tensor) -> Tensor:
        on_axes = rows.to(torch.float64) @ vectors
        # From the end of the short axis, where the integral has its usual form.
        t = torch.atan2(on_axes[:, 0] / long, on_axes[:, 1] / short)
        length = torch.from_numpy(special.ellipeinc(t.cpu().numpy(), float(1 - (short / long) ** 2)))
        scaled: Tensor = length.to(t.device) * long
        return scaled

    whole = 4 * long * float(special.ellipe(float(1 - (short / long) ** 2)))
    gap = (along(b)[:, None] - along(other)).abs()
    return torch.minimum(gap, whole - gap).to(accumulation_dtype(b))


def ground_distance(
    a: Tensor, b: Tensor, other_a: Tensor, other_b: Tensor, *, sigma: Tensor, ground: Ground = "geodesic"
) -> Tensor:
    r"""Distances on $R\times\Omega$ from every particle to every particle, $\sqrt{|a-a'|^2+\text{dist}(b,b')^2}$.

    Args:
        a: shape `(m,)`.
        b: directions of any length but 0, shape `(m, d)`.
        other_a: shape `(n,)`.
        other_b: shape `(n, d)`.
        sigma: $\Sigma$, shape `(d, d)`.
        ground: see `direction_distance`.

    Returns:
        Shape `(m, n)`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit.

    Example:
        >>> one, b = torch.tensor([0.0]), torch.tensor([[1.0, 0.0]])
        >>> ground_distance(one, b, one + 3, b, sigma=torch.eye(2))
        tensor([[3.]])
    """
    _check_particles(a, b, other_a, other_b, sigma)
    return torch.hypot(a[:, None] - other_a, direction_distance(b, other_b, sigma=sigma, ground=ground))


def particle_wasserstein(
    a: Tensor,
    b: Tensor,
    other_a: Tensor,
    other_b: Tensor,
    *,
    sigma: Tensor,
    ground: Ground = "geodesic",
    method: Literal["exact", "sliced"] = "exact",
    projections: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""$W_2$ between two measures of particles of equal weight (eq. 16); their numbers may differ.

    Args:
        a: shape `(m,)`.
        b: directions of any length but 0, shape `(m, d)`.
        other_a: shape `(n,)`.
        other_b: shape `(n, d)`.
        sigma: $\Sigma$, shape `(d, d)`.
        ground: the distance that is squared, see `direction_distance`.
        method: "exact" by a linear program (POT), on the CPU in float64, for up to some 4000 particles a side;
            "sliced" along lines of $R^{1+d}$, for any number and "chordal" alone. It is $\sqrt{1+d}$ times the sliced
            distance, a lower bound on $W_2$ but for the choice of the lines.
        projections: how many lines.
        generator: source of the lines.

    Returns:
        The distance, shape `()`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit, or particles are too many for "exact".
        ModuleNotFoundError: for "exact", if POT is not installed.

    References:
        C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch
        normalization", eq. 16.

    Example:
        >>> a, b = torch.zeros(3), torch.randn(3, 2)
        >>> print(f"{particle_wasserstein(a, b, a + 2, b, sigma=torch.eye(2)):.4f}")
        2.0000
    """
    check_choice("method", method, ("exact", "sliced"))
    check_choice("ground", ground, GROUNDS)
    _check_particles(a, b, other_a, other_b, sigma)
    if method == "sliced":
        check(ground == "chordal", "ground", "'chordal' for the sliced distance", repr(ground))
        check_count("projections", projections)
        check_generator("generator", generator)
        a, b, other_a, other_b, sigma = accumulated(a, b, other_a, other_b, sigma)
        x, y = (torch.cat([k[:, None], to_ellipsoid(v, sigma)], 1) for k, v in ((a, b), (other_a, other_b)))
        dtype = accumulation_dtype(x)
        lines = directions(x.shape[1], projections, generator=generator, device=x.device, dtype=dtype)
        return (x.shape[1] * sliced_wasserstein(x, y, p=2, directions=lines).square().mean()).sqrt()
    few = len(a) * len(other_a) <= _PAIRS
    check(few, "method", f"'sliced' beyond {_PAIRS:,} pairs of particles", f"'exact' for {len(a)} × {len(other_a)}")
    ot = import_extra("ot", extra="ot")
    sides = (x.detach().to("cpu", torch.float64) for x in (a, b, other_a, other_b, sigma))
    *particles, metric = sides
    cost = ground_distance(*particles, sigma=metric, ground=ground).square_()
    value = ot.emd2([], [], cost.numpy(), numItermax=_PIVOTS)
    return torch.as_tensor(value, dtype=accumulation_dtype(a)).clamp(min=0).sqrt()


def _check_particles(a: Tensor, b: Tensor, other_a: Tensor, other_b: Tensor, sigma: Tensor) -> None:
    check_floating("sigma", sigma)
    check_readable("sigma", sigma)
    check(sigma.dim() == 2 and len(sigma) == sigma.shape[1] > 0, "sigma", "shape (d, d)", sigma)
    for argument, rows in (("b", b), ("other_b", other_b)):
        check_floating(argument, rows, sigma)
        check(rows.dim() == 2 and rows.shape[1] == len(sigma), argument, f"shape (m, {len(sigma)})", rows)
        check_not_empty(argument, rows)
    for argument, own, rows in (("a", a, b), ("other_a", other_a, other_b)):
        check_floating(argument, own, sigma)
        check(own.shape == rows.shape[:1], argument, f"shape ({len(rows)},)", own)
