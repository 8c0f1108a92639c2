"""Effective rank and similarity: unbiased at any number of samples, against brute force over pairs and known truths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import effective_rank
from layershift.functional.health import merge_sample_sums, sample_sums, summarize_samples

SPECTRA = {
    "white": lambda d: torch.ones(d, dtype=torch.float64),
    "harmonic": lambda d: 1 / torch.arange(1, d + 1, dtype=torch.float64),
    "half": lambda d: (torch.arange(d) < d / 2).double(),
}


def truth(spectrum: torch.Tensor) -> float:
    return float(spectrum.sum() ** 2 / spectrum.square().sum())


def draw(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Independent numbers of mean 0 and variance 1."""
    if kind == "normal":
        return torch.randn(shape, dtype=torch.float64, generator=generator)
    if kind == "uniform":
        return math.sqrt(12) * (torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5)
    return -torch.rand(shape, dtype=torch.float64, generator=generator).log() - 1  # exponential: skewed, heavy


def traces(x: torch.Tensor) -> tuple[float, float]:
    """(tr Σ)² and tr Σ² as means over four different samples: unbiased by construction, for any distribution."""
    square, product = [], []
    for i, j, k, m in itertools.permutations(range(len(x)), 4):
        first, second = x[i] - x[j], x[k] - x[m]
        square.append(first.square().sum() * second.square().sum() / 4)
        product.append((first @ second) ** 2 / 4)
    return float(torch.stack(square).mean()), float(torch.stack(product).mean())


@pytest.mark.parametrize(("n", "d"), [(4, 3), (6, 2), (7, 9)])
def test_the_closed_form_is_the_mean_over_quadruples_of_samples(n, d) -> None:
    """The traces' formulas, put to the test without any distribution: x_i − x_j and x_k − x_m are independent."""
    x = 5 + torch.randn(n, d, dtype=torch.float64) * torch.linspace(0.5, 2, d, dtype=torch.float64)
    squared, of_square = traces(x)
    expected = min(max(squared / of_square, 1), d) if of_square > 0 else d
    assert float(effective_rank(x)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["normal", "uniform", "exponential"])
