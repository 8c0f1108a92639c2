"""Distances on the line against numerical integration, POT and the axioms of a metric."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import (
    directions,
    sliced_wasserstein,
    sliced_wasserstein_normal,
    wasserstein,
    wasserstein_normal,
)

numbers = st.floats(-50, 50, allow_nan=False, width=32)
samples = st.lists(numbers, min_size=1, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))
orders = st.sampled_from([1, 2])


def integrated(x: torch.Tensor, p: int) -> float:
    """The integral of |F⁻¹(Φ(z)) - z|^p φ(z), piece by piece, where the integrand is smooth."""
    values, n, total = np.sort(x.numpy()), len(x), 0.0
    edges = scipy.stats.norm.ppf(np.arange(n + 1) / n)
    for value, low, high in zip(values, edges[:-1], edges[1:], strict=True):
        middle = min(max(value, low), high)
        for a, b in ((low, middle), (middle, high)):
            total += scipy.integrate.quad(lambda z, v=value: abs(v - z) ** p * scipy.stats.norm.pdf(z), a, b)[0]
    return total ** (1 / p)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 33])
def test_distance_to_the_normal_is_the_integral(p, n) -> None:
    x = 0.3 + 1.7 * torch.randn(n, dtype=torch.float64)
    assert float(wasserstein_normal(x, p)) == pytest.approx(integrated(x, p), rel=1e-7)
    tied = x.round()
    assert float(wasserstein_normal(tied, p)) == pytest.approx(integrated(tied, p), rel=1e-7)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("n", [100, 1024, 4096, 100_000])
def test_float32_keeps_what_is_small(p, n) -> None:
    x = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
    exact = wasserstein_normal(torch.from_numpy(x), p)
    single = wasserstein_normal(torch.from_numpy(x).float(), p)
    rounding = 2e-5 if p == 1 and n <= 1024 else 0  # N(0, 1) itself shows 0.04 at n = 1024
    assert float(single) == pytest.approx(float(exact), rel=1e-5, abs=rounding)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (7, 5), (1, 9), (12, 8)])
def test_distance_between_samples_is_that_of_pot(p, n, m) -> None:
    x, y = torch.randn(n, dtype=torch.float64), 1 + 2 * torch.randn(m, dtype=torch.float64)
    expected = float(ot.wasserstein_1d(x.numpy(), y.numpy(), p=p)) ** (1 / p)
    assert float(wasserstein(x, y, p)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients(p) -> None:
    x, y = (torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (6, 9))
    assert torch.autograd.gradcheck(lambda x: wasserstein_normal(x, p), (x,))
    assert torch.autograd.gradcheck(lambda x, y: wasserstein(x, y, p), (x, y))
    theta = directions(9, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: sliced_wasserstein_normal(y, p, directions=theta), (y,))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_gradient_is_the_share_of_mass_on_either_side(dtype, tolerance) -> None:
    x = (torch.randn(30, dtype=dtype) * 0.8).sort().values.requires_grad_()
    (gradient,) = torch.autograd.grad(wasserstein_normal(x), x)
    levels = np.arange(31) / 30
    inside = np.clip(scipy.stats.norm.cdf(x.detach().double()), levels[:-1], levels[1:])
    np.testing.assert_allclose(gradient, 2 * inside - (levels[:-1] + levels[1:]), atol=tolerance)


def test_gradients_at_ties_are_finite_and_sum_as_one_sample_would() -> None:
    x = torch.full((8,), 0.4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(wasserstein_normal(x), x)
    assert float(gradient.sum()) == pytest.approx(2 * scipy.stats.norm.cdf(0.4) - 1)


@pytest.mark.parametrize("p", [1, 2])
def test_what_inference_left_serves_training(p) -> None:
    n, m = 37 + p, 41 + p  # sizes that no other test has tabulated
    with torch.inference_mode():
        wasserstein_normal(torch.randn(n), p)
        wasserstein(torch.randn(n), torch.randn(m), p)
    x = torch.randn(n, requires_grad=True)
    for distance in (wasserstein_normal(x, p), wasserstein(x, torch.randn(m), p)):
        (gradient,) = torch.autograd.grad(distance, x)
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("p", [1, 2])
def test_infinite_samples_are_infinitely_far(p) -> None:
    for x in ([math.inf, 0.0], [-math.inf, 0.0], [-math.inf, math.inf]):
        assert wasserstein_normal(torch.tensor(x), p) == math.inf


@pytest.mark.parametrize("p", [1, 2])
def test_slices_are_those_of_pot(p) -> None:
    x, y = torch.randn(30, 5, dtype=torch.float64), 0.5 + torch.randn(20, 5, dtype=torch.float64)
    theta = directions(5, 12, dtype=torch.float64)
    expected = ot.sliced.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=theta.T.numpy(), p=p)
    found = (sliced_wasserstein(x, y, p, directions=theta) ** p).mean() ** (1 / p)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("p", [1, 2])
def test_the_mean_over_directions_does_not_see_rotations(p) -> None:
    x = torch.rand(40, 6, dtype=torch.float64) ** 2 * torch.arange(1, 7)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    before, after = (sliced_wasserstein_normal(v, p, num_projections=20_000) for v in (x, x @ rotation))
    noise = ((before.var() + after.var()) / 20_000).sqrt()
    assert abs(before.mean() - after.mean()) < 4 * noise
    theta = directions(6, 9, dtype=torch.float64)
    turned = sliced_wasserstein_normal(x @ rotation, p, directions=theta @ rotation)
    torch.testing.assert_close(turned, sliced_wasserstein_normal(x, p, directions=theta))


@pytest.mark.parametrize("p", [1, 2])
def test_equal_samples_have_distance_and_gradient_zero(p) -> None:
    x = torch.randn(5, requires_grad=True)
    distance = wasserstein(x, x.detach(), p)
    (gradient,) = torch.autograd.grad(distance, x)
    assert distance == 0
    assert (gradient == 0).all()


def test_descent_makes_samples_normal() -> None:
    x = (5 + 0.1 * torch.randn(64, dtype=torch.float64)).requires_grad_()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(wasserstein_normal(x, 2).square(), x)
        x.data -= 10 * gradient
    assert wasserstein_normal(x) < 0.05


@given(samples, samples, samples, orders)
@settings(max_examples=100, deadline=None)
def test_metric(x, y, z, p) -> None:
    xy, yz, xz = wasserstein(x, y, p), wasserstein(y, z, p), wasserstein(x, z, p)
    assert xz <= xy + yz + 1e-9
    assert wasserstein_normal(x, p) <= xy + wasserstein_normal(y, p) + 1e-9
    torch.testing.assert_close(xy, wasserstein(y, x, p))


@given(samples, samples, numbers, orders)
@settings(max_examples=100, deadline=None)
def test_translation_scale_and_order(x, y, shift, p) -> None:
    torch.testing.assert_close(wasserstein(x + shift, y + shift, p), wasserstein(x, y, p), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(wasserstein(x, x + shift, p), torch.tensor(abs(shift), dtype=x.dtype))
    torch.testing.assert_close(wasserstein(3 * x, 3 * y, p), 3 * wasserstein(x, y, p))
    assert wasserstein(x, y, 1) <= wasserstein(x, y, 2) + 1e-9
    assert wasserstein_normal(x, 1) <= wasserstein_normal(x, 2) + 1e-9
    assert wasserstein_normal(x, p) >= abs(x.mean()) - 1e-9  # Jensen: no coupling moves the mean for less


def test_slices_of_a_shift_are_its_projections() -> None:
    x, shift = torch.randn(40, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    theta = directions(6, 16, dtype=torch.float64)
    torch.testing.assert_close(sliced_wasserstein(x, x + shift, directions=theta), (theta @ shift).abs())


def test_slices_are_distances_of_projections() -> None:
    x, y, theta = torch.randn(30, 5), torch.randn(20, 5), directions(5, 3)
    torch.testing.assert_close(sliced_wasserstein_normal(x, directions=theta), wasserstein_normal(theta @ x.T))
    torch.testing.assert_close(sliced_wasserstein(x, y, 2, directions=theta), wasserstein(theta @ x.T, theta @ y.T, 2))


def test_directions_are_uniform_and_repeat() -> None:
    theta = directions(4, 50_000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theta.norm(dim=1), torch.ones(50_000))
    torch.testing.assert_close(theta.T @ theta / 50_000, torch.eye(4) / 4, rtol=0, atol=0.01)
    assert torch.equal(theta[:2].isfinite(), torch.ones(2, 4, dtype=torch.bool))
    a, b = (sliced_wasserstein_normal(torch.ones(3, 4), generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(a, b)


def test_half_precision_and_nan() -> None:
    x = torch.randn(64, dtype=torch.float16)
    assert wasserstein_normal(x).dtype == torch.float32
    torch.testing.assert_close(wasserstein_normal(x), wasserstein_normal(x.float()))
    x[3] = math.nan
    assert wasserstein_normal(x).isnan()
    assert wasserstein(x, x).isnan()


def test_compiled_equals_eager() -> None:
    x, y = torch.randn(16), torch.randn(12)
    compiled = torch.compile(lambda x, y: wasserstein_normal(x) + wasserstein(x, y, 2), backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), wasserstein_normal(x) + wasserstein(x, y, 2))


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="p: expected one of 1, 2, got 3"):
        wasserstein_normal(torch.zeros(3), 3)
    with pytest.raises(ValueError, match=r"x: expected at least one sample, got an empty tensor of shape \(0,\)"):
        wasserstein_normal(torch.zeros(0))
    with pytest.raises(TypeError, match=r"y: expected a floating point tensor, got torch\.int64"):
        wasserstein(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"directions: expected shape \(P, 4\), got shape \(2, 3\)"):
        sliced_wasserstein_normal(torch.zeros(3, 4), directions=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"y: expected shape \(N, 4\), got shape \(3, 5\)"):
        sliced_wasserstein(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="num_projections: expected at least 1, got 0"):
        sliced_wasserstein_normal(torch.zeros(3, 4), num_projections=0)
