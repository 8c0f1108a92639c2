"""Samples and pooled statistics across the processes of a group, with their gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from layershift.functional.normalize import Pool, pool_samples
from layershift.functional.rows import RowTable


class SamplesOfAllRanks:
    """`pool_samples` over the union of all processes' batches, which may differ in size.

    Each process contributes its count, mean and variance; they are merged by the mixture formula in float64. The
    gradient reaches every process's samples, as if one process held the union and summed the losses. One object serves
    one forward pass: the backward pass asks again for what the forward gathered, and gets it without communication.

    Args:
        group: the process group; the default group if None.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.gathered: Tensor | None = None

    def __call__(self, table: RowTable) -> Pool:
        """Pool a table; every process of the group must call this together."""
        local = pool_samples(table)
        wide = torch.float64 if local.mean.device.type != "mps" else torch.float32
        size = local.mean.new_tensor([[local.size]], dtype=wide)
        mine = torch.cat([size, local.mean.to(wide), local.variance.to(wide)], dim=1)
        sizes, means, variances = _Gather.apply(mine, self).split([1, *2 * [local.mean.shape[1]]], dim=1)
        total = sizes.sum()
        share = sizes / total
        mean = (share * means).sum(0, keepdim=True)
        variance = (share * (variances + (means - mean).square())).sum(0, keepdim=True)
        dtype = local.mean.dtype
        return Pool(mean.to(dtype), (mean - table.pivot).to(dtype), variance.to(dtype), total.to(dtype))


class _Gather(torch.autograd.Function):
    """Rows of all processes, stacked; the gradient of a row is the sum of what all processes want of it."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, pooling: SamplesOfAllRanks) -> Tensor:
        ctx.group = pooling.group
        if pooling.gathered is None:
            rows = [torch.empty_like(row) for _ in range(dist.get_world_size(pooling.group))]
            dist.all_gather(rows, row.contiguous(), group=pooling.group)
            pooling.gathered = torch.cat(rows)
        return pooling.gathered.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = _summed(gradient, ctx.group)
        rank = dist.get_rank(ctx.group)
        return gradient[rank : rank + 1], None


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """How many processes train together; 1 without `torch.distributed`.

    Example:
        >>> world_size()
        1
    """
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def batch_sizes(n: int, device: torch.device, group: dist.ProcessGroup | None = None) -> list[int]:
    """How many samples each process has, in the order of their ranks. Waits for the device where there are several.

    Args:
        n: how many this process has.
        device: one that the group's backend can send from.
        group: the process group; the default group if None.

    Returns:
        A number for each process.

    Example:
        >>> batch_sizes(3, torch.device("cpu"))
        [3]
    """
    if world_size(group) == 1:
        return [n]
    mine = torch.tensor([n], device=device)
    sizes = [torch.empty_like(mine) for _ in range(world_size(group))]
    dist.all_gather(sizes, mine, group=group)
    return list(torch.cat(sizes).tolist())


def sum_of_ranks(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of all processes' tensors; its gradient is that of the sum of all processes' losses.

    So where each computes the same loss of the sum, and gradients of parameters are averaged over processes afterwards
    as data parallelism does, the result is the gradient of that loss.

    Args:
        x: a tensor of one shape on all processes.
        group: the process group; the default group if None.

    Returns:
        A tensor like `x`; `x` itself where there is one process.

    Example:
        >>> sum_of_ranks(torch.ones(2))
        tensor([1., 1.])
    """
    if world_size(group) == 1:
        return x
    total: Tensor = _Sum.apply(x, group)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


def _summed(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    x = x.contiguous().clone()
    dist.all_reduce(x, group=group)
    return x


def gather_samples(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The samples of all processes, in the order of their ranks; a batch may differ in size from another's.

    The gradient is that of the sum of all processes' losses. So where each computes the same loss of the union, and
    gradients of parameters are averaged over processes afterwards as data parallelism does, the result is the gradient
    of that loss. Sizes are exchanged first, which waits for the device.

    Args:
        x: this process's samples, shape `(N_r, …)`.
        group: the process group; the default group if None.

    Returns:
        Samples of shape `(ΣN_r, …)`; `x` itself where there is one process.

    Example:
        >>> gather_samples(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """
    if world_size(group) == 1:
        return x
    gathered: Tensor = _GatherSamples.apply(x, batch_sizes(len(x), x.device, group), group)
    return gathered


class _GatherSamples(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.split(_summed(gradient, ctx.group), ctx.sizes)[dist.get_rank(ctx.group)], None, None
