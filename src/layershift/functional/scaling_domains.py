r"""How Sinkhorn's iteration holds its numbers, so that none is lost.

That depends on $R=\max C/\varepsilon$, the largest cost in units of ε. In float64

| $R$ | held | a half iteration |
| --- | --- | --- |
| up to 470 | $u$ and $v$; the kernel times $e^{R/2}$ | product and division |
| up to 1050 | their logarithms; kernel and columns moved to the middle of the range | product, exp and log |
| beyond | their logarithms | a log-sum-exp over $B\times K\times K$ |

Nothing underflows that matters: $\log(u/a)$ and $\log(v/b)$ of the solution span at most $R$, and an iteration moves
neither further from it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SINGLE = 1.25  # the largest R at which float32 may be tried; this and the following in units of the largest exponent
_DIRECT, _SHIFTED, _MIDDLE = 0.66, 1.48, 0.487
_BLOCK = 2**22  # numbers in a block of B × K × K


def exponent(dtype: torch.dtype) -> float:
    """The largest x whose exponential the dtype holds."""
    return math.log(torch.finfo(dtype).max)


def plain_domain(cost: Tensor, reach: float) -> Domain:
    """Plain numbers, safe or not."""
    return _Direct(cost, reach)


def choose_domain(cost: Tensor, reach: float) -> Domain:
    """The fastest way that is safe for costs in units of ε, of which `reach` is the largest, or more."""
    span = exponent(cost.dtype)
    if reach <= _DIRECT * span:
        return _Direct(cost, reach)
    return _Shifted(cost) if reach <= _SHIFTED * span else _Logarithmic(cost)


class Domain:
    """How numbers are held; products are of a `K × K` matrix with numbers as they are held, samples in columns."""

    rows: Tensor
    columns: Tensor
    shift = 0.0  # what is added to the logarithm of the kernel

    def product(self, matrix: Tensor, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The matrix times numbers; whether `out` is used is the domain's own matter."""
        raise NotImplementedError

    def weighted(self, cost: Tensor) -> Tensor:
        """The matrix of the kernel times the cost."""
        raise NotImplementedError

    # What follows is for logarithms.

    def hold(self, x: Tensor) -> Tensor:
        """Plain numbers as they are held."""
        return x.log()

    def log(self, x: Tensor) -> Tensor:
        """The logarithm of what is held."""
        return x

    def divide(self, mass: Tensor, sums: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The scaling that gives sums the mass."""
        return torch.sub(mass, sums, out=out)

    def scaled(self, mass: Tensor, potential: Tensor) -> Tensor:
        """The mass times the exponential of a potential."""
        return mass + potential

    def mean(self, x: Tensor, y: Tensor) -> Tensor:
        """The geometric mean."""
        return (x + y).mul_(0.5)

    def relaxed(self, old: Tensor, new: Tensor, excess: Tensor) -> Tensor:
        """Beyond the new value by a share of the step; what has no mass stays without."""
        return torch.where(new > -torch.inf, new + excess * (new - old), new)

    def plan(self, u: Tensor, sums: Tensor | None = None) -> Tensor:
        """The plain product of two held tensors, or one held tensor in plain numbers."""
        return u.exp() if sums is None else (u + sums).exp_()


class _Direct(Domain):
    """Plain numbers."""

    def __init__(self, cost: Tensor, reach: float) -> None:
        self.shift = reach / 2
        self.rows = torch.exp(self.shift - cost)
        self.columns = self.rows.mT.contiguous()

    def product(self, matrix: Tensor, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.mm(matrix, x, out=out)

    def weighted(self, cost: Tensor) -> Tensor:
        return self.rows * cost

    def hold(self, x: Tensor) -> Tensor:
        return x

    def log(self, x: Tensor) -> Tensor:
        return x.log()

    def divide(self, mass: Tensor, sums: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.div(mass, sums, out=out)

    def scaled(self, mass: Tensor, potential: Tensor) -> Tensor:
        return mass * potential.exp()

    def mean(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sqrt_()

    def relaxed(self, old: Tensor, new: Tensor, excess: Tensor) -> Tensor:
        return torch.where(new > 0, new * (new / old).pow_(excess), new)

    def plan(self, u: Tensor, sums: Tensor | None = None) -> Tensor:
        return u if sums is None else u * sums


class _Shifted(Domain):
    """Logarithms, summed by a matrix product whose two factors start in the middle of the range."""

    def __init__(self, cost: Tensor) -> None:
        self.middle = _MIDDLE * exponent(cost.dtype)
        self.rows = torch.exp(self.middle - cost)
        self.columns = self.rows.mT.contiguous()

    def product(self, matrix: Tensor, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        top = x.amax(0, keepdim=True)
        sums = torch.mm(matrix, (x - top).add_(self.middle).exp_(), out=out)
        return sums.log_().add_(top - 2 * self.middle)

    def weighted(self, cost: Tensor) -> Tensor:
        return self.rows * cost


class _Logarithmic(Domain):
    """Logarithms and nothing else; the matrices are those of the kernel's logarithm."""

    def __init__(self, cost: Tensor) -> None:
        self.rows, self.columns = -cost, -cost.mT

    def product(self, matrix: Tensor, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        width = max(_BLOCK // matrix.numel(), 1)
        parts = [torch.logsumexp(matrix[:, :, None] + part[None], 1) for part in torch.split(x, width, 1)]
        return torch.cat(parts, 1, out=out)

    def weighted(self, cost: Tensor) -> Tensor:
        return self.rows + cost.log()
