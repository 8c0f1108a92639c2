"""Batches of data that fit in memory: tensors on the device, indexed once a batch, no worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from layershift._checks import check
from layershift._seeds import derive_seed

Transform: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""From samples, their numbers in the data, and the epoch to what the network sees."""


class EpochSampler(DistributedSampler[Tensor]):
    """Batches of indices in an order that depends on the seed and the epoch alone.

    So a run that continues after an interruption sees the batches that it would have seen. Lightning calls `set_epoch`.

    Of several processes each draws the same order and takes its slice of every global batch of `batch_size · world`
    samples; side by side, the slices are the batch that one process with that batch size would see. It is a
    `DistributedSampler`, so that Lightning does not put another in its place.

    Args:
        size: number of samples.
        batch_size: indices in a batch of one process.
        seed: of the order; the last batch, which is not full, is left out. None keeps the order of the data, and every
            sample comes once, in batches of almost the same size: as many in each process, so that none waits for the
            others in vain.
        device: where the indices lie.
        rank: the number of this process.
        world: the number of processes.

    Raises:
        ValueError: if there is not a sample for each process (without a seed), or not a full global batch (with one).

    Example:
        >>> sampler = EpochSampler(7, 3, seed=0)
        >>> sampler.set_epoch(1)
        >>> first = torch.cat(list(sampler))
        >>> len(sampler), first.shape, torch.equal(first, torch.cat(list(sampler)))
        (2, torch.Size([6]), True)
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None,
        device: torch.device | str = "cpu",
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(range(size), num_replicas=world, rank=rank)  # type: ignore[arg-type]
        smallest = world if seed is None else batch_size * world
        check(size >= smallest, "batch_size", f"at most {size} samples in a batch of all processes", smallest)
        self.size, self.batch_size, self.order_seed, self.device = size, batch_size, seed, device

    def __len__(self) -> int:
        whole = self.batch_size * self.num_replicas
        return -(-self.size // whole) if self.order_seed is None else self.size // whole

    def __iter__(self) -> Iterator[Tensor]:
        count, world = len(self), self.num_replicas
        if self.order_seed is None:
            whole = torch.tensor_split(torch.arange(self.size, device=self.device), count)
            yield from (torch.tensor_split(batch, world)[self.rank] for batch in whole)
        else:
            generator = torch.Generator().manual_seed(derive_seed(self.order_seed, self.epoch))
            order = torch.randperm(self.size, generator=generator).to(self.device)
            yield from order[: count * world * self.batch_size].view(count, world, self.batch_size)[:, self.rank]


class Batches(Dataset[tuple[Tensor, ...]]):
    """Tensors that are indexed with a whole batch of indices at a time.

    Args:
        tensors: each (N, …).
        sampler: it knows the epoch.
        transform: of the first tensor's samples, or None.
    """

    def __init__(self, tensors: tuple[Tensor, ...], sampler: EpochSampler, transform: Transform | None = None) -> None:
        self.tensors, self.sampler, self.transform = tensors, sampler, transform

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, ...]:
        first, *others = (tensor[indices] for tensor in self.tensors)
        if self.transform is not None:
            first = self.transform(first, indices, self.sampler.epoch)
        return first, *others


def batches(
    tensors: tuple[Tensor, ...],
    batch_size: int,
    seed: int | None = None,
    *,
    transform: Transform | None = None,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Any]:
    """A loader over tensors that share their first dimension.

    With a seed the order changes every epoch, and a last batch that is not full is left out (in training, a batch
    normaliser would make statistics of the few samples in it); without a seed every sample comes once, in order.

    Args:
        tensors: each (N, …), on the device where the batches shall be.
        batch_size: samples in a batch of one process.
        seed: of the shuffling; None for evaluation.
        transform: of the first tensor's samples; it also gets their indices and the epoch.
        rank: the number of this process.
        world: the number of processes.

    Example:
        >>> x, y = torch.arange(10.0), torch.arange(10)
        >>> [len(batch) for batch, _ in batches((x, y), 4)], [len(batch) for batch, _ in batches((x, y), 4, seed=0)]
        ([4, 3, 3], [4, 4])
    """
    sampler = EpochSampler(len(tensors[0]), batch_size, seed, tensors[0].device, rank=rank, world=world)
    return DataLoader(Batches(tensors, sampler, transform), sampler=sampler, batch_size=None)