@pytest.mark.parametrize(("n", "d"), [(16, 64), (64, 64), (64, 8), (256, 512), (512, 32)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_rank_is_the_truth_at_every_ratio_of_samples_to_units(kind, n, d, spectrum) -> None:
    values = SPECTRA[spectrum](d)
    generator = torch.Generator().manual_seed(0)
    repeats = 60 if n < 256 else 20
    ranks = effective_rank(draw(kind, (repeats, n, d), generator) * values.sqrt())
    error = float(ranks.std()) / math.sqrt(repeats)
    # A quotient of unbiased numbers is itself unbiased to order 1/n only: a part of 4/n is allowed for.
    heavy = 2.5 if kind == "exponential" else 1
    assert float(ranks.mean()) == pytest.approx(truth(values), abs=4 * error + heavy * 4 / n * truth(values))


@pytest.mark.parametrize(("n", "d"), [(16, 64), (64, 512)])
def test_uncorrected_the_rank_of_noise_is_a_statement_about_the_number_of_samples(n, d) -> None:
    x = torch.randn(50, n, d, dtype=torch.float64)
    plain, corrected = effective_rank(x, corrected=False), effective_rank(x)
    assert bool((plain < n - 1).all())
    expected = d / (1 + (d + 1) / (n - 1))  # by E tr S² = (1 + 1/m) tr Σ² + (tr Σ)²/m, m = n − 1
    assert float(plain.mean()) == pytest.approx(expected, rel=0.02)
    assert float(corrected.mean()) == pytest.approx(d, rel=3 / n)
    covariance = torch.cov(x[0].T)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    assert float(plain[0]) == pytest.approx(truth(eigenvalues), rel=1e-9)


def test_the_rank_is_below_that_of_shannons_entropy_and_equal_for_equal_eigenvalues() -> None:
    for d, spectrum in itertools.product((3, 50), SPECTRA.values()):
        share = spectrum(d) / spectrum(d).sum()
        shannon = float(torch.special.entr(share).sum().exp())
        assert truth(share) <= shannon * (1 + 1e-12)
    assert truth(SPECTRA["half"](50)) == pytest.approx(25)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("n", "d"), [(32, 64), (128, 32), (48, 200)])
def test_error_bars_of_normal_samples_match_the_spread_of_repeated_sampling(n, d, spectrum) -> None:
    values = SPECTRA[spectrum](d)
    x = 3 + torch.randn(150, n, d, dtype=torch.float64) * values.sqrt()
    summary = summarize_samples(sample_sums(x))
    inside = (summary.rank > 1) & (summary.rank < d)  # clamped ones say nothing of the spread
    ratio = summary.rank_stderr[inside].mean() / (summary.rank - truth(values)).square()[inside].mean().sqrt()
    assert 0.7 < float(ratio) < 2


@pytest.mark.parametrize("mean", [0.0, 0.3, 4.0])
def test_similarity_is_the_mean_over_pairs_with_an_error_bar(mean) -> None:
    x = mean + torch.randn(400, 50, 12, dtype=torch.float64)
    summary = summarize_samples(sample_sums(x))
    products = x[0] @ x[0].T
    pairs = (products.sum() - products.trace()) / 49 / products.trace()
    assert float(summary.similarity[0]) == pytest.approx(float(pairs), abs=1e-12)
    assert float(summary.similarity.mean()) == pytest.approx(mean**2 / (mean**2 + 1), abs=0.01)
    if mean:  # at 0 the influence vanishes
        assert float(summary.similarity_stderr.mean() / summary.similarity.std()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("n", "d", "k"), [(128, 600, 128), (256, 300, 64)])
@pytest.mark.parametrize("spectrum", ["white", "harmonic"])
def test_the_rank_of_projected_samples_is_that_of_the_samples(n, d, k, spectrum) -> None:
    values = SPECTRA[spectrum](d)
    ranks, errors = [], []
    for _ in range(60):
        projection = torch.randn(d, k, dtype=torch.float64) / math.sqrt(k)
        x = torch.randn(n, d, dtype=torch.float64) * values.sqrt() @ projection
        summary = summarize_samples(sample_sums(x), size=d)
        ranks.append(summary.rank)
        errors.append(summary.rank_stderr)
    rank, error = torch.stack(ranks), torch.stack(errors)
    assert float(rank.mean()) == pytest.approx(truth(values), rel=0.1)
    assert 0.5 < float(error.mean() / rank.std()) < 3  # at white noise the upper bound d cuts the spread in half


@given(seed=st.integers(0, 2**31), cut=st.integers(1, 19), shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_merged_sums_are_those_of_all_samples(seed, cut, shift, scale) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = shift + scale * torch.randn(20, 5, dtype=torch.float64, generator=generator)
    extra = torch.rand(20, dtype=torch.float64, generator=generator)
    whole = sample_sums(x, extra)
    parts = [sample_sums(x[:cut], extra[:cut]), sample_sums(x[cut:], extra[cut:])]
    merged = merge_sample_sums(*parts)
    moved = merge_sample_sums(whole._replace(gram=torch.zeros_like(whole.gram)), merged)
    torch.testing.assert_close(moved.gram, whole.gram, rtol=1e-6, atol=1e-6 * float(whole.gram.abs().max()))
    assert torch.equal(parts[0].pivot, merged.pivot)


@given(seed=st.integers(0, 2**31), scale=st.floats(1e-20, 1e20))
@settings(max_examples=25, deadline=None)
def test_the_rank_knows_neither_origin_nor_units_nor_axes(seed, scale) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 6, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    moved = scale * (x @ rotation + torch.randn(6, dtype=torch.float64, generator=generator))
    torch.testing.assert_close(effective_rank(moved), effective_rank(x), rtol=1e-6, atol=1e-6)
    assert 1 <= float(effective_rank(x)) <= 6


def test_rank_one_is_one_and_what_does_not_differ_has_none() -> None:
    line = torch.randn(40, 1) * torch.randn(30)
    assert float(effective_rank(7 + line)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.full((10, 3), 0.1)).isnan()
    assert effective_rank(torch.full((10, 3), 0.1), corrected=False).isnan()
    assert effective_rank(torch.randn(3, 5)).isnan()
    assert effective_rank(torch.randn(2, 4, 10, 5)).shape == (2, 4)
    assert effective_rank(torch.randn(4, 10, 5).half()).dtype == torch.float64


def test_gradients_after_a_first_call_in_inference_mode() -> None:
    x = torch.randn(9, 41, dtype=torch.float64)  # of a size that no other test has
    with torch.inference_mode():
        rank = effective_rank(x)
        summarize_samples(sample_sums(x))
    summary = summarize_samples(sample_sums(x.requires_grad_()))
    (summary.rank + summary.rank_stderr).backward()
    assert float(summary.rank.detach()) == pytest.approx(float(rank))
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        effective_rank(torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected samples of shape \(…, N, d\), N, d ≥ 1, got shape \(3,\)"):
        effective_rank(torch.zeros(3))
    with pytest.raises(ValueError, match=r"got shape \(0, 3\)"):
        effective_rank(torch.zeros(0, 3))
