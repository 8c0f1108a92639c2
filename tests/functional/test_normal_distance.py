"""Error bar and floor of the distance to N(0, I), against integration and repeated sampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from layershift.functional import normal_distance, normal_floor


def integrated(x: np.ndarray) -> float:
    """The integral of |F_n - Phi|, piece by piece."""
    edges = np.concatenate([[-12.0], np.sort(x), [12.0]])
    total = 0.0
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        total += scipy.integrate.quad(lambda t, i=i: abs(i / len(x) - scipy.stats.norm.cdf(t)), a, b, limit=200)[0]
    return total


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_the_distance_is_the_integral_between_the_distribution_functions(n) -> None:
    x = 0.3 + 1.7 * torch.randn(n, 3, dtype=torch.float64)
    expected = np.mean([integrated(column) for column in x.T.numpy()])
    assert float(normal_distance(x).value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 50, 1000])
def test_the_floor_is_the_mean_over_samples_of_the_normal(n) -> None:
    x = torch.randn(n, 200_000 // n, dtype=torch.float64)
    assert normal_floor(n) == pytest.approx(float(normal_distance(x).value), rel=0.02)


def test_the_floor_of_many_samples_is_asymptotic() -> None:
    root = scipy.integrate.quad(lambda t: np.sqrt(scipy.stats.norm.cdf(t) * scipy.stats.norm.sf(t)), -12, 12)[0]
    limit = np.sqrt(2 / np.pi) * root
    assert normal_floor(10**6) * 10**3 == pytest.approx(limit, rel=1e-4)
    assert normal_floor(10**8) * 10**4 == pytest.approx(limit, rel=1e-5)  # the last one that is summed
    assert normal_floor(10**8 + 1) * 10**4 == pytest.approx(limit, rel=1e-8)  # the first that is not
    scaled = [normal_floor(10**k) * 10 ** (k / 2) for k in range(3, 13)]
    assert scaled == sorted(scaled)


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_the_floor_is_the_mean_deviation_of_binomials(n) -> None:
    def deviation(t: float) -> float:
        counts = np.arange(n + 1)
        p = scipy.stats.norm.cdf(t)
        return float(np.abs(counts / n - p) @ scipy.stats.binom.pmf(counts, n, p))

    grid = np.linspace(-9, 9, 20_001 if n < 50 else 2001)
    expected = np.trapezoid([deviation(t) for t in grid], grid)
    assert normal_floor(n) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("shift", 0.85, 1.15), ("scale", 0.8, 1.2), ("relu", 0.85, 1.15), ("lengths", 0.85, 1.15), ("normal", 0.9, 1.8)],
)
@pytest.mark.parametrize("size", [8, 100])
def test_error_bars_match_the_spread_of_repeated_sampling(kind, low, high, size) -> None:
    make = {
        "shift": lambda x: x + 0.3,
        "scale": lambda x: 2 * x,
        "relu": torch.relu,
        "lengths": lambda x: x * (0.3 + 2 * torch.rand(len(x), 1)),
        "normal": lambda x: x,
    }[kind]
    found = []
    for _ in range(200):
        theta = torch.randn(size, 32)
        found.append(normal_distance(make(torch.randn(128, size)) @ (theta / theta.norm(dim=0))))
    spread = torch.stack([d.value for d in found]).std()
    claimed = torch.stack([d.stderr for d in found]).mean()
    assert low < float(claimed / spread) < high


@pytest.mark.parametrize(("n", "count"), [(16, 32), (128, 4), (128, 256)])
@pytest.mark.parametrize("kind", ["shift", "relu"])
def test_error_bars_hold_for_few_samples_and_few_or_many_directions(kind, n, count) -> None:
    found = []
    for _ in range(300):
        x, theta = torch.randn(n, 30), torch.randn(30, count)
        found.append(normal_distance((x + 0.5 if kind == "shift" else x.relu()) @ (theta / theta.norm(dim=0))))
    spread = torch.stack([d.value for d in found]).std()
    claimed = torch.stack([d.stderr for d in found]).square().mean().sqrt()
    assert 0.8 < float(claimed / spread) < 1.25


def test_the_influence_is_what_a_sample_moves() -> None:
    """With one direction the error bar is the jackknife's, which leaves out each sample in turn."""
    x = 0.7 + 1.4 * torch.randn(400, 1, dtype=torch.float64)
    without = torch.stack([normal_distance(torch.cat([x[:i], x[i + 1 :]])).value for i in range(len(x))])
    jackknife = (without.var(correction=0) * (len(x) - 1)).sqrt()
    torch.testing.assert_close(normal_distance(x).stderr, jackknife, rtol=0.02, atol=0)


@pytest.mark.parametrize("n", [4096, 100_000])
def test_float32_sees_distances_far_below_its_precision_times_n(n) -> None:
    x = torch.randn(n, 1)
    exact = normal_distance(x.double())
    single = normal_distance(x)
    torch.testing.assert_close(single.value.double(), exact.value, rtol=1e-6, atol=0)
    torch.testing.assert_close(single.stderr.double(), exact.stderr, rtol=1e-3, atol=0)


def test_half_precision_is_computed_in_float32() -> None:
    x = torch.randn(40, 3).half()
    assert normal_distance(x).value.dtype == torch.float32
    torch.testing.assert_close(normal_distance(x), normal_distance(x.float()))


def test_a_batch_of_layers_is_each_of_them() -> None:
    x = torch.randn(3, 40, 5)
    together, alone = normal_distance(x), [normal_distance(layer) for layer in x]
    torch.testing.assert_close(together.value, torch.stack([d.value for d in alone]))
    torch.testing.assert_close(together.stderr, torch.stack([d.stderr for d in alone]))


def test_one_sample_has_no_error_bar_and_nan_stays() -> None:
    assert normal_distance(torch.randn(1, 4)).stderr.isnan()
    assert normal_distance(torch.tensor([[1.0], [torch.nan]])).value.isnan()


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"projections: expected shape \(…, n, P\) with n, P ≥ 1, got shape \(0, 3\)"):
        normal_distance(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"projections: expected shape .*, got shape \(3, 0\)"):
        normal_distance(torch.zeros(3, 0))
    with pytest.raises(TypeError, match=r"projections: expected a floating point tensor, got torch\.int64"):
        normal_distance(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="n: expected a number of samples, 1 or more, got 0"):
        normal_floor(0)
