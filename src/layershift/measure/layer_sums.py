"""From the outputs of layers to sums and numbers of which `Moments` makes its estimates; of several layers at once.

G layers of one shape are stacked, `(G, N, C, …)`. Each is described as a whole and by U - 1 of its channels, in U rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from layershift.functional.moments import (
    MomentSummary,
    MomentSums,
    MomentTable,
    merge_moment_sums,
    moment_sums,
    moment_table,
    move_pivot,
    pool_moments,
)


def thinned(numbers: Tensor, size: int, limit: int, samples: int) -> Tensor:
    """Every s-th number of a stream, about `limit` of the `size` numbers of a sample; `samples` came before.

    Where the stream is cut into batches makes no difference. s shares no factor with `size`, so that the positions
    inside a sample take turns.
    """
    step = -(-size // limit)
    while step > 1 and math.gcd(step, size) > 1:
        step += 1
    return numbers[..., -(samples * size) % step :: step]


def quantiles_with_errors(
    quantiles: Sequence[float],
    summary: MomentSummary,
    counted: Tensor,
    numbers: Tensor,
    read: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Quantiles and their standard errors, both `(R, Q)`, of R rows.

    Args:
        quantiles: Q probabilities.
        summary: moments of the rows.
        counted: how many of a row's numbers the quantiles come from, `(R,)`.
        numbers: how many numbers a row has, `(R,)`.
        read: quantiles at probabilities `(R, 3Q)`.
    """
    _, variance, _, kurtosis = summary.value.unbind(1)
    by_mean = variance / summary.stderr[:, 0].square()
    by_variance = (kurtosis - 1) * (variance / summary.stderr[:, 1]).square()
    worth = torch.maximum(torch.minimum(by_mean, by_variance).nan_to_num(0), summary.n)
    counted = counted.clamp(min=1)
    left_out = 1 - (counted / numbers.clamp(min=1)).clamp(max=1)
    worth = torch.minimum(worth, counted)
    worth = (1 / (1 / worth + left_out / counted)).unsqueeze(1)
    p = torch.tensor(quantiles, dtype=torch.float64).to(numbers.device, non_blocking=True)  # a device is not waited for
    step = (p * (1 - p) / worth).sqrt()
    low, value, high = read(torch.cat([p - step, p.expand_as(step), p + step], 1)).chunk(3, 1)
    known = (p - step >= 0) & (p + step <= 1) & (summary.n > 1).unsqueeze(1)
    return value, torch.where(known, (high - low) / 2, torch.nan)


def _in_cache(x: Tensor) -> tuple[Tensor, ...]:
    """On a CPU some samples at a time, so that what lies between two passes stays in the cache."""
    samples = 2**19 // x[0].numel() if x.device.type == "cpu" and x.numel() > 0 else len(x)
    return tuple(torch.split(x, max(samples, 1)))


def columns(x: Tensor, units: Tensor) -> MomentTable:
    """Tables of layers and of single units: of layers `(G, N, C, …)`, `(G, N, 1 + units)`."""
    parts = [moment_table(part) for part in _in_cache(x.flatten(0, 1))]
    table = torch.stack([torch.cat(field) for field in zip(*parts, strict=True)]).view(-1, *x.shape[:2], x.shape[2])
    layer = torch.stack(pool_moments(MomentTable(*table), 2, keepdim=True))
    return MomentTable(*torch.cat([layer, table.index_select(3, units)], 3))


def sums_of(table: MomentTable) -> Tensor:
    """Packed sums `(G, U, 26)` of tables `(G, N, U)`."""
    columns = MomentTable(*(field.transpose(0, 1).flatten(1) for field in table))
    return pack(moment_sums(columns)).view(len(table.mean), table.mean.shape[2], -1)


def spread(count: int, size: int) -> Tensor:
    """`count` of `size` indices, evenly spread, with the first and the last.

    Example:
        >>> spread(3, 10)
        tensor([0, 4, 9])
    """
    return torch.tensor([i * (size - 1) // max(count - 1, 1) for i in range(count)], dtype=torch.int64)


def pack(sums: MomentSums) -> Tensor:
    """One tensor `(U, 26)`, because torchmetrics reduces each state alone, and gram and pivot belong together."""
    return torch.cat([sums.pivot.unsqueeze(1), sums.gram.flatten(1)], 1)


def unpack(state: Tensor) -> MomentSums:
    """What `pack` has packed."""
    return MomentSums(state[:, 0], state[:, 1:].reshape(-1, 5, 5))


def merge(states: Tensor) -> Tensor:
    """Add up states `(K, U, 26)`, about a pivot of one that is not empty."""
    merged, *others = map(unpack, states)
    for other in others:
        pivot = torch.where(merged.gram[:, 0, 0] > 0, merged.pivot, other.pivot)
        merged = merge_moment_sums(move_pivot(merged, pivot), other)
    return pack(merged)
