"""Health against naive counting; saturation against known slopes; batch equals stream; two ranks equal one."""

from __future__ import annotations

import copy
import itertools
import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layershift.functional import effective_rank
from layershift.measure import Estimate, Health

NAMES = ["dead", "saturated", "collapsed", "effective_rank", "rms", "max_abs", "nonfinite", "nonfinite_units"]


def measured(*batches: torch.Tensor, **options) -> dict[str, Estimate]:
    health = Health(**options)
    for batch in batches:
        health.update(batch)
    return health.compute()


def values(*batches: torch.Tensor, **options) -> dict[str, float]:
    return {name: float(estimate.value) for name, estimate in measured(*batches, **options).items()}


def assert_same(a: dict[str, Estimate], b: dict[str, Estimate], tolerance: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        for first, second in zip(a[name][:3], b[name][:3], strict=True):
            torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("shape", [(40, 12), (40, 12, 5), (40, 12, 4, 5), (40, 12, 3, 2, 4)])
def test_every_number_agrees_with_counting(shape) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    x[:, [2, 7, 8]] = 0
    x[3, 5], x[4, 5].view(-1)[0], x[0, 7].view(-1)[0] = 1e3, torch.inf, torch.nan
    found = values(x)
    finite = torch.where(x.isfinite(), x, 0.0)
    assert list(found) == NAMES
    assert found["dead"] == pytest.approx(2 / 12)  # the unit with a NaN is not dead, it is broken
    assert found["max_abs"] == 1e3
    assert found["rms"] == pytest.approx(float(finite.square().mean().sqrt()), rel=1e-12)
    assert found["nonfinite"] == pytest.approx(2 / x.numel())
    assert found["nonfinite_units"] == 2
    means = finite.flatten(2).mean(-1) if x.dim() > 2 else finite
    assert found["effective_rank"] == pytest.approx(float(effective_rank(means)), rel=1e-9)
    products = means @ means.T
    similarity = float((products.sum() - products.trace()) / 39 / products.trace())
    assert found["collapsed"] == pytest.approx(similarity, abs=1e-9)
    estimates = measured(x)
    assert {float(estimate.n) for estimate in estimates.values()} == {40}
    rank = estimates["effective_rank"]
    assert (float(rank.lower), float(rank.upper)) == (1, 12)


@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 29), min_size=1, max_size=4), shift=st.floats(-1e3, 1e3))
@settings(max_examples=20, deadline=None)
def test_a_stream_gives_what_the_batch_gives(seed, cuts, shift) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = shift + torch.randn(30, 5, 4, dtype=torch.float64, generator=generator)
    x[:, 1], x[20, 2, 0] = 0, torch.nan
    x[:, 3] = 3e3 * x[:, 3].sign()
    edges = [0, *sorted(cuts), 30]
    assert_same(measured(x), measured(*(x[a:b] for a, b in itertools.pairwise(edges))))


def test_merging_two_measures_gives_what_one_would_have_seen() -> None:
    x = 100 + torch.randn(20, 3, 4, dtype=torch.float64)
    first, second = Health(), Health()
    first.update(x[:7])
    second.update(x[7:15])
    first.merge_state(second)
    assert_same(first.compute(), measured(x[:15]))
    first.update(x[15:])
    assert_same(first.compute(), measured(x))
    first.merge_state(Health())
    assert_same(first.compute(), measured(x))


def test_forward_gives_the_batch_and_keeps_the_stream() -> None:
    x, health = torch.randn(20, 3, 4, dtype=torch.float64), Health()
    assert_same(health(x[:8]), measured(x[:8]))
    assert_same(health(x[8:]), measured(x[8:]))
    assert_same(health.compute(), measured(x))


def test_many_layers_at_once_give_what_each_gives() -> None:
    layers = [torch.randn(16, c, 3) * (c if c != 7 else math.nan) for c in (4, 7, 4, 90, 1, 600)]
    metrics = [Health(max_channels=64) for _ in layers]
    for metric, x in zip(metrics, layers, strict=True):
        metric.update(x.relu() if x.shape[1] == 4 else x)
    for metric, together in zip(metrics, Health.compute_all(metrics), strict=True):
        assert_same(together, metric.compute(), 1e-9)


def test_reset_forgets() -> None:
    health, x = Health(), torch.randn(9, 4)
    health.update(torch.full((5, 4), torch.nan))
    health.reset()
    health.update(x)
    assert_same(health.compute(), measured(x))


def test_a_tolerance_for_what_counts_as_dead() -> None:
    x = torch.randn(50, 10)
    x[:, :4] *= 1e-4
    assert (values(x)["dead"], values(x, tolerance=1e-3)["dead"]) == (0, 0.4)


