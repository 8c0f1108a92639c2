"""The critic: what it certifies, its bias, and that layers trained together are as layers trained alone."""

from __future__ import annotations

import pytest
import torch

from layershift.functional import exact_wasserstein
from layershift.measure import Critic, critic_distances
from layershift.measure.stacked import StackedCritics


def cases(count: int, n: int, d: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Translated, scaled, rectified, noisy and unrelated samples, of many sizes."""
    g = torch.Generator().manual_seed(d)
    pairs = []
    for i in range(count):
        x = torch.randn(n, d, generator=g)
        size = 10.0 ** float(torch.randint(-2, 3, (), generator=g))
        y = [
            x + torch.randn(d, generator=g),
            (0.5 + torch.rand((), generator=g)) * x,
            x.relu(),
            x + 0.3 * torch.randn(n, d, generator=g),
            torch.randn(n, d, generator=g),
        ][i % 5]
        pairs.append((size * y, size * x))
    return pairs


def exact(pairs) -> torch.Tensor:
    return torch.stack([exact_wasserstein(x.double(), y.double()).value for x, y in pairs])


def values(found) -> torch.Tensor:
    return torch.stack([f.value for f in found]).double()


@pytest.mark.parametrize("d", [1, 4])
@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
def test_the_spectral_critic_never_exceeds_the_distance(d, activation) -> None:
    pairs = cases(200, 48, d)
    critic = Critic(lipschitz="spectral", activation=activation, steps=60, widths=(16, 16), batch_size=32)
    shares = values(critic_distances(pairs, critic)) / exact(pairs)
    assert (shares <= 1 + 1e-5).all()
    assert shares[::5].median() > (0.6 if activation == "linear" else 0.1)


@pytest.mark.slow
def test_the_spectral_critic_finds_translations() -> None:
    """W1 of a translation is its length; 200 at once."""
    pairs = cases(1000, 64, 4)[::5]
    critic = Critic(lipschitz="spectral", activation="linear", steps=120, widths=(32, 32), batch_size=64)
    found = critic_distances(pairs, critic)
    lengths = torch.stack([(x - y).mean(0).norm() for x, y in pairs]).double()
    shares = values(found) / lengths
    assert shares.max() <= 1 + 1e-5
    assert shares.median() > 0.98
    assert shares.min() > 0.95


@pytest.mark.slow
def test_the_penalty_critic_is_near_and_not_certified() -> None:
    pairs = cases(200, 64, 3)
    critic = Critic(lipschitz="penalty", activation="linear", steps=150, widths=(32, 32), batch_size=64)
    shares = values(critic_distances(pairs, critic)) / exact(pairs)
    assert 0.6 < shares[::5].median() < 1.05
    assert shares.max() < 1.3


def test_the_clipped_critic_is_an_unknown_multiple() -> None:
    """K differs from layer to layer by far more than the error bars: the paper's numbers compare only loosely."""
    pairs = cases(10, 256, 16)
    found = critic_distances(pairs, Critic(steps=150, batch_size=64))
    multiples = values(found)[::5] / exact(pairs)[::5]
    errors = torch.stack([f.stderr for f in found])[::5].double() / values(found)[::5]
    assert (multiples < 1e-3).all()
    assert multiples.max() / multiples.min() > 1 + 5 * errors.max()
    for f, (x, y) in zip(found, pairs, strict=True):
        assert -3 * f.stderr <= f.value <= f.lipschitz * (x - y).norm(dim=1).mean()


@pytest.mark.parametrize("lipschitz", ["clip", "spectral", "penalty"])
@pytest.mark.parametrize("shape", [(6,), (3, 5, 6)])
def test_layers_trained_together_are_as_layers_trained_alone(lipschitz, shape) -> None:
    g = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(20, *shape, generator=g) + i, torch.randn(20, *shape, generator=g)) for i in range(3)]
    pairs.insert(1, (torch.randn(20, 4, generator=g), torch.randn(20, 4, generator=g)))  # another shape
    critic = Critic(lipschitz=lipschitz, steps=6, batch_size=8, widths=(8, 6))
    together = critic_distances(pairs, critic)
    for a, pair in zip(together, pairs, strict=True):
        (b,) = critic_distances([pair], critic)
        torch.testing.assert_close(a.value, b.value, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(a.stderr, b.stderr, rtol=1e-3, atol=1e-6)


def test_the_architecture_is_that_of_appendix_b() -> None:
    stacked = StackedCritics(
        2, torch.zeros(1), (16, 9, 8), widths=Critic().widths, normalized=False, sigmoid=True, seed=0
    )
    shapes = [tuple(w.shape) for w in stacked.weights]
    assert shapes == [
        (2, 64, 16, 3, 3),
        (2, 64, 64, 3, 3),
        (2, 128, 64, 3, 3),
        (2, 128, 128, 3, 3),
        (2, 1, 128 * 3 * 2),
    ]
    assert stacked.strides == [2, 1, 2, 1]
    reference = torch.nn.Sequential()
    for weight, bias, stride in zip(stacked.weights[:-1], stacked.biases, stacked.strides, strict=False):
        conv = torch.nn.Conv2d(weight.shape[2], weight.shape[1], 3, stride, 1)
        conv.weight.data, conv.bias.data = weight.detach()[0], bias.detach()[0]
        reference += torch.nn.Sequential(conv, torch.nn.ReLU())
    last = torch.nn.Linear(128 * 6, 1)
    last.weight.data, last.bias.data = stacked.weights[-1].detach()[0], stacked.biases[-1].detach()[0]
    reference += torch.nn.Sequential(torch.nn.Flatten(), last, torch.nn.Sigmoid())
    x = torch.randn(5, 16, 9, 8)
    torch.testing.assert_close(stacked(torch.stack([x, x]))[1], reference(x)[:, 0])
    variance = stacked.weights[1].detach()[0].var()
    assert float(variance) == pytest.approx(2 / (64 * 9), rel=0.05)  # He


def test_convolutions_of_large_batches_are_those_of_small_ones(monkeypatch) -> None:
    critics = StackedCritics(3, torch.zeros(1), (4, 6, 5), widths=(6, 8), normalized=False, sigmoid=True, seed=0)
    for weight in critics.weights:
        weight.data.add_(0.1 * torch.randn(weight.shape))  # a critic of its own for each layer
    x, found = torch.randn(3, 10, 4, 6, 5), []
    for large in (0, 2**16):
        monkeypatch.setattr("layershift.measure.stacked._LARGE", large)
        out = critics(x)
        found.append([out, *torch.autograd.grad(out.sum(), critics.parameters)])
    torch.testing.assert_close(*found)


def test_weights_stay_clipped_and_ascent_ascends() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=g)
    few, many = (critic_distances([(x + 1, x)], Critic(steps=steps))[0] for steps in (1, 60))
    assert many.value > few.value > -1e-6
    widths = Critic().widths
    most = (
        0.01**5
        * (8 * widths[0] * widths[0] * widths[1] * widths[1] * widths[2] * widths[2] * widths[3] * widths[3]) ** 0.5
    )
    assert many.lipschitz <= most / 4 * 1.001  # all weights at the clip


