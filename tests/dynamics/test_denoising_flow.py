"""Theorems 2 and 3: what the layers do to a density, and when they bring it closer to a target."""

from __future__ import annotations

import math

import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.dynamics.denoising_flow import backward_heat, denoising_flow, flow_wasserstein
from layershift.dynamics.residual_teacher import optimal_map
from layershift.functional import exact_wasserstein, gaussian_wasserstein, normal_quantile, smoothed_score


def normal_grid(n=800, spread=1.0):
    return spread * normal_quantile((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


def covariance(g, m=3, least=0.3):
    a = torch.randn(m, m, dtype=torch.float64, generator=g)
    return a @ a.mT + least * torch.eye(m, dtype=torch.float64)


def symmetric_root(a):
    values, vectors = torch.linalg.eigh(a)
    return vectors * values.sqrt() @ vectors.mT


def optimal_matrix(a, b):
    """The linear map that carries N(0, A) to N(0, B) at least cost."""
    root = symmetric_root(a)
    inverse = torch.linalg.inv(root)
    return inverse @ symmetric_root(root @ b @ root) @ inverse


# What a layer does


@pytest.mark.parametrize("form", ["exact", "printed"])
def test_a_flow_is_optimal_maps_one_after_another(form) -> None:
    x = torch.randn(30, 2, dtype=torch.float64)
    flow = denoising_flow(x, t=0.6, steps=3, residual=torch.sin, form=form)
    expected = [x]
    for _ in range(3):
        y = expected[-1]
        expected.append(optimal_map(y, y, lambda z: 0.2 * z.sin(), 0.2, form=form))
    torch.testing.assert_close(flow.points, torch.stack(expected))
    torch.testing.assert_close(flow.times, torch.tensor([0, 0.2, 0.4, 0.6], dtype=torch.float64))


def test_with_noise_of_its_own_a_layer_is_a_step_along_score_and_residual() -> None:
    x = torch.randn(30, 2, dtype=torch.float64)
    flow = denoising_flow(x, t=0.1, steps=1, residual=torch.sin, noise=0.5, form="printed")
    torch.testing.assert_close(flow.points[1], x + 0.1 * (smoothed_score(x, x, 0.5) + x.sin()))


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_the_variance_of_a_gaussian_falls_as_the_smoothed_equation_says(noise) -> None:
    """With d(s²)/dt = -2s²/(s² + b), s² + b log s² falls by 2t."""
    flow = denoising_flow(normal_grid(), t=0.2, steps=40, noise=noise)
    for t, points in zip(flow.times[::10], flow.points[::10], strict=True):
        expected = scipy.optimize.brentq(lambda v, t=t: v + noise * math.log(v) - 1 + 2 * float(t), 1e-9, 1)
        assert float(points.var()) == pytest.approx(expected, rel=0.02)
        assert abs(float(points.mean())) < 1e-9


def test_with_less_noise_it_comes_closer_to_the_backward_heat_equation() -> None:
    ends = [float(denoising_flow(normal_grid(), t=0.1, steps=20, noise=b).points[-1].var()) for b in (0.2, 0.1, 0.05)]
    expected = float(backward_heat(torch.eye(1, dtype=torch.float64), 0.1))
    errors = [abs(end - expected) for end in ends]
    assert errors[0] > 1.6 * errors[1] > 1.6 * 1.6 * errors[2]


def test_points_with_less_noise_than_gaps_stay_where_they_are() -> None:
    x = torch.arange(20, dtype=torch.float64)[:, None]
    flow = denoising_flow(x, t=1e-3, steps=10)
    torch.testing.assert_close(flow.points[-1], x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [4, 8, 12])
def test_ripples_grow_at_their_rate(k) -> None:
    """On an even density cos(kx) grows by k² exp(-k²b/2): the equation is ill-posed, and noise b tames it."""
    n, b, h, height = 6000, 0.02, 1e-4, 1e-3
    even = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 6 * torch.pi - 3 * torch.pi
    x = (even - height / k * (k * even).sin())[:, None]  # density ∝ 1 + height cos(kx), to first order
    moved = denoising_flow(x, t=h, steps=1, noise=b).points[1] - x
    inside = even.abs() < torch.pi
    wave = (k * even[inside]).sin()
    speed = float((moved[inside, 0] * wave).sum() / wave.square().sum()) / h
    assert -speed * k / height == pytest.approx(k**2 * math.exp(-(k**2) * b / 2), rel=0.01)


def test_the_closed_form_solves_the_backward_heat_equation() -> None:
    start = covariance(torch.Generator().manual_seed(1), m=2)
    t = torch.tensor(0.1, dtype=torch.float64)

    def density(x, t):
        at = backward_heat(start, t)
        return torch.exp(-x @ torch.linalg.solve(at, x) / 2) / torch.linalg.det(at).sqrt()

    for x in torch.randn(5, 2, dtype=torch.float64):
        (rate,) = torch.autograd.grad(density(x, s := t.clone().requires_grad_()), s)
        laplacian = torch.autograd.functional.hessian(lambda y: density(y, t), x).trace()
        torch.testing.assert_close(rate, -laplacian)


def test_the_equation_ends_where_a_dimension_is_lost() -> None:
    start = torch.diag(torch.tensor([1.0, 0.5]))
    found = backward_heat(start, torch.tensor([0.2, 0.26]))
    torch.testing.assert_close(found[0], torch.diag(torch.tensor([0.6, 0.1])))
    assert found[1].isnan().all()


# When the distance to a target falls


@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_slope_is_the_mean_divergence_of_the_optimal_map_less_the_dimension(seed) -> None:
    g = torch.Generator().manual_seed(seed)
    layer, target = covariance(g), covariance(g)
    zero, t = torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64, requires_grad=True)
    square = gaussian_wasserstein(zero, backward_heat(layer, t), zero, target).square()
    (slope,) = torch.autograd.grad(square, t)
    expected = 2 * (optimal_matrix(layer, target).trace() - 3)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)
    # And no less than what entropies allow: with less entropy than the target it must rise.
    entropies = (torch.logdet(target) - torch.logdet(layer)) / 2
    assert slope >= 2 * entropies - 1e-9
    if entropies > 0:
        assert slope > 0


