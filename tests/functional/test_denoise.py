"""Denoising against a naive twin, quadrature, autograd and closed forms."""

from __future__ import annotations

import math

import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import denoise, normal_quantile, posterior_mean, smoothed_log_density, smoothed_score


def naive_weights(noisy, points, t):
    weights = torch.empty(len(noisy), len(points), dtype=torch.float64)
    for i, x in enumerate(noisy):
        for j, y in enumerate(points):
            weights[i, j] = math.exp(-float((x - y).square().sum()) / (2 * t))
    return weights


def sample(n=7, q=5, m=3):
    return torch.randn(q, m, dtype=torch.float64), torch.randn(n, m, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.3, 2.0])
def test_all_three_are_sums_with_the_weights(t) -> None:
    noisy, points = sample()
    values = torch.randn(len(points), 4, dtype=torch.float64)
    weights = naive_weights(noisy, points, t)
    shares = weights / weights.sum(1, keepdim=True)
    density = weights.mean(1) / (2 * math.pi * t) ** (noisy.shape[1] / 2)
    torch.testing.assert_close(posterior_mean(noisy, points, t), shares @ points)
    torch.testing.assert_close(posterior_mean(noisy, points, t, values=values), shares @ values)
    torch.testing.assert_close(smoothed_log_density(noisy, points, t), density.log())
    score = torch.stack([(w[:, None] * (points - x)).sum(0) / t for w, x in zip(shares, noisy, strict=True)])
    torch.testing.assert_close(smoothed_score(noisy, points, t), score)


@pytest.mark.parametrize("t", [1e-3, 0.5, 40.0])
def test_the_score_is_the_gradient_of_the_log_density_and_tweedie_holds(t) -> None:
    noisy, points = sample()
    noisy.requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed_log_density(noisy, points, t).sum(), noisy)
    score = smoothed_score(noisy, points, t)
    torch.testing.assert_close(score, gradient)
    torch.testing.assert_close(posterior_mean(noisy, points, t), noisy + t * gradient)


def test_the_density_integrates_to_one_and_denoising_keeps_the_mean() -> None:
    points = torch.tensor([[-1.0], [0.2], [2.0]], dtype=torch.float64)

    def at(x):
        where = torch.tensor([[x]], dtype=torch.float64)
        return math.exp(smoothed_log_density(where, points, 0.4)), float(posterior_mean(where, points, 0.4))

    mass, _ = scipy.integrate.quad(lambda x: at(x)[0], -12, 12)
    mean, _ = scipy.integrate.quad(lambda x: at(x)[0] * at(x)[1], -12, 12)
    assert mass == pytest.approx(1, rel=1e-8)
    assert mean == pytest.approx(float(points.mean()), rel=1e-8)


def test_many_points_of_a_gaussian_give_its_closed_form() -> None:
    points = 1.5 * normal_quantile((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None]
    noisy = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(smoothed_score(noisy, points, 0.5), -noisy / (1.5**2 + 0.5), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("t", [1e-4, 1e-8, 1e-30])
def test_with_little_noise_the_nearest_point_is_the_origin(t, dtype) -> None:
    points = torch.randn(200, 2, dtype=dtype)
    near = torch.arange(0, 200, 7)
    noisy = points[near] + math.sqrt(t) * 0.1
    torch.testing.assert_close(posterior_mean(noisy, points, min(t, 1e-6)), points[near], rtol=0, atol=1e-6)
    far = 1e3 * torch.randn(20, 2, dtype=dtype)
    nearest = points[torch.cdist(far.double(), points.double()).argmin(1)]
    torch.testing.assert_close(posterior_mean(far, points, t), nearest, rtol=0, atol=1e-3)
    for function in (posterior_mean, smoothed_score, smoothed_log_density):
        assert function(noisy, points, t).isfinite().all()
    assert (smoothed_score(points, points, 1e-30) == 0).all()


def test_with_much_noise_all_points_are_as_likely() -> None:
    noisy, points = sample()
    torch.testing.assert_close(posterior_mean(noisy, points, 1e12), points.mean(0).expand_as(noisy))


def test_single_precision_is_as_good_as_its_input() -> None:
    noisy, points = sample(n=300, q=40)
    # Far from the origin, where squares in single precision would have lost all of it.
    noisy, points = (noisy + 100).float(), (points + 100).float()
    for function in (posterior_mean, smoothed_score, smoothed_log_density):
        result = function(noisy, points, 0.01)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), function(noisy.double(), points.double(), 0.01))
    assert posterior_mean(noisy.half(), points.half(), 0.01).dtype == torch.float32