@pytest.mark.parametrize("lipschitz", ["clip", "spectral"])
@pytest.mark.parametrize("shape", [(5,), (2, 6, 6)])
def test_the_lipschitz_constant_is_guaranteed(lipschitz, shape) -> None:
    g = torch.Generator().manual_seed(0)
    stacked = StackedCritics(
        3, torch.zeros(1), shape, widths=(6, 8), normalized=lipschitz == "spectral", sigmoid=False, seed=1
    )
    stacked.freeze()
    x, step = torch.randn(3, 200, *shape, generator=g), 1e-2 * torch.randn(3, 200, *shape, generator=g)
    slope = (stacked(x + step) - stacked(x)).abs() / step.flatten(2).norm(dim=2)
    limit = stacked.lipschitz()
    assert (slope.amax(1) <= limit * (1 + 1e-3)).all()
    assert (stacked.slopes(x).amax(1) <= limit * (1 + 1e-5)).all()
    assert (stacked.slopes(x).amax(1) > 0.02 * limit).all()


def test_images_of_a_translated_layer() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 6, 6, generator=g)
    critic = Critic(lipschitz="spectral", activation="linear", steps=60, widths=(8, 8), batch_size=32)
    (found,) = critic_distances([(x + 0.5, x)], critic)
    assert 0.1 * 108**0.5 * 0.5 < found.value <= 108**0.5 * 0.5


