"""How fast a layer's output can move with its input: guaranteed bounds on operator norms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layershift._checks import check, check_count, check_floating

_GRID = 16
_SQUARINGS = 6


def convolution_norm_bound(weight: Tensor, *, stride: int = 1, tight: bool = True) -> Tensor:
    r"""An upper bound on the operator norm of a convolution, for images of every size and any zero padding.

    On an infinite image a convolution acts on each frequency $\omega$ alone, as the matrix
    $\hat W(\omega)=\sum_kW_ke^{i\langle k,\omega\rangle}$, so its norm is $\sup_\omega\|\hat W(\omega)\|$; padding with
    zeros and cutting off can only lower it. Entries are trigonometric polynomials of degree $D$, hence between the
    points of a grid of $M$ frequencies a dimension they rise by at most $\cos(\pi D/M)^{-2}$: 4 % for a 3 × 3 kernel.
    The norm at a frequency is itself bounded from above, by up to 4 % for 128 maps.
    A stride of s is a convolution of stride 1 on the $s^2$ interleaved images.

    The cheap bound counts: a number takes part in at most $\lceil k/s\rceil^2$ patches, each of which meets the kernels
    as one matrix, whence $\lceil k/s\rceil\,\|W\|$.

    Args:
        weight: kernels of shape `(…, O, I, k, k)`.
        stride: of both dimensions.
        tight: whether to look at frequencies, or only count.

    Returns:
        Bounds of shape `(…)`, in float64.

    Raises:
        TypeError: if `weight` is not floating point.
        ValueError: if its shape does not fit, or `stride` is not positive.

    References:
        H. Ehlich, K. Zeller, 1964, "Schwankung von Polynomen zwischen Gitterpunkten".

    Example:
        >>> identity = torch.zeros(1, 1, 3, 3)
        >>> identity[..., 1, 1] = 1
        >>> bool(1 <= convolution_norm_bound(identity) <= 1.04)
        True
    """
    check_floating("weight", weight)
    square = weight.dim() >= 4 and 0 not in weight.shape and weight.shape[-1] == weight.shape[-2]
    check(square, "weight", "square kernels of shape (…, O, I, k, k)", weight)
    check_count("stride", stride, "a stride of 1 or more")
    if not tight:
        return linear_norm(weight.flatten(-3)) * math.ceil(weight.shape[-1] / stride)
    kernel = weight.detach().to(torch.float64)
    if stride > 1:
        short = -kernel.shape[-1] % stride
        kernel = torch.nn.functional.pad(kernel, (0, short, 0, short))
        q = kernel.shape[-1] // stride
        kernel = kernel.reshape(*kernel.shape[:-2], q, stride, q, stride)  # (…, O, I, q, r, q', r')
        kernel = kernel.movedim((-3, -1), (-4, -3)).flatten(-5, -3)
    degree = math.ceil((kernel.shape[-1] - 1) / 2)
    grid = max(_GRID, 8 * degree)
    symbol = torch.fft.rfft2(kernel, s=(grid, grid)).movedim((-2, -1), (-4, -3))
    tall = symbol if symbol.shape[-2] >= symbol.shape[-1] else symbol.mH
    largest = _largest_eigenvalue(tall.mH @ tall).amax((-2, -1)).sqrt()
    bound: Tensor = largest / math.cos(math.pi * degree / grid) ** 2
    return bound


def _largest_eigenvalue(gram: Tensor) -> Tensor:
    """A bound on the largest eigenvalue of semidefinite matrices `(…, m, m)`, at most `m^(1/64)` times too large.

    By the trace of the 64th power, from products alone: eigenvalue solvers are slow on many complex matrices.
    """
    log = torch.zeros(gram.shape[:-2], dtype=torch.float64, device=gram.device)
    for step in range(_SQUARINGS + 1):
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1).real
        trace = torch.where(trace > 0, trace, 1)
        log = log + trace.log() / 2**step
        gram = gram / trace[..., None, None]
        if step < _SQUARINGS:
            gram = gram @ gram
    return torch.where(gram.diagonal(dim1=-2, dim2=-1).sum(-1).real > 0, log.exp(), 0)


def linear_norm(weight: Tensor) -> Tensor:
    """The operator norm of matrices.

    Args:
        weight: shape `(…, O, I)`.

    Returns:
        Norms of shape `(…)`, in float64.

    Raises:
        TypeError: if `weight` is not floating point.

    Example:
        >>> linear_norm(torch.diag(torch.tensor([1.0, -3.0])))
        tensor(3., dtype=torch.float64)
    """
    check_floating("weight", weight)
    check(weight.dim() >= 2 and 0 not in weight.shape, "weight", "matrices of shape (…, O, I)", weight)
    norm: Tensor = torch.linalg.matrix_norm(weight.detach().to(torch.float64), 2)
    return norm