def test_a_unit_that_fires_once_is_not_dead() -> None:
    x = torch.zeros(64, 2)
    x[63, 0] = 1e-20
    assert values(*x.split(16))["dead"] == 0.5


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.Softplus()])
@pytest.mark.parametrize("tails", ["normal", "heavy", "one channel a thousand times larger", "far from 0", "sparse"])
def test_without_two_bounds_nothing_is_saturated(activation, tails) -> None:
    x = torch.randn(128, 50, 6)
    if tails == "heavy":
        x = torch.distributions.StudentT(2.0).sample(x.shape)
    elif tails == "one channel a thousand times larger":
        x[:, 3] *= 1e3
    elif tails == "far from 0":
        x = x + 100
    elif tails == "sparse":
        x = x - 2.5
    assert values(activation(x))["saturated"] == 0


@pytest.mark.parametrize(("activation", "steepest"), [(torch.tanh, 1.0), (torch.sigmoid, 0.25)])
@pytest.mark.parametrize("bounds", [None, "known"])
def test_saturated_units_are_those_whose_mean_slope_is_small(activation, steepest, bounds) -> None:
    """Half of the units get steeper and steeper inputs; the slope is autograd's own."""
    x = torch.randn(512, 40, dtype=torch.float64, requires_grad=True)
    scale = torch.cat([torch.linspace(0.2, 2, 20), torch.logspace(0.3, 2, 20)]).double()
    y = activation(scale * x * (1 if activation is torch.tanh else 2))
    (slope,) = torch.autograd.grad(y.sum(), x)
    mean_slope = slope.mean(0) / scale / steepest / (1 if activation is torch.tanh else 2)
    ends = {torch.tanh: (-1.0, 1.0), torch.sigmoid: (0.0, 1.0)}[activation]
    found = values(y, bounds=ends if bounds else None)["saturated"]
    assert found == pytest.approx(float((mean_slope < 0.1).double().mean()), abs=0.0251)  # one unit may be at the edge
    assert 0.2 < found < 0.4
    assert values(activation(x.detach()))["saturated"] == 0


def test_units_that_stay_at_one_end_are_saturated_where_others_show_that_it_is_a_bound() -> None:
    x = torch.randn(256, 20)
    stuck = torch.tanh(torch.where(torch.arange(20) < 10, 30 * x, x + 10))
    assert values(stuck)["saturated"] == pytest.approx(1, abs=0.1)
    all_stuck = torch.tanh(x + 10)  # no unit shows that 1 is a bound: for all one knows this is a layer about 1
    assert values(all_stuck)["saturated"] == 0
    assert values(all_stuck, bounds=(-1, 1))["saturated"] == 1


def test_clipped_activations_saturate_and_dead_units_are_not_counted_twice() -> None:
    x = 100 * torch.randn(256, 20)
    x[:, :5] = -1
    found = values(nn.functional.relu6(x))
    assert (found["dead"], found["saturated"]) == (0.25, 0.75)


def test_samples_that_are_the_same_are_told_from_samples_that_differ() -> None:
    x = torch.randn(64, 30)
    same = measured(torch.randn(30).expand(64, 30))
    assert float(same["collapsed"].value) == pytest.approx(1, abs=1e-12)
    assert same["effective_rank"].value.isnan()
    assert abs(values(x)["collapsed"]) < 0.02
    assert values(1e-4 * x + 1)["collapsed"] > 1 - 1e-7
    assert values(torch.zeros(64, 3))["dead"] == 1
    assert measured(torch.zeros(64, 3))["collapsed"].value.isnan()
    assert values(torch.outer(torch.randn(64), torch.randn(30)))["effective_rank"] == pytest.approx(1, abs=1e-5)


def test_one_sample_has_a_scale_and_no_more() -> None:
    estimates = measured(torch.randn(1, 5, 7))
    assert estimates["rms"].value.isfinite()
    for name in ("collapsed", "effective_rank"):
        assert estimates[name].value.isnan()
    assert estimates["rms"].stderr.isnan()


@pytest.mark.parametrize("kind", ["independent", "shared scale"])
def test_error_bars_of_the_scale_match_the_spread_of_repeated_sampling(kind) -> None:
    generator = torch.Generator().manual_seed(3)

    def draw() -> Estimate:
        x = torch.randn(200, 2, 8, generator=generator)
        if kind == "shared scale":
            x = x * (0.5 + torch.rand(200, 1, 1, generator=generator))
        return measured(x)["rms"]

    estimates = [draw() for _ in range(200)]
    claimed = torch.stack([e.stderr for e in estimates]).mean()
    assert float(claimed / torch.stack([e.value for e in estimates]).std()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("n", "channels"), [(32, 256), (128, 64)])
