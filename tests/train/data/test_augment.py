"""Augmentation: equal to a loop over images and to torchvision; the same draws whatever the batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torchvision.transforms.v2 import functional as tv

from layershift.train.data import CropFlip, crop_flip


def looped(
    images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, flip: torch.Tensor, padding: int
) -> torch.Tensor:
    out = torch.zeros_like(images)
    n, _, height, width = images.shape
    for k in range(n):
        for i in range(height):
            for j in range(width):
                row, column = i + int(top[k]) - padding, (width - 1 - j if flip[k] else j) + int(left[k]) - padding
                if 0 <= row < height and 0 <= column < width:
                    out[k, :, i, j] = images[k, :, row, column]
    return out


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 99)
)
def test_equals_a_loop(n, channels, height, width, padding, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64)
    top, left = torch.randint(2 * padding + 1, (2, n), generator=generator)
    flip = torch.randint(2, (n,), generator=generator).bool()
    assert torch.equal(crop_flip(images, top, left, flip, padding=padding), looped(images, top, left, flip, padding))


def test_equals_torchvision() -> None:
    images = torch.randn(6, 3, 32, 32)
    augment = CropFlip(6, padding=4, seed=3)
    found = augment(images, torch.arange(6), 2)
    for image, top, left, flip, ours in zip(images, *augment.draws(2).tolist(), found, strict=True):
        theirs = tv.crop(tv.pad(image, [4]), top, left, 32, 32)
        assert torch.equal(ours, tv.horizontal_flip(theirs) if flip else theirs)


def test_draws_are_uniform() -> None:
    top, left, flip = CropFlip(20_000, padding=4, seed=0).draws(0)
    for values, kinds in ((top, 9), (left, 9), (flip, 2), (9 * top + left, 81)):
        assert chisquare(torch.bincount(values, minlength=kinds).numpy()).pvalue > 1e-3


def test_draws_follow_seed_and_epoch() -> None:
    drawn = {
        tuple(CropFlip(50, padding=4, seed=seed).draws(epoch).flatten().tolist()) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(drawn) == 4


def test_what_happens_to_an_image_does_not_depend_on_its_batch() -> None:
    images, augment = torch.randn(12, 3, 8, 8), CropFlip(12, padding=1, seed=0)
    whole = augment(images, torch.arange(12), 5)
    mixed = torch.randperm(12)
    for indices in mixed.split(5):
        assert torch.equal(augment(images[indices], indices, 5), whole[indices])
    augment(images, torch.arange(12), 6)
    assert torch.equal(augment(images, torch.arange(12), 5), whole)


@pytest.mark.parametrize("padding", [0, 2])
def test_the_middle_window_is_the_image(padding) -> None:
    images, middle = torch.randn(3, 1, 5, 5), torch.full((3,), padding)
    assert torch.equal(crop_flip(images, middle, middle, torch.zeros(3).bool(), padding=padding), images)
