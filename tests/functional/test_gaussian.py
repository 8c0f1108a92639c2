"""The normal distribution against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch

from layershift.functional import (
    gaussian_wasserstein,
    normal_cdf,
    normal_partial_moment,
    normal_pdf,
    normal_quantile,
    wasserstein,
)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_tails_keep_their_relative_accuracy(dtype, tolerance) -> None:
    x = torch.tensor([-12.0, -8.0, -3.0, -0.1, 0.5, 4.0], dtype=dtype)
    np.testing.assert_allclose(normal_cdf(x), scipy.stats.norm.cdf(x.double()), rtol=tolerance)
    np.testing.assert_allclose(normal_pdf(x), scipy.stats.norm.pdf(x.double()), rtol=tolerance)
    p = torch.tensor([1e-30, 1e-10, 1e-3, 0.2, 0.9], dtype=dtype)
    np.testing.assert_allclose(normal_quantile(p), scipy.stats.norm.ppf(p.double()), rtol=tolerance)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("a", "b"), [(-1.0, 2.0), (5.0, 7.0), (-7.0, -5.0), (-np.inf, 0.3), (0.3, np.inf)])
def test_partial_moments_are_integrals(order, a, b) -> None:
    expected, _ = scipy.integrate.quad(lambda x: x**order * scipy.stats.norm.pdf(x), a, b, epsabs=0)
    limits = (torch.tensor(v, dtype=torch.float64) for v in (a, b))
    assert float(normal_partial_moment(*limits, order)) == pytest.approx(expected, rel=1e-8)


def test_the_distance_of_gaussians_is_the_formula_with_matrix_roots() -> None:
    means = torch.randn(2, 3, 4, dtype=torch.float64)
    a = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    covariances = a @ a.mT
    result = gaussian_wasserstein(means[0], covariances[0], means[1], covariances[1])
    for i in range(3):
        x, y = (covariances[k, i].numpy() for k in (0, 1))
        root = scipy.linalg.sqrtm(x)
        square = ((means[0, i] - means[1, i]) ** 2).sum() + np.trace(
            x + y - 2 * scipy.linalg.sqrtm(root @ y @ root).real
        )
        assert float(result[i]) ** 2 == pytest.approx(float(square), rel=1e-9)


def test_the_distance_of_gaussians_is_a_metric_with_singular_covariances() -> None:
    a = torch.randn(3, 4, 2, dtype=torch.float64)
    covariances, zero = a @ a.mT, torch.zeros(4, dtype=torch.float64)

    def distance(i, j):
        return float(gaussian_wasserstein(zero, covariances[i], zero, covariances[j]))

    assert distance(0, 1) == pytest.approx(distance(1, 0))
    assert distance(0, 2) <= distance(0, 1) + distance(1, 2)
    assert distance(0, 0) < 1e-6


def test_gradients_of_the_distance_of_gaussians() -> None:
    means = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def distance(means, factors):
        covariances = factors @ factors.mT
        return gaussian_wasserstein(means[0], covariances[0], means[1], covariances[1])

    assert torch.autograd.gradcheck(distance, (means, factors))


def test_gradients_where_eigenvalues_repeat_are_those_of_the_optimal_map() -> None:
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    x = eye.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_wasserstein(zero, x, zero, 4 * eye).square(), x)
    torch.testing.assert_close(gradient, -eye)  # I - T, where T = 2I carries one to the other
    mean = zero.clone().requires_grad_()
    for of_zero in torch.autograd.grad(gaussian_wasserstein(mean, x, zero, eye), (mean, x)):
        assert (of_zero == 0).all()


def test_gradients_beside_a_singular_covariance() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    a, b = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    x = (a @ a.mT).requires_grad_()

    def distance(x):
        return gaussian_wasserstein(zero, (x + x.mT) / 2, zero, b @ b.mT)

    assert torch.autograd.gradcheck(distance, (x,))


def test_gradients_of_a_broadcast_covariance() -> None:
    means = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    a = torch.randn(2, 2, dtype=torch.float64)
    x = (a @ a.mT).requires_grad_()
    y = torch.diag_embed(torch.rand(3, 2, dtype=torch.float64) + 0.5).requires_grad_()

    def distance(means, x, y):
        return gaussian_wasserstein(means, (x + x.mT) / 2, torch.zeros_like(means[0]), (y + y.mT) / 2)

    assert torch.autograd.gradcheck(distance, (means, x, y))


def test_samples_of_gaussians_approach_the_distance_in_one_dimension() -> None:
    x, y = 1 + 2 * torch.randn(100_000, dtype=torch.float64), 0.5 * torch.randn(100_000, dtype=torch.float64)
    moments = [m for v in (x, y) for m in (v.mean()[None], v.var()[None, None])]
    assert float(wasserstein(x, y, 2)) == pytest.approx(float(gaussian_wasserstein(*moments)), rel=1e-3)


def test_errors_say_what_was_expected() -> None:
    zero = torch.zeros(3)
    with pytest.raises(ValueError, match=r"covariance_y: expected shape \(…, 3, 3\) beside means"):
        gaussian_wasserstein(zero, torch.eye(3), zero, torch.eye(2))
    with pytest.raises(ValueError, match="order: expected one of 0, 1, 2, got 3"):
        normal_partial_moment(zero, zero, 3)
    with pytest.raises(TypeError, match="a: expected a tensor, got float"):
        normal_partial_moment(0.0, zero)
