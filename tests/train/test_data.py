"""Digits: a split that is disjoint, complete, stratified and always the same; batches that follow seed and epoch."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from layershift.train.data import DigitsData, EpochSampler, batches


@pytest.fixture(scope="module")
def data() -> DigitsData:
    data = DigitsData(batch_size=128, seed=0)
    data.setup()
    return data


def rows(x: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(image) for image in (x.flatten(1) * 1000).round().int().tolist()}


def test_split_is_disjoint_and_complete(data) -> None:
    parts = [rows(x) for x, _ in data.parts.values()]
    assert {name: len(y) for name, (_, y) in data.parts.items()} == {"train": 1077, "val": 270, "test": 450}
    everything = {tuple(image) for image in load_digits().data.tolist()}
    assert len(parts[0] | parts[1] | parts[2]) == len(everything) == sum(map(len, parts)) == 1797


def test_split_is_stratified(data) -> None:
    for _, y in data.parts.values():
        share = torch.bincount(y, minlength=10) / len(y)
        torch.testing.assert_close(
            share, torch.bincount(torch.from_numpy(load_digits().target)) / 1797, atol=0.004, rtol=0
        )


def test_only_training_pixels_standardise(data) -> None:
    std, mean = torch.std_mean(data.parts["train"][0])
    torch.testing.assert_close(torch.stack([mean, std]), torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
    assert abs(data.parts["test"][0].mean()) > 1e-4


def test_the_split_does_not_depend_on_the_seed(data) -> None:
    other = DigitsData(batch_size=32, seed=5)
    assert torch.equal(other.probe(), data.probe())
    assert len(other.probe()) == 270


def test_order_follows_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(20, 5, seed)
        sampler.set_epoch(epoch)
        return torch.cat(list(sampler)).tolist()

    assert order(1, 2) == order(1, 2)
    assert sorted(order(1, 2)) == list(range(20))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_training_leaves_out_the_last_batch_and_evaluation_does_not(data) -> None:
    assert {len(y) for _, y in data.train_dataloader()} == {128}
    assert len(data.train_dataloader()) == 8
    seen = torch.cat([y for _, y in batches(data.parts["val"], 100)])
    assert torch.equal(seen, data.parts["val"][1])


@pytest.mark.parametrize("size", [1, 1078])
def test_batch_size_out_of_range(size) -> None:
    with pytest.raises(ValueError, match=rf"batch_size: expected a number from 2 to 1077 .* got {size}"):
        DigitsData(batch_size=size)
