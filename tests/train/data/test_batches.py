"""Batches: what several processes see side by side is what one process with the whole batch sees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from layershift.train.data import EpochSampler, batches


def drawn(size: int, batch_size: int, seed: int | None, epoch: int = 0, **ranks: int) -> list[torch.Tensor]:
    sampler = EpochSampler(size, batch_size, seed, **ranks)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@given(st.integers(2, 60), st.integers(1, 6), st.integers(1, 4), st.integers(0, 9), st.integers(0, 3))
def test_training_batches_of_all_processes_make_the_large_one(size, batch_size, world, seed, epoch) -> None:
    if size < batch_size * world:
        size += batch_size * world
    ranks = [drawn(size, batch_size, seed, epoch, rank=rank, world=world) for rank in range(world)]
    together = [torch.cat(parts) for parts in zip(*ranks, strict=True)]
    alone = drawn(size, batch_size * world, seed, epoch)
    assert all(len(part) == batch_size for rank in ranks for part in rank)
    assert len(together) == len(alone)
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert len(torch.cat(alone).unique()) == size // (batch_size * world) * batch_size * world


@given(st.integers(4, 60), st.integers(2, 6), st.integers(1, 4))
def test_evaluation_sees_every_sample_once_in_as_many_batches_in_each_process(size, batch_size, world) -> None:
    ranks = [drawn(size, batch_size, None, rank=rank, world=world) for rank in range(world)]
    together = torch.cat([torch.cat(parts) for parts in zip(*ranks, strict=True)])
    assert together.tolist() == list(range(size))
    assert all(0 < len(part) <= batch_size for rank in ranks for part in rank)


def test_order_follows_seed_and_epoch() -> None:
    orders = {tuple(torch.cat(drawn(20, 5, seed, epoch)).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert torch.equal(torch.cat(drawn(20, 5, 1, 2)), torch.cat(drawn(20, 5, 1, 2)))


def test_lightning_is_left_nothing_to_replace() -> None:
    assert isinstance(batches((torch.arange(8),), 2, seed=0).sampler, DistributedSampler)


def test_transform_gets_samples_their_indices_and_the_epoch() -> None:
    x, y = torch.arange(8.0), torch.arange(8)
    loader = batches(
        (x, y), 4, seed=0, transform=lambda x, i, epoch: torch.stack([x, i.float(), torch.full_like(x, epoch)])
    )
    loader.sampler.set_epoch(7)
    for (values, indices, epochs), labels in loader:
        assert values.tolist() == indices.tolist() == labels.tolist()
        assert epochs.tolist() == [7.0] * 4


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"batch_size: expected at most 10 samples in a batch of all processes, got 12"
    ):
        EpochSampler(10, 6, 0, rank=1, world=2)
    with pytest.raises(ValueError, match=r"expected at most 1 samples in a batch of all processes, got 2"):
        EpochSampler(1, 6, None, rank=1, world=2)
