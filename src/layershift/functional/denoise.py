r"""What is known of a clean sample once Gaussian noise has been added to it, when clean samples are given points.

With points $x_1,\dots,x_N$ of equal weight as $\mu_0$ and noise $\nu_t=N(0,tI)$, the noisy $\tilde x$ has the density
$\nu_t*\mu_0$, a mixture of N Gaussians, and came from $x_i$ with probability

$$w_i(\tilde x)=\operatorname{softmax}_i\left(-\frac{\lVert\tilde x-x_i\rVert^2}{2t}\right).$$

Everything here is a sum with these weights. Logarithms are taken before anything is added, so that small $t$ does no
harm; the arithmetic is in float64, because at small $t$ close distances must be told apart. N points and Q queries take
time $QN$ and memory for a few million pairs, whatever Q; gradients are recomputed piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from layershift._checks import accumulation_dtype, check, check_floating, check_not_empty, check_rank, check_real

_PAIRS = 2**22  # pairs of a noisy and a clean point in memory at a time


def posterior_mean(noisy: Tensor, points: Tensor, t: float | Tensor, *, values: Tensor | None = None) -> Tensor:
    r"""The mean of the clean point, or of a quantity that belongs to it, given the noisy one.

    $$E[x\mid\tilde x]=\sum_iw_i(\tilde x)\,x_i,\qquad E[v\mid\tilde x]=\sum_iw_i(\tilde x)\,v_i.$$

    It is the map of least squared error, $\arg\min_fE\lVert f(x+\varepsilon)-v\rVert^2$. As $t\to0$ it tends to the
    value of the nearest point, as $t\to\infty$ to the mean of all.

    Args:
        noisy: noisy points $\tilde x$, shape `(Q, m)`.
        points: clean points $x_i$, shape `(N, m)`.
        t: the variance of the noise on each coordinate, a positive number or a tensor of shape `()`.
        values: $v_i$, what belongs to each clean point, shape `(N, k)`; by default the points themselves.

    Returns:
        Means of shape `(Q, k)`, `(Q, m)` by default; differentiable with respect to all arguments.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit, there is no point, or `t` is not positive.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", theorem 7.

    Example:
        >>> points = torch.tensor([[0.0], [1.0]])
        >>> posterior_mean(torch.tensor([[0.5], [0.9]]), points, 1e-6)  # as likely from either; from the nearest
        tensor([[0.5000],
                [1.0000]])
    """
    _check(noisy, points, t)
    if values is None:
        values = points
    check_floating("values", values, points)
    check(values.dim() == 2 and len(values) == len(points), "values", f"shape ({len(points)}, k)", values)
    wide, values = points.to(torch.float64), values.to(torch.float64)
    means = _in_pieces(lambda piece: torch.softmax(_affinities(piece, wide, t), 1) @ values, noisy, len(points))
    return means.to(accumulation_dtype(noisy))


def smoothed_log_density(noisy: Tensor, points: Tensor, t: float | Tensor) -> Tensor:
    r"""The log-density of points with Gaussian noise on them, which is the kernel density estimate of variance $t$.

    $$\log(\nu_t*\mu_0)(\tilde x)=\log\frac1N\sum_ie^{-\lVert\tilde x-x_i\rVert^2/2t}-\frac m2\log2\pi t.$$

    Args:
        noisy: where, shape `(Q, m)`.
        points: the points of equal weight that make up $\mu_0$, shape `(N, m)`.
        t: the variance of the noise on each coordinate, a positive number or a tensor of shape `()`.

    Returns:
        Logarithms of densities, in nats, shape `(Q,)`; differentiable with respect to all arguments.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit, there is no point, or `t` is not positive.

    Example:
        >>> smoothed_log_density(torch.zeros(1, 2), torch.zeros(5, 2), 1.0)  # that of N(0, I) in the plane at its top
        tensor([-1.8379])
    """
    _check(noisy, points, t)
    n, m = points.shape
    wide, centre = points.to(torch.float64), points.detach().to(torch.float64).mean(0)

    def log_sum(piece: Tensor) -> Tensor:
        own = (piece.to(torch.float64) - centre).square().sum(1) / (2 * t)
        return torch.logsumexp(_affinities(piece, wide, t), 1) - own

    spread = torch.as_tensor(t, dtype=torch.float64, device=noisy.device)
    log_density = _in_pieces(log_sum, noisy, n) - math.log(n) - m / 2 * (2 * math.pi * spread).log()
    return log_density.to(accumulation_dtype(noisy))


def smoothed_score(noisy: Tensor, points: Tensor, t: float | Tensor) -> Tensor:
    r"""The score of points with Gaussian noise on them: which way their density rises fastest.

    $$\nabla\log(\nu_t*\mu_0)(\tilde x)=\frac{E[x\mid\tilde x]-\tilde x}t,$$

    which is Tweedie's formula read backwards.

    Args:
        noisy: where, shape `(Q, m)`.
        points: the points of equal weight that make up $\mu_0$, shape `(N, m)`.
        t: the variance of the noise on each coordinate, a positive number or a tensor of shape `()`.

    Returns:
        Gradients of the log-density, shape `(Q, m)`; differentiable with respect to all arguments.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes do not fit, there is no point, or `t` is not positive.

    References:
        B. Efron, 2011, "Tweedie's formula and selection bias".

    Example:
        >>> smoothed_score(torch.tensor([[3.0]]), torch.zeros(1, 1), 2.0)  # that of N(0, 2)
        tensor([[-1.5000]])
    """
    _check(noisy, points, t)
    wide = noisy.to(torch.float64)
    score = (posterior_mean(wide, points, t) - wide) / t
    return score.to(accumulation_dtype(noisy))


def _affinities(noisy: Tensor, points: Tensor, t: float | Tensor) -> Tensor:
    """Logarithms of the weights, `(q, N)`, up to what all of a row share: the noisy point's own square is left out."""
    centre = points.detach().mean(0)  # changes nothing but rounding
    x, y = noisy.to(torch.float64) - centre, points - centre
    return (x @ y.mT - y.square().sum(1) / 2) / t


def _in_pieces(function: Callable[[Tensor], Tensor], noisy: Tensor, n: int) -> Tensor:
    """The function of all rows, of which as many are taken at a time as memory allows."""
    pieces = torch.split(noisy, max(1, _PAIRS // n))
    if len(pieces) == 1:
        return function(noisy)
    if torch.is_grad_enabled():  # keep no piece's weights for the backward pass
        return torch.cat([checkpoint(function, piece, use_reentrant=False) for piece in pieces])
    return torch.cat([function(piece) for piece in pieces])


def _check(noisy: Tensor, points: Tensor, t: float | Tensor) -> None:
    for argument, x, shape in (("noisy", noisy, "(Q, m)"), ("points", points, "(N, m)")):
        check_floating(argument, x, noisy)
        check_rank(argument, x, (2,), shape)
    check_not_empty("points", points)
    check(noisy.shape[1] == points.shape[1], "noisy", f"shape (Q, {points.shape[1]}), as wide as points", noisy)
    words = "a positive number or a tensor of shape ()" if isinstance(t, Tensor) else "a positive variance"
    check_real("t", t, words, above=0, ranks=(0,))