def test_the_rank_of_noise_is_its_number_of_channels_with_few_images_too(n, channels) -> None:
    rank = measured(torch.randn(n, channels, 3, 3))["effective_rank"]
    assert abs(float(rank.value) - channels) < 4 * float(rank.stderr)
    assert float(rank.value) > 0.7 * channels


def test_beyond_the_largest_matrix_projections_tell_the_rank() -> None:
    health = Health(max_channels=128)
    x = torch.randn(256, 1000)
    health.update(x)
    rank = health.compute()["effective_rank"]
    assert float(rank.value) == pytest.approx(1000, rel=0.25)
    assert float(rank.upper) == 1000
    assert health.samples[0].shape == (1, 131, 132)
    basis = torch.linalg.qr(torch.randn(1000, 10))[0]
    assert values(torch.randn(256, 10) @ basis.T, max_channels=128)["effective_rank"] == pytest.approx(10, rel=0.2)


def test_sequences_with_channels_last() -> None:
    x = torch.randn(6, 9, 4)
    assert_same(measured(x, channel_dim=-1), measured(x.movedim(-1, 1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype) -> None:
    found = values((300 * torch.randn(64, 4, 100)).to(dtype))
    assert found["rms"] == pytest.approx(300, rel=0.02)
    assert found["nonfinite"] == 0


def test_the_input_is_left_alone_and_carries_no_gradient() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    before = x.detach().clone()
    assert not any(estimate.value.requires_grad for estimate in measured(x).values())
    assert torch.equal(x.detach(), before)


def test_copies_and_pickles_go_on_where_the_original_was() -> None:
    x = torch.randn(10, 3)
    health = Health()
    health.update(x[:5])
    for twin in (copy.deepcopy(health), pickle.loads(pickle.dumps(health))):
        twin.update(x[5:])
        assert_same(twin.compute(), measured(x))
    assert_same(health.compute(), measured(x[:5]))


class NoWaiting(TorchDispatchMode):
    """Fails on operations whose result the host must read, which on a GPU it would have to wait for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique2"), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_nothing_reads_a_number_of_the_device(bounds) -> None:
    metrics = [Health(max_channels=16, bounds=bounds) for _ in range(3)]
    layers = [torch.randn(8, 5, 3), torch.randn(8, 30), torch.randn(8, 5)]
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        float(layers[0].sum())
    with NoWaiting():
        for _ in range(2):
            for metric, x in zip(metrics, layers, strict=True):
                metric.update(x)
        Health.compute_all(metrics)


def test_numbers_at_the_end_of_the_range_have_a_documented_result() -> None:
    x = torch.randn(20, 5, dtype=torch.float64)
    assert values(1e30 * x)["effective_rank"] == pytest.approx(values(x)["effective_rank"], rel=1e-9)
    assert measured(1e100 * x)["effective_rank"].value.isnan()
    assert values((1e30 * x).float())["rms"] > 1e29


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="tolerance: expected a number, 0 or more, got -1"):
        Health(tolerance=-1)
    with pytest.raises(ValueError, match=r"slope: expected a share in \(0, 1\), got 1"):
        Health(slope=1)
    with pytest.raises(ValueError, match=r"bounds: expected two numbers in ascending order, got \(1, -1\)"):
        Health(bounds=(1, -1))
    with pytest.raises(ValueError, match="max_channels: expected a number of channels, 1 or more, got 0"):
        Health(max_channels=0)
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        Health().update(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, C, …\), got shape \(3,\)"):
        Health().update(torch.zeros(3))
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        Health().update(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="metrics: expected metrics that were updated, got one that was not"):
        Health.compute_all([Health()])


def on_two_ranks(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x = whole_batch()
    health = Health()
    for part in (x[:20] if rank == 0 else x[20:]).split(9):
        health.update(part)
    found = {name: tuple(estimate[:3]) for name, estimate in health.compute().items()}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def whole_batch() -> torch.Tensor:
    x = 20 + torch.randn(48, 6, 3, generator=torch.Generator().manual_seed(0))
    x[:, 2], x[30, 4, 0] = 0, torch.inf
    return x


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_union(tmp_path: Path) -> None:
    multiprocessing.spawn(on_two_ranks, args=(str(tmp_path),), nprocs=2)
    one = measured(whole_batch())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, (value, stderr, n) in found.items():
            torch.testing.assert_close(
                (value, stderr, n), tuple(one[name][:3]), rtol=1e-6, atol=1e-9, equal_nan=True, msg=name
            )
