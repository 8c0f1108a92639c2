"""The streaming distance to N(0, I): batch equals stream, the reservoir is fair, directions are everyone's."""

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
from torch._subclasses.fake_tensor import FakeTensorMode

from layershift.measure import Estimate, Normality


def measured(*batches: torch.Tensor, **options) -> Estimate:
    normality = Normality(**options)
    for batch in batches:
        normality.update(batch)
    return normality.compute()


@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 29), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_stream_gives_what_the_batch_gives(seed, cuts) -> None:
    x = torch.randn(30, 5, 4, generator=torch.Generator().manual_seed(seed))
    parts = [x[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), 30])]
    torch.testing.assert_close(measured(x)[:3], measured(*parts)[:3])


@pytest.mark.parametrize("shape", [(400, 20), (400, 5, 4), (400, 5, 2, 2)])
def test_a_standard_normal_lies_at_the_floor(shape) -> None:
    estimate = measured(torch.randn(shape))
    assert abs(float(estimate.value - estimate.floor)) < 3 * float(estimate.stderr)
    assert float(estimate.n) == 400


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_a_scaled_normal_lies_where_it_must(scale) -> None:
    """W1 between N(0, s²) and N(0, 1) is |s - 1| sqrt(2/π)."""
    estimate = measured(scale * torch.randn(4000, 50))
    assert float(estimate.value) == pytest.approx(abs(scale - 1) * (2 / np.pi) ** 0.5, rel=0.05)


def test_directions_depend_on_the_seed_alone() -> None:
    x = torch.randn(50, 30)
    a, b, c = measured(x, seed=1), measured(x, seed=1), measured(x, seed=2)
    assert a.value == b.value
    assert a.value != c.value
    state = torch.get_rng_state()
    measured(x)
    assert torch.equal(state, torch.get_rng_state())


def test_the_reservoir_keeps_its_size_and_chooses_fairly() -> None:
    """Each of 40 samples is kept with probability 1/4, whichever batch it came with."""
    counts = np.zeros(40)
    for seed in range(400):
        normality = Normality(num_projections=1, max_samples=10, seed=seed)
        for batch in torch.arange(1.0, 41.0).reshape(4, 10, 1):
            normality.update(batch)
        assert float(normality.compute().n) == 10
        kept = torch.cat(normality.kept)[:, 1].abs().round().int() - 1
        counts[kept.numpy()] += 1
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_merging_keeps_a_choice_of_both() -> None:
    first, second = Normality(max_samples=20), Normality(max_samples=20, seed=0)
    first.update(torch.randn(30, 4))
    second.update(torch.randn(30, 4))
    first.merge_state(second)
    assert float(first.compute().n) == 20


def test_reset_forgets_and_copies_go_on() -> None:
    x, normality = torch.randn(40, 6), Normality()
    normality.update(torch.full((5, 6), torch.nan))
    normality.reset()
    normality.update(x[:20])
    for twin in (copy.deepcopy(normality), pickle.loads(pickle.dumps(normality))):
        twin.update(x[20:])
        assert twin.compute().value == measured(x).value


def test_half_precision_and_autocast_project_in_single() -> None:
    x = (100 * torch.randn(64, 2048)).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = measured(x)
    torch.testing.assert_close(low.value, measured(x.float()).value)


def test_an_activation_that_is_not_finite_makes_the_distance_nan() -> None:
    x = torch.randn(10, 3)
    x[2, 1] = torch.nan
    assert measured(x).value.isnan()


def test_an_update_of_tensors_without_numbers_spoils_no_later_one() -> None:
    x = torch.randn(8, 43)  # of a size that no other test has
    with FakeTensorMode(allow_non_fake_inputs=True):  # as torch.export sets it
        Normality(seed=11).update(torch.empty(8, 43))
    assert bool(measured(x, seed=11).value.isfinite())


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="num_projections: expected a number of directions, 1 or more, got 0"):
        Normality(num_projections=0)
    with pytest.raises(ValueError, match="max_samples: expected a number of samples, 1 or more, got 0"):
        Normality(max_samples=0)
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        Normality().update(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, C, …\), got shape \(3,\)"):
        Normality().update(torch.zeros(3))
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        Normality().update(torch.zeros(0, 3))
