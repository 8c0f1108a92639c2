"""Theorem 1: the exact map is the minimiser, the printed one is not, and how far they are apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.dynamics.residual_teacher import optimal_map, teacher_loss
from layershift.functional import normal_quantile, posterior_mean, smoothed_score

SPREAD = 1.3
GRID = SPREAD * normal_quantile((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None]  # N(0, 1.3²)


def gap(x, data, residual, t):
    return optimal_map(x, data, residual, t) - optimal_map(x, data, residual, t, form="printed")


@pytest.mark.parametrize("t", [0.01, 0.3])
def test_the_exact_map_of_a_gaussian_and_a_sine_is_a_closed_form(t) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    shrunk, left = x * SPREAD**2 / (SPREAD**2 + t), SPREAD**2 * t / (SPREAD**2 + t)
    expected = shrunk + math.exp(-left / 2) * shrunk.sin()
    torch.testing.assert_close(optimal_map(x, GRID, torch.sin, t), expected, rtol=1e-3, atol=1e-5)
    printed = optimal_map(x, GRID, torch.sin, t, form="printed")
    torch.testing.assert_close(printed, shrunk + x.sin(), rtol=1e-3, atol=1e-9)


@given(seed=st.integers(0, 2**31), t=st.floats(1e-3, 10))
@settings(max_examples=30, deadline=None)
def test_the_gap_of_linear_and_constant_residuals(seed, t) -> None:
    g = torch.Generator().manual_seed(seed)
    x, data = (torch.randn(n, 3, dtype=torch.float64, generator=g) for n in (4, 9))
    a, c = torch.randn(3, 3, dtype=torch.float64, generator=g), torch.randn(3, dtype=torch.float64, generator=g)
    torch.testing.assert_close(gap(x, data, lambda y: y @ a + c, t), t * smoothed_score(x, data, t) @ a)
    torch.testing.assert_close(gap(x, data, lambda y: c.expand_as(y), t), torch.zeros_like(x))


def test_where_the_density_is_smooth_the_gap_is_of_the_order_of_the_denoising_itself() -> None:
    x = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64)[:, None]
    times = torch.tensor([0.005, 0.01, 0.02, 0.04], dtype=torch.float64)
    gaps = torch.stack([gap(x, GRID, torch.sin, float(t)) for t in times])
    size = gaps.square().mean((1, 2)).sqrt()
    slope = (size[1:] / size[:-1]).log() / math.log(2)
    torch.testing.assert_close(slope, torch.ones(3, dtype=torch.float64), rtol=0, atol=0.05)
    # ½σ'' + σ' (log μ0)', by Richardson's extrapolation to t = 0.
    limit = 2 * gaps[0] / times[0] - gaps[1] / times[1]
    torch.testing.assert_close(limit, -x.sin() / 2 - x.cos() * x / SPREAD**2, rtol=0.02, atol=2e-3)


def test_between_separate_points_the_gap_is_of_the_order_of_the_noise_itself() -> None:
    data = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [3.0, -2.0]], dtype=torch.float64)
    origin = data.repeat(3000, 1)
    noise = torch.randn(origin.shape, dtype=torch.float64)
    size = torch.stack(
        [gap(origin + math.sqrt(t) * noise, data, torch.sin, t).square().mean().sqrt() for t in (1e-6, 1e-4, 1e-2)]
    )
    slope = (size[1:] / size[:-1]).log() / math.log(100)
    torch.testing.assert_close(slope, torch.full((2,), 0.5, dtype=torch.float64), rtol=0, atol=0.02)


def losses(student, data, residual, t, n=40_000):
    """Of inputs from the data, with the same inputs and the same noise for every student."""
    rows = torch.randint(len(data), (n,), generator=torch.Generator().manual_seed(0))
    return teacher_loss(student, data[rows], residual, t, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("t", [0.1, 1.0])
def test_the_exact_map_has_the_least_loss_and_others_lose_the_square_of_the_difference(t) -> None:
    data = torch.randn(12, 2, dtype=torch.float64)

    def residual(x):
        return (3 * x).sin()

    def exact(x):
        return optimal_map(x, data, residual, t)

    others = {
        "printed": lambda x: optimal_map(x, data, residual, t, form="printed"),
        "teacher": lambda x: x + residual(x),
        "denoiser": lambda x: posterior_mean(x, data, t),
        "shifted": lambda x: exact(x) + 0.1,
        "scaled": lambda x: 1.1 * exact(x),
        "wavy": lambda x: exact(x) + 0.2 * (5 * x).cos(),
    }
    least = losses(exact, data, residual, t)
    for name, other in others.items():
        excess = losses(other, data, residual, t) - least
        error = float(excess.std()) / math.sqrt(len(excess))
        assert float(excess.mean()) > 4 * error, name
        # Pythagoras; (f - target)² - (f* - target)² - (f - f*)² is twice a product whose mean is 0.
        rows = torch.randint(len(data), (len(excess),), generator=torch.Generator().manual_seed(0))
        noise = torch.randn(len(excess), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        noisy = data[rows] + math.sqrt(t) * noise
        square = (other(noisy) - exact(noisy)).square().sum(1)
        rest = excess - square
        assert abs(float(rest.mean())) < 4 * float(rest.std()) / math.sqrt(len(rest)) + 1e-12, name


def test_a_regression_without_assumptions_finds_the_exact_map() -> None:
    """Means of the teacher's outputs in narrow bins of the noisy input."""
    data, t = torch.tensor([[-1.0], [-0.2], [0.9]], dtype=torch.float64), 0.2

    def residual(x):
        return (3 * x).sin()

    clean = data[torch.randint(3, (400_000,))]
    noisy = clean + math.sqrt(t) * torch.randn_like(clean)
    target = clean + residual(clean)
    edges = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    where = torch.bucketize(noisy[:, 0], edges)
    z = {"exact": [], "printed": []}
    for b in range(1, 61):
        inside = where == b
        x, y = noisy[inside], target[inside, 0]
        for form, found in z.items():
            rest = y - optimal_map(x, data, residual, t, form=form)[:, 0]
            found.append(float(rest.mean() / rest.std()) * math.sqrt(len(rest)))
    assert max(map(abs, z["exact"])) < 4.5
    assert max(map(abs, z["printed"])) > 50


