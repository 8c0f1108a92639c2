r"""Velocities of the neurons in closed form: normalised network, plain network on the manifold, plain network.

For a network $f(x)=\frac1m\sum_ka_k\sigma(w_k^Tx)$, with $w=\bar b$ or $w=b$, all velocities are made of

$$A_k=E\,l'(f(x),y)\,\sigma(w_k^Tx),\qquad h_k=a_k\,E\,l'(f(x),y)\,\sigma'(w_k^Tx)\,x.$$

| `kind` | $\dot a_k$ | $\dot b_k$ | paper |
| --- | --- | --- | --- |
| `"batch_norm"` | $-A_k$ | $-\|b_k\|_\Sigma^{-1}(I-\Sigma\bar b_k\bar b_k^T)h_k$ | eq. 6, 10, 21 |
| `"manifold"` | $-A_k$ | $-\|b_k\|^2(I-b_kb_k^T\Sigma)(I-\Sigma b_kb_k^T)h_k$, $b_k\in\Omega$ | eq. 7, 14 |
| `"plain"` | $-A_k$ | $-h_k$ | eq. 8, 22 |

These are velocities of descent in mean-field time: $m$ times the negative gradient of the loss.

**Where the paper's print differs.** The last form of eq. 6 lacks the minus of descent in both lines, eq. 7 and 8 that
of $\dot a$; eq. 10, 14, 21 and 22 have them. Eq. 6 to 8 carry $1/m$, the later ones drop it by counting time in units
of $m$. Eq. 7 and 14 hold for $\|b_k\|=1$: for other norms of the normalised neurons, which the flow conserves,
the part of $\bar b_k$ is divided by $\|b_k\|^2$ (`norms`). Theorem 2 prints the negative gradient, a velocity, under
the sign of a derivative. Eq. 21 and 22 write $l'(f)$ for $l'(f,y)$.

**How it is computed.** Two products of a sample with a neuron cannot be avoided: $w_k^Tx_i$, and the sum over samples
in $h_k$. All neurons must be seen before any residual is known. So samples go by in blocks; in a first pass over chunks
of neurons the values $\sigma(w_k^Tx_i)$ of a block are made and kept, in a second they give $\sigma'$ and meet the
block's residuals. What is kept is a block by $m$, never $n$ by $m$, so that nothing is computed twice. A chunk's values
stay in the cache while they are worked on. Residuals multiply $x_i$ rather than the larger $\sigma'$. For ReLU and
leaky ReLU only signs need be kept, which a byte holds, and $A_k=w_k^Th_k/a_k$ by Euler's identity.

References:
    C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch normalization".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layershift._checks import (
    check,
    check_choice,
    check_count,
    check_floating,
    check_not_empty,
    check_rank,
    check_same_kind,
    check_tensor,
    check_type,
)
from layershift.dynamics.losses import ACTIVATIONS, IN_PLACE, LOSSES, Activation, Loss, loss_slopes, loss_values
from layershift.dynamics.metric import metric_gradient, sigma_norm
from layershift.dynamics.network import second_moment

Kind: TypeAlias = Literal["batch_norm", "manifold", "plain"]
Chunk: TypeAlias = tuple[int, int]
KINDS = ("batch_norm", "manifold", "plain")
_KEPT_BYTES = 2**29  # of a block of samples, all neurons
ROW_NUMBERS = 2**21  # of a slice of (m, d) that is worked on at a time


class Problem(NamedTuple):
    r"""What is learnt: samples that stand for the whole distribution, with equal weights.

    Attributes:
        x: inputs, shape `(n, d)`.
        y: targets, shape `(n,)`; $\pm1$ for the logistic loss.
        sigma: $\Sigma$, shape `(d, d)`; any positive definite matrix, whether or not it is the samples' own.
        loss: "squared", which is $\tfrac12(f-y)^2$, or "logistic".
        activation: "relu", "leaky_relu", "tanh" or "softplus".
    """

    x: Tensor
    y: Tensor
    sigma: Tensor
    loss: Loss = "squared"
    activation: Activation = "relu"

    @classmethod
    def of(
        cls, x: Tensor, y: Tensor, *, loss: Loss = "squared", activation: Activation = "relu", center: bool = False
    ) -> Problem:
        r"""The problem with the samples' own $\Sigma$, of inputs less their mean if asked.

        Args:
            x: inputs, shape `(n, d)`.
            y: targets, shape `(n,)`.
            loss: "squared" or "logistic".
            activation: "relu", "leaky_relu", "tanh" or "softplus".
            center: whether to take the mean off the inputs.

        Returns:
            The problem.

        Example:
            >>> Problem.of(torch.tensor([[1.0], [3.0]]), torch.zeros(2), center=True).sigma
            tensor([[1.]])
        """
        sigma = second_moment(x, center=center)
        found = cls(x - x.mean(0) if center else x, y, sigma, loss, activation)
        check_problem(found)
        return found


class Velocity(NamedTuple):
    """Velocities and the loss at which they were found.

    Attributes:
        a: of the output weights, shape `(m,)`.
        b: of the input weights, shape `(m, d)`.
        loss: the mean loss, shape `()`.
    """

    a: Tensor
    b: Tensor
    loss: Tensor


def velocity(
    problem: Problem, a: Tensor, b: Tensor, *, kind: Kind, norms: Tensor | None = None, chunk: Chunk | None = None
) -> Velocity:
    r"""Velocities of all neurons, see the formulas above.

    Args:
        problem: samples, $\Sigma$, loss and activation.
        a: output weights, shape `(m,)`.
        b: input weights, shape `(m, d)`; on $\Omega$ for "manifold".
        kind: "batch_norm", "manifold" or "plain".
        norms: for "manifold", the norms $\|b_k\|$ of the normalised network's neurons, shape `(m,)`; 1 by default.
        chunk: how many samples and how many neurons to treat at a time; chosen by memory and cache by default.

    Returns:
        Velocities and loss, without gradients.

    Raises:
        TypeError: if a tensor is not floating point, or dtypes differ.
        ValueError: if shapes do not fit, or an option is unknown.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> problem = Problem.of(x, x[:, 0].relu())
        >>> v = velocity(problem, torch.ones(1), torch.tensor([[0.0, 1.0]]), kind="plain")
        >>> v.a, v.b[0, 1], v.loss
        (tensor([-0.2500]), tensor(-0.2500), tensor(0.2500))
    """
    return VelocityField(problem, count_of(a), kind=kind, norms=norms, chunk=chunk)(a, b)


class VelocityField:
    r"""Velocities at one state after another, in memory that is used again: a result lasts until the next call.

    Args:
        problem: samples, $\Sigma$, loss and activation.
        m: the number of neurons.
        kind: as in `velocity`.
        norms: as in `velocity`; read at each call.
        chunk: as in `velocity`.

    Raises:
        TypeError: if a tensor is not floating point, or dtypes differ.
        ValueError: if shapes do not fit, or an option is unknown.

    Example:
        >>> field = VelocityField(Problem.of(torch.randn(20, 3), torch.randn(20)), 50, kind="plain")
        >>> v = field(torch.ones(50), torch.randn(50, 3))
        >>> v.b.shape
        torch.Size([50, 3])
    """

    def __init__(
        self, problem: Problem, m: int, *, kind: Kind, norms: Tensor | None = None, chunk: Chunk | None = None
    ) -> None:
        check_problem(problem)
        check_choice("kind", kind, KINDS)
        check_count("m", m, "a number of neurons, 1 or more")
        if norms is not None:
            check(kind == "manifold", "norms", "None unless kind is 'manifold'", norms)
            check_tensor("norms", norms)
            check(norms.shape == (m,), "norms", f"shape ({m},)", norms)
            check_same_kind("norms", norms, problem.x)
        self.problem, self.m, self.kind, self.norms = problem, m, kind, norms
        x = problem.x
        n, d = x.shape
        self._rule = IN_PLACE[problem.activation]
        # Not torch.bool: PyTorch turns int8 into floating point ten times as fast.
        kept_dtype = torch.int8 if self._rule.homogeneous else x.dtype
        self.chunk = _default_chunk(n, m, x, kept_dtype) if chunk is None else chunk
        numbers = isinstance(self.chunk, tuple | list) and [isinstance(size, int) and size >= 1 for size in self.chunk]
        check(numbers == [True, True], "chunk", "numbers of samples and neurons, 1 or more", chunk)
        samples, neurons = min(self.chunk[0], n), min(self.chunk[1], m)
        self._kept = x.new_empty(m * samples, dtype=kept_dtype)
        self._work = x.new_empty(neurons * samples)
        self._direction = x.new_empty(m, d) if kind == "batch_norm" else None
        self._a, self._b = x.new_empty(m), x.new_empty(m, d)

    @property
    def nbytes(self) -> int:
        """The memory of what is kept between calls: one result, directions, a block's values and a chunk's."""
        own = (self._kept, self._work, self._direction, self._a, self._b)
        return sum(t.numel() * t.element_size() for t in own if t is not None)

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Velocity:
        """The velocities at `a`, `b`; written over by the next call."""
        self._check_state(a, b)
        w = b if self._direction is None else self._directions(b)
        loss = self._sums(a, w)
        for part in slices(self.m, max(ROW_NUMBERS // b.shape[1], 1)):
            norms = None if self.norms is None else self.norms[part]
            self._finish(self._a[part], self._b[part], a[part], b[part], w[part], norms)
        return Velocity(self._a, self._b, loss)

    def _directions(self, b: Tensor) -> Tensor:
        assert self._direction is not None
        for part in slices(self.m, max(ROW_NUMBERS // b.shape[1], 1)):
            torch.div(b[part], sigma_norm(b[part], self.problem.sigma)[:, None], out=self._direction[part])
        return self._direction

    def _sums(self, a: Tensor, w: Tensor) -> Tensor:
        r"""Leave $n A_k$ and $n h_k/a_k$ in the result's memory; the mean loss.

        Of homogeneous activations $A_k$ is left out.
        """
        x, y, _, loss, _ = self.problem
        rule, neurons = self._rule, self.chunk[1]
        self._a.zero_()
        self._b.zero_()
        constant, total = x.new_zeros(x.shape[1]), x.new_zeros(())
        for block in slices(len(x), self.chunk[0]):
            rows, targets = x[block], y[block]
            f, columns = x.new_zeros(len(rows)), rows.mT.contiguous()
            for part in slices(self.m, neurons):
                kept = self._values(part, len(rows))
                z = kept if kept.dtype == x.dtype else self._work[: kept.numel()].view(kept.shape)
                torch.mm(w[part], columns, out=z)
                rule.activate_(z)
                f.addmv_(z.mT, a[part])
                if z is not kept:
                    kept.copy_(z.gt_(0))
            f /= self.m
            total += loss_values(f, targets, loss).sum()
            residuals = loss_slopes(f, targets, loss)
            weighted = residuals[:, None] * rows
            constant += rule.offset * weighted.sum(0)
            for part in slices(self.m, neurons):
                kept = self._values(part, len(rows))
                z = self._work[: kept.numel()].view(kept.shape)
                rule.slope_part(kept, z)
                self._b[part].addmm_(z, weighted, alpha=rule.factor)
                if not rule.homogeneous:
                    self._a[part].addmv_(kept, residuals)
        self._b += constant
        return total / len(x)

    def _values(self, part: slice, samples: int) -> Tensor:
        """Where a chunk's values for a block of samples are kept."""
        return self._kept[part.start * samples : part.stop * samples].view(-1, samples)

    def _finish(self, a_dot: Tensor, h: Tensor, a: Tensor, b: Tensor, w: Tensor, norms: Tensor | None) -> None:
        """From sums to velocities, in place."""
        sigma, n = self.problem.sigma, len(self.problem.x)
        h /= -n
        along = (w * h).sum(1)
        if self._rule.homogeneous:
            a_dot.copy_(along)
        else:
            a_dot /= -n
        h *= a[:, None]
        if self.kind == "batch_norm":
            s = w @ sigma
            h -= s * (along * a)[:, None]
            # b is ‖b‖_Σ times its direction, and s·w is 1.
            h /= sigma_norm(b, sigma)[:, None]
        elif self.kind == "manifold":
            h.copy_(metric_gradient(b, h, sigma))
            if norms is not None:
                h /= norms.square()[:, None]

    def _check_state(self, a: Tensor, b: Tensor) -> None:
        x = self.problem.x
        for name, tensor, shape in (("a", a, (self.m,)), ("b", b, (self.m, x.shape[1]))):
            check_same_kind(name, tensor, x)
            check(tensor.shape == shape, name, f"shape {shape}", tensor)


