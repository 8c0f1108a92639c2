"""The paper's three figures as experiments: identities they rest on, and what they find."""

from __future__ import annotations

import math

import pytest
import torch

from layershift.dynamics.figures import frames_of, speed_and_direction, speed_and_length
from layershift.dynamics.first_step import first_step
from layershift.dynamics.metric import sigma_norm
from layershift.dynamics.network import random_particles
from layershift.dynamics.planar import angle_from_axis, centred_sample, recorded_steps, ridge_problem
from layershift.dynamics.results import Experiment
from layershift.dynamics.velocities import velocity

DOUBLE = torch.float64


def claim(experiment: Experiment, words: str):
    (found,) = [claim for claim in experiment.claims if words in claim.claim]
    return found


@pytest.mark.parametrize(("d", "mirrored"), [(2, False), (2, True), (5, False)])
def test_the_sample_has_exactly_the_moments_that_are_asked_for(d, mirrored) -> None:
    sigma = torch.diag(torch.linspace(5, 1, d, dtype=DOUBLE))
    x = centred_sample(40, sigma, seed=1, mirrored=mirrored)
    assert torch.allclose(x.mT @ x / 40, sigma, atol=1e-12)
    assert float(x.mean(0).abs().max()) < 1e-12
    if mirrored:
        assert torch.allclose(x[:20] * torch.tensor([1.0, -1.0], dtype=DOUBLE), x[20:], atol=1e-12)


def test_recorded_steps_are_gradient_descent() -> None:
    problem = ridge_problem(32)
    a, b = random_particles(2, 6, dtype=DOUBLE)
    states = list(recorded_steps(problem, a, b, kind="plain", rate=0.1, record=[0, 2, 3]))
    own_a, own_b = a.clone(), b.clone()
    for step in range(4):
        v = velocity(problem, own_a, own_b, kind="plain")
        for state in states:
            if state.iteration == step:
                assert torch.allclose(state.a, own_a)
                assert torch.allclose(state.b, own_b)
                assert torch.allclose(state.b_dot, v.b)
        own_a, own_b = own_a + 0.1 * v.a, own_b + 0.1 * v.b
    assert [state.iteration for state in states] == [0, 2, 3]
    assert torch.equal(a, random_particles(2, 6, dtype=DOUBLE)[0]), "the start is not changed"


def test_turning_is_the_angle_s_derivative() -> None:
    problem = ridge_problem(32)
    a, b = random_particles(2, 6, dtype=DOUBLE)
    now, _ = recorded_steps(problem, a, 3 * b, kind="batch_norm", rate=1e-7, record=[0, 1])
    later = list(recorded_steps(problem, a, 3 * b, kind="batch_norm", rate=1e-7, record=[0, 1]))[1]
    assert (later.angle - now.angle).abs() / 1e-7 == pytest.approx(now.turning, rel=1e-4)


def test_a_relu_s_velocity_is_the_plain_force_over_its_norm_across_the_neuron() -> None:
    """Figure 1: with the same residual, the metric's part is 1/‖b‖ in the norm of Σ, and a projection."""
    problem = ridge_problem(64)._replace(y=torch.ones(64, dtype=DOUBLE))
    _, b = random_particles(2, 9, dtype=DOUBLE)
    a = torch.zeros(9, dtype=DOUBLE)  # no output: the residual is the same for both
    a[0] = 1e-12
    normal = velocity(problem, a, b, kind="batch_norm").b[0]
    force = velocity(problem, a, b, kind="plain").b[0]
    length, sigma = sigma_norm(b[0], problem.sigma), problem.sigma
    expected = (force - sigma @ b[0] * (b[0] @ force) / length**2) / length
    assert torch.allclose(normal, expected, rtol=1e-6, atol=0)


def test_angles_from_the_axis_and_frames() -> None:
    angle = torch.deg2rad(torch.tensor([0.0, 30.0, 150.0, -170.0, 90.0], dtype=DOUBLE))
    assert angle_from_axis(angle).tolist() == pytest.approx([0, 30, 30, 10, 90])
    assert frames_of(10, 2, [3]) == [0, 3, 5, 10]


@pytest.fixture(scope="module")
def first():
    return speed_and_direction(m=60, n=64, rate=0.02, at=100, shown=(0, 500, 1000), frames=5, seeds=2)


def test_figure_1_neurons_gather_along_the_large_direction(first) -> None:
    along = claim(first, "gather along")
    assert along.holds
    assert along.value > claim(first, "same share without").value + 0.1
    assert claim(first, "turn faster where the data are small").holds
    assert claim(first, "metric alone").value < 1, "without normalisation they are faster at first"
    assert [ring.title for ring in first.rings] == ["with batch normalisation", "without"]
    assert list(first.shown) == [0, 500, 1000]
    assert set(first.shown) <= set(first.rings[0].iterations)
    assert len(first.rings[0].groups["with batch normalisation"][0]) == 60
    speeds = first.plots[0].curves[0]
    assert len(speeds.x) == 60
    assert list(speeds.x) == sorted(speeds.x)


def test_figure_2_ten_times_shorter_moves_ten_times_faster() -> None:
    found = speed_and_length(m=60, n=64, rate=0.02, shown=(0, 500, 1000), frames=4, seeds=2)
    assert claim(found, "10 times shorter").value == pytest.approx(10, rel=1e-12)
    assert claim(found, "100 times").value == pytest.approx(100, rel=1e-12)
    assert claim(found, "Without batch normalisation").value == pytest.approx(1, rel=1e-12)
    assert all(row.holds for row in found.claims if row.holds is not None)
    assert claim(found, "Lengths stay as they are: length 10").value > 0
    groups = found.rings[0].groups
    assert groups["length 1"][0] == pytest.approx(groups["length 10"][0])
    assert groups["length 1"][-1] != pytest.approx(groups["length 10"][-1], abs=0.05)


def test_figure_3_the_first_step_and_what_it_leaves() -> None:
    found = first_step(m=40, n=64, steps=20, scales=(1e-3, 3e-3, 1e-2, 0.1, 1.0, 10.0), seeds=2)
    assert claim(found, "after the first step").value < 1e-10
    assert claim(found, "No length ever falls").holds
    assert claim(found, "the longer it becomes").value == pytest.approx(-1, abs=0.01)
    assert not claim(found, "keep learning faster").holds
    theory = next(curve for curve in found.plots[0].curves if curve.name.startswith("√"))
    measured = next(curve for curve in found.plots[0].curves if curve.name == "after 1 step")
    assert list(measured.y) == pytest.approx(list(theory.y), rel=1e-9)


@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 10.0])
def test_norms_grow_by_the_formula(c) -> None:
    problem, rate = ridge_problem(64), 0.05
    a, b = random_particles(2, 10, dtype=DOUBLE)
    before, after = recorded_steps(problem, a, c * b, kind="batch_norm", rate=rate, record=[0, 1])
    expected = before.b.square().sum(1) + rate**2 * before.b_dot.square().sum(1)
    assert torch.allclose(after.b.square().sum(1), expected, rtol=1e-10)
    one = velocity(problem, a, b, kind="batch_norm").b
    assert torch.allclose(before.b_dot * c, one, rtol=1e-9, atol=1e-12), "speed goes like 1/c"
    least = math.sqrt(2 * rate) * one.norm(dim=1).sqrt()
    assert bool((after.b.norm(dim=1) >= least * (1 - 1e-9)).all())
