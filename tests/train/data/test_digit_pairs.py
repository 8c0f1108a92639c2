"""Pairs of digits: parts that share no digit, labels that say what is there, batches for the command line."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from layershift.train.data import DigitPairsData, DigitsData
from layershift.train.data.digit_pairs import draw_pairs


@pytest.fixture(scope="module")
def data() -> DigitPairsData:
    data = DigitPairsData(batch_size=100, seed=0)
    data.setup()
    return data


def halves(images: torch.Tensor) -> torch.Tensor:
    return torch.cat([images[..., :8], images[..., 8:]]).flatten(1)


def known() -> dict[tuple[int, ...], int]:
    digits = load_digits()
    pixels = (torch.from_numpy(digits.data) * (255 / 16)).round().int().tolist()
    return {tuple(image): int(label) for image, label in zip(pixels, digits.target, strict=True)}


def test_sizes(data) -> None:
    assert {name: (tuple(x.shape), tuple(y.shape)) for name, (x, y) in data.parts.items()} == {
        "train": ((4000, 1, 8, 16), (4000, 10)),
        "val": ((1000, 1, 8, 16), (1000, 10)),
        "test": ((2000, 1, 8, 16), (2000, 10)),
    }
    assert data.sizes == {"in_channels": 1, "in_features": 128, "num_classes": 10}
    assert data.task == "multi_label"
    assert data.labels == tuple("0123456789")
    assert data.probe().shape == (512, 1, 8, 16)


def test_labels_are_the_digits_that_are_there(data) -> None:
    digits = known()
    for images, targets in data.parts.values():
        both = [digits[tuple(image)] for image in halves(images).tolist()]
        expected = [set(pair) for pair in zip(both[: len(images)], both[len(images) :], strict=True)]
        assert [set(row.nonzero().flatten().tolist()) for row in targets] == expected
        share = (targets.sum(1) == 1).float().mean().item()
        assert share == pytest.approx(0.1, abs=4 * (0.09 / len(images)) ** 0.5)


def test_no_digit_is_in_two_parts_and_each_lies_in_its_part_of_the_single_digits(data) -> None:
    single = DigitsData()
    single.setup()
    seen = {name: {tuple(image) for image in halves(x).tolist()} for name, (x, _) in data.parts.items()}
    assert sum(map(len, seen.values())) == len(set().union(*seen.values()))
    for name, images in seen.items():
        x = single.parts[name][0].flatten(1)
        digits = ((x - x.min()) / (x.max() - x.min()) * 16).round() * (255 / 16)
        own = {tuple(image) for image in digits.round().int().tolist()}
        assert images <= own
        assert len(images) > 0.99 * len(own)


def test_no_pair_twice_and_no_digit_with_itself(data) -> None:
    for images, _ in data.parts.values():
        rows = [tuple(image) for image in images.flatten(1).tolist()]
        assert len(set(rows)) == len(rows)
        assert not (images[..., :8] == images[..., 8:]).flatten(1).all(1).any()


def test_pairs_are_uniform() -> None:
    counts = torch.zeros(4, 4)
    for seed in range(400):
        left, right = draw_pairs(4, 3, seed=seed)
        counts[left, right] += 1
    assert counts.diag().sum() == 0
    expected = 400 * 3 / 12
    others = counts[~torch.eye(4, dtype=torch.bool)]
    assert ((others - expected).square().sum() / expected).item() < 35  # χ² with 11 degrees of freedom: 0.9998
    with pytest.raises(ValueError, match="count: expected at most 6, the pairs of 3 things, got 7"):
        draw_pairs(3, 7, seed=0)


def test_the_pairs_do_not_depend_on_the_seed_and_the_order_does(data) -> None:
    other = DigitPairsData(batch_size=100, seed=5)
    assert torch.equal(other.probe(), data.probe())
    first, second = (next(iter(d.train_dataloader()))[1] for d in (data, other))
    assert not torch.equal(first, second)


def test_training_pixels_standardise(data) -> None:
    std, mean = torch.std_mean(data.prepare(data.parts["train"][0]), correction=0)
    torch.testing.assert_close(torch.stack([mean, std]), torch.tensor([0.0, 1.0]), atol=1e-4, rtol=0)


def test_a_part_in_order(data) -> None:
    images, targets = (torch.cat(tensors) for tensors in zip(*data.in_order("train"), strict=True))
    assert torch.equal(images, data.prepare(data.parts["train"][0]))
    assert torch.equal(targets, data.parts["train"][1])
    assert torch.equal(data.images("test", [3, 1]), data.parts["test"][0][[3, 1]])
    assert data.ids("val")[:2] == ("val/0", "val/1")


@pytest.mark.parametrize("size", [1, 4001])
def test_batch_size_out_of_range(size) -> None:
    with pytest.raises(ValueError, match=rf"batch_size: expected a number from 2 to 4000 .* got {size}"):
        DigitPairsData(batch_size=size)
