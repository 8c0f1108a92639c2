"""Distances between measures of particles, the energy identity, and convergence in the width."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.dynamics.energy import dissipation, energy_gap
from layershift.dynamics.flows import flow
from layershift.dynamics.losses import activate, loss_values
from layershift.dynamics.many_neurons import even_draw, planar_draw
from layershift.dynamics.mean_field import direction_distance, ground_distance, particle_wasserstein
from layershift.dynamics.metric import inner_product, to_ellipsoid
from layershift.dynamics.network import TwoLayerBN, random_particles
from layershift.dynamics.planar import ridge_problem
from layershift.dynamics.two_flows import Case, random_covariance, random_problem
from layershift.dynamics.width_convergence import WidthRow, convergence_in_width, fitted_rate, outputs

DOUBLE = torch.float64


def case(d: int, m: int, seed: int = 0, condition: float = 100.0):
    sigma = random_covariance(d, condition, seed=seed)
    a, b = random_particles(d, m, seed=seed, dtype=DOUBLE)
    return a, b, sigma


@pytest.mark.parametrize("d", [2, 3, 7])
def test_the_geodesic_distance_is_the_length_of_the_shortest_way_in_the_metric(d) -> None:
    """Great circles, carried to Ω and measured there by the metric; other ways are longer."""
    _, b, sigma = case(d, 2, seed=d)
    expected = direction_distance(b[:1], b[1:], sigma=sigma).item()
    s = torch.linspace(0, 1, 4001, dtype=DOUBLE)[:, None]

    def length(way):
        points = to_ellipsoid(way, sigma)
        middle, step = (points[1:] + points[:-1]) / 2, points.diff(dim=0)
        return float(inner_product(middle, step, step).sqrt().sum())

    assert length((1 - s) * b[0] + s * b[1]) == pytest.approx(expected, rel=1e-6)
    if d > 2:
        detour = (1 - s) * b[0] + s * b[1] + 0.3 * (math.pi * s).sin() * torch.linalg.svd(b)[2][-1]
        assert length(detour) > 1.01 * expected


def test_the_arc_is_the_length_along_the_ellipse_by_quadrature() -> None:
    _, b, sigma = case(2, 12, seed=3, condition=20.0)
    angle = torch.atan2(b[:, 1], b[:, 0])
    found = direction_distance(b, b, sigma=sigma, ground="arc")
    for i, j in itertools.combinations(range(6), 2):
        ways = []
        for turn in (0.0, 2 * math.pi):
            low, high = float(angle[i]), float(angle[j]) + turn
            t = torch.linspace(low, high, 40_001, dtype=DOUBLE)
            points = to_ellipsoid(torch.stack([t.cos(), t.sin()], 1), sigma)
            ways.append(float(points.diff(dim=0).norm(dim=1).sum()))
        t = torch.linspace(float(angle[i]), float(angle[j]) - 2 * math.pi, 40_001, dtype=DOUBLE)
        points = to_ellipsoid(torch.stack([t.cos(), t.sin()], 1), sigma)
        ways.append(float(points.diff(dim=0).norm(dim=1).sum()))
        assert float(found[i, j]) == pytest.approx(min(ways), rel=1e-6)


def test_the_correlation_angle_is_that_of_what_neurons_see() -> None:
    problem = random_problem(Case(3, 50.0, "tanh", "squared"), 200)
    _, b = random_particles(3, 5, dtype=DOUBLE)
    seen = problem.x @ b.mT
    correlation = np.corrcoef(seen.numpy().T).clip(-1, 1)
    found = direction_distance(b, b, sigma=problem.sigma, ground="correlation")
    assert np.cos(found.numpy()) == pytest.approx(correlation, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(0, 1000), st.sampled_from(["geodesic", "chordal", "correlation"]))
def test_ground_distances_are_metrics_that_know_directions_alone(d, seed, ground) -> None:
    a, b, sigma = case(d, 6, seed=seed)
    found = ground_distance(a, b, a, b, sigma=sigma, ground=ground)
    assert float(found.diagonal().abs().max()) < 1e-7
    assert torch.allclose(found, found.mT)
    assert bool((found[:, :, None] <= found[:, None] + found.mT[None] + 1e-9).all())
    longer = ground_distance(a, 7 * b, a, b, sigma=sigma, ground=ground)
    assert torch.allclose(longer, found, atol=1e-6)
    root = torch.linalg.cholesky(sigma).mT
    near = ground_distance(a, b, a, b + 1e-9 * root.sum(), sigma=sigma, ground=ground).diagonal()
    assert bool((near < 1e-5).all())


def test_small_angles_keep_their_digits() -> None:
    b = torch.tensor([[1.0, 0.0], [1.0, 1e-9], [-1.0, 1e-9]], dtype=DOUBLE)
    found = direction_distance(b[:1], b, sigma=torch.eye(2, dtype=DOUBLE))[0]
    assert float(found[1]) == pytest.approx(1e-9, rel=1e-6)
    assert math.pi - float(found[2]) == pytest.approx(1e-9, rel=1e-6)


@pytest.mark.parametrize("ground", ["geodesic", "chordal", "arc", "correlation"])
def test_exact_transport_is_the_best_of_all_matchings(ground) -> None:
    a, b, sigma = case(2, 10, seed=4)
    cost = ground_distance(a[:5], b[:5], a[5:], b[5:], sigma=sigma, ground=ground).square()
    best = min(sum(float(cost[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(5)))
    found = particle_wasserstein(a[:5], b[:5], a[5:], b[5:], sigma=sigma, ground=ground)
    assert float(found) == pytest.approx(math.sqrt(best / 5), rel=1e-9)


def test_unequal_numbers_of_particles_share_their_mass() -> None:
    a, b, sigma = case(3, 4)
    doubled = particle_wasserstein(a, b, a.repeat(2), b.repeat(2, 1), sigma=sigma)
    assert float(doubled) < 1e-7
    one = particle_wasserstein(a[:1], b[:1], a, b, sigma=sigma)
    mean = ground_distance(a[:1], b[:1], a, b, sigma=sigma).square().mean().sqrt()
    assert float(one) == pytest.approx(float(mean), rel=1e-9)


def test_the_sliced_distance_is_below_the_exact_one_and_equals_it_for_shifts() -> None:
    a, b, sigma = case(3, 200)
    other_a, other_b, _ = case(3, 300, seed=1)
    g = torch.Generator().manual_seed(0)
    exact = particle_wasserstein(a, b, other_a, other_b, sigma=sigma, ground="chordal")
    sliced = particle_wasserstein(
        a, b, other_a, other_b, sigma=sigma, ground="chordal", method="sliced", projections=2000, generator=g
    )
    assert 0.3 * exact < sliced < 1.02 * exact
    shift = particle_wasserstein(
        a, b, a + 3, b, sigma=sigma, ground="chordal", method="sliced", projections=4000, generator=g
    )
    assert float(shift) == pytest.approx(3.0, rel=0.05)


def test_errors_name_the_argument() -> None:
    a, b, sigma = case(3, 4)
    with pytest.raises(ValueError, match="ground: expected one of"):
        ground_distance(a, b, a, b, sigma=sigma, ground="flat")
    with pytest.raises(ValueError, match="directions in the plane, got d = 3"):
        direction_distance(b, b, sigma=sigma, ground="arc")
    with pytest.raises(ValueError, match="ground: expected 'chordal' for the sliced distance"):
        particle_wasserstein(a, b, a, b, sigma=sigma, method="sliced")
    with pytest.raises(ValueError, match=r"other_a: expected shape \(4,\)"):
        ground_distance(a, b, a[:2], b, sigma=sigma)
    many = torch.zeros(5000)
    with pytest.raises(ValueError, match="method: expected 'sliced' beyond"):
        particle_wasserstein(many, torch.ones(5000, 2), many, torch.ones(5000, 2), sigma=torch.eye(2))


def naive_loss(problem, a, b, normalised):
    directions = to_ellipsoid(b, problem.sigma) if normalised else b
    f = activate(problem.x @ directions.mT, problem.activation) @ a / len(a)
    return loss_values(f, problem.y, problem.loss).mean()


@pytest.mark.parametrize("kind", ["batch_norm", "manifold", "plain"])
@pytest.mark.parametrize(("activation", "loss"), [("tanh", "squared"), ("softplus", "logistic"), ("relu", "squared")])
def test_the_energy_identity_is_the_loss_s_derivative_along_the_velocity(kind, activation, loss) -> None:
    """The derivative by autograd, along the closed-form velocity, with lengths other than 1."""
    from layershift.dynamics.velocities import velocity

    problem = random_problem(Case(4, 1e3, activation, loss), 40)
    a, b = random_particles(4, 9, seed=2, dtype=DOUBLE)
    norms = torch.linspace(0.5, 2, 9, dtype=DOUBLE) if kind == "manifold" else None
    b = to_ellipsoid(b, problem.sigma) if kind == "manifold" else b * torch.linspace(0.3, 2, 9, dtype=DOUBLE)[:, None]
    v = velocity(problem, a, b, kind=kind, norms=norms)
    _, along = torch.func.jvp(lambda a, b: naive_loss(problem, a, b, kind == "batch_norm"), (a, b), (v.a, v.b))
    found, rate = dissipation(problem, a, b, kind=kind, norms=norms)
    assert float(found) == pytest.approx(float(naive_loss(problem, a, b, kind == "batch_norm")), rel=1e-12)
    assert float(rate) == pytest.approx(-float(along), rel=1e-10)
    assert rate > 0


def test_the_lost_loss_is_the_integral_and_bounds_the_way_in_the_metric() -> None:
    problem = ridge_problem(64)._replace(activation="softplus")
    times = torch.linspace(0, 2, 41, dtype=DOUBLE)
    found = flow(problem, *planar_draw(24, 0), kind="batch_norm", times=times, rtol=1e-8, atol=1e-10)
    rate = torch.stack([dissipation(problem, a, b)[1] for a, b in zip(found.a, found.b, strict=True)])
    assert energy_gap(times, found.loss, rate) < 1e-6
    assert bool((found.loss.diff() < 0).all())
    for s, t in ((0, 10), (10, 40), (0, 40)):
        moved = particle_wasserstein(found.a[s], found.b[s], found.a[t], found.b[t], sigma=problem.sigma)
        assert moved.square() <= (times[t] - times[s]) * (found.loss[s] - found.loss[t])


def test_the_energy_gap_wants_an_odd_number_of_times() -> None:
    with pytest.raises(ValueError, match="times: expected an odd number of times"):
        energy_gap(torch.arange(4.0), torch.ones(4), torch.ones(4))


def test_outputs_are_those_of_the_network() -> None:
    problem = random_problem(Case(3, 10.0, "softplus", "squared"), 20)
    a, b = random_particles(3, 7, dtype=DOUBLE)
    network = TwoLayerBN(3, 7, sigma=problem.sigma, activation="softplus", a=a, b=b)
    assert torch.allclose(outputs(problem, a, b), network(problem.x))


def test_wider_networks_are_nearer_to_the_widest_at_every_time() -> None:
    problem = ridge_problem(32)
    rows = convergence_in_width(
        problem, planar_draw, even_draw(256), widths=(4, 16, 64), seeds=range(4), times=(0.0, 1.0), step=0.05
    )
    assert len(rows) == 3 * 4 * 2
    for time in (0.0, 1.0):
        own = [row for row in rows if row.time == time]
        rate = fitted_rate(own, of="distance")
        assert rate.n == 4
        assert 0.25 < rate.value < 0.75


def test_a_rate_is_the_slope_of_each_seed() -> None:
    rows = [WidthRow(m, s, 0.0, (1 + s) * m ** -(0.5 + 0.1 * s), 1.0) for m in (8, 32, 128) for s in (0, 1)]
    rate = fitted_rate(rows, of="distance")
    assert rate.value == pytest.approx(0.55)
    assert rate.stderr == pytest.approx(0.05)
    with pytest.raises(ValueError, match="rows: expected at least two widths, got 1"):
        fitted_rate(rows[:1])
