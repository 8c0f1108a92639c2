from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from layershift.probe.exits import at_layers, evaluate_exits
from layershift.probe.outputs import LayerOutputs, Task
from layershift.probe.rules import Agreement, Confidence, ExitRule, LabelCount

NAMES = ("a", "b", "c", "output")


def random_outputs(seed: int = 0, task: Task = "multi_label", n: int = 200, labels: int = 5) -> LayerOutputs:
    """Layers that know more and more, and sometimes unlearn."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(n, labels, generator=generator) < 0.4
    if task == "single_label":
        targets = torch.eye(labels, dtype=torch.bool)[torch.randint(0, labels, (n,), generator=generator)]
    strength = torch.tensor([0.5, 1.5, 3.0, 2.0])[:, None, None]
    logits = (targets.float() * 2 - 1) * strength + 2 * torch.randn(len(NAMES), n, labels, generator=generator)
    p = logits.sigmoid() if task == "multi_label" else logits.softmax(-1)
    words = tuple(map(str, range(labels))), tuple(map(str, range(n)))
    return LayerOutputs(NAMES, p, targets, task, *words)


@given(st.integers(0, 1000), st.sampled_from([LabelCount(0.7, 0.6), LabelCount(0.9, 1), Agreement(2, "multi_label")]))
@settings(max_examples=25, deadline=None)
def test_scores_are_those_of_scikit_learn_where_the_samples_leave(seed: int, rule: ExitRule) -> None:
    outputs = random_outputs(seed)
    costs = dict(zip(NAMES, (0.25, 0.5, 0.75, 1.0), strict=True))
    exits = evaluate_exits(outputs, rule, costs=costs)
    labelled = outputs.targets.any(1).nonzero().squeeze(1).tolist()
    layer = rule.exits(outputs.probabilities).tolist()
    assert exits.layer.tolist() == layer
    rows = torch.stack([outputs.probabilities[layer[i], i] for i in labelled])
    truth, said = outputs.targets[labelled].numpy(), (rows > 0.5).numpy()
    full = outputs.probabilities[-1][labelled]
    for scores, p in ((exits.scores, rows), (exits.full, full)):
        found = [float(score.value) for score in scores]
        said = (p > 0.5).numpy()
        expected = [
            accuracy_score(truth, said),
            f1_score(truth, said, average="macro", zero_division=0),
            f1_score(truth, said, average="micro"),
            average_precision_score(truth, p.numpy(), average="macro"),
        ]
        assert found == pytest.approx(expected, abs=1e-6)
    assert exits.cost == pytest.approx(sum(costs[NAMES[i]] for i in layer) / len(layer))
    assert exits.shares.tolist() == pytest.approx([layer.count(i) / len(layer) for i in range(4)])
    assert exits.unlabelled == len(layer) - len(labelled)
    gains = [
        int(bool((rows[j] > 0.5).eq(outputs.targets[i]).all())) - int(bool(outputs.correct()[-1, i]))
        for j, i in enumerate(labelled)
    ]
    mean = sum(gains) / len(gains)
    spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1))
    assert float(exits.difference.value) == pytest.approx(mean)
    assert float(exits.difference.stderr) == pytest.approx(spread / math.sqrt(len(gains)))
    assert float(exits.difference.value) == pytest.approx(
        float(exits.scores.accuracy.value - exits.full.accuracy.value)
    )


def test_a_paired_difference_is_known_better_than_one_of_two_samples() -> None:
    exits = evaluate_exits(random_outputs(n=5000), LabelCount(0.9, 1))
    apart = math.hypot(float(exits.scores.accuracy.stderr), float(exits.full.accuracy.stderr))
    assert 0 < float(exits.difference.stderr) < apart


def test_the_standard_error_of_the_difference_is_the_spread_over_samples_drawn_anew() -> None:
    exits = [evaluate_exits(random_outputs(seed, n=300), LabelCount(0.8, 1)).difference for seed in range(100)]
    spread = torch.stack([one.value for one in exits]).std()
    stated = torch.stack([one.stderr for one in exits]).mean()
    assert float(stated / spread) == pytest.approx(1, abs=0.25)


def test_a_threshold_of_one_is_the_full_network() -> None:
    for task, rule in (("multi_label", LabelCount(1, 1)), ("single_label", Confidence(1))):
        outputs = random_outputs(task=task)  # type: ignore[arg-type]
        exits = evaluate_exits(outputs, rule, costs=dict.fromkeys(NAMES, 1.0))
        assert torch.equal(exits.probabilities, outputs.probabilities[-1])
        assert torch.equal(exits.predictions, outputs.predictions()[-1])
        assert (float(exits.difference.value), float(exits.difference.stderr), exits.cost) == (0, 0, 1)
        assert [float(x.value) for x in exits.scores] == [float(x.value) for x in exits.full]


def test_samples_leave_only_where_they_may() -> None:
    outputs = random_outputs()
    exits = evaluate_exits(outputs, LabelCount(0.6, 0.5), layers=["b"], costs={"b": 0.5, "output": 1})
    assert exits.layers == ("b", "output")
    assert torch.equal(exits.layer, LabelCount(0.6, 0.5).exits(outputs.probabilities[[1, 3]]))
    assert at_layers(outputs, ["a", "output"]).layers == ("a", "output")
    assert at_layers(outputs, None) is outputs


def test_a_row_is_plain_data() -> None:
    row = evaluate_exits(random_outputs(), LabelCount(0.8, 1), costs=dict.fromkeys(NAMES, 0.5)).row()
    assert row["rule"] == {"kind": "label_count", "q": 0.8, "gamma": 1, "p": 0.5}
    assert row["difference"] == pytest.approx(row["accuracy"] - row["full_accuracy"])
    assert row["n"] + row["unlabelled"] == 200
    assert row["cost"] == 0.5
    assert sum(row["shares"]) == pytest.approx(1)
    for name in ("accuracy", "cf1", "of1", "map", "full_map", "accuracy_stderr", "difference_stderr"):
        assert 0 <= row[name] <= 1


def test_what_does_not_fit_is_refused() -> None:
    outputs = random_outputs()
    rule = LabelCount(0.8, 1)
    with pytest.raises(ValueError, match="task: expected 'single_label' with Confidence"):
        evaluate_exits(outputs, Confidence(0.5))
    with pytest.raises(ValueError, match="layers: expected names among a, b, c, output, got 'd'"):
        evaluate_exits(outputs, rule, layers=["d"])
    with pytest.raises(ValueError, match="layers: expected names that differ, in order of depth"):
        evaluate_exits(outputs, rule, layers=["b", "a"])
    with pytest.raises(ValueError, match="costs: expected a cost for each layer, got none for a, c"):
        evaluate_exits(outputs, rule, costs={"b": 0.5, "output": 1})
    with pytest.raises(ValueError, match="costs: expected shares that grow with depth"):
        evaluate_exits(outputs, rule, layers=["b"], costs={"b": 1, "output": 0.5})
    nobody = LayerOutputs(
        NAMES, outputs.probabilities, torch.zeros_like(outputs.targets), "multi_label", outputs.labels, outputs.ids
    )
    with pytest.raises(ValueError, match="outputs: expected at least one sample with a label, got 200 without"):
        evaluate_exits(nobody, rule)