@pytest.mark.parametrize("width", [0.3, 0.8, 1.0, 1.5])
def test_it_falls_until_the_layer_is_as_narrow_as_the_target_and_rises_from_there(width) -> None:
    times = torch.linspace(0, 0.49, 200, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    eye = torch.eye(1, dtype=torch.float64)
    distance = gaussian_wasserstein(zero, backward_heat(eye, times), zero, width**2 * eye)
    turn = max(0.0, (1 - width**2) / 2)
    assert (distance[times < turn].diff() < 0).all()
    assert (distance[times > turn].diff() > 0).all()


def test_a_teacher_that_changes_nothing_is_left_behind_from_the_start() -> None:
    """The case that theorems 2 and 3 speak of without a residual: the target is the input, at distance 0."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(150, 2, dtype=torch.float64, generator=g)
    distance = flow_wasserstein(denoising_flow(x, t=0.2, steps=10, noise=0.1).points, x).value
    assert distance[0] == 0
    assert (distance.diff() > 0).all()


def test_points_that_were_blurred_come_closer_to_what_they_were() -> None:
    """A ring, and noise of variance 0.1 on it, which the equation takes back in the time 0.05."""
    g = torch.Generator().manual_seed(0)
    angle = torch.arange(300, dtype=torch.float64) * 2 * torch.pi / 300
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    blurred = ring + math.sqrt(0.1) * torch.randn(300, 2, dtype=torch.float64, generator=g)
    distance = flow_wasserstein(denoising_flow(blurred, t=0.05, steps=10, noise=0.03).points, ring).value
    assert (distance.diff() < 0).all()
    assert distance[-1] < 0.8 * distance[0]
    # The same layers lead away from a target that is blurred more.
    wider = ring + math.sqrt(0.3) * torch.randn(300, 2, dtype=torch.float64, generator=g)
    distance = flow_wasserstein(denoising_flow(blurred, t=0.05, steps=10, noise=0.03).points, wider).value
    assert (distance.diff() > 0).all()


def test_a_residual_that_leads_to_the_target_can_outweigh_the_denoising() -> None:
    """W2² = c²(1 - t/T)² + (s0 - s_t)² for a teacher that moves by c in the time T, and layers that shrink."""
    x, c, t = normal_grid(200), 0.5, 0.1
    flow = denoising_flow(x, t=t, steps=20, noise=0.1, residual=lambda y: torch.full_like(y, c / t))
    found = flow_wasserstein(flow.points, x + c).value
    moved = (c * (1 - flow.times / t)).square()
    shrunk = (flow.points - flow.points.mean(1, keepdim=True) - x).square().mean((1, 2))
    torch.testing.assert_close(found, (moved + shrunk).sqrt(), rtol=1e-5, atol=1e-7)
    assert (found[:18].diff() < 0).all()
    assert found[-1] > 0.05  # and the end is not the target


def test_the_slope_for_particles_is_along_the_optimal_coupling() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, 2, dtype=torch.float64, generator=g) for _ in range(2))
    step = 1e-6
    flow = denoising_flow(x, t=step, steps=1, residual=torch.sin, noise=0.2, form="printed")
    before, after = flow_wasserstein(flow.points, y).value.square()
    plan = scipy.optimize.linear_sum_assignment(torch.cdist(x, y).square().numpy())[1]
    velocity = smoothed_score(x, x, 0.2) + x.sin()
    expected = 2 * ((x - y[plan]) * velocity).sum(1).mean()
    assert float(after - before) / step == pytest.approx(float(expected), rel=1e-3)


def test_distances_along_a_flow_are_exact_ones() -> None:
    points, target = torch.randn(3, 25, 2), torch.randn(25, 2)
    found = flow_wasserstein(points, target)
    for i in range(3):
        one = exact_wasserstein(points[i], target, p=2)
        assert found.value[i] == one.value
        assert found.stderr[i] == one.stderr


def test_errors_name_the_argument() -> None:
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="t: expected a positive time"):
        denoising_flow(x, t=0.0, steps=1)
    with pytest.raises(ValueError, match="steps: expected at least 1 layer"):
        denoising_flow(x, t=1.0, steps=0)
    with pytest.raises(ValueError, match=r"noise: expected at least the time of a layer, 0\.1, got 0\.01"):
        denoising_flow(x, t=1.0, steps=10, noise=0.01)
    with pytest.raises(ValueError, match=r"points: expected a tensor of shape \(N, m\)"):
        denoising_flow(x[0], t=1.0, steps=1)
    with pytest.raises(ValueError, match=r"points: expected a tensor of shape \(T, N, m\)"):
        flow_wasserstein(x, x)
    with pytest.raises(ValueError, match=r"covariance: expected a tensor of shape \(…, m, m\)"):
        backward_heat(x, 0.1)