def test_without_a_residual_it_denoises_and_modules_are_residuals() -> None:
    x, data = torch.randn(5, 3), torch.randn(8, 3)
    torch.testing.assert_close(optimal_map(x, data, None, 0.3), posterior_mean(x, data, 0.3))
    block = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    loss = optimal_map(x, data, block, 0.3).square().mean()
    loss.backward()
    assert block[0].weight.grad.abs().sum() > 0


def test_gradients() -> None:
    x, data = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (3, 5))
    for form in ("exact", "printed"):
        assert torch.autograd.gradcheck(lambda *a, form=form: optimal_map(*a, torch.sin, 0.4, form=form), (x, data))


def test_the_loss_is_repeatable_and_unreduced() -> None:
    x = torch.randn(50, 2)
    one, two = (
        teacher_loss(torch.sin, x, torch.cos, 0.1, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert one.shape == (50,)
    assert torch.equal(one, two)


def test_errors_name_the_argument() -> None:
    x, data = torch.randn(5, 3), torch.randn(8, 3)
    with pytest.raises(ValueError, match="form: expected one of 'exact', 'printed'"):
        optimal_map(x, data, None, 0.1, form="true")
    with pytest.raises(ValueError, match=r"residual: expected a function that keeps the shape \(8, 3\)"):
        optimal_map(x, data, lambda y: y.sum(1), 0.1)
    with pytest.raises(ValueError, match="t: expected a positive variance, got 0"):
        optimal_map(x, data, None, 0)
    with pytest.raises(ValueError, match="t: expected a positive variance, got -1"):
        teacher_loss(torch.sin, x, None, -1)
    with pytest.raises(TypeError, match="data: expected a floating point tensor"):
        optimal_map(x, data.long(), torch.sin, 0.1)
