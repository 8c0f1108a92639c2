r"""How far samples are from N(0, 1) by their characteristic function: the statistic of Epps and Pulley.

With the empirical characteristic function $\varphi_n(t)=\tfrac1n\sum_je^{itx_j}$ and the density $w$ of N(0, 1),

$$D=\int\left|\varphi_n(t)-e^{-t^2/2}\right|^2w(t)\,dt
=\frac1{n^2}\sum_{j,k}e^{-(x_j-x_k)^2/2}-\frac{\sqrt2}n\sum_je^{-x_j^2/4}+\frac1{\sqrt3};$$

the test statistic is $nD$. The double sum is exact and costs $n^2$; the integral is smooth, so a trapezoidal rule with
few nodes gives it at a cost of $n$ for each. What it needs of the samples is a mean at each node, which processes can
average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_floating,
    check_not_empty,
    check_number,
)

_IN_CACHE = 2**18  # numbers


def epps_pulley(
    x: Tensor,
    *,
    method: Literal["quadrature", "exact"] = "quadrature",
    num_nodes: int = 17,
    t_max: float = 4.0,
) -> Tensor:
    r"""The squared weighted distance $D$ between the characteristic functions of samples and of N(0, 1).

    Its gradient is bounded, and vanishes for samples far from all others and from 0: it shapes a distribution, it does
    not fetch outliers. Mean and scale are not estimated; of N(0, 1) itself $E D=\tfrac1n(1-1/\sqrt3)$.

    Args:
        x: samples along the last dimension, shape `(…, n)`.
        method: "quadrature", the trapezoidal rule on $[-t_{max},t_{max}]$, or "exact", the double sum.
        num_nodes: nodes of "quadrature" in $[0,t_{max}]$. With the defaults it is within 2e-4 of the exact value as
            long as samples are less than $2\pi(\mathrm{num\_nodes}-1)/t_{max}-3\approx22$ apart; beyond that the
            rule takes samples for neighbours that are not.
        t_max: where "quadrature" cuts the integral off.

    Returns:
        $D$, shape `(…)`, in float32 or, for float64 input, float64. Differentiable, with "quadrature" once.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if there is no sample, or an option has another value.

    References:
        T. W. Epps, L. B. Pulley, 1983, "A test for normality based on the empirical characteristic function"; N. Henze,
        B. Zirkler, 1990, for the closed form; R. Balestriero, Y. LeCun, 2025, "LeJEPA", for its use on projections
        (there multiplied by $n$ and $\sqrt{2\pi}$, with 17 nodes on [0, 3]).

    Example:
        >>> x = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(epps_pulley(x), epps_pulley(x, method="exact"), atol=2e-4)
        True
        >>> epps_pulley(torch.zeros(5), method="exact")  # 1 - √2 + 1/√3
        tensor(0.1631)
    """
    check_choice("method", method, ("quadrature", "exact"))
    _check(x, num_nodes, t_max)
    x = x.to(accumulation_dtype(x))
    if method == "exact":
        pairs = torch.exp(-0.5 * (x.unsqueeze(-1) - x.unsqueeze(-2)).square()).mean((-2, -1))
        exact: Tensor = pairs - math.sqrt(2) * torch.exp(-0.25 * x.square()).mean(-1) + 1 / math.sqrt(3)
        return exact
    return characteristic_distance(characteristic_function(x, num_nodes=num_nodes, t_max=t_max), t_max=t_max)


def characteristic_function(x: Tensor, *, num_nodes: int = 17, t_max: float = 4.0) -> Tensor:
    r"""The empirical characteristic function at evenly spaced nodes of $[0,t_{max}]$.

    Args:
        x: samples along the last dimension, shape `(…, n)`.
        num_nodes: how many nodes, 0 and `t_max` among them.
        t_max: the last node.

    Returns:
        Real and imaginary parts, shape `(2, …, num_nodes)`. Differentiable once; what is kept for the gradient is `x`,
        not a table of its size times the nodes.

    Raises:
        ValueError: if an option has another value.

    Example:
        >>> characteristic_function(torch.zeros(5), num_nodes=2)
        tensor([[1., 1.],
                [0., 0.]])
    """
    _check(x, num_nodes, t_max)
    values: Tensor = _CharacteristicFunction.apply(x.to(accumulation_dtype(x)), num_nodes, t_max / (num_nodes - 1))
    return values


def characteristic_distance(values: Tensor, *, t_max: float = 4.0) -> Tensor:
    """The weighted squared distance of a characteristic function to that of N(0, 1), by the trapezoidal rule.

    Args:
        values: what `characteristic_function` gives, shape `(2, …, num_nodes)`.
        t_max: the last node.

    Returns:
        Distances of shape `(…)`.

    Example:
        >>> t = torch.linspace(0, 4, 17)
        >>> characteristic_distance(torch.stack([torch.exp(-t.square() / 2), 0 * t]))
        tensor(0.)
    """
    check_floating("values", values)
    fits = values.dim() >= 2 and len(values) == 2 and values.shape[-1] >= 2
    check(fits, "values", "shape (2, …, num_nodes), 2 nodes or more", values)
    check_number("t_max", t_max, "a positive number", above=0)
    values = values.to(accumulation_dtype(values))
    t = torch.linspace(0, t_max, values.shape[-1], dtype=values.dtype, device=values.device)
    normal = torch.exp(-0.5 * t.square())
    weight = normal * (2 * t_max / (values.shape[-1] - 1) / math.sqrt(2 * math.pi))  # both halves of the line
    ends = torch.ones_like(weight)
    ends[0] = ends[-1] = 0.5
    real, imaginary = values.unbind(0)
    return (((real - normal).square() + imaginary.square()) * weight * ends).sum(-1)


def _check(x: Tensor, num_nodes: int, t_max: float) -> None:
    check_floating("x", x)
    check(x.dim() >= 1, "x", "samples of shape (…, n)", "shape ()")
    check_not_empty("x", x)
    check_count("num_nodes", num_nodes, "at least 2", least=2)
    check_number("t_max", t_max, "a positive number", above=0)


class _CharacteristicFunction(torch.autograd.Function):
    """Means of $z^k=e^{itx}$ at nodes that are multiples of one step: each is the last one turned by it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_nodes: int, step: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.num_nodes, ctx.step = num_nodes, step
        if torch.compiler.is_compiling():
            means = [torch.stack([cos.mean(-1), sin.mean(-1)]) for cos, sin in _turns(x, num_nodes, step)]
            return torch.stack(means, -1)
        sums = torch.cat([_power_means(part, num_nodes, step) for part in _in_cache(x.reshape(-1, x.shape[-1]))])
        return torch.view_as_real(sums).movedim(-1, 0).reshape(2, *x.shape[:-1], num_nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        times = torch.arange(ctx.num_nodes, dtype=x.dtype, device=x.device) * (ctx.step / x.shape[-1])
        by_cos, by_sin = (gradient * times).unbind(0)
        if torch.compiler.is_compiling():
            total = torch.zeros_like(x)
            for k, (cos, sin) in enumerate(_turns(x, ctx.num_nodes, ctx.step)):
                total = total + by_sin[..., k, None] * cos - by_cos[..., k, None] * sin
            return total, None, None
        coefficients = _in_cache(torch.complex(by_sin, by_cos).view(-1, ctx.num_nodes), x.shape[-1])
        parts = zip(_in_cache(x.reshape(-1, x.shape[-1])), coefficients, strict=True)
        return torch.cat([_polynomial(*part, ctx.step) for part in parts]).view(x.shape), None, None


def _in_cache(x: Tensor, row: int | None = None) -> tuple[Tensor, ...]:
    """On a CPU some rows at a time, so that what is turned again and again stays in the cache."""
    rows = _IN_CACHE // (x.shape[-1] if row is None else row) if x.device.type == "cpu" else len(x)
    return torch.split(x, max(rows, 1))


def _turned(x: Tensor, step: float) -> Tensor:
    angle = (x * step).contiguous()
    return torch.complex(torch.cos(angle), torch.sin(angle))


def _power_means(x: Tensor, num_nodes: int, step: float) -> Tensor:
    """Means of z⁰, z¹ and so on, for samples `(R, n)`: complex numbers `(R, num_nodes)`."""
    turn = _turned(x, step)
    power, means = torch.ones_like(turn), []
    for k in range(num_nodes):
        if k:
            power.mul_(turn)
        means.append(power.mean(-1))
    return torch.stack(means, -1)


def _polynomial(x: Tensor, coefficients: Tensor, step: float) -> Tensor:
    """The real part of Σ cₖ zᵏ, by Horner's rule."""
    turn = _turned(x, step)
    *lower, highest = coefficients.unsqueeze(1).unbind(-1)
    total = highest.expand_as(turn).clone()
    for coefficient in reversed(lower):
        total.mul_(turn).add_(coefficient)
    return total.real


def _turns(x: Tensor, num_nodes: int, step: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosine and sine of 0, x·step, 2x·step and so on: compilers do not know complex numbers, but fuse real ones."""
    cos_step, sin_step = torch.cos(x * step), torch.sin(x * step)
    cos, sin = torch.ones_like(x), torch.zeros_like(x)
    for k in range(num_nodes):
        if k:
            cos, sin = cos * cos_step - sin * sin_step, sin * cos_step + cos * sin_step
        yield cos, sin
