"""The two networks: batch normalisation as PyTorch has it, Σ given, estimated and streamed."""

from __future__ import annotations

import pytest
import torch
from tests.dynamics.neurons import covariance, normal
from torch.nn import functional as F

from layershift.dynamics.losses import ACTIVATIONS, activate
from layershift.dynamics.network import TwoLayer, TwoLayerBN, random_particles, second_moment

X = normal(60, 4, seed=0) @ normal(4, 4, seed=1) + torch.tensor([1.0, -2.0, 0.0, 3.0])
CENTRED = X - X.mean(0)


def double(d=4, m=9, **options):
    return TwoLayerBN(d, m, dtype=torch.float64, **options)


def batch_normalised(network, x):
    """PyTorch's batch normalisation, which subtracts the mean and divides by the standard deviation."""
    z = F.batch_norm(x @ network.b.mT, None, None, training=True, eps=1e-30)
    return activate(z, network.activation) @ network.a / len(network.a)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_batch_normalisation_of_centred_inputs(activation) -> None:
    network = double(sigma=second_moment(CENTRED), activation=activation)
    torch.testing.assert_close(network(CENTRED), batch_normalised(network, CENTRED))


def test_a_streaming_network_can_centre_what_it_sees() -> None:
    network = double(sigma=None, center=True)
    torch.testing.assert_close(network(X), batch_normalised(network, X))
    assert not torch.allclose(double(sigma=second_moment(X))(X), batch_normalised(double(sigma=None), X))


@pytest.mark.parametrize("center", [False, True])
def test_batches_stream_to_the_whole(center) -> None:
    network = double(sigma=None, center=center)
    for batch in X.split([1, 19, 40]):
        network(batch)
    torch.testing.assert_close(network.sigma, second_moment(X, center=center))
    torch.testing.assert_close(network.mean, X.mean(0) if center else torch.zeros(4).double())
    network.eval()
    network(10 * X)
    torch.testing.assert_close(network.sigma, second_moment(X, center=center))
    again = double(sigma=None, center=center, seed=5)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(X), network(X))


def test_second_moments_against_covariances() -> None:
    torch.testing.assert_close(second_moment(X, center=True), torch.cov(X.mT, correction=0))
    torch.testing.assert_close(second_moment(X), torch.cov(X.mT, correction=0) + X.mean(0)[:, None] * X.mean(0))


def test_lengths_of_neurons_do_not_matter_and_the_plain_twin_computes_the_same() -> None:
    network = double(sigma=covariance(4, 1e4, 0))
    longer = double(sigma=network.sigma, a=network.a, b=network.b * torch.rand(9, 1).double())
    torch.testing.assert_close(longer(X), network(X))
    twin = network.plain()
    torch.testing.assert_close(twin(X), network(X))
    torch.testing.assert_close((twin.b @ network.sigma * twin.b).sum(1), torch.ones(9).double())
    assert type(twin) is TwoLayer


def test_the_output_is_the_mean_over_neurons() -> None:
    a, b = random_particles(4, 3, seed=1, dtype=torch.float64)
    network = TwoLayer(4, 3, a=a, b=b)
    by_hand = torch.stack([sum(a[k] * max(float(b[k] @ x), 0) for k in range(3)) / 3 for x in X])
    torch.testing.assert_close(network(X), by_hand)


def test_random_neurons_are_seeded_and_of_unit_length() -> None:
    (a, b), (same, _), (other, _) = (random_particles(5, 1000, seed=s) for s in (3, 3, 4))
    assert torch.equal(a, same)
    assert not torch.equal(a, other)
    torch.testing.assert_close(b.norm(dim=1), torch.ones(1000))
    assert abs(float(a.std()) - 1) < 0.1
    assert torch.equal(TwoLayer(5, 1000, seed=3).a, a)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"sigma: expected shape \(4, 4\), got shape \(3, 3\)"):
        TwoLayerBN(4, 2, sigma=torch.eye(3))
    with pytest.raises(ValueError, match=r"b: expected shape \(2, 4\), got shape \(2, 3\)"):
        TwoLayer(4, 2, b=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="center: expected False with a given sigma"):
        TwoLayerBN(2, 2, sigma=torch.eye(2), center=True)
    with pytest.raises(ValueError, match="activation: expected one of 'relu'"):
        TwoLayer(2, 2, activation="gelu")
    with pytest.raises(RuntimeError, match="expected a batch in training mode first"):
        TwoLayerBN(2, 2, sigma=None).eval()(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="sigma: expected None, so that the network streams it"):
        TwoLayerBN(2, 2, sigma=torch.eye(2)).update(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="m: expected a number of neurons, 1 or more, got 0"):
        random_particles(2, 0)
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        second_moment(torch.zeros(0, 2))
    with pytest.raises(TypeError, match="a: expected a floating point tensor"):
        TwoLayer(2, 2, a=torch.ones(2).long())
