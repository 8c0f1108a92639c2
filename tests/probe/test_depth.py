"""Distances of samples at every layer: the stream's numbers, the invariances, and what becomes of odd samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import emd, label_cost, label_distribution, zero_one_cost
from layershift.measure import LabelTransport
from layershift.probe.depth import adjacent_table, depth_table, epoch_table, mean_of, sample_distances
from layershift.probe.outputs import LayerOutputs

K = 5
COST = label_cost(torch.randn(K, 3, generator=torch.Generator().manual_seed(0)))
COST = COST / COST.max()
METHODS = ["auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev", "jensen_shannon"]


def made(n: int = 12, layers: int = 3, seed: int = 0, task: str = "multi_label", p=None, targets=None) -> LayerOutputs:
    g = torch.Generator().manual_seed(seed)
    if targets is None:
        targets = torch.rand(n, K, generator=g) < 0.4
        targets[torch.arange(n), torch.randint(K, (n,), generator=g)] = True
    if p is None:
        p = torch.rand(layers, n, K, generator=g) + 0.01
        p = p / p.sum(-1, keepdim=True) if task == "single_label" else p.clamp(max=1)
    names = (*(f"conv{k}" for k in range(len(p) - 1)), "output")
    labels, ids = tuple(map(str, range(K))), tuple(map(str, range(p.shape[1])))
    return LayerOutputs(names, p, targets, task, labels, ids)


@pytest.mark.parametrize("method", METHODS)
def test_a_layers_mean_is_that_of_the_stream(method) -> None:
    outputs = made()
    for row, p in zip(depth_table(outputs, COST, method=method), outputs.probabilities, strict=True):
        stream = LabelTransport(COST, method=method)
        stream.update(p, outputs.targets)
        estimate = stream.compute()
        assert row.mean == pytest.approx(float(estimate.value), rel=1e-5)
        assert row.stderr == pytest.approx(float(estimate.stderr), rel=1e-4)
        assert (row.n, row.left_out) == (12, 0)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_one_label_needs_no_linear_program(seed) -> None:
    g = torch.Generator().manual_seed(seed)
    targets = torch.eye(K, dtype=torch.bool)[torch.randint(K, (8,), generator=g)]
    outputs = made(8, 2, seed, "single_label", targets=targets)
    found = sample_distances(outputs, COST, method="emd")
    for row, p in zip(found, outputs.distributions().double(), strict=True):
        expected = emd(p, label_distribution(targets.double()), COST.double())
        torch.testing.assert_close(row, expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_copies_the_target_is_at_distance_zero(method) -> None:
    targets = made().targets
    outputs = made(p=targets.float().expand(3, -1, -1).clone(), targets=targets)
    found = sample_distances(outputs, COST, method=method)
    # The sharp cost of entropic transport is not debiased: it is small, not zero.
    assert float(found.abs().max()) < (0.05 if method == "sinkhorn" else 1e-6)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("method", ["emd", "sinkhorn", "divergence", "chebyshev"])
def test_permuting_labels_with_their_cost_changes_nothing(method, seed) -> None:
    outputs = made(seed=seed)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    other = made(p=outputs.probabilities[..., order], targets=outputs.targets[:, order])
    found = sample_distances(other, COST[order][:, order], method=method, eps=0.05)
    torch.testing.assert_close(found, sample_distances(outputs, COST, method=method, eps=0.05), rtol=1e-4, atol=1e-5)


def test_a_scaled_head_has_the_same_distribution() -> None:
    outputs = made()
    half = made(p=outputs.probabilities / 2, targets=outputs.targets)
    torch.testing.assert_close(sample_distances(half, COST), sample_distances(outputs, COST))


def test_samples_without_a_label_and_heads_without_a_distribution_are_counted() -> None:
    outputs = made()
    outputs.targets[2] = False
    outputs.probabilities[1, 5] = 0
    found = sample_distances(outputs, COST)
    assert found.isnan().nonzero().tolist() == [[0, 2], [1, 2], [1, 5], [2, 2]]
    assert [(row.n, row.left_out) for row in depth_table(outputs, COST)] == [(11, 1), (10, 2), (11, 1)]


def test_without_any_label_there_is_no_mean() -> None:
    outputs = made()
    outputs.targets[:] = False
    row = depth_table(outputs, COST)[0]
    assert math.isnan(row.mean)
    assert (row.n, row.left_out) == (0, 12)


def test_blocks_do_not_show(monkeypatch) -> None:
    outputs = made()
    whole = sample_distances(outputs, COST, method="sinkhorn")
    monkeypatch.setattr("layershift.probe.depth._BLOCK", 5)
    torch.testing.assert_close(sample_distances(outputs, COST, method="sinkhorn"), whole, rtol=1e-4, atol=1e-6)


def test_known_distances_are_not_computed_again() -> None:
    outputs = made()
    rows = depth_table(outputs, COST, distances=torch.full((3, 12), 0.5))
    assert [row.mean for row in rows] == [0.5] * 3
    with pytest.raises(ValueError, match=r"distances: expected shape \(3, 12\), got shape \(2, 12\)"):
        depth_table(outputs, COST, distances=torch.ones(2, 12))


def test_the_rows_say_how() -> None:
    def words(cost, method):
        return depth_table(made(), cost, method=method)[0].estimator

    assert words(COST, "auto") == "exact transport"
    assert words(COST, "printed").startswith("Sinkhorn divergence, 2 W(a,b) - W(a,a) - W(b,b)")
    assert words(None, "chebyshev") == "Chebyshev distance"
    torch.testing.assert_close(
        sample_distances(made(), zero_one_cost(K)), sample_distances(made(), None, method="total_variation")
    )


def test_epochs_are_rows_in_order() -> None:
    history = {epoch: made(seed=epoch, targets=made().targets) for epoch in (5, 0, 2)}
    rows = epoch_table(history, COST)
    assert [(row.epoch, row.layer) for row in rows[:4]] == [(0, "conv0"), (0, "conv1"), (0, "output"), (2, "conv0")]
    assert rows[3].mean == depth_table(history[2], COST)[0].mean
    assert all(row.other is None for row in rows)


def test_adjacent_epochs_are_compared_with_each_other_and_not_with_the_target() -> None:
    history = {epoch: made(seed=epoch, targets=made().targets) for epoch in (5, 0, 2)}
    history[7] = history[5]
    rows = adjacent_table(history, COST)
    assert [(row.epoch, row.other) for row in rows[::3]] == [(0, 2), (2, 5), (5, 7)]
    expected = emd(history[0].distributions()[1], history[2].distributions()[1], COST)
    assert rows[1].mean == pytest.approx(float(expected.mean()), rel=1e-5)
    assert all(abs(row.mean) < 1e-6 for row in rows[6:])
    assert adjacent_table({3: history[0]}, COST) == []


def test_epochs_of_other_samples_are_an_error() -> None:
    message = "history: expected the same layers and samples at each epoch, got others at 0 and 1"
    with pytest.raises(ValueError, match=message):
        adjacent_table({0: made(12), 1: made(10)}, COST)


def test_what_did_not_converge_is_told() -> None:
    with pytest.warns(RuntimeWarning, match="of 36 distances did not converge in 1 iterations at eps=0.01"):
        sample_distances(made(), COST, method="sinkhorn", max_iter=1)


def test_messages_name_the_argument() -> None:
    with pytest.raises(ValueError, match="method: expected one of 'auto', 'emd'"):
        sample_distances(made(), COST, method="euclid")
    with pytest.raises(ValueError, match=r"cost: expected shape \(5, 5\), as there are labels, got shape \(4, 4\)"):
        sample_distances(made(), torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"cost: expected costs of shape \(K, K\) for method 'auto', got None"):
        sample_distances(made(), None)


def test_one_sample_has_no_error_bar() -> None:
    mean, stderr, n, left_out = mean_of(torch.tensor([0.5]))
    assert (mean, n, left_out) == (0.5, 1, 0)
    assert math.isnan(stderr)
