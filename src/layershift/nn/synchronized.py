"""Normalisers whose statistics in training are those of all processes' batches, on any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from layershift.functional.normalize import Pooling, pool_samples
from layershift.functional.synchronize import SamplesOfAllRanks, world_size
from layershift.nn.normalization import _RunningNorm, _Unitization


class SyncBatchNorm(_RunningNorm):
    """`torch.nn.SyncBatchNorm`, which runs on a CPU too and leaves running statistics alone in a recomputed forward.

    See `SyncUnitization` for the rules, `BatchNorm1d` for the other arguments.

    Args:
        process_group: the processes that share statistics; all by default.

    Example:
        >>> SyncBatchNorm(3)(torch.randn(8, 3, 5)).shape  # alone
        torch.Size([8, 3, 5])
    """

    _ranks, _shape = (2, 3, 4, 5), "(N, C, …) with 2 to 5 dimensions"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.process_group = process_group

    def _pooling(self) -> Pooling:
        return _pooling(self.process_group, self.training)


class SyncUnitization(_Unitization):
    """Unitization whose statistics in training are those of all processes' batches together, of any rank.

    The rules are those of `torch.nn.SyncBatchNorm`: running statistics agree on all processes, batches may differ in
    size, input gradients are those of the sum of all processes' losses, and parameters get each process's part of
    theirs, which DistributedDataParallel adds up. Without a process group, or with one process, and in evaluation it is
    plain unitization. See `Unitization1d` for the other arguments.

    Args:
        process_group: the processes that share statistics; all by default.

    Example:
        >>> SyncUnitization(3)(torch.randn(8, 3, 5)).shape  # alone
        torch.Size([8, 3, 5])
    """

    _ranks, _shape = (2, 3, 4, 5), "(N, C, …) with 2 to 5 dimensions"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.process_group = process_group

    def _pooling(self) -> Pooling:
        return _pooling(self.process_group, self.training)


def _pooling(group: dist.ProcessGroup | None, training: bool) -> Pooling:
    return SamplesOfAllRanks(group) if training and world_size(group) > 1 else pool_samples
