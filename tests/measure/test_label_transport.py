"""Label distances as a stream: batch equals stream, merging, what is left out, and every method against its formula."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

import layershift.functional as F
from layershift.measure import Estimate, LabelTransport

COST = F.label_cost(torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
METHODS = ["auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev", "jensen_shannon"]


def samples(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, 6, generator=g) < 0.3
    labels[:, 0] |= ~labels.any(1)
    return torch.rand(n, 6, generator=g, dtype=torch.float64), labels


def measured(*batches, cost=COST, **options) -> Estimate:
    metric = LabelTransport(cost, **options)
    for p, target in batches:
        metric.update(p, target)
    return metric.compute()


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_the_mean_of_its_formula(method) -> None:
    p, labels = samples(40)
    a, b = F.label_distribution(p), F.label_distribution(labels.double())
    expected = {
        "emd": lambda: F.emd(a, b, COST),
        "auto": lambda: F.emd(a, b, COST),
        "sinkhorn": lambda: F.sinkhorn(a, b, COST, 0.05).cost,
        "divergence": lambda: F.sinkhorn_divergence(a, b, COST, 0.05),
        "printed": lambda: F.sinkhorn_divergence(a, b, COST, 0.05, form="printed"),
        "total_variation": lambda: F.total_variation(a, b),
        "chebyshev": lambda: F.chebyshev(a, b),
        "jensen_shannon": lambda: F.jensen_shannon(a, b),
    }[method]()
    estimate = measured((p, labels), method=method, eps=0.05)
    torch.testing.assert_close(estimate.value, expected.mean())
    torch.testing.assert_close(estimate.stderr, expected.std() / 40**0.5)
    assert float(estimate.n) == 40


@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 29), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("method", ["auto", "sinkhorn", "divergence"])
def test_a_stream_gives_what_the_batch_gives(method, seed, cuts) -> None:
    p, labels = samples(30, seed)
    parts = [(p[a:b], labels[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 30])]
    whole, stream = (measured(*x, method=method) for x in ([(p, labels)], parts))
    torch.testing.assert_close(whole[:3], stream[:3], rtol=1e-6, atol=1e-9)
    assert whole.estimator == stream.estimator


def measure_share(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    p, labels = samples(30)
    share = slice(0, 11) if rank == 0 else slice(11, 30)
    torch.save(tuple(measured((p[share], labels[share])))[:3], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_union(tmp_path) -> None:
    multiprocessing.spawn(measure_share, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), measured(samples(30))[:3])


def test_merged_copies_equal_one() -> None:
    p, labels = samples(30)
    first, second = LabelTransport(COST), LabelTransport(COST)
    first.update(p[:12], labels[:12])
    twin = pickle.loads(pickle.dumps(copy.deepcopy(first)))
    second.update(p[12:], labels[12:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute()[:3], measured((p, labels))[:3])
    twin.reset()
    twin.update(p, labels)
    assert twin.compute().value == measured((p, labels)).value


def test_samples_without_a_label_are_left_out_and_told() -> None:
    p, labels = samples(20)
    holed = labels.clone()
    holed[3] = holed[7] = False
    kept = [i for i in range(20) if i not in (3, 7)]
    for method in METHODS:
        estimate = measured((p, holed), method=method)
        torch.testing.assert_close(estimate[:3], measured((p[kept], labels[kept]), method=method)[:3])
        assert estimate.estimator.endswith("2 without a label left out")
    assert measured((p[:1], 0 * labels[:1])).value.isnan()


@pytest.mark.parametrize("method", METHODS)
def test_outputs_that_are_not_numbers_give_nan(method) -> None:
    p, labels = samples(5)
    p[1, 2] = torch.nan
    assert measured((p, labels), method=method).value.isnan()


def test_one_sample_has_no_error_bar() -> None:
    estimate = measured(samples(1))
    assert estimate.value.isfinite()
    assert estimate.stderr.isnan()


def test_the_estimator_says_what_was_done() -> None:
    batch = samples(8)
    assert measured(batch).estimator == "exact transport"
    assert measured(batch, cost=2 * F.zero_one_cost(6)).estimator == "exact transport, in closed form"
    assert measured(batch, method="jensen_shannon", cost=None).estimator == "Jensen-Shannon divergence"
    assert measured(batch, method="sinkhorn").estimator == (
        "sharp cost of entropic transport, eps 0.01 of the largest cost"
    )
    few = measured(batch, method="divergence", max_iter=2, eps=0.02, tol=1e-12)
    assert few.estimator == (
        "Sinkhorn divergence, W(a,b) - W(a,a)/2 - W(b,b)/2, of the sharp cost, eps 0.02 of the largest cost; "
        "100.00% not converged"
    )
    assert measured(batch).units == "cost"
    assert measured(batch, method="chebyshev", cost=None).units == "1"


def test_equal_costs_need_no_pot(monkeypatch) -> None:
    p, labels = samples(10)
    monkeypatch.setattr(sys.modules["layershift.functional.label_transport"], "find_spec", lambda name: None)
    closed = measured((p, labels), cost=3 * F.zero_one_cost(6))
    torch.testing.assert_close(closed.value, 3 * measured((p, labels), method="total_variation").value)
    assert measured((p, labels)).estimator.startswith("sharp cost of entropic transport")


def test_integers_half_precision_and_distributions_as_targets() -> None:
    p, labels = samples(10)
    expected = measured((p, labels)).value
    torch.testing.assert_close(measured((p, labels.long())).value, expected)
    torch.testing.assert_close(measured((p, F.label_distribution(labels.double()))).value, expected)
    half = measured((p.half(), labels), cost=COST.float()).value
    torch.testing.assert_close(half, expected, rtol=1e-2, atol=0)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="cost: expected costs of shape \\(K, K\\) for method 'auto', got None"):
        LabelTransport()
    with pytest.raises(ValueError, match=r"cost: expected costs of shape \(K, K\), got shape \(2, 3\)"):
        LabelTransport(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"method: expected one of 'auto', 'emd', .*, got 'exact'"):
        LabelTransport(COST, method="exact")
    with pytest.raises(ValueError, match="eps: expected a positive number, got 0"):
        LabelTransport(COST, eps=0)
    metric, (p, labels) = LabelTransport(COST), samples(4)
    with pytest.raises(TypeError, match=r"p: expected a floating point tensor, got torch\.bool"):
        metric.update(labels, labels)
    with pytest.raises(ValueError, match=r"target: expected shape \(4, 6\), got shape \(4, 5\)"):
        metric.update(p, labels[:, :5])
    with pytest.raises(ValueError, match=r"p: expected 6 labels, as the cost has, got shape \(4, 5\)"):
        metric.update(p[:, :5], labels[:, :5])
