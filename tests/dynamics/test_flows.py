"""Gradient flows: theorem 2 over a horizon, what is conserved, and both integrators against SciPy's."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch
from scipy.integrate import solve_ivp
from tests.dynamics.neurons import normal, points, problem

from layershift.dynamics.flows import flow
from layershift.dynamics.metric import inner_product, sigma_norm, to_ellipsoid
from layershift.dynamics.velocities import KINDS, velocity

TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("activation", "loss", "condition", "horizon", "samples"),
    [
        ("tanh", "squared", 5.0, 2.5, 40),
        ("tanh", "logistic", 30.0, 16.0, 40),
        ("softplus", "squared", 30.0, 4.0, 40),
        ("relu", "squared", 5.0, 3.0, 12),
    ],
)
def test_theorem_2_both_flows_are_one(activation, loss, condition, horizon, samples) -> None:
    even = 0.0 if activation == "tanh" else 0.5
    learnt = problem(samples, 3, activation=activation, loss=loss, condition=condition, even=even)
    m = 6 if activation == "relu" else 12
    a, b = normal(m, seed=1), normal(m, 3, seed=2)
    times = torch.linspace(0, horizon, 5, dtype=torch.float64)
    euclidean = flow(learnt, a, b, kind="batch_norm", times=times, **TIGHT)
    start = to_ellipsoid(b, learnt.sigma)
    manifold = flow(learnt, a, start, kind="manifold", times=times, norms=b.norm(dim=1), **TIGHT)
    assert euclidean.loss[-1] < euclidean.loss[0] / 2
    for k in range(5):
        assert relative(to_ellipsoid(euclidean.b[k], learnt.sigma), manifold.b[k]) < 1e-6
        assert relative(euclidean.a[k], manifold.a[k]) < 1e-6
    assert relative(euclidean.loss, manifold.loss) < 1e-6
    # Norms are conserved, and the manifold is not left.
    torch.testing.assert_close(euclidean.b.norm(dim=2), b.norm(dim=1).expand(5, -1), rtol=1e-7, atol=0)
    torch.testing.assert_close(sigma_norm(manifold.b, learnt.sigma), torch.ones(5, m).double(), rtol=1e-7, atol=0)


def test_without_the_norms_the_flows_are_two() -> None:
    learnt = problem(40, 3)
    a, b = normal(12, seed=1), 2 * torch.nn.functional.normalize(normal(12, 3, seed=2))
    times = torch.tensor([0.0, 2.0])
    euclidean = flow(learnt, a, b, kind="batch_norm", times=times)
    manifold = flow(learnt, a, to_ellipsoid(b, learnt.sigma), kind="manifold", times=times)
    assert relative(to_ellipsoid(euclidean.b[-1], learnt.sigma), manifold.b[-1]) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_never_rises_and_falls_at_the_squared_speed(kind) -> None:
    learnt = problem(40, 3, activation="softplus")
    a, b = normal(12, seed=1), points(12, learnt.sigma, 2)
    found = flow(learnt, a, b, kind=kind, times=torch.linspace(0, 5, 40, dtype=torch.float64), **TIGHT)
    assert (found.loss.diff() < 0).all()
    around = flow(learnt, a, b, kind=kind, times=torch.tensor([0, 1e-3, 2e-3]).double(), rtol=1e-12, atol=1e-13)
    v = velocity(learnt, around.a[1], around.b[1], kind=kind)
    squares = inner_product(around.b[1], v.b, v.b) if kind == "manifold" else v.b.square().sum(1)
    speed = (v.a.square().sum() + squares.sum()) / 12
    torch.testing.assert_close((around.loss[0] - around.loss[2]) / 2e-3, speed, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_against_scipy(kind) -> None:
    learnt = problem(20, 3)
    a, b = normal(4, seed=1), points(4, learnt.sigma, 2)

    def along(_, state):
        state = torch.from_numpy(state)
        v = velocity(learnt, state[:4].clone(), state[4:].clone().view(4, 3), kind=kind)
        return torch.cat([v.a, v.b.flatten()]).numpy()

    start = torch.cat([a, b.flatten()]).numpy()
    theirs = solve_ivp(along, (0, 3), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    found = flow(learnt, a, b, kind=kind, times=torch.tensor([0.0, 3.0]), **TIGHT)
    ours = torch.cat([found.a[-1], found.b[-1].flatten()])
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_euler_converges_with_its_step(kind) -> None:
    learnt = problem(20, 3)
    a, b = normal(4, seed=1), points(4, learnt.sigma, 2)
    times = torch.tensor([0, 0.7, 2], dtype=torch.float64)
    exact = flow(learnt, a, b, kind=kind, times=times, **TIGHT)
    gaps = []
    for step in (0.1, 0.05, 0.025):
        found = flow(learnt, a, b, kind=kind, times=times, method="euler", step=step)
        gaps.append(float((found.b[-1] - exact.b[-1]).norm()))
        if kind == "manifold":
            torch.testing.assert_close(sigma_norm(found.b, learnt.sigma), torch.ones(3, 4).double(), rtol=1e-13, atol=0)
    for coarse, fine in pairwise(gaps):
        assert coarse / fine == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("method", ["euler", "adaptive"])
def test_the_start_is_kept_and_comes_first(method) -> None:
    learnt = problem(20, 3)
    a, b = normal(4, seed=1), normal(4, 3, seed=2)
    before = b.clone()
    step = 0.1 if method == "euler" else None
    found = flow(learnt, a, b, kind="plain", times=torch.tensor([0.0, 1.0]), method=method, step=step)
    assert torch.equal(b, before)
    assert torch.equal(found.b[0], before)
    once = flow(learnt, a, b, kind="plain", times=torch.tensor([0.0]), method=method, step=step)
    assert torch.equal(once.b[0], before)
    torch.testing.assert_close(once.loss[0], velocity(learnt, a, b, kind="plain").loss)


def test_errors(monkeypatch) -> None:
    learnt, a, b = problem(10, 3), normal(4, seed=0), normal(4, 3, seed=0)
    times = torch.tensor([0.0, 1.0])
    for change, message in (
        ({"method": "rk4"}, "method: expected one of 'adaptive', 'euler', got 'rk4'"),
        ({"times": torch.tensor([1.0, 0.0])}, r"times: expected one time or more, rising, got \[1.0, 0.0\]"),
        ({"times": torch.zeros(1, 1)}, r"times: expected a tensor of shape \(T,\)"),
        ({"method": "euler"}, "step: expected a positive number for method 'euler', got None"),
        ({"step": 0.1}, "step: expected None for method 'adaptive'"),
        ({"rtol": 0.0}, "rtol: expected a positive number"),
        ({"kind": "sphere"}, "kind: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            flow(learnt, a, b, **{"kind": "plain", "times": times, **change})
    with pytest.raises(TypeError, match=r"times: expected a floating point tensor, got torch.int64"):
        flow(learnt, a, b, kind="plain", times=torch.tensor([0, 1]))
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ModuleNotFoundError, match=r'torchdiffeq is not installed; run: pip install "layershift\[dyna'):
        flow(learnt, a, b, kind="plain", times=times)
