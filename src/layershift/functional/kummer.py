r"""Kummer's function, as far as PER needs it: $M(\pm\tfrac12, b, -z)$ to float precision, and its cheap series.

Two levels. `kummer_half` is the reference: an integral with positive terms, by Gauss–Legendre quadrature, in NumPy.
`radial_series` compresses it, for one dimension $d$, into a short polynomial that a training step can afford.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from layershift._checks import check

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_INVISIBLE = 45.0  # exp(-45) is below double precision


def gamma_ratio(b: float) -> float:
    r"""$\Gamma(b+\tfrac12)/\Gamma(b)$, without the overflow and cancellation of its two parts.

    Args:
        b: a positive number.

    Returns:
        The ratio, to about 1e-15 relative for large `b` (asymptotic series) and 1e-14 below 100.

    Example:
        >>> round(gamma_ratio(0.5) * math.sqrt(math.pi), 12)
        1.0
    """
    if b < 100:
        return math.exp(math.lgamma(b + 0.5) - math.lgamma(b))
    x = 1 / b
    return math.sqrt(b) * (1 - x / 8 + x**2 / 128 + 5 * x**3 / 1024 - 21 * x**4 / 32768 - 399 * x**5 / 262144)


def kummer_half(b: float, z: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""$M(\tfrac12, b, -z)$ for $b\ge\tfrac12$ and $z\ge0$.

    $$M(\tfrac12,b,-z)=\frac{2\,\Gamma(b)}{\sqrt\pi\,\Gamma(b-\frac12)}\int_0^{\pi/2}
      e^{-z\sin^2\varphi}\cos^{2b-2}\varphi\;d\varphi ,$$

    integrated only as far as the integrand can be seen. With the contiguous relation
    $M(-\tfrac12,b,-z)=M(\tfrac12,b,-z)+\tfrac zb M(\tfrac12,b+1,-z)$ it gives the other function without cancellation.

    Args:
        b: second parameter; $\tfrac12$ is elementary.
        z: minus the argument, any shape.

    Returns:
        Values of the shape of `z`, relative error about 1e-13 for b up to 5e6 and z up to 1e12.

    References:
        NIST Digital Library of Mathematical Functions, 13.4.1 and 13.3.4, https://dlmf.nist.gov/13.

    Example:
        >>> float(kummer_half(0.5, np.array(1.0)))  # exp(-1)
        0.36787944117144233
    """
    check(b >= 0.5, "b", "a number of at least 1/2", b)
    z = np.asarray(z, dtype=np.float64)
    if b == 0.5:
        return np.exp(-z)
    # -log(integrand) is at least (4z/π² + b - 1) φ², since sin φ ≥ 2φ/π and -log cos φ ≥ φ²/2.
    steepness = np.maximum(z * (4 / math.pi**2) + (b - 1), 1e-300)
    reach = np.minimum(math.pi / 2, np.sqrt(_INVISIBLE / steepness))[..., None]
    sine2 = np.sin((_NODES + 1) / 2 * reach) ** 2
    exponent = -z[..., None] * sine2 + (b - 1) * np.log1p(-sine2)
    integral = (np.exp(exponent) * _WEIGHTS * reach / 2).sum(-1)
    value: NDArray[np.float64] = 2 / math.sqrt(math.pi) * gamma_ratio(b - 0.5) * integral
    return value


def radial_scale(d: int) -> float:
    r"""The squared length $c=\max(d, 8)$ that norms are compared with in `radial_series`."""
    return float(max(d, 8))


@cache
def radial_series(d: int, tolerance: float) -> NDArray[np.float64]:
    r"""Polynomials for PER and its gradient in dimension $d$.

    With $c=\max(d,8)$, $w=\sqrt{1+s/c}$ and $t=(s-c)/(s+c)\in[-1,1)$, where $s=\lVert h\rVert^2$, both

    $$M(-\tfrac12,\tfrac d2,-\tfrac s2)=w\,p_0(t),\qquad M(\tfrac12,\tfrac d2+1,-\tfrac s2)=p_1(t)/w$$

    have $p_0, p_1$ so smooth that few terms serve: for `tolerance` 2e-12, 35 for d = 1, 20 for d = 8, 11 for d = 64,
    and ever fewer. The scale $c$ keeps the essential singularity at $s=\infty$, which matters for small $d$, away from
    where polynomials feel it, and the coefficients in powers of $t$ small, so that Horner's rule is stable.

    Args:
        d: dimension, at least 1.
        tolerance: size of the terms that are left out.

    Returns:
        Coefficients of rising powers of $t$, shape `(terms, 2)`.

    Example:
        >>> radial_series(64, 1e-7).shape
        (6, 2)
    """
    check(d >= 1, "d", "a dimension of at least 1", d)
    terms = 64
    angle = (np.arange(terms) + 0.5) * (math.pi / terms)
    s = radial_scale(d) / np.tan(angle / 2) ** 2
    w = np.sqrt(1 + s / radial_scale(d))
    lower, upper = kummer_half(d / 2, s / 2), kummer_half(d / 2 + 1, s / 2)
    values = np.stack([(lower + s / d * upper) / w, upper * w], -1)
    series = 2 / terms * np.cos(np.outer(np.arange(terms), angle)) @ values
    series[0] /= 2
    keep = int(np.flatnonzero(np.abs(series).max(-1) > tolerance)[-1]) + 1
    return np.stack([chebyshev.cheb2poly(np.append(series[:keep, i], 0.0))[:keep] for i in (0, 1)], -1)
