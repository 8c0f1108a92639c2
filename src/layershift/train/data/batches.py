"""Batches of data that fit in memory: tensors on the device, indexed once a batch, no worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from layershift._seeds import derive_seed


class EpochSampler(Sampler[Tensor]):
    """Batches of indices in an order that depends on the seed and the epoch alone.

    So a run that continues after an interruption sees the batches that it would have seen. Lightning calls `set_epoch`.

    Args:
        size: number of samples.
        batch_size: indices in a batch.
        seed: of the order; None keeps the order of the data and also yields the last, smaller batch.
        device: where the indices lie.

    Example:
        >>> sampler = EpochSampler(7, 3, seed=0)
        >>> sampler.set_epoch(1)
        >>> first = torch.cat(list(sampler))
        >>> len(sampler), first.shape, torch.equal(first, torch.cat(list(sampler)))
        (2, torch.Size([6]), True)
    """

    def __init__(self, size: int, batch_size: int, seed: int | None, device: torch.device | str = "cpu") -> None:
        self.size, self.batch_size, self.seed, self.device = size, batch_size, seed, device
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.batch_size if self.seed is not None else -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            order = torch.arange(self.size)
        else:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator)
        yield from torch.split(order.to(self.device), self.batch_size)[: len(self)]


def batches(tensors: tuple[Tensor, ...], batch_size: int, seed: int | None = None) -> DataLoader[Any]:
    """A loader over tensors that share their first dimension.

    With a seed the order changes every epoch, and a last batch that is not full is left out (in training, a batch
    normaliser would make statistics of the few samples in it); without a seed every sample comes once, in order.

    Args:
        tensors: each (N, …), on the device where the batches shall be.
        batch_size: samples in a batch.
        seed: of the shuffling; None for evaluation.

    Example:
        >>> x, y = torch.arange(10.0), torch.arange(10)
        >>> [len(batch) for batch, _ in batches((x, y), 4)], [len(batch) for batch, _ in batches((x, y), 4, seed=0)]
        ([4, 4, 2], [4, 4])
    """
    sampler = EpochSampler(len(tensors[0]), batch_size, seed, tensors[0].device)
    return DataLoader(TensorDataset(*tensors), sampler=sampler, batch_size=None)
