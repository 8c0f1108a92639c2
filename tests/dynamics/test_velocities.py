"""Closed-form velocities against autograd, theorem 2 at one moment, and the memory that they need."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.dynamics.neurons import CONDITIONS, DIMENSIONS, SEEDS, normal, points, problem

from layershift.dynamics.losses import ACTIVATIONS, LOSSES, loss_values
from layershift.dynamics.metric import inverse_metric_matrix, tangent_projection, to_ellipsoid
from layershift.dynamics.network import TwoLayer, TwoLayerBN
from layershift.dynamics.velocities import KINDS, Problem, VelocityField, velocity

some = settings(max_examples=30, deadline=None)


def by_autograd(learnt, a, b, kind):
    """m times the negative gradient of the network's loss; on the manifold by the printed matrix, neuron by neuron."""
    (m, d), activation = b.shape, learnt.activation
    if kind == "batch_norm":
        network = TwoLayerBN(d, m, sigma=learnt.sigma, activation=activation, a=a, b=b)
    else:
        network = TwoLayer(d, m, activation=activation, a=a, b=b)
    loss = loss_values(network(learnt.x), learnt.y, learnt.loss).mean()
    loss.backward()
    a_dot, b_dot = -m * network.a.grad, -m * network.b.grad
    if kind == "manifold":
        tangent = tangent_projection(b, b_dot, learnt.sigma)
        b_dot = torch.stack([inverse_metric_matrix(p, learnt.sigma) @ v for p, v in zip(b, tangent, strict=True)])
    return a_dot, b_dot, loss.detach()


def close(found, expected, tolerance):
    assert float((found - expected).abs().max()) <= tolerance * (float(expected.abs().max()) + 1e-6)


