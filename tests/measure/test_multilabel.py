"""Scores of label sets against scikit-learn, the readings of CF1, streams, and what becomes of odd classes."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from layershift.measure import MultiLabelResult, MultiLabelScores


def samples(n: int = 60, classes: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    targets = torch.rand(n, classes, generator=g) < 0.3
    scores = torch.sigmoid(1.5 * torch.randn(n, classes, generator=g) + 2 * targets.float() - 1)
    return (scores * 20).round() / 20, targets  # with ties


def scored(*batches, classes: int = 7, **options) -> MultiLabelResult:
    metric = MultiLabelScores(classes, **options)
    for batch in batches:
        metric.update(*batch)
    return metric.compute()


def values(result: MultiLabelResult) -> list[float]:
    return [float(estimate.value) for estimate in result]


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_defines_them(seed) -> None:
    scores, targets = samples(seed=seed)
    said, truth = (scores > 0.5).numpy(), targets.numpy()
    expected = [
        metrics.accuracy_score(truth, said),
        metrics.f1_score(truth, said, average="macro"),
        metrics.f1_score(truth, said, average="micro"),
        metrics.average_precision_score(truth, scores.numpy(), average="macro"),
    ]
    result = scored((scores, targets))
    np.testing.assert_allclose(values(result), expected, rtol=1e-6)
    assert [float(estimate.n) for estimate in result] == [60] * 4


def test_the_other_reading_of_cf1_is_f1_of_the_means() -> None:
    scores, targets = samples()
    said, truth = (scores > 0.5).numpy(), targets.numpy()
    p, r = (f(truth, said, average="macro") for f in (metrics.precision_score, metrics.recall_score))
    result = scored((scores, targets), cf1="f1_of_means")
    assert float(result.cf1.value) == pytest.approx(2 * p * r / (p + r))
    assert result.cf1.estimator == "F1 of mean precision and mean recall over 7 of 7 classes"


@given(seed=st.integers(0, 2**31), bias=st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_it_is_never_the_smaller_one(seed, bias) -> None:
    scores, targets = samples(seed=seed)
    batch = (torch.sigmoid(torch.logit(scores, 1e-3) + bias), targets)
    mean, of_means = (float(scored(batch, cf1=form).cf1.value) for form in ("mean_of_f1", "f1_of_means"))
    assert of_means >= mean - 1e-12


@given(cuts=st.sets(st.integers(1, 59), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_a_stream_gives_what_the_batch_gives(cuts) -> None:
    scores, targets = samples()
    parts = [(scores[a:b], targets[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 60])]
    for stream, whole in zip(scored(*parts), scored((scores, targets)), strict=True):
        torch.testing.assert_close(stream[:3], whole[:3], equal_nan=True)
        assert stream.estimator == whole.estimator


def test_merged_copies_equal_one_and_reset_forgets() -> None:
    scores, targets = samples()
    first, second = MultiLabelScores(7), MultiLabelScores(7)
    first.update(scores[:20], targets[:20])
    twin = pickle.loads(pickle.dumps(copy.deepcopy(first)))
    second.update(scores[20:], targets[20:])
    first.merge_state(second)
    torch.testing.assert_close(values(first.compute()), values(scored((scores, targets))))
    twin.reset()
    twin.update(scores, targets)
    assert values(twin.compute()) == values(scored((scores, targets)))


def test_a_class_without_a_positive_is_left_out_of_means_over_classes() -> None:
    scores, targets = samples()
    targets[:, 2] = False
    kept = [k for k in range(7) if k != 2]
    result, without = scored((scores, targets)), scored((scores[:, kept], targets[:, kept]), classes=6)
    assert float(result.cf1.value) == pytest.approx(float(without.cf1.value))
    assert float(result.map.value) == pytest.approx(float(without.map.value))
    assert result.map.estimator == "mean over 6 of 7 classes"
    said, truth = (scores > 0.5).numpy(), targets.numpy()
    assert float(result.of1.value) == pytest.approx(metrics.f1_score(truth, said, average="micro"))
    assert float(result.accuracy.value) == pytest.approx(metrics.accuracy_score(truth, said))


def test_a_class_that_is_never_predicted_has_an_f1_of_zero() -> None:
    scores, targets = samples()
    scores[:, 2] = 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = metrics.f1_score(targets.numpy(), (scores > 0.5).numpy(), average="macro", zero_division=0)
    assert float(scored((scores, targets)).cf1.value) == pytest.approx(expected)


def test_without_any_positive_only_accuracy_is_known() -> None:
    scores = torch.tensor([[0.1, 0.2], [0.9, 0.2]])
    result = scored((scores, torch.zeros(2, 2)), classes=2)
    assert (float(result.accuracy.value), float(result.of1.value)) == (0.5, 0.0)
    assert result.cf1.value.isnan()
    assert result.map.value.isnan()


def test_nan_among_the_scores_makes_all_nan() -> None:
    scores, targets = samples()
    scores[3, 2] = torch.nan
    assert all(np.isnan(values(scored((scores, targets)))))


def test_predictions_may_be_decided_otherwise() -> None:
    scores, targets = samples()
    result = scored((scores, targets, targets))
    assert values(result)[:3] == [1, 1, 1]
    assert values(result)[3] == values(scored((scores, targets)))[3]


def test_average_precision_needs_the_order_of_scores_only() -> None:
    scores, targets = samples()
    result = scored((1e4 * torch.logit(scores, 1e-2), targets), threshold=0.0)
    np.testing.assert_allclose(values(result), values(scored((scores.clamp(0.01, 0.99), targets))), rtol=1e-6)


def test_standard_errors_are_those_of_repeated_samples() -> None:
    many = samples(40_000)
    each = [scored((s, t)) for s, t in zip(*(x.split(200) for x in many), strict=True)]
    for name in ("accuracy", "of1"):
        spread = torch.stack([getattr(result, name).value for result in each]).std()
        told = torch.stack([getattr(result, name).stderr for result in each]).mean()
        assert float(told / spread) == pytest.approx(1, abs=0.15), name
    assert each[0].map.stderr.isnan()


def test_messages_name_the_argument() -> None:
    scores, targets = samples()
    with pytest.raises(ValueError, match=r"cf1: expected one of 'mean_of_f1', 'f1_of_means', got 'macro'"):
        MultiLabelScores(7, cf1="macro")
    with pytest.raises(ValueError, match="num_labels: expected a number of labels, 1 or more, got 0"):
        MultiLabelScores(0)
    with pytest.raises(ValueError, match=r"scores: expected 6 labels, got shape \(60, 7\)"):
        MultiLabelScores(6).update(scores, targets)
    with pytest.raises(ValueError, match=r"targets: expected shape \(60, 7\), got shape \(60, 6\)"):
        MultiLabelScores(7).update(scores, targets[:, :6])
    with pytest.raises(ValueError, match=r"predictions: expected shape \(60, 7\), got shape \(7,\)"):
        MultiLabelScores(7).update(scores, targets, targets[0])
    with pytest.raises(TypeError, match=r"scores: expected a floating point tensor, got torch\.bool"):
        MultiLabelScores(7).update(targets, targets)
