"""Stratified parts: an order of the data of which every beginning has its share of each class."""

from __future__ import annotations

import torch
from torch import Tensor

SPLIT_SEED = 0
"""Parts are the same for every method and every run's seed."""


def stratified_order(labels: Tensor, seed: int = SPLIT_SEED) -> Tensor:
    """A random order in which classes take turns, so that every beginning of it is stratified.

    The j-th sample of a class of n, counted in a random order, gets the key (j + ½)/n; keys are sorted. So the first m
    samples hold m·n/N of the class, up to 1 + K·n/(2N) for K classes, and up to 1 if all classes are of one size.
    Smaller subsets are parts of larger ones.

    Args:
        labels: (N,), whole numbers that are not negative.
        seed: of the order.

    Returns:
        Indices, (N,).

    Example:
        >>> labels = torch.tensor([0] * 6 + [1] * 3)
        >>> labels[stratified_order(labels)][:3].sort().values
        tensor([0, 0, 1])
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    grouped = shuffled.argsort(stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    turn = torch.empty_like(order)
    turn[grouped] = torch.arange(len(labels)) - starts[shuffled[grouped]]
    keys = (turn + 0.5).double() / counts[shuffled]
    return order[keys.argsort(stable=True)]
