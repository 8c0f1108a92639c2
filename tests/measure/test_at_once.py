"""Small layers of one shape, measured together, give what each would give by itself."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layershift.functional.quantiles import number_quantile, quantile_sketch, sketch_quantile
from layershift.measure import Estimate, Moments, Normality

SPOILT = st.sampled_from([None, torch.nan, torch.inf, 1e30, -0.0])


def _outputs(layers: int, shape: list[int], dtype: torch.dtype, spoilt: float | None) -> Tensor:
    x = (3 * torch.randn(layers, *shape, dtype=torch.float64) + torch.arange(layers).view(-1, *[1] * len(shape))).to(
        dtype
    )
    if spoilt is not None:
        x.flatten()[:: max(x.numel() // 5, 1)] = spoilt
    return x


def _assert_same(found: object, expected: object) -> None:
    if isinstance(expected, Mapping):
        assert isinstance(found, Mapping)
        assert list(found) == list(expected)
        for name in expected:
            _assert_same(found[name], expected[name])
        return
    assert isinstance(found, Estimate)
    assert isinstance(expected, Estimate)
    for ours, other in zip(found, expected, strict=True):
        if isinstance(other, Tensor):
            torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-9, equal_nan=True)
        else:
            assert ours == other


@settings(max_examples=40, deadline=None)
@given(
    layers=st.integers(1, 4),
    samples=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    last=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    numbers=st.sampled_from([1, 4, 512]),
    units=st.sampled_from([0, 3]),
    spoilt=SPOILT,
)
def test_moments(
    layers: int,
    samples: int,
    sizes: list[int],
    last: bool,
    dtype: torch.dtype,
    numbers: int,
    units: int,
    spoilt: float | None,
) -> None:
    x = _outputs(layers, [samples, *sizes], dtype, spoilt)
    metrics = [Moments(num_units=units, quantile_numbers=numbers, channel_dim=-1 if last else 1) for _ in x]
    together = Moments.measure_all(metrics, x)
    assert all(metric.update_count == 0 for metric in metrics)
    for metric, output, found in zip(metrics, x, together, strict=True):
        metric.update(output)
        _assert_same(found, metric.compute_all([metric])[0])
        assert metric.unit_indices is not None
        assert len(metric.unit_indices) == min(units, sizes[-1] if last else sizes[0])


@pytest.mark.parametrize("max_samples", [5, 4096])
def test_normality(max_samples: int) -> None:
    x = _outputs(3, [12, 2, 4], torch.float32, None)
    metrics = [Normality(num_projections=8, max_samples=max_samples) for _ in x]
    for metric, output, found in zip(metrics, x, Normality.measure_all(metrics, x), strict=True):
        metric.update(output)
        _assert_same(found, metric.compute_all([metric])[0])


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 4), numbers=st.integers(1, 40), spoilt=SPOILT, seed=st.integers(0, 2**16))
def test_quantiles_of_numbers_are_those_of_their_sketch(
    rows: int, numbers: int, spoilt: float | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-4, 5, (rows, numbers), generator=generator) * torch.randn(rows, 1, generator=generator).exp()
    if spoilt is not None:
        x[torch.rand(rows, numbers, generator=generator) < 0.3] = spoilt
    q = torch.rand(rows, 7, generator=generator, dtype=torch.float64)
    q[:, 0], q[:, 1] = 0, 1
    expected = sketch_quantile(quantile_sketch(x), q)
    torch.testing.assert_close(number_quantile(x, q), expected, rtol=0, atol=0, equal_nan=True)
