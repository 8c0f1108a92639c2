"""The sketch against numpy's quantiles, within its guarantee, for any numbers; merging exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from layershift.functional.quantiles import (
    BINS,
    RELATIVE_ACCURACY,
    nonfinite_share,
    quantile_sketch,
    sketch_quantile,
)

PROBABILITIES = torch.tensor([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0], dtype=torch.float64)
IN_RANGE = st.floats(2.0**-23, 2.0**23, width=32)


def order_statistics_around(x: np.ndarray, q: float) -> tuple[float, float]:
    return np.quantile(x, q, method="lower"), np.quantile(x, q, method="higher")


@given(
    x=arrays.arrays(np.float32, st.integers(1, 60), elements=st.just(0.0) | IN_RANGE | IN_RANGE.map(lambda v: -v)),
    q=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_quantiles_lie_between_the_neighbouring_numbers_up_to_the_guarantee(x, q) -> None:
    low, high = order_statistics_around(x.astype(np.float64), q)
    value = float(sketch_quantile(quantile_sketch(torch.from_numpy(x)[None]), torch.tensor([q], dtype=torch.float64)))
    assert low - 1.01 * RELATIVE_ACCURACY * abs(low) <= value <= high + 1.01 * RELATIVE_ACCURACY * abs(high)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_quantiles_of_many_numbers_agree_with_numpy(scale) -> None:
    x = scale * torch.randn(3, 50_000, dtype=torch.float64).exp() * (1 - 2 * (torch.rand(3, 50_000) < 0.3).double())
    expected = np.quantile(x.numpy(), PROBABILITIES[1:-1], axis=1).T
    measured = sketch_quantile(quantile_sketch(x), PROBABILITIES[1:-1]).numpy()
    np.testing.assert_allclose(measured, expected, rtol=RELATIVE_ACCURACY)
    assert np.median(np.abs(measured / expected - 1)) < 5e-4  # interpolation does better than the guarantee


def test_an_atom_is_exact() -> None:
    """Half of the outputs of a ReLU are zero, and so is their lower quartile."""
    x = torch.randn(1, 1001).relu()
    assert sketch_quantile(quantile_sketch(x), PROBABILITIES)[0, :3].tolist() == [0, 0, 0]


def test_rows_are_counted_apart_and_may_have_their_own_probabilities() -> None:
    x = torch.stack([torch.linspace(1, 2, 101), torch.linspace(-6, -4, 101)])
    own = sketch_quantile(quantile_sketch(x), torch.tensor([[0.5], [0.25]]))
    torch.testing.assert_close(own, torch.tensor([[1.5], [-5.5]], dtype=torch.float64), rtol=0.008, atol=0)


@given(seed=st.integers(0, 2**31), cut=st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_a_stream_gives_exactly_what_the_batch_gives(seed, cut) -> None:
    x = torch.randn(2, 40, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(quantile_sketch(x), quantile_sketch(x[:, :cut]) + quantile_sketch(x[:, cut:]))


def test_every_float_falls_into_one_bin_in_order() -> None:
    patterns = torch.arange(2**16, dtype=torch.int32) << 16
    values = patterns.view(torch.float32)
    values = values[values.isfinite()].sort().values
    bins = torch.cat([quantile_sketch(value.reshape(1, 1)).argmax(1) for value in values[::17]])
    assert bins.diff().ge(0).all()
    assert (bins.min(), bins.max()) == (1, BINS - 2)


def test_what_is_not_finite_is_counted_but_has_no_rank() -> None:
    sketch = quantile_sketch(torch.tensor([[torch.nan, torch.inf, -torch.inf, 3.0]]))
    assert float(sketch_quantile(sketch, torch.tensor([0.5]))) == pytest.approx(3, rel=RELATIVE_ACCURACY)
    assert float(nonfinite_share(sketch)) == 0.75


def test_outside_the_range_numbers_are_zero_or_infinite() -> None:
    def median(value: float) -> float:
        return float(sketch_quantile(quantile_sketch(torch.full((1, 3), value)), torch.tensor([0.5])))

    assert [median(v) for v in (1e-9, -1e-9, 1e9, -1e9)] == [0, 0, torch.inf, -torch.inf]


def test_an_empty_sketch_has_no_quantiles() -> None:
    sketch = quantile_sketch(torch.zeros(1, 0))
    assert sketch_quantile(sketch, PROBABILITIES).isnan().all()
    assert nonfinite_share(sketch).isnan().all()


def test_half_and_double_precision_are_counted() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        assert float(sketch_quantile(quantile_sketch(torch.full((1, 5), 1.5, dtype=kind)), torch.tensor([0.5]))) < 1.512


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        quantile_sketch(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(R, M\), got shape \(3,\)"):
        quantile_sketch(torch.zeros(3))
    with pytest.raises(ValueError, match=rf"sketch: expected shape \(R, {BINS}\), got shape \(2, 3\)"):
        sketch_quantile(torch.zeros(2, 3, dtype=torch.int64), PROBABILITIES)