@pytest.mark.parametrize("pairs", [2**22, 12])
def test_gradients(pairs, monkeypatch) -> None:
    monkeypatch.setattr(denoise, "_PAIRS", pairs)
    noisy, points = sample(n=5, q=6, m=2)
    values = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    inputs = noisy.requires_grad_(), points.requires_grad_(), t
    assert torch.autograd.gradcheck(lambda *a: posterior_mean(*a[:3], values=a[3]), (*inputs, values))
    assert torch.autograd.gradcheck(smoothed_log_density, inputs)
    assert torch.autograd.gradcheck(smoothed_score, inputs)
    assert torch.autograd.gradgradcheck(smoothed_log_density, inputs)


def test_pieces_are_the_whole(monkeypatch) -> None:
    noisy, points = sample(n=11, q=29)
    whole = [f(noisy, points, 0.3) for f in (posterior_mean, smoothed_score, smoothed_log_density)]
    monkeypatch.setattr(denoise, "_PAIRS", 40)
    pieces = [f(noisy, points, 0.3) for f in (posterior_mean, smoothed_score, smoothed_log_density)]
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other)


def test_no_query_is_an_empty_answer() -> None:
    _, points = sample()
    assert posterior_mean(points[:0], points, 1.0).shape == (0, 3)
    assert smoothed_log_density(points[:0], points, 1.0).shape == (0,)


def test_a_hundred_thousand_points() -> None:
    points = torch.randn(100_000, 2)
    noisy = torch.randn(100, 2, requires_grad=True)
    score = smoothed_score(noisy, points, 0.1)  # of N(0, 1.1 I)
    assert (score + noisy / 1.1).square().mean().sqrt() < 0.1
    score.sum().backward()
    assert noisy.grad.isfinite().all()


@given(seed=st.integers(0, 2**31), t=st.floats(1e-3, 1e3), scale=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_moving_turning_and_scaling_everything_does_so_with_the_mean(seed, t, scale) -> None:
    g = torch.Generator().manual_seed(seed)
    noisy, points = (torch.randn(n, 3, dtype=torch.float64, generator=g) for n in (4, 9))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=g))
    shift = torch.randn(3, dtype=torch.float64, generator=g)

    def move(x):
        return scale * x @ turn + shift

    mean = posterior_mean(noisy, points, t)
    torch.testing.assert_close(posterior_mean(move(noisy), move(points), t * scale**2), move(mean))
    lower, upper = points.amin(0) - 1e-9, points.amax(0) + 1e-9
    assert ((mean >= lower) & (mean <= upper)).all()


def test_errors_name_the_argument() -> None:
    noisy, points = sample()
    with pytest.raises(TypeError, match="points: expected a floating point tensor"):
        posterior_mean(noisy, points.long(), 1.0)
    with pytest.raises(TypeError, match="noisy: expected a floating point tensor"):
        smoothed_score(noisy.long(), points, 1.0)
    with pytest.raises(ValueError, match=r"noisy: expected shape \(Q, 3\), as wide as points, got shape \(5, 2\)"):
        smoothed_score(noisy[:, :2], points, 1.0)
    with pytest.raises(ValueError, match="points: expected at least one sample"):
        smoothed_log_density(noisy, points[:0], 1.0)
    with pytest.raises(ValueError, match=r"values: expected shape \(7, k\)"):
        posterior_mean(noisy, points, 1.0, values=noisy)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="t: expected a positive variance"):
            posterior_mean(noisy, points, wrong)
    with pytest.raises(ValueError, match=r"t: expected a positive number or a tensor of shape \(\)"):
        posterior_mean(noisy, points, torch.ones(5))
