"""Preprocessing: statistics against torch's in double precision, whitening against SciPy and its own purpose."""

from __future__ import annotations

import pytest
import torch
from scipy.linalg import fractional_matrix_power

from layershift.train.data import Standardize, Whiten, contrast_normalize
from layershift.train.data.preprocess import shrink


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (5000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("each_pixel", [False, True])
def test_standardize_matches_double_precision(images, each_pixel) -> None:
    std, mean = torch.std_mean(images.double(), (0,) if each_pixel else (0, 2, 3), correction=0, keepdim=True)
    fitted = Standardize.fit(images, each_pixel=each_pixel)
    torch.testing.assert_close(fitted(images), ((images.double() - mean) / std).float(), rtol=1e-5, atol=1e-5)
    assert fitted(images).dtype == torch.float32


def test_a_pixel_that_never_varies_becomes_zero(images) -> None:
    images[:, :, 0, 0] = 7
    out = Standardize.fit(images, each_pixel=True)(images)
    assert bool((out[:, :, 0, 0] == 0).all())
    assert bool(out.isfinite().all())


def test_contrast_normalized_images_have_no_mean_and_one_norm(images) -> None:
    flat = contrast_normalize(images).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat.norm(dim=1), torch.full((len(flat),), 55 * (48 / 3072) ** 0.5))
    assert bool((contrast_normalize(torch.full((2, 3, 4, 4), 9, dtype=torch.uint8)) == 0).all())


def test_whitened_training_data_have_the_identity_as_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (
        (torch.randn(9000, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 3)
        .view(-1, 3, 2, 2)
        .double()
    )
    out = Whiten.fit(x, epsilon=0.0)(x).flatten(1)
    torch.testing.assert_close(out.T.cov(correction=0), torch.eye(12, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(out.mean(0), torch.zeros(12, dtype=torch.float64), atol=1e-8, rtol=0)


def test_epsilon_leaves_each_direction_its_share_of_variance(images) -> None:
    x = contrast_normalize(images)
    values = torch.linalg.eigvalsh(x.flatten(1).double().T.cov(correction=0))
    out = Whiten.fit(x, epsilon=0.1)(x).flatten(1).double()
    found = torch.linalg.eigvalsh(out.T.cov(correction=0))
    torch.testing.assert_close(found, values / (values + 0.1), atol=1e-4, rtol=0)
    assert float(found[0]) < 1e-6  # contrast normalisation takes one direction away, and whitening cannot return it


def test_whitening_is_the_symmetric_root() -> None:
    x = torch.randn(500, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = x.flatten(1).T.cov(correction=0) + 0.1 * torch.eye(6)
    expected = torch.from_numpy(fractional_matrix_power(covariance.numpy(), -0.5))
    torch.testing.assert_close(Whiten.fit(x, epsilon=0.1).matrix, expected)


def test_shrink_takes_means_of_areas(images) -> None:
    blocks = images.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1)).round()
    assert torch.equal(shrink(images, 2), blocks.to(torch.uint8))
    assert torch.equal(shrink(images, 4), images)
