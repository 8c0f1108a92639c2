from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layershift.probe.early_exit import EarlyExit, run_exits
from layershift.probe.exits import evaluate_exits
from layershift.probe.heads import InternalClassifiers
from layershift.probe.outputs import LayerOutputs
from layershift.probe.probe import Probe
from layershift.probe.rules import Agreement, Confidence, Entropy, ExitRule, LabelCount
from layershift.probe.search import search_exits
from layershift.train.models import small_cnn

SIZES = {"1": 8, "3": 8, "5": 8}


def exact_network(seed: int = 0) -> tuple[nn.Module, InternalClassifiers]:
    """Weights and inputs of few bits: every sum is exact in float32, in whatever order, so that no rounding differs."""
    torch.manual_seed(seed)
    convolutions = [nn.Conv2d(before, 8, 3, padding=1) for before in (1, 8, 8)]
    parts = [part for conv in convolutions for part in (conv, nn.ReLU6())]
    model = nn.Sequential(*parts, nn.MaxPool2d(8), nn.Flatten(), nn.Linear(8, 4))
    classifiers = InternalClassifiers(SIZES, num_labels=4)
    for parameter in (*model.parameters(), *classifiers.parameters()):
        parameter.data = torch.randint(-2, 3, parameter.shape) / 4
    return model.eval(), classifiers


def exact_inputs(n: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-4, 5, (n, 1, 8, 8), generator=generator)
    return images * torch.randint(0, 3, (n, 1, 1, 1), generator=generator) / 8


def outputs_of(
    model: nn.Module, classifiers: InternalClassifiers, x: Tensor, task: Any, **options: Any
) -> LayerOutputs:
    """What the probe says, from one forward of all samples."""
    probe = Probe(model, classifiers, task=task, labels=list(map(str, range(classifiers.num_labels))), **options)
    return probe.predict(
        [(x, torch.zeros(len(x), dtype=torch.long) if task == "single_label" else x.new_ones(len(x), 4))]
    )


RULES: list[tuple[ExitRule, str]] = [
    (LabelCount(q=0.6, gamma=0.5), "multi_label"),
    (LabelCount(q=0.75, gamma=1), "multi_label"),
    (Agreement(2, "multi_label"), "multi_label"),
    (Agreement(3, "multi_label"), "multi_label"),
    (Entropy(0.05), "multi_label"),
    (Confidence(0.5), "single_label"),
    (Entropy(0.2), "single_label"),
    (Agreement(2), "single_label"),
]


@given(st.sampled_from(RULES), st.integers(0, 100), st.integers(1, 40), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=40, deadline=None)
def test_decisions_are_those_of_the_rule_on_all_outputs(
    case: tuple[ExitRule, str], seed: int, n: int, compact: float
) -> None:
    """Bit by bit, on a network in which nothing is rounded before the last function."""
    rule, task = case
    model, classifiers = exact_network(seed)
    x = exact_inputs(n, seed)
    # A softmax is computed row by row; the other form goes through functions whose last bit depends on the position.
    options: dict[str, Any] = {"task": task, "loss": "cross_entropy"}
    exits = evaluate_exits(outputs_of(model, classifiers, x, **options), rule)
    early = EarlyExit(model, classifiers, rule, **options, compact=compact)
    found = early(x)
    assert early.layers == exits.layers
    assert torch.equal(found.layer, exits.layer)
    torch.testing.assert_close(found.probabilities, exits.probabilities, atol=1e-6, rtol=0)
    # One by one, and in another order.
    assert torch.cat([early(x[i : i + 1]).layer for i in range(n)]).equal(exits.layer)
    order = torch.randperm(n)
    assert torch.equal(early(x[order]).layer, exits.layer[order])


