r"""Distances between the rows of two tables of label distributions, and the costs that transport needs.

With all costs between different labels equal to $c$, transport is $c$ times the total variation
$\tfrac12\sum_k|a_k-b_k|$. Chebyshev distance and Jensen-Shannon divergence know no costs at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layershift._checks import (
    accumulated,
    accumulation_dtype,
    check,
    check_count,
    check_device,
    check_dtype,
    check_floating,
    check_not_empty,
    check_rank,
)


def label_distribution(labels: Tensor) -> Tensor:
    """The uniform distribution over each sample's labels.

    Args:
        labels: which labels a sample has, as truth values or 0 and 1, shape `(N, K)`. Other weights that are not
            negative are divided by their sum.

    Returns:
        Distributions of shape `(N, K)`, in the dtype of `labels` or, if that is not floating point, the default one. A
        sample without a label gives NaN.

    Raises:
        ValueError: if `labels` has another shape.

    Example:
        >>> label_distribution(torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]))
        tensor([[0.5000, 0.0000, 0.5000, 0.0000],
                [0.0000, 1.0000, 0.0000, 0.0000]])
    """
    check_rank("labels", labels, (2,), "(N, K)")
    if labels.is_complex():
        raise TypeError(f"labels: expected truth values or weights, got {labels.dtype}")
    check(labels.shape[1] > 0, "labels", "at least one label, shape (N, K)", labels)
    weights: Tensor = labels if labels.is_floating_point() else labels.to(torch.get_default_dtype())
    return weights / weights.sum(1, keepdim=True)


def label_cost(embeddings: Tensor) -> Tensor:
    r"""The paper's cost of moving mass between labels: the squared distance of their embeddings.

    Args:
        embeddings: a vector for each label, shape `(K, d)`.

    Returns:
        $\lVert e_i-e_j\rVert^2$ of shape `(K, K)`, with a diagonal of exactly 0.

    Raises:
        TypeError: if `embeddings` is not floating point.
        ValueError: if it has another shape or no row.

    References:
        "Interpret deep neural networks by layer behaviors", section 3: word embeddings, p = 2.

    Example:
        >>> label_cost(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])
    """
    check_floating("embeddings", embeddings)
    check_rank("embeddings", embeddings, (2,), "(K, d)")
    check_not_empty("embeddings", embeddings)
    x = embeddings.to(accumulation_dtype(embeddings))
    # Not by a matrix product, which would lose the small ones; one label at a time, K × d numbers.
    return torch.stack([(x - row).square().sum(1) for row in x])


def zero_one_cost(
    num_labels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """The cost that knows labels as equal or different only.

    Args:
        num_labels: the number K of labels.
        device: where it lies.
        dtype: of the costs.

    Returns:
        Ones with a diagonal of 0, shape `(K, K)`.

    Raises:
        ValueError: if there is no label.

    Example:
        >>> zero_one_cost(2)
        tensor([[0., 1.],
                [1., 0.]])
    """
    check_count("num_labels", num_labels, "a number of labels, 1 or more")
    check_device("device", device)
    check_dtype("dtype", dtype)
    return 1 - torch.eye(num_labels, device=device, dtype=dtype)


def total_variation(a: Tensor, b: Tensor) -> Tensor:
    r"""Total variation, $\tfrac12\sum_k|a_k-b_k|$: exact transport where all labels are equally far apart.

    Args:
        a: histograms of shape `(B, K)`.
        b: histograms of shape `(B, K)`.

    Returns:
        Distances of shape `(B,)`; differentiable, with gradient 0 where entries are equal.

    Raises:
        TypeError: if a table is not floating point.
        ValueError: if shapes do not fit.

    Example:
        >>> total_variation(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]]))
        tensor([0.5000])
    """
    a, b = _rows(a, b)
    return (a - b).abs().sum(1) / 2


def chebyshev(a: Tensor, b: Tensor) -> Tensor:
    r"""Chebyshev distance, $\max_k|a_k-b_k|$.

    Args:
        a: histograms of shape `(B, K)`.
        b: histograms of shape `(B, K)`.

    Returns:
        Distances of shape `(B,)`; differentiable, the gradient shared evenly among equal maxima.

    Raises:
        TypeError: if a table is not floating point.
        ValueError: if shapes do not fit.

    Example:
        >>> chebyshev(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.4, 0.6]]))
        tensor([0.6000])
    """
    a, b = _rows(a, b)
    return (a - b).abs().amax(1)


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence in nats, $\tfrac12\sum_k a_k\log\frac{2a_k}{a_k+b_k}+b_k\log\frac{2b_k}{a_k+b_k}$.

    It is at most $\log2$. No root is taken.

    Args:
        a: histograms of shape `(B, K)`.
        b: histograms of shape `(B, K)`.

    Returns:
        Divergences of shape `(B,)`; differentiable once. Where one entry is 0 and the other is not, the derivative by
        the former is $-\infty$; it is cut to that of the smallest normal number. Where both are 0 it is 0.

    Raises:
        TypeError: if a table is not floating point.
        ValueError: if shapes do not fit.

    References:
        J. Lin, 1991, "Divergence measures based on the Shannon entropy".

    Example:
        >>> jensen_shannon(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # log 2
        tensor([0.6931])
    """
    divergence: Tensor = _JensenShannon.apply(*_rows(a, b))
    return divergence


def check_rows_alike(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise unless both are tables of histograms `(B, K)` of one shape, on one device."""
    check_floating(names[0], a)
    check_floating(names[1], b, a)
    check_rank(names[0], a, (2,), "(B, K)")
    check_not_empty(names[0], a)
    check(b.shape == a.shape, names[1], f"histograms like those of {names[0]}, shape {tuple(a.shape)}", b)


def _rows(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    check_rows_alike(a, b)
    return accumulated(a, b)


class _JensenShannon(torch.autograd.Function):
    """The derivative by an entry is half the logarithm of its share, which nothing else keeps finite at 0."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        middle = (a + b) / 2
        pieces = [torch.special.xlogy(x, torch.where(middle > 0, x / middle, 1)) for x in (a, b)]
        divergence: Tensor = (pieces[0] + pieces[1]).sum(1) / 2
        return divergence.clamp(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        least = torch.finfo(a.dtype).tiny
        middle = (a.clamp(min=least) + b.clamp(min=least)) / 2
        by_a, by_b = (gradient[:, None] * (x.clamp(min=least) / middle).log() / 2 for x in (a, b))
        return by_a, by_b
