"""Moments against SciPy, streams against batches, error bars against repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional.moments import (
    MomentSums,
    MomentTable,
    merge_moment_sums,
    moment_sums,
    moment_table,
    move_pivot,
    pool_moments,
    summarize_moments,
)


def scipy_moments(values: torch.Tensor) -> np.ndarray:
    x = values.double().flatten().numpy()
    return np.array([x.mean(), x.var(), scipy.stats.skew(x), scipy.stats.kurtosis(x, fisher=False)])


def values_of(table: MomentTable) -> np.ndarray:
    return np.array([float(table.mean), float(table.m2), float(table.skewness), float(table.kurtosis)])


@pytest.mark.parametrize("shape", [(6, 3, 7), (6, 3, 4, 5), (6, 3, 2, 3, 4)])
def test_rows_and_pools_agree_with_scipy(shape, dtype) -> None:
    x = torch.randn(shape, dtype=dtype).exp()
    table = moment_table(x)
    row = MomentTable(*(field[2, 1] for field in table))
    np.testing.assert_allclose(values_of(row), scipy_moments(x[2, 1]), rtol=1e-10)
    channel = MomentTable(*(field[1] for field in pool_moments(table, 0)))
    np.testing.assert_allclose(values_of(channel), scipy_moments(x[:, 1]), rtol=1e-10)
    np.testing.assert_allclose(values_of(pool_moments(table, (0, 1))), scipy_moments(x), rtol=1e-10)


def test_gradients_flow_through_the_table_and_the_input_stays() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    before = x.clone()
    moment_table(x)
    assert torch.equal(x, before)
    assert torch.autograd.gradcheck(lambda t: moment_table(t)[1:], x.requires_grad_())


def test_pooling_weighs_groups_by_their_size(dtype) -> None:
    short, long = torch.randn(1, 1, 3, dtype=dtype), 5 + torch.randn(1, 1, 40, dtype=dtype)
    both = MomentTable(*(torch.cat(fields) for fields in zip(moment_table(short), moment_table(long), strict=True)))
    whole = torch.cat([short, long], -1)
    np.testing.assert_allclose(values_of(pool_moments(both, (0, 1))), scipy_moments(whole), rtol=1e-10)


def test_a_large_mean_does_not_cancel_in_single_precision() -> None:
    x = 1e3 + torch.randn(64, 4, 100)
    whole = pool_moments(moment_table(x), (0, 1))
    np.testing.assert_allclose(values_of(whole), scipy_moments(x), rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 2**31), cut=st.integers(1, 19), shift=st.floats(-1e4, 1e4))
@settings(max_examples=30, deadline=None)
def test_a_stream_gives_what_the_batch_gives(seed, cut, shift) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = shift + torch.randn(20, 3, 5, dtype=torch.float64, generator=generator)
    stream = merge_moment_sums(moment_sums(moment_table(x[:cut])), moment_sums(moment_table(x[cut:])))
    whole, parts = summarize_moments(moment_sums(moment_table(x))), summarize_moments(stream)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def test_moving_the_pivot_is_taking_powers_about_another_point(dtype) -> None:
    table = moment_table(torch.randn(9, 2, 4, dtype=dtype))
    sums, elsewhere = moment_sums(table), torch.tensor([3.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(move_pivot(sums, elsewhere), moment_sums(table, pivot=elsewhere))


def test_values_of_a_unit_agree_with_scipy() -> None:
    x = torch.randn(500, 3).exp()
    summary = summarize_moments(moment_sums(moment_table(x)))
    for unit in range(3):
        np.testing.assert_allclose(summary.value[unit], scipy_moments(x[:, unit]), rtol=1e-6)


@pytest.mark.parametrize("correlated", [False, True])
def test_error_bars_match_the_spread_of_repeated_sampling(correlated) -> None:
    """The pixels of one image share an offset; only error bars that know this are right."""
    generator = torch.Generator().manual_seed(1)

    def draw() -> torch.Tensor:
        pixels = torch.randn(400, 1, 8, dtype=torch.float64, generator=generator)
        offset = torch.randn(400, 1, 1, dtype=torch.float64, generator=generator)
        return (pixels + offset if correlated else pixels).abs()

    summaries = [summarize_moments(moment_sums(moment_table(draw()))) for _ in range(400)]
    spread = torch.stack([s.value[0] for s in summaries]).std(0)
    claimed = torch.stack([s.stderr[0] for s in summaries]).mean(0)
    ratio = (claimed / spread).numpy()
    assert np.all((ratio > 0.85) & (ratio < 1.15)), ratio


def test_the_textbook_error_of_a_mean_is_recovered(dtype) -> None:
    x = torch.randn(50, 2, dtype=dtype)
    summary = summarize_moments(moment_sums(moment_table(x)))
    torch.testing.assert_close(summary.stderr[:, 0], x.std(0) / 50**0.5)


def test_degenerate_inputs_have_defined_results() -> None:
    constant = summarize_moments(moment_sums(moment_table(torch.ones(4, 1, 3))))
    assert constant.value[0, :2].tolist() == [1.0, 0.0]
    assert constant.value[0, 2:].isnan().all()
    single = summarize_moments(moment_sums(moment_table(torch.randn(1, 1, 3))))
    assert single.stderr.isnan().all()
    assert summarize_moments(moment_sums(moment_table(torch.tensor([[1.0], [torch.nan]])))).value.isnan().all()


def test_half_precision_accumulates_in_single() -> None:
    x = torch.full((2, 1, 4096), 300.0, dtype=torch.float16)  # the squares overflow in half precision
    table = moment_table(x)
    assert table.mean.dtype == torch.float32
    assert table.mean.eq(300).all()


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        moment_table(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, C, …\), got shape \(3,\)"):
        moment_table(torch.zeros(3))
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        moment_table(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"table: expected moments of shape \(N, U\)"):
        moment_sums(pool_moments(moment_table(torch.zeros(2, 3)), 0))


def test_sums_stay_double(dtype) -> None:
    sums = moment_sums(moment_table(torch.randn(3, 2)))
    assert isinstance(sums, MomentSums)
    assert sums.gram.dtype == torch.float64