def test_samples_leave_at_every_depth() -> None:
    """What the test above compares is not all the same."""
    seen = set()
    for rule, task in RULES:
        for seed in range(5):
            model, classifiers = exact_network(seed)
            found = EarlyExit(model, classifiers, rule, task=task)(exact_inputs(40, seed)).layer  # type: ignore[arg-type]
            seen |= set(found.tolist())
            assert rule != RULES[-1][0] or not (found == 0).any()  # two layers cannot agree at the first
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_a_residual_network_decides_as_offline_away_from_the_thresholds(task: Any) -> None:
    """Its convolutions round differently in batches of other sizes; decisions can differ only where that matters."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).eval()
    names = ["layer1.1", "layer2.1", "layer3.1"]
    classifiers = InternalClassifiers(dict(zip(names, (64, 128, 256), strict=True)), num_labels=4)
    images = torch.randn(24, 3, 32, 32) * torch.linspace(0.1, 3, 24)[:, None, None, None]
    outputs = outputs_of(model, classifiers, images, task)
    kind: Any = Confidence if task == "single_label" else lambda q: LabelCount(q, 1)
    # A threshold in the middle of the widest gap between the values that it is compared with.
    values = outputs.probabilities[:-1].amax(-1) if task == "single_label" else outputs.probabilities[:-1]
    values = values[(values > 0.5) if task == "multi_label" else values > 0].flatten().sort().values
    middle = slice(len(values) // 4, 3 * len(values) // 4)
    gap = values[middle].diff()
    threshold = float(values[middle][gap.argmax()] + gap.max() / 2)
    rounding = 1e-6
    assert gap.max() > 10 * rounding
    if task == "multi_label":
        assert (outputs.probabilities - 0.5).abs().min() > rounding
    rule = kind(threshold)
    exits = evaluate_exits(outputs, rule)
    assert len(set(exits.layer.tolist())) >= 2
    early = EarlyExit(model, classifiers, rule, task=task)
    for batch in (1, 7, 24):
        found = [early(part) for part in images.split(batch)]
        assert torch.equal(torch.cat([part.layer for part in found]), exits.layer)
        p = torch.cat([part.probabilities for part in found])
        torch.testing.assert_close(p, exits.probabilities, atol=rounding, rtol=0)


def test_what_is_skipped_is_not_computed() -> None:
    model, classifiers = exact_network(2)
    early = EarlyExit(model, classifiers, LabelCount(q=0.6, gamma=0.5), task="multi_label")
    computed: list[int] = []
    for stage in early.stages:
        stage.register_forward_hook(lambda _m, _x, output: computed.append(len(output[0])))
    x = exact_inputs(40, 2)
    layer = early(x).layer
    assert set(layer.tolist()) == {0, 1, 2, 3}
    assert computed == [int((layer >= depth).sum()) for depth in range(int(layer.max()) + 1)]
    computed.clear()
    first = x[layer == 0]
    assert len(first) > 0
    early(first)
    assert computed == [len(first)]
    # Rows are dropped only once enough have left.
    computed.clear()
    early.compact = 1.0
    assert torch.equal(early(x).layer, layer)
    assert computed == [40] * 4
    computed.clear()
    early.compact = 0.5
    assert torch.equal(early(x).layer, layer)
    rows, expected = 40, []
    for depth in range(len(early.layers)):
        expected.append(rows)
        stay = int((layer > depth).sum())
        rows = stay if stay <= 0.5 * rows else rows
    assert computed == expected


def test_thresholds_at_one_are_the_network() -> None:
    model, classifiers = exact_network()
    x = exact_inputs(10)
    for rule, task in (
        (LabelCount(1, 1), "multi_label"),
        (Confidence(1), "single_label"),
        (Agreement(9), "single_label"),
    ):
        found = EarlyExit(model, classifiers, rule, task=task)(x)  # type: ignore[arg-type]
        assert (found.layer == 3).all()
        logits = model(x)
        assert torch.equal(found.probabilities, logits.sigmoid() if task == "multi_label" else logits.softmax(-1))


def test_some_layers_and_a_head_of_ones_own() -> None:
    model, classifiers = exact_network()
    x, head = exact_inputs(30), nn.Linear(8, 4)
    probe = Probe(model, classifiers, task="single_label", labels=list("abcd"), loss="bce", head=head)
    outputs = probe.predict([(x, torch.zeros(30, dtype=torch.long))])
    rule = Confidence(0.4)
    for layers in (None, ["1"], ["3", "5", "output"]):
        early = EarlyExit.from_probe(probe, rule, layers=layers)
        exits = evaluate_exits(outputs, rule, layers=layers)
        found = early(x)
        assert early.layers == exits.layers
        assert torch.equal(found.layer, exits.layer)
        torch.testing.assert_close(found.probabilities, exits.probabilities)


def test_it_leaves_the_model_alone_and_stays_in_evaluation_mode() -> None:
    model = small_cnn(norm="batch").train()
    classifiers = InternalClassifiers({"block1.relu": 32}, num_labels=10)
    before = copy.deepcopy(model.state_dict())
    early = EarlyExit(model, classifiers, Confidence(0.2), task="single_label")
    assert model.training
    assert not any(module.training for module in early.train().modules())
    x = torch.randn(5, 1, 8, 8)
    probabilities, _ = early(x)
    assert not probabilities.requires_grad
    model(x)  # moves the statistics of the model, not of the copy
    assert torch.equal(early(x).probabilities, probabilities)
    early.load_state_dict(early.state_dict())
    assert set(before) == set(model.state_dict())


@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(n: int) -> None:
    model, classifiers = exact_network()
    found = EarlyExit(model, classifiers, LabelCount(0.6, 0.5), task="multi_label")(exact_inputs(n))
    assert found.probabilities.shape == (n, 4)
    assert found.layer.shape == (n,)


@pytest.mark.parametrize("head", [None, nn.Linear(8, 4)])
@pytest.mark.parametrize("layers", [None, ["3"]])
def test_files_bring_it_back(tmp_path: Path, head: nn.Linear | None, layers: list[str] | None) -> None:
    model, classifiers = exact_network()
    options: dict[str, Any] = {"task": "multi_label", "head": head, "layers": layers, "compact": 0.25}
    early = EarlyExit(model, classifiers, LabelCount(0.6, 0.5), **options)
    early.save(tmp_path / "early.pt")
    other, _ = exact_network(seed=7)
    again = EarlyExit.load(tmp_path / "early.pt", other)
    x = exact_inputs(20)
    assert torch.equal(again(x).layer, early(x).layer)
    assert torch.equal(again(x).probabilities, early(x).probabilities)
    assert (again.rule, again.layers, again.compact) == (early.rule, early.layers, 0.25)
    for twin in (copy.deepcopy(early), pickle.loads(pickle.dumps(early))):
        assert torch.equal(twin(x).probabilities, early(x).probabilities)


def test_damaged_files_and_other_networks_are_refused(tmp_path: Path) -> None:
    model, classifiers = exact_network()
    path = tmp_path / "early.pt"
    EarlyExit(model, classifiers, LabelCount(0.6, 0.5), task="multi_label").save(path)
    smaller = nn.Sequential(*list(model)[:-1], nn.Linear(8, 3))
    with pytest.raises(
        ValueError, match="model: expected a network of the architecture that was saved, got Sequential"
    ):
        EarlyExit.load(path, smaller)
    with pytest.raises(ValueError, match="model: expected a network of the architecture that was saved, got Linear"):
        EarlyExit.load(path, nn.Linear(2, 2))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="path: expected a whole file of layershift early exit, version 1"):
        EarlyExit.load(path, model)
    with pytest.raises(FileNotFoundError):
        EarlyExit.load(tmp_path / "nothing.pt", model)


@pytest.mark.parametrize(("rule", "task"), [RULES[0], RULES[7]])
def test_exported_stages_stop_in_the_same_places(tmp_path: Path, rule: ExitRule, task: Any) -> None:
    model, classifiers = exact_network()
    early = EarlyExit(model, classifiers, rule, task=task)
    x = exact_inputs(20)
    expected = early(x)
    steps = []
    for i, program in enumerate(early.export_stages(x[:1])):
        torch.export.save(program, tmp_path / f"{i}.pt2")
        steps.append(torch.export.load(tmp_path / f"{i}.pt2").module())
    for batch in (1, 3, 20):
        parts = [run_exits(steps, rule, part) for part in x.split(batch)]
        assert torch.cat([part.layer for part in parts]).equal(expected.layer)
        torch.testing.assert_close(torch.cat([part.probabilities for part in parts]), expected.probabilities)


@pytest.mark.parametrize(("rule", "task"), [RULES[0], RULES[2], RULES[5], RULES[6]])
def test_the_full_depth_is_exported_with_its_rule(tmp_path: Path, rule: ExitRule, task: Any) -> None:
    model, classifiers = exact_network()
    early = EarlyExit(model, classifiers, rule, task=task)
    x = exact_inputs(20)
    expected = early(x)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(early.full_depth(), (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "full.pt2")
    loaded = torch.export.load(tmp_path / "full.pt2").module()
    for size in (1, 20):
        parts = [loaded(part) for part in x.split(size)]
        assert torch.cat([layer for _, layer in parts]).equal(expected.layer)
        torch.testing.assert_close(torch.cat([p for p, _ in parts]), expected.probabilities)


@dataclass(frozen=True)
class First(ExitRule):
    """A rule of one's own."""

    def score(self, probabilities: Tensor, state: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.ones(len(probabilities)), state

    def leaves(self, scores: Tensor) -> Tensor:
        return scores > 0


def test_rules_of_ones_own() -> None:
    model, classifiers = exact_network()
    assert (EarlyExit(model, classifiers, First(), task="multi_label")(exact_inputs(5)).layer == 0).all()


def test_a_rule_that_was_searched_keeps_its_promise_on_the_network() -> None:
    model, classifiers = exact_network(3)
    x = exact_inputs(200)
    outputs = outputs_of(model, classifiers, x, "multi_label")
    outputs = replace(outputs, targets=outputs.predictions()[1])  # the second layer has it right
    found = search_exits(outputs)
    exits = evaluate_exits(outputs, found.best.rule)
    assert found.best.value > found.full.value
    early = EarlyExit(model, classifiers, found.best.rule, task="multi_label")(x)
    assert torch.equal(early.layer, exits.layer)
    assert torch.equal(early.probabilities > 0.5, exits.predictions)


def test_what_does_not_fit_is_refused() -> None:
    model, classifiers = exact_network()
    with pytest.raises(ValueError, match="task: expected 'single_label' with Confidence, got 'multi_label'"):
        EarlyExit(model, classifiers, Confidence(0.5), task="multi_label")
    with pytest.raises(ValueError, match="compact: expected a share from 0 to 1, got 2"):
        EarlyExit(model, classifiers, Confidence(0.5), task="single_label", compact=2)
    wider = nn.Sequential(*list(model)[:-1], nn.Linear(8, 6))
    early = EarlyExit(wider, classifiers, LabelCount(1, 1), task="multi_label")
    with pytest.raises(ValueError, match=r"model: expected 4 outputs, as the classifiers have, got shape \(5, 6\)"):
        early(exact_inputs(5))
