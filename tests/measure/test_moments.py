"""The streaming measure against SciPy and numpy; batch equals stream; error bars against repeated sampling."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional.quantiles import quantile_sketch
from layershift.measure import Estimate, Moments

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def measured(*batches: torch.Tensor, **options) -> dict[str, Estimate]:
    moments = Moments(**options)
    for batch in batches:
        moments.update(batch)
    return moments.compute()


def truth(x: torch.Tensor) -> dict[str, float]:
    x = x.double().flatten().numpy()
    moments = {"mean": x.mean(), "variance": x.var(), "skewness": scipy.stats.skew(x)}
    return moments | {"kurtosis": scipy.stats.kurtosis(x, fisher=False)}


def assert_same(a: dict[str, Estimate], b: dict[str, Estimate], tolerance: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        for first, second in zip(a[name][:3], b[name][:3], strict=True):
            torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("shape", [(300, 12), (60, 12, 5), (30, 12, 4, 5), (10, 12, 3, 4, 5)])
def test_layer_and_units_agree_with_scipy_and_numpy(shape) -> None:
    x = 3 + torch.randn(shape, dtype=torch.float64).exp()
    moments = Moments(num_units=4, quantile_numbers=1000)  # all
    moments.update(x)
    estimates = moments.compute()
    assert moments.unit_indices.tolist() == [0, 3, 7, 11]
    for name, value in truth(x).items():
        assert float(estimates[name].value) == pytest.approx(value, rel=1e-9)
    for row, unit in enumerate([0, 3, 7, 11]):
        for name, value in truth(x[:, unit]).items():
            assert float(estimates[f"{name}/units"].value[row]) == pytest.approx(value, rel=1e-9)
    for q in QUANTILES:
        assert float(estimates[f"quantile_{q:g}"].value) == pytest.approx(np.quantile(x, q), rel=0.01)
        by_unit = np.quantile(x[:, [0, 3, 7, 11]].transpose(0, 1).flatten(1).numpy(), q, axis=1)
        np.testing.assert_allclose(estimates[f"quantile_{q:g}/units"].value, by_unit, rtol=0.01)
    assert {float(e.n.max()) for e in estimates.values()} == {shape[0]}


@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 29), min_size=1, max_size=4), shift=st.floats(-1e3, 1e3))
@settings(max_examples=20, deadline=None)
def test_a_stream_gives_what_the_batch_gives(seed, cuts, shift) -> None:
    x = shift + torch.randn(30, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    edges = [0, *sorted(cuts), 30]
    parts = [x[a:b] for a, b in itertools.pairwise(edges)]
    assert_same(measured(x, num_units=3), measured(*parts, num_units=3))


def test_merging_two_measures_gives_what_one_would_have_seen() -> None:
    x = 100 + torch.randn(20, 3, 4, dtype=torch.float64)
    first, second, empty = Moments(num_units=2), Moments(num_units=2), Moments(num_units=2)
    first.update(x[:7])
    second.update(x[7:])
    first.merge_state(second)
    assert_same(first.compute(), measured(x, num_units=2))
    second.merge_state(empty)
    assert_same(second.compute(), measured(x[7:], num_units=2))


def test_reset_forgets() -> None:
    moments, x = Moments(), torch.randn(9, 4)
    moments.update(torch.full((5, 4), torch.nan))
    moments.reset()
    moments.update(x)
    assert_same(moments.compute(), measured(x))


def mean_of_ratios(draw, name: str, repeats: int = 200) -> float:
    """The claimed standard error over the spread that repeated sampling shows."""
    estimates = [measured(draw(), num_units=0)[name] for _ in range(repeats)]
    claimed = torch.stack([e.stderr for e in estimates]).mean()
    return float(claimed / torch.stack([e.value for e in estimates]).std())


@pytest.mark.parametrize("name", ["mean", "variance", "quantile_0.25", "quantile_0.5", "quantile_0.95"])
@pytest.mark.parametrize("kind", ["independent", "shared offset", "shared scale"])
def test_error_bars_match_the_spread_of_repeated_sampling(kind, name) -> None:
    """Positions of one image that rise and fall together are worth less than as many independent numbers."""
    generator = torch.Generator().manual_seed(3)

    def draw() -> torch.Tensor:
        x = torch.randn(200, 2, 8, generator=generator)
        if kind == "shared offset":
            x = x + torch.randn(200, 1, 1, generator=generator)
        elif kind == "shared scale":
            x = x * (0.5 + torch.rand(200, 1, 1, generator=generator))
        return x + 5

    low, high = (0.85, 1.15) if name in ("mean", "variance") else (0.75, 1.6)
    assert low < mean_of_ratios(draw, name) < high


def test_the_error_of_a_quantile_of_independent_numbers_is_the_textbook_one() -> None:
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    estimate = measured(x, num_units=0)["quantile_0.5"]
    assert float(estimate.stderr) == pytest.approx((np.pi / 2 / 20_000) ** 0.5, rel=0.15)


def test_few_samples_have_no_error_bar_for_outer_quantiles() -> None:
    estimates = measured(torch.randn(4, 1))
    assert estimates["quantile_0.05"].stderr.isnan()
    assert not estimates["quantile_0.5"].stderr.isnan()
    assert measured(torch.randn(1, 3, 5))["quantile_0.5"].stderr.isnan()


def test_numbers_that_are_not_finite_have_a_documented_result() -> None:
    x = torch.randn(50, 4)
    x[3, 0], x[4, 0] = torch.nan, torch.inf
    estimates = measured(x, num_units=4)
    assert estimates["mean"].value.isnan()
    assert estimates["variance/units"].value.isnan().tolist() == [True, False, False, False]
    assert float(estimates["nonfinite"].value) == pytest.approx(2 / 200)
    finite = x[:, 0][x[:, 0].isfinite()]
    assert float(estimates["quantile_0.5/units"].value[0]) == pytest.approx(float(finite.median()), abs=0.05)


def test_a_dead_layer_is_described() -> None:
    estimates = measured(torch.zeros(8, 3, 2))
    assert float(estimates["variance"].value) == float(estimates["quantile_0.95"].value) == 0
    assert estimates["kurtosis"].value.isnan()


def test_fewer_channels_than_units_are_all_described() -> None:
    moments = Moments(num_units=8)
    moments.update(torch.randn(5, 3))
    assert moments.unit_indices.tolist() == [0, 1, 2]
    assert moments.compute()["mean/units"].value.shape == (3,)


def test_sequences_with_channels_last() -> None:
    x = torch.randn(6, 9, 4)
    assert_same(measured(x, channel_dim=-1), measured(x.movedim(-1, 1)))


def test_half_precision_does_not_overflow() -> None:
    x = (300 * torch.randn(64, 4, 100)).half()
    estimates = measured(x)
    assert float(estimates["variance"].value) == pytest.approx(9e4, rel=0.05)
    assert estimates["kurtosis"].value.isfinite()


def test_the_input_is_left_alone_and_carries_no_gradient() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    before = x.detach().clone()
    assert not measured(x)["mean"].value.requires_grad
    assert torch.equal(x.detach(), before)


def test_copies_and_pickles_go_on_where_the_original_was() -> None:
    x = torch.randn(10, 3)
    moments = Moments()
    moments.update(x[:5])
    for twin in (copy.deepcopy(moments), pickle.loads(pickle.dumps(moments))):
        twin.update(x[5:])
        assert_same(twin.compute(), measured(x))


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="num_units: expected a number of units, 0 or more, got -1"):
        Moments(num_units=-1)
    with pytest.raises(ValueError, match=r"quantiles: expected probabilities in \[0, 1\], got \(0\.5, 5\)"):
        Moments(quantiles=(0.5, 5))
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        Moments().update(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, C, …\), got shape \(3,\)"):
        Moments().update(torch.zeros(3))
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        Moments().update(torch.zeros(0, 3))


class TestLargeSamples:
    """Of a sample with many numbers the quantiles see some."""

    X = torch.randn(40, 6, 33, 31) * torch.linspace(0.2, 2, 33).view(33, 1) + torch.linspace(-1, 1, 6).view(6, 1, 1)

    def few(self, x: torch.Tensor, parts: int = 1, **options):
        metric = Moments(num_units=2, quantile_numbers=256, **options)
        for part in x.tensor_split(parts):
            metric.update(part)
        return metric

    def test_a_stream_gives_what_the_batch_gives(self) -> None:
        whole, stream = self.few(self.X), self.few(self.X, parts=7)
        assert torch.equal(whole.counts, stream.counts)
        assert int(whole.counts[0].sum()) == pytest.approx(40 * 256, rel=0.05)
        assert int(whole.counts[1].sum()) == pytest.approx(40 * 64, rel=0.05)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_a_units_numbers_are_every_s_th_of_its_stream(self, memory_format) -> None:
        x = self.X.contiguous(memory_format=memory_format)
        taken = x.transpose(0, 1)[[0, 5]].reshape(2, -1)[:, ::16]  # 33 · 31 / 16 numbers of a sample
        assert torch.equal(self.few(x, parts=3).counts[1:], quantile_sketch(taken))

    def test_after_a_reset_it_begins_anew(self) -> None:
        metric = self.few(self.X[:3])
        counts = metric.counts.clone()
        metric.reset()
        metric.update(self.X[:3])
        assert torch.equal(metric.counts, counts)

    def test_all_positions_take_turns(self) -> None:
        position = torch.arange(2 * 8 * 8.0).view(1, 2, 8, 8).expand(128, -1, -1, -1)
        metric = Moments(num_units=0, quantile_numbers=16)
        metric.update(position.contiguous())
        assert (metric.counts > 0).sum() == 128

    def test_quantiles_are_those_of_all_numbers_within_their_error(self) -> None:
        scores = []
        for seed in range(40):
            x = self.X[torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:20]]
            few, exact = self.few(x).compute(), torch.quantile(x.flatten(), torch.tensor([0.25, 0.5, 0.95]))
            for q, value in zip(("0.25", "0.5", "0.95"), exact, strict=True):
                estimate = few[f"quantile_{q}"]
                scores.append(float((estimate.value - value) / estimate.stderr))
        assert torch.tensor(scores).abs().max() < 4
        assert torch.tensor(scores).square().mean().sqrt() < 1.2

    def test_the_error_grows_where_numbers_are_left_out(self) -> None:
        x = torch.randn(4, 1, 4096)  # independent numbers
        few = Moments(num_units=0, quantile_numbers=64)
        few.update(x)
        textbook = 0.5 / (4 * 64) ** 0.5 / 0.3989
        assert float(few.compute()["quantile_0.5"].stderr) == pytest.approx(textbook, rel=0.5)
        assert float(few.compute()["quantile_0.5"].stderr) > 0.8 * textbook

    def test_what_is_not_finite_is_always_counted(self) -> None:
        x = self.X.clone()
        x[7, 5, 3, 3], x[8, 0, 2, 1] = torch.nan, torch.inf
        estimates = self.few(x).compute()
        assert float(estimates["nonfinite"].value) == pytest.approx(2 / x.numel())
        assert estimates["nonfinite/units"].value.tolist() == pytest.approx([1 / (40 * 33 * 31)] * 2)

    def test_channels_last_is_the_same_distribution(self) -> None:
        x = self.X.to(memory_format=torch.channels_last)
        first, last = self.few(self.X).compute(), self.few(x).compute()
        for name in ("quantile_0.25", "quantile_0.5"):
            assert abs(first[name].value - last[name].value) < 4 * first[name].stderr
        torch.testing.assert_close(last["mean"].value, first["mean"].value)
