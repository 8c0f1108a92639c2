"""The Laplace distribution against SciPy; distances to it against quadrature and POT; their gradients."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from layershift.functional import laplace_cdf, laplace_quantile, wasserstein_laplace

SCALES = (0.3, math.sqrt(0.5), 2.0)


def samples(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 + torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def power_by_quadrature(x: np.ndarray, p: int, scale: float) -> float:
    """∫|F_n⁻¹ - F⁻¹|^p, slice by slice."""
    x, target, total = np.sort(x), stats.laplace(scale=scale), 0.0
    for i, value in enumerate(x):
        low, high = i / len(x), (i + 1) / len(x)
        kink = float(np.clip(target.cdf(value), low, high))
        for a, b in ((low, kink), (kink, high)):
            if b > a:
                total += integrate.quad(
                    lambda u, value=value: abs(value - target.ppf(u)) ** p, a, b, epsabs=1e-12, limit=200
                )[0]
    return total


@pytest.mark.parametrize("scale", SCALES)
def test_cdf_and_quantile_are_scipys(scale) -> None:
    x = torch.linspace(-80, 30, 300, dtype=torch.float64)
    torch.testing.assert_close(
        laplace_cdf(x, scale), torch.tensor(stats.laplace(scale=scale).cdf(x)), rtol=1e-13, atol=0
    )
    p = torch.tensor([0.0, 1e-300, 1e-9, 0.1, 0.5, 0.7, 1.0], dtype=torch.float64)
    torch.testing.assert_close(laplace_quantile(p, scale), torch.tensor(stats.laplace(scale=scale).ppf(p)))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_distance_is_the_integral_over_quantiles(n, p, scale) -> None:
    x = samples(4, n)
    expected = [power_by_quadrature(row.numpy(), p, scale) for row in x]
    torch.testing.assert_close(
        wasserstein_laplace(x, p, scale=scale).pow(p), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("p", [1, 2])
def test_distance_is_pots_to_many_quantiles(p) -> None:
    x = samples(50, seed=1)
    levels = (np.arange(500_000) + 0.5) / 500_000
    expected = ot.wasserstein_1d(x.numpy(), stats.laplace().ppf(levels), p=p)
    assert float(wasserstein_laplace(x, p).pow(p)) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients(p) -> None:
    x = samples(3, 7, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: wasserstein_laplace(x, p, scale=0.8), x)


def test_the_best_samples_are_the_slice_means() -> None:
    n = 6
    x = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        x[i] = n * integrate.quad(stats.laplace().ppf, i / n, (i + 1) / n, epsabs=1e-12)[0]
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(wasserstein_laplace(x, p=2), x)
    torch.testing.assert_close(gradient, torch.zeros_like(x), atol=1e-8, rtol=0)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), factor=st.floats(0.01, 100), p=st.sampled_from([1, 2]), seed=st.integers(0, 1000))
def test_units_do_not_matter_and_order_neither(n, factor, p, seed) -> None:
    x = samples(n, seed=seed)
    expected = factor * wasserstein_laplace(x, p, scale=0.7)
    torch.testing.assert_close(wasserstein_laplace(factor * x.flip(0), p, scale=factor * 0.7), expected)
    torch.testing.assert_close(wasserstein_laplace(-x, p, scale=0.7), expected / factor)  # the target is symmetric


@pytest.mark.parametrize("n", [64, 5000])
@pytest.mark.parametrize("p", [1, 2])
def test_float32_is_close_to_float64(n, p) -> None:
    x = torch.tensor(stats.laplace().rvs(n, random_state=0))
    single = wasserstein_laplace(x.float(), p)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), wasserstein_laplace(x, p), rtol=0, atol=2e-5)
    assert wasserstein_laplace(x.half(), p).dtype == torch.float32


def test_nan_gives_nan_and_errors_say_what_was_expected() -> None:
    assert wasserstein_laplace(torch.tensor([0.0, torch.nan])).isnan()
    with pytest.raises(ValueError, match="p: expected one of 1, 2, got 3"):
        wasserstein_laplace(torch.zeros(3), 3)
    with pytest.raises(ValueError, match="scale: expected a positive number, got 0"):
        wasserstein_laplace(torch.zeros(3), scale=0)
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        wasserstein_laplace(torch.zeros(0))
    with pytest.raises(TypeError, match="x: expected a floating point tensor"):
        wasserstein_laplace(torch.zeros(3, dtype=torch.int64))