def test_estimates_repeat_whatever_the_random_state_and_the_mode() -> None:
    x = torch.randn(30, 4)
    critic = Critic(steps=5, lipschitz="penalty")
    (a,) = critic_distances([(x + 1, x)], critic)
    state = torch.get_rng_state()
    with torch.no_grad():
        (b,) = critic_distances([(x + 1, x)], critic)
    assert torch.equal(state, torch.get_rng_state())
    with torch.inference_mode():
        (c,) = critic_distances([(x + 1, x)], critic)
    assert a.value == b.value == c.value
    assert not a.value.requires_grad
    (other,) = critic_distances([(x + 1, x)], Critic(steps=5, lipschitz="penalty", seed=1))
    assert other.value != a.value


def test_held_out_pairs_are_not_trained_on() -> None:
    x = torch.randn(50, 4)
    (found,) = critic_distances([(x + 1, x)], Critic(steps=5, holdout=0.4))
    assert found.n == 20
    g = torch.Generator().manual_seed(0)
    y, z = torch.randn(2, 40, 30, generator=g)  # unrelated: what is learnt by heart does not carry over
    options = {"lipschitz": "spectral", "activation": "linear", "steps": 80, "widths": (64, 64)}
    (seen,), (unseen,) = (critic_distances([(y, z)], Critic(**options, holdout=h)) for h in (0.0, 0.5))
    assert unseen.value < 0.7 * seen.value


def test_nothing_moved_and_dead_layers() -> None:
    x = torch.randn(20, 4)
    for lipschitz in ("clip", "spectral", "penalty"):
        still, dead = critic_distances([(x, x), (0 * x, 0 * x)], Critic(steps=4, lipschitz=lipschitz))
        assert still.value == dead.value == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lipschitz": "x"}, "lipschitz: expected one of 'clip', 'spectral', 'penalty', got 'x'"),
        ({"activation": "relu"}, "activation: expected one of 'sigmoid', 'linear'"),
        ({"steps": -1}, "steps: expected a number of updates, 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size: expected a number of pairs, 1 or more, got 0"),
        ({"clip": 0.0}, "clip: expected a positive number, got 0.0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, got 0.0"),
        ({"widths": ()}, "widths: expected positive numbers"),
        ({"widths": (3,), "lipschitz": "spectral"}, "widths: expected positive numbers, even for 'spectral'"),
        ({"holdout": 1.0}, r"holdout: expected a share in \[0, 1\), got 1.0"),
    ],
)
def test_errors_of_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Critic(**options)


def test_errors_of_samples() -> None:
    with pytest.raises(ValueError, match=r"x: expected samples of shape \(N, d\) or \(N, C, H, W\), got shape \(3,\)"):
        critic_distances([(torch.zeros(3), torch.zeros(3))])
    with pytest.raises(ValueError, match="y: expected the same inputs' samples"):
        critic_distances([(torch.zeros(3, 2), torch.zeros(2, 2))])
    with pytest.raises(TypeError, match="x: expected a floating point tensor"):
        critic_distances([(torch.zeros(3, 2).long(), torch.zeros(3, 2).long())])