@some
@given(
    DIMENSIONS,
    CONDITIONS,
    SEEDS,
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(LOSSES),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_velocities_are_negative_gradients(d, condition, seed, activation, loss, kind, own) -> None:
    learnt = problem(30, d, loss=loss, activation=activation, condition=condition, seed=seed, own=own or d >= 30)
    if own and d >= 30:  # the samples' own Σ has a lower rank, and Ω is not compact
        learnt = learnt._replace(sigma=learnt.sigma + torch.eye(d) / condition)
    a, b = normal(11, seed=seed), 3 * normal(11, d, seed=seed + 1)
    b = to_ellipsoid(b, learnt.sigma) if kind == "manifold" else b
    found = velocity(learnt, a, b, kind=kind)
    for ours, theirs in zip(found, by_autograd(learnt, a, b, kind), strict=True):
        close(ours, theirs, 1e-14 * (1000 + condition))


@some
@given(DIMENSIONS, CONDITIONS, SEEDS, st.sampled_from(ACTIVATIONS))
def test_theorem_2_at_one_moment(d, condition, seed, activation) -> None:
    learnt = problem(30, d, activation=activation, condition=condition, seed=seed, own=False)
    a, b = normal(7, seed=seed), 3 * normal(7, d, seed=seed + 1)
    euclidean = velocity(learnt, a, b, kind="batch_norm")
    # What the flow of b does to its direction, by automatic differentiation.
    points, moving = torch.func.jvp(lambda u: to_ellipsoid(u, learnt.sigma), (b,), (euclidean.b,))
    found = velocity(learnt, a, points, kind="manifold", norms=b.norm(dim=1))
    close(found.b, moving, 1e-14 * (1000 + condition))
    close(found.a, euclidean.a, 1e-13)
    close(found.loss, euclidean.loss, 1e-13)


@some
@given(DIMENSIONS, CONDITIONS, SEEDS)
def test_normalised_neurons_move_across_themselves_and_short_ones_faster(d, condition, seed) -> None:
    learnt = problem(30, d, activation="relu", condition=condition, seed=seed, own=False)
    a, b = normal(5, seed=seed), normal(5, d, seed=seed + 1)
    v = velocity(learnt, a, b, kind="batch_norm").b
    assert float(((v * b).sum(1) / (v.norm(dim=1) * b.norm(dim=1))).abs().max()) < 1e-13 * (10 + condition)
    short = velocity(learnt, a, b / 10, kind="batch_norm").b
    torch.testing.assert_close(short, 10 * v)
    plain = velocity(learnt, a, b, kind="plain").b
    torch.testing.assert_close(velocity(learnt, a, b / 10, kind="plain", chunk=None).b.isnan(), plain.isnan())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_do_not_matter(kind, activation) -> None:
    learnt = problem(50, 4, activation=activation)
    a, b = normal(23, seed=1), points(23, learnt.sigma, 2)
    whole = velocity(learnt, a, b, kind=kind, chunk=(50, 23))
    for chunk in (None, (1, 1), (7, 5), (16, 23), (50, 4), (64, 100)):
        for found, expected in zip(velocity(learnt, a, b, kind=kind, chunk=chunk), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_near_double(kind, activation) -> None:
    learnt = problem(700, 20, activation=activation, condition=100.0)
    a, b = normal(300, seed=1), points(300, learnt.sigma, 2)
    exact = velocity(learnt, a, b, kind=kind)
    x, y, sigma, loss, _ = learnt
    single = Problem(x.float(), y.float(), sigma.float(), loss, activation)
    for found, expected in zip(velocity(single, a.float(), b.float(), kind=kind), exact, strict=True):
        assert found.dtype == torch.float32
        close(found.double(), expected, 3e-5)


def test_on_the_manifold_they_are_tangent() -> None:
    learnt = problem(40, 6, condition=1e4)
    b = points(9, learnt.sigma, 1)
    v = velocity(learnt, normal(9, seed=2), b, kind="manifold").b
    assert float(((v @ learnt.sigma * b).sum(1) / v.norm(dim=1)).abs().max()) < 1e-10


def test_a_field_uses_its_memory_again_and_a_velocity_does_not() -> None:
    learnt = problem(40, 3)
    a, b = normal(9, seed=2), normal(9, 3, seed=3)
    field = VelocityField(learnt, 9, kind="plain")
    first = field(a, b)
    expected = velocity(learnt, a, b, kind="plain")
    torch.testing.assert_close(first.b, expected.b)
    field(2 * a, b)
    assert not torch.allclose(first.b, expected.b)


def test_parameters_with_gradients_are_welcome() -> None:
    learnt = problem(40, 3)
    network = TwoLayerBN(3, 9, sigma=learnt.sigma)
    found = velocity(learnt, network.a, network.b, kind="batch_norm")
    assert not found.b.requires_grad


def test_problems_of_samples_are_centred_when_asked() -> None:
    x = normal(30, 4, seed=0) + 5
    centred = Problem.of(x, x[:, 0], center=True, activation="tanh")
    torch.testing.assert_close(centred.x.mean(0), torch.zeros(4).double())
    torch.testing.assert_close(centred.sigma, torch.cov(x.mT, correction=0))
    assert Problem.of(x, x[:, 0]).x is x


# Memory


def test_a_million_neurons_fit_in_4_gb() -> None:
    """Arithmetic at full size: the neurons, the samples, and everything that a field keeps."""
    m, d, n = 10**6, 100, 10**4
    for activation in ACTIVATIONS:
        for kind in KINDS:
            x, y, sigma = (torch.empty(size, device="meta") for size in ((n, d), (n,), (d, d)))
            field = VelocityField(Problem(x, y, sigma, "squared", activation), m, kind=kind)
            neurons = 4 * m * (d + 1)
            # What a slice of rows is worked on with, and PyTorch itself, come to less than 0.6 GB.
            assert field.nbytes + neurons + x.nbytes < 2.2e9
            assert field.chunk[0] >= 100  # blocks of samples that still make good products


PEAK = r"""
import re, sys, torch
from pathlib import Path
from layershift.dynamics.steps import descend
from layershift.dynamics.velocities import Problem, VelocityField
torch.set_num_threads(1)
def most():  # getrusage would tell what the parent process held, where that is more
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
m, d, n, kind, activation = int(sys.argv[1]), 50, 1000, sys.argv[2], sys.argv[3]
generator = torch.Generator().manual_seed(0)
problem = Problem.of(torch.randn(n, d, generator=generator), torch.randn(n, generator=generator), activation=activation)
small = torch.nn.functional.normalize(torch.randn(64, d, generator=generator), dim=1)
descend(problem, torch.ones(64), small, kind=kind, rate=0.1, steps=1)  # what PyTorch needs once
before = most()
a, b = torch.ones(m), torch.nn.functional.normalize(torch.randn(m, d, generator=generator), dim=1)
state = a.nbytes + b.nbytes
told = VelocityField(problem, m, kind=kind).nbytes
descend(problem, a, b, kind=kind, rate=0.1, steps=1)
print(most() - before, state + told)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "activation"), [("batch_norm", "relu"), ("manifold", "tanh")])
def test_the_memory_of_a_step_is_what_is_told(kind, activation) -> None:
    """In a process of its own: 200,000 neurons and 1,000 samples, whose values alone would take 800 MB at once."""
    m = 200_000
    run = subprocess.run([sys.executable, "-c", PEAK, str(m), kind, activation], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    peak, told = map(int, run.stdout.split())
    slices_of_rows = 12 * 4 * 2**21  # intermediate results, some of them still with the allocator
    assert told / 2 < peak < told + slices_of_rows
    assert peak < 0.8 * 4 * m * 1000


# Errors


def test_errors() -> None:
    learnt = problem(10, 3)
    a, b = normal(4, seed=0), normal(4, 3, seed=0)
    with pytest.raises(ValueError, match=r"kind: expected one of 'batch_norm', 'manifold', 'plain', got 'euclidean'"):
        velocity(learnt, a, b, kind="euclidean")
    with pytest.raises(ValueError, match=r"b: expected shape \(4, 3\), got shape \(4, 2\)"):
        velocity(learnt, a, b[:, :2], kind="plain")
    with pytest.raises(TypeError, match=r"a: expected torch.float64, as the inputs have, got torch.float32"):
        velocity(learnt, a.float(), b, kind="plain")
    with pytest.raises(ValueError, match=r"norms: expected None unless kind is 'manifold'"):
        velocity(learnt, a, b, kind="plain", norms=torch.ones(4))
    with pytest.raises(ValueError, match=r"norms: expected shape \(4,\), got shape \(3,\)"):
        velocity(learnt, a, b, kind="manifold", norms=torch.ones(3))
    with pytest.raises(ValueError, match=r"chunk: expected numbers of samples and neurons, 1 or more, got \(0, 5\)"):
        velocity(learnt, a, b, kind="plain", chunk=(0, 5))
    for change, message in (
        ({"y": torch.zeros(3).double()}, r"y: expected shape \(10,\), got shape \(3,\)"),
        ({"sigma": torch.eye(2).double()}, r"sigma: expected shape \(3, 3\), got shape \(2, 2\)"),
        ({"x": torch.zeros(0, 3).double()}, "x: expected at least one sample"),
        ({"x": torch.zeros(10, 3).half()}, "x: expected float32 or float64, got torch.float16"),
        ({"x": torch.zeros(3).double()}, r"x: expected a tensor of shape \(n, d\)"),
        ({"loss": "hinge"}, "loss: expected one of"),
        ({"activation": "gelu"}, "activation: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            velocity(learnt._replace(**change), a, b, kind="plain")