def slices(length: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover a length."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def count_of(a: Tensor) -> int:
    """How many neurons have these output weights."""
    check_rank("a", a, (1,), "(m,)")
    check_not_empty("a", a)
    return len(a)


def check_problem(problem: Problem) -> None:
    """Raise unless shapes, dtypes and options of a problem fit together."""
    check_type("problem", problem, Problem, "a Problem")
    x, y, sigma, loss, activation = problem
    check_floating("x", x)
    check_rank("x", x, (2,), "(n, d)")
    check_not_empty("x", x)
    check(x.dtype in (torch.float32, torch.float64), "x", "float32 or float64", x.dtype)
    check_same_kind("y", y, x)
    check_same_kind("sigma", sigma, x)
    n, d = x.shape
    check(y.shape == (n,), "y", f"shape ({n},)", y)
    check(sigma.shape == (d, d), "sigma", f"shape ({d}, {d})", sigma)
    check_choice("loss", loss, LOSSES)
    check_choice("activation", activation, ACTIVATIONS)


def _default_chunk(n: int, m: int, x: Tensor, kept: torch.dtype) -> Chunk:
    """Blocks of samples that fit the memory set aside for values, chunks that fit a core's cache."""
    samples = max(min(512, n, _KEPT_BYTES // (m * kept.itemsize)), 16)
    cache = 2**28 if x.device.type == "cuda" else 2**20  # a GPU wants few and large kernels
    return samples, max(cache // (samples * x.element_size()), 64)
