"""Descent in finite steps: as PyTorch's SGD does it, growing norms, and what it is on the manifold."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from tests.dynamics.neurons import CONDITIONS, DIMENSIONS, SEEDS, normal, points, problem

from layershift.dynamics.losses import ACTIVATIONS, loss_values
from layershift.dynamics.metric import sigma_norm, to_ellipsoid
from layershift.dynamics.network import TwoLayer, TwoLayerBN
from layershift.dynamics.steps import descend
from layershift.dynamics.velocities import KINDS, velocity

some = settings(max_examples=20, deadline=None)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["batch_norm", "plain"])
def test_it_is_sgd_over_all_samples(kind, activation) -> None:
    learnt, m, d, rate = problem(30, 4, activation=activation), 6, 4, 0.3
    a, b = normal(m, seed=1), normal(m, d, seed=2)
    if kind == "plain":
        network = TwoLayer(d, m, activation=activation, a=a, b=b)
    else:
        network = TwoLayerBN(d, m, sigma=learnt.sigma, activation=activation, a=a, b=b)
    optimizer, losses = torch.optim.SGD(network.parameters(), lr=m * rate), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_values(network(learnt.x), learnt.y, learnt.loss).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    descent = descend(learnt, a, b, kind=kind, rate=rate, steps=20)
    torch.testing.assert_close(descent.loss, torch.stack(losses), rtol=1e-11, atol=0)
    torch.testing.assert_close(a, network.a.data, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(b, network.b.data, rtol=1e-10, atol=1e-12)


@some
@given(DIMENSIONS, CONDITIONS, SEEDS)
def test_norms_grow_by_the_gradient(d, condition, seed) -> None:
    learnt = problem(30, d, condition=condition, seed=seed, own=False)
    a, b = normal(5, seed=seed), normal(5, d, seed=seed + 1)
    gradient = velocity(learnt, a, b, kind="batch_norm").b
    for rate in (0.01, 1.0, 100.0):
        after = b.clone()
        descend(learnt, a.clone(), after, kind="batch_norm", rate=rate, steps=1)
        expected = b.square().sum(1) + rate**2 * gradient.square().sum(1)
        torch.testing.assert_close(after.square().sum(1), expected, rtol=1e-13 * (10 + condition), atol=0)


def test_norms_never_fall_and_short_neurons_jump_first() -> None:
    learnt = problem(60, 3, activation="relu")
    lengths = torch.tensor([1e-3, 0.1, 1.0, 10.0], dtype=torch.float64)
    a, b = torch.ones(4).double(), lengths[:, None] * torch.nn.functional.normalize(normal(1, 3, seed=2))
    descent = descend(learnt, a, b, kind="batch_norm", rate=0.05, steps=50, record=range(51))
    norms = descent.b.norm(dim=2)
    assert (norms.diff(dim=0) >= -1e-14).all()
    # Neurons of one direction: the gradient goes like one over the length.
    growth = (norms[1].square() - norms[0].square()).sqrt() * lengths
    torch.testing.assert_close(growth, growth[:1].expand(4), rtol=1e-3, atol=0)
    assert norms[1, 0] > 1000 * norms[0, 0]
    later = norms[-1, 0] / norms[1, 0]
    assert later < 1.001  # it hardly moves once it is long


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rate", [0.1, 1.5])
def test_normalised_descent_is_riemannian_descent_with_a_rate_for_each_neuron(activation, rate) -> None:
    """Exactly, for steps of any length, with norms that start anywhere."""
    learnt = problem(40, 3, activation=activation, condition=20.0)
    a, b = normal(6, seed=1), normal(6, 3, seed=2) * torch.tensor([0.1, 0.3, 1, 1, 3, 10]).double()[:, None]
    other_a, other_b, norms = a.clone(), to_ellipsoid(b, learnt.sigma), b.norm(dim=1)
    one = descend(learnt, a, b, kind="batch_norm", rate=rate, steps=30)
    two = descend(learnt, other_a, other_b, kind="manifold", rate=rate, steps=30, norms=norms)
    torch.testing.assert_close(two.loss, one.loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(other_b, to_ellipsoid(b, learnt.sigma), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(norms, b.norm(dim=1), rtol=1e-10, atol=0)
    torch.testing.assert_close(other_a, a, rtol=1e-10, atol=1e-10)


def test_without_norms_it_differs_by_the_order_of_the_rate() -> None:
    learnt, gaps = problem(40, 3), []
    for steps in (20, 40, 80, 160, 320):
        a, b = normal(6, seed=1), torch.nn.functional.normalize(normal(6, 3, seed=2))
        other_a, other_b = a.clone(), to_ellipsoid(b, learnt.sigma)
        descend(learnt, a, b, kind="batch_norm", rate=4 / steps, steps=steps)
        descend(learnt, other_a, other_b, kind="manifold", rate=4 / steps, steps=steps)
        gaps.append(float((to_ellipsoid(b, learnt.sigma) - other_b).norm()))
        torch.testing.assert_close(sigma_norm(other_b, learnt.sigma), torch.ones(6).double())
    for coarse, fine in pairwise(gaps):
        assert coarse / fine == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_copies_of_the_way(kind) -> None:
    learnt = problem(30, 3)
    a, b = normal(5, seed=1), points(5, learnt.sigma, 2)
    start = b.clone()
    descent = descend(learnt, a, b, kind=kind, rate=0.1, steps=7, record=(0, 3, 7))
    assert descent.at == (0, 3, 7)
    assert descent.loss.shape == (7,)
    assert descent.a.shape == (3, 5)
    torch.testing.assert_close(descent.b[0], start)
    torch.testing.assert_close(descent.b[2], b)
    again = start.clone()
    first = torch.stack([*normal(5, seed=1)])
    descend(learnt, first, again, kind=kind, rate=0.1, steps=3)
    torch.testing.assert_close(descent.b[1], again)
    torch.testing.assert_close(descent.a[1], first)
    assert descend(learnt, a, b, kind=kind, rate=0.1, steps=1).b.shape == (0, 5, 3)


def test_errors() -> None:
    learnt, a, b = problem(10, 3), normal(4, seed=0), normal(4, 3, seed=0)
    for change, message in (
        ({"rate": 0.0}, "rate: expected a positive number, got 0"),
        ({"steps": 0}, "steps: expected a number of steps, 1 or more, got 0"),
        ({"record": (0, 4)}, r"record: expected rising numbers from 0 to 3, got \(0, 4\)"),
        ({"record": (2, 1)}, "record: expected rising numbers from 0 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            descend(learnt, a, b, **{"kind": "plain", "rate": 0.1, "steps": 3, **change})
