"""The geoopt manifold: geodesics and transport against the metric, and RiemannianSGD against SGD with normalisation."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from tests.dynamics.neurons import CONDITIONS, SEEDS, covariance, draw, normal, points, problem

from layershift.dynamics.losses import loss_values
from layershift.dynamics.metric import covariance_range
from layershift.dynamics.network import TwoLayer, TwoLayerBN, random_particles

geoopt = pytest.importorskip("geoopt")
from layershift.dynamics.manifold import BatchNormManifold, on_manifold  # noqa: E402

some = settings(max_examples=20, deadline=None)
D = 5


def setting(condition, seed, m=4):
    """A manifold, points and tangent vectors of about unit length in the metric."""
    sigma = covariance(D, condition, seed)
    manifold, x = BatchNormManifold(sigma), points(m, sigma, seed)
    u, v = (manifold.proju(x, normal(m, D, seed=seed + k)) for k in (1, 2))
    return manifold, x, u / manifold.norm(x, u)[:, None], v / manifold.norm(x, v)[:, None]


def near(found, expected, condition, scale=1.0):
    scale = max(scale, float(torch.as_tensor(expected).abs().max()))
    assert float((found - expected).abs().max()) < 1e-13 * (100 + condition) * scale


@some
@given(CONDITIONS, SEEDS)
def test_points_and_vectors_are_where_they_belong(condition, seed) -> None:
    manifold, x, u, _ = setting(condition, seed)
    y = manifold.expmap(x, u)
    for point in (x, y, manifold.retr(x, u), manifold.projx(3 * x), manifold.random(7, D, generator=draw(seed))):
        assert manifold.check_point_on_manifold(point, atol=1e-9)
    assert not manifold.check_point_on_manifold(1.1 * x)
    for vector in (u, manifold.proju(x, normal(4, D, seed=seed)), manifold.egrad2rgrad(x, u), manifold.logmap(x, y)):
        assert manifold.check_vector_on_tangent(x, vector, atol=1e-9, rtol=1e-9)
    assert manifold.check_vector_on_tangent(y, manifold.transp(x, y, u), atol=1e-9, rtol=1e-9)
    assert not manifold.check_vector_on_tangent(x, u + x / x.norm(dim=1, keepdim=True))


@some
@given(CONDITIONS, SEEDS)
def test_logarithm_undoes_exponential_and_distance_is_its_length(condition, seed) -> None:
    manifold, x, u, _ = setting(condition, seed)
    for length in (1e-9, 0.1, 3.0):
        y = manifold.expmap(x, length * u)
        near(manifold.dist(x, y), torch.full((4,), length, dtype=torch.float64), condition)
        near(manifold.norm(x, manifold.logmap(x, y)), manifold.dist(x, y), condition)
        scale = float(x.norm(dim=1).max()) * length
        assert float((manifold.logmap(x, y) - length * u).norm(dim=1).max()) < 1e-12 * (100 + condition) * (scale + 1)
    near(manifold.dist(x, -x), torch.full((4,), torch.pi, dtype=torch.float64), 1)
    near(manifold.expmap(x, 0 * u), x, 1)


def test_geodesics_are_shortest_in_the_metric() -> None:
    manifold, x, u, v = setting(30.0, 0)
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None, None]

    def length(path):
        middle = manifold.projx((path[1:] + path[:-1]) / 2)
        return manifold.norm(middle, manifold.proju(middle, path.diff(dim=0))).sum(0)

    straight = manifold.expmap(x[None], t * u)
    torch.testing.assert_close(length(straight), manifold.dist(x, straight[-1]), rtol=1e-6, atol=0)
    bent = manifold.projx(straight + 0.05 * (torch.pi * t).sin() * v)  # the same ends
    assert (length(bent) > length(straight) + 1e-6).all()


@some
@given(CONDITIONS, SEEDS)
def test_transport_keeps_products_and_carries_a_geodesic_along_itself(condition, seed) -> None:
    manifold, x, u, v = setting(condition, seed)
    y = manifold.expmap(x, 0.7 * u)
    moved = manifold.transp(x, y, v)
    near(manifold.inner(y, moved, manifold.transp(x, y, u)), manifold.inner(x, u, v), condition)
    at, one = torch.tensor([0.7, 1.0], dtype=torch.float64)
    _, velocity = torch.func.jvp(lambda t: manifold.expmap(x, t * u), (at,), (one,))
    near(manifold.transp(x, y, u), velocity, condition, scale=float(y.norm(dim=1).max()))
    near(manifold.transp(y, x, moved), v, condition, scale=float(x.norm(dim=1).max()))


def test_the_retraction_is_of_second_order() -> None:
    manifold, x, u, _ = setting(30.0, 1)
    gaps = [float((manifold.retr(x, h * u) - manifold.expmap(x, h * u)).norm()) for h in (0.02, 0.01)]
    assert gaps[0] / gaps[1] == pytest.approx(8, rel=0.01)


def test_the_gradient_is_that_of_the_metric() -> None:
    manifold, x, _, v = setting(100.0, 2)
    x.requires_grad_()
    value = (x.sin() * normal(4, D, seed=9)).sum()
    (euclidean,) = torch.autograd.grad(value, x)
    gradient = manifold.egrad2rgrad(x.detach(), euclidean)
    torch.testing.assert_close(manifold.inner(x.detach(), gradient, v), (euclidean * v).sum(1))
    assert manifold.inner(x.detach(), v, keepdim=True).shape == (4, 1)


# Training


def trained(network, given_problem, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_values(network(given_problem.x), given_problem.y, given_problem.loss).mean().backward()
        optimizer.step()


def pair(activation="tanh", m=8, d=3):
    """A problem, a network with normalisation and unit neurons, and its twin on the manifold."""
    learnt = problem(40, d, activation=activation, condition=5.0)
    a, b = random_particles(d, m, dtype=torch.float64)
    normalised = TwoLayerBN(d, m, sigma=learnt.sigma, activation=activation, a=a, b=b)
    return learnt, normalised, on_manifold(normalised.plain(), learnt.sigma)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "relu"])
def test_riemannian_sgd_follows_normalised_sgd_to_first_order(activation) -> None:
    gaps = []
    for steps in (20, 40, 80, 160, 320):  # four halvings of the step over one horizon
        learnt, normalised, plain = pair(activation)
        rate = len(plain.a) * 4.0 / steps
        trained(normalised, learnt, torch.optim.SGD(normalised.parameters(), lr=rate), steps)
        trained(plain, learnt, geoopt.optim.RiemannianSGD(plain.parameters(), lr=rate), steps)
        gap = (normalised.directions() - plain.b).square().sum() + (normalised.a - plain.a).square().sum()
        gaps.append(float(gap.detach().sqrt()))
        assert plain.b.manifold.check_point_on_manifold(plain.b.data, atol=1e-12, rtol=1e-12)
    ratios = [coarse / fine for coarse, fine in pairwise(gaps)]
    if activation == "relu":  # may switch at another step of the two: of the same order all in all, but not as even
        assert 8 < gaps[0] / gaps[-1] < 32
    else:
        assert ratios == pytest.approx([2.0] * 4, rel=0.1)
    assert gaps[-1] < 0.02


def test_the_first_step_from_unit_norm_is_the_same_to_rounding() -> None:
    learnt, normalised, plain = pair()
    trained(normalised, learnt, torch.optim.SGD(normalised.parameters(), lr=80.0), 1)
    trained(plain, learnt, geoopt.optim.RiemannianSGD(plain.parameters(), lr=80.0), 1)
    torch.testing.assert_close(plain.b.data, normalised.directions().detach(), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(plain.a.data, normalised.a.data, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: geoopt.optim.RiemannianSGD(p, lr=0.5, momentum=0.9, nesterov=True, stabilize=5),
        lambda p: geoopt.optim.RiemannianAdam(p, lr=0.02),
    ],
    ids=["momentum", "adam"],
)
def test_other_optimisers_stay_on_the_manifold_and_learn(make) -> None:
    learnt, _, plain = pair()
    before = loss_values(plain(learnt.x), learnt.y, "squared").mean()
    trained(plain, learnt, make(plain.parameters()), 60)
    assert plain.b.manifold.check_point_on_manifold(plain.b.data, atol=1e-10)
    assert loss_values(plain(learnt.x), learnt.y, "squared").mean() < 0.7 * before


def test_random_points_are_uniform_directions_and_seeded() -> None:
    manifold = BatchNormManifold(covariance(2, 1e4, 0))
    x = manifold.random(20_000, 2, generator=draw(0))
    directions = torch.atan2(x[:, 1], x[:, 0])
    share = torch.histc(directions, 8, -torch.pi, torch.pi) / 20_000
    assert (share - 1 / 8).abs().max() < 0.012  # five standard errors
    torch.testing.assert_close(manifold.origin(3, 2), manifold.origin(3, 2), rtol=0, atol=0)
    assert isinstance(x, geoopt.ManifoldTensor)


def test_lower_rank_is_an_error_and_its_range_works() -> None:
    x = normal(6, 10, seed=0)
    sigma = x.mT @ x / 6
    with pytest.raises(ValueError, match=r"sigma: expected a positive definite matrix .*covariance_range"):
        BatchNormManifold(sigma)
    basis = covariance_range(sigma)
    manifold = BatchNormManifold(basis.mT @ sigma @ basis)
    assert manifold.check_point_on_manifold(manifold.random(3, 6))


def test_shapes_are_told() -> None:
    manifold = BatchNormManifold(torch.eye(3))
    ok, reason = manifold.check_point(torch.ones(5, 2), explain=True)
    assert not ok
    assert reason == "`x` should have rows of length 3, but has shape (5, 2)"
    assert repr(manifold).startswith("BatchNorm")
    with pytest.raises(ValueError, match=r"rows of length 3, but has shape \(4, 2\)"):
        manifold.random(4, 2)
    with pytest.raises(ValueError, match=r"sigma: expected shape \(2, 2\), got shape \(3, 3\)"):
        on_manifold(TwoLayer(2, 4), torch.eye(3))


def test_without_geoopt_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "geoopt", None)
    monkeypatch.delitem(sys.modules, "layershift.dynamics.manifold")
    with pytest.raises(
        ModuleNotFoundError, match=r'geoopt is not installed; run: pip install "layershift\[dynamics\]"'
    ):
        importlib.import_module("layershift.dynamics.manifold")
