"""Distances of paired samples against POT and closed forms; error bars against the spread of repeated sampling."""

from __future__ import annotations

import math

import ot
import pytest
import torch

from layershift.functional import (
    directions,
    exact_wasserstein,
    gaussian_fit_wasserstein,
    gaussian_wasserstein,
    mean_projection,
    sliced_transport,
    sliced_wasserstein,
)


def sliced(x, y, p=1, count=64, generator=None):
    theta = directions(x.shape[1], count, generator=generator, dtype=torch.float64).T
    return sliced_transport(x @ theta, y @ theta, (x.mean(0) - y.mean(0)).norm(), d=x.shape[1], p=p)


@pytest.mark.parametrize("p", [1, 2])
def test_exact_is_that_of_pot(p) -> None:
    x, y = torch.randn(40, 3, dtype=torch.float64), 1 + torch.randn(40, 3, dtype=torch.float64) ** 3
    expected = ot.emd2([], [], ot.dist(x.numpy(), y.numpy(), metric="euclidean") ** p) ** (1 / p)
    assert float(exact_wasserstein(x, y, p=p).value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_all_agree_on_the_line_and_on_translations(p) -> None:
    x, y = torch.randn(2, 50, 1, dtype=torch.float64).exp()
    along = sliced_wasserstein(x, y, p, directions=torch.ones(1, 1))
    for found in (exact_wasserstein(x, y, p=p), sliced(x, y, p)):
        assert float(found.value) == pytest.approx(float(along), rel=1e-9)
    z, shift = torch.randn(50, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    for found in (
        exact_wasserstein(z + shift, z, p=p),
        sliced(z + shift, z, p),
        gaussian_fit_wasserstein(z + shift, z),
    ):
        assert float(found.value) == pytest.approx(float(shift.norm()), rel=1e-6)
        assert float(found.stderr) < 1e-6


@pytest.mark.parametrize(("n", "d"), [(200, 5), (6, 30), (5, 5)])
def test_the_gaussian_fit_is_the_bures_formula_of_the_moments(n, d) -> None:
    x, y = torch.randn(n, d, dtype=torch.float64), 1 + 2 * torch.randn(n, d, dtype=torch.float64)
    moments = [f for s in (x, y) for f in (s.mean(0), torch.cov(s.T, correction=0))]
    assert float(gaussian_fit_wasserstein(x, y).value) == pytest.approx(float(gaussian_wasserstein(*moments)), rel=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_slices_with_the_mean_taken_out_have_the_same_limit(p) -> None:
    x, y = torch.randn(60, 5, dtype=torch.float64), 0.5 + torch.randn(60, 5, dtype=torch.float64).exp()
    plain = sliced_wasserstein(x, y, p, num_projections=40_000).pow(p)
    found = sliced(x, y, p, count=40_000)
    scale = 1 / mean_projection(5) if p == 1 else 5
    noise = 4 * float(plain.std()) / 200 * scale
    assert abs(float(found.value.pow(p) - scale * plain.mean())) < noise
    assert found.lower <= found.value


def draws(kind: str, n: int, generator: torch.Generator):
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    return {"scale": 1.7 * x, "noise": x + 0.5 + 0.5 * noise, "relu": 1.5 * x.relu(), "small": x + 0.02 * noise}[
        kind
    ], x


@pytest.mark.parametrize("kind", ["scale", "noise", "relu", "small"])
@pytest.mark.parametrize("name", ["exact 1", "exact 2", "gaussian", "sliced 1", "sliced 2"])
def test_error_bars_match_the_spread_of_repeated_sampling(name, kind) -> None:
    """Near 0, where the distance has a kink, they are too wide rather than too narrow."""
    generator = torch.Generator().manual_seed(5)
    estimators = {
        "exact 1": exact_wasserstein,
        "exact 2": lambda x, y: exact_wasserstein(x, y, p=2),
        "gaussian": gaussian_fit_wasserstein,
        "sliced 1": lambda x, y: sliced(x, y, 1, 48, generator),
        "sliced 2": lambda x, y: sliced(x, y, 2, 48, generator),
    }
    found = [estimators[name](*draws(kind, 128, generator)) for _ in range(150)]
    spread = torch.stack([f.value for f in found]).std()
    claimed = torch.stack([f.stderr for f in found]).mean()
    assert 0.8 < float(claimed / spread) < (2.0 if kind == "small" else 1.35)


def test_few_pairs_and_numbers_that_are_not_finite_have_a_defined_result() -> None:
    x = torch.randn(1, 3)
    for found in (exact_wasserstein(x, x + 1), gaussian_fit_wasserstein(x, x + 1), sliced(x.double(), x.double() + 1)):
        assert float(found.value) == pytest.approx(3**0.5, rel=1e-5)
        assert found.stderr.isnan()
    y = torch.randn(5, 3)
    y[2, 1] = math.nan
    for found in (exact_wasserstein(y, y), gaussian_fit_wasserstein(y, y), sliced(y.double(), y.double())):
        assert found.value.isnan()


def test_layers_that_did_not_move_are_at_zero() -> None:
    x = 1e3 + torch.randn(30, 20_000)
    assert exact_wasserstein(x, x).value == 0
    assert float(gaussian_fit_wasserstein(x, x).value) < 1e-4
    assert sliced(x.double()[:, :5], x.double()[:, :5]).value == 0


def test_long_vectors_take_the_matrix_product_and_agree() -> None:
    x = torch.randn(260, 16_000)
    y = x + 0.1 * torch.randn(260, 16_000)
    expected = ot.emd2([], [], torch.cdist(x.double(), y.double()).numpy())
    assert float(exact_wasserstein(x, y).value) == pytest.approx(expected, rel=1e-6)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="p: expected one of 1, 2, got 3"):
        exact_wasserstein(torch.zeros(2, 2), torch.zeros(2, 2), p=3)
    with pytest.raises(ValueError, match="y: expected the same inputs' samples"):
        gaussian_fit_wasserstein(torch.zeros(2, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="d: expected a dimension of at least 1, got 0"):
        sliced_transport(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(()), d=0)
