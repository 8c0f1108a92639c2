from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.probe.exits import evaluate_exits
from layershift.probe.outputs import LayerOutputs, Task
from layershift.probe.rules import Agreement, Confidence, LabelCount
from layershift.probe.search import search_exits

NAMES = ("a", "b", "c", "output")
COSTS = dict(zip(NAMES, (0.3, 0.5, 0.9, 1.1), strict=True))


def random_outputs(seed: int = 0, task: Task = "multi_label", n: int = 150, labels: int = 4) -> LayerOutputs:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(n, labels, generator=generator) < 0.4
    if task == "single_label":
        targets = torch.eye(labels, dtype=torch.bool)[torch.randint(0, labels, (n,), generator=generator)]
    strength = torch.tensor([0.5, 1.5, 3.0, 2.0])[:, None, None]
    logits = (targets.float() * 2 - 1) * strength + 2 * torch.randn(len(NAMES), n, labels, generator=generator)
    p = logits.sigmoid() if task == "multi_label" else logits.softmax(-1)
    return LayerOutputs(NAMES, p, targets, task, tuple("wxyz"[:labels]), tuple(map(str, range(n))))


def single(kind: str) -> Task:
    return "single_label" if kind in ("confidence", "entropy") else "multi_label"


@given(
    st.integers(0, 1000),
    st.sampled_from(["label_count", "confidence", "entropy", "agreement"]),
    st.sampled_from(["accuracy", "cf1", "of1", "map"]),
    st.sampled_from([None, ["b"], ["a", "c"]]),
)
@settings(max_examples=20, deadline=None)
def test_each_point_is_what_the_evaluation_of_its_rule_gives(seed: int, kind: Any, what: Any, layers: Any) -> None:
    outputs = random_outputs(seed, single(kind))
    grid = [2, 3] if kind == "agreement" else [0.5, 0.75, 0.9]
    found = search_exits(outputs, kind=kind, objective=what, grid=grid, layers=layers, costs=COSTS)
    assert len(found.curve) == {"label_count": 10, "agreement": 3}.get(kind, 4)
    for point in found.curve:
        exits = evaluate_exits(outputs, point.rule, layers=layers, costs=COSTS)
        assert point.value == pytest.approx(float(getattr(exits.scores, what).value), abs=1e-6)
        assert point.cost == pytest.approx(exits.cost)
    assert found.full == found.curve[-1]
    assert found.full.value == pytest.approx(float(getattr(exits.full, what).value), abs=1e-6)
    assert found.n == int(outputs.targets.any(1).sum())


@given(st.integers(0, 1000), st.sampled_from([None, 0.0, 0.02, 0.2]))
@settings(max_examples=25, deadline=None)
def test_the_best_is_the_best(seed: int, within: float | None) -> None:
    found = search_exits(random_outputs(seed), within=within, costs=COSTS)
    if within is None:
        top = max(point.value for point in found.curve)
        assert found.best.value == top
        assert found.best.cost == min(point.cost for point in found.curve if point.value == top)
        assert found.best.value >= found.full.value
    else:
        allowed = [point for point in found.curve if point.value >= found.full.value - within]
        least = min(point.cost for point in allowed)
        assert found.best.cost == least
        assert found.best.value == max(point.value for point in allowed if point.cost == least)
        assert found.best.cost <= found.full.cost
    frontier = found.frontier()
    for point in found.curve:
        assert any(other.cost <= point.cost and other.value >= point.value for other in frontier)
    assert [point.value for point in frontier] == sorted({point.value for point in frontier})
    assert [point.cost for point in frontier] == sorted({point.cost for point in frontier})


def test_ties_go_to_less_computation() -> None:
    """Every layer says the same: whichever lets samples leave first costs least."""
    outputs = random_outputs()
    same = replace(outputs, probabilities=outputs.probabilities[:1].expand(4, -1, -1).contiguous())
    found = search_exits(same, costs=COSTS)
    assert found.best.cost == min(point.cost for point in found.curve)
    assert found.best.cost < found.full.cost
    assert found.best.value == found.full.value


def test_the_default_grid_is_the_paper_s_range() -> None:
    outputs = random_outputs()
    found = search_exits(outputs)
    rules = [point.rule for point in found.curve[:-1]]
    assert all(isinstance(rule, LabelCount) for rule in rules)
    assert {rule.q for rule in rules} == {rule.gamma for rule in rules} == {i / 20 for i in range(10, 21)}  # type: ignore[attr-defined]
    assert len(rules) == 121
    # Without costs, layers are counted.
    assert found.full.cost == 1
    assert found.best.cost >= 0.25
    patience = search_exits(outputs, kind="agreement").curve
    assert [point.rule for point in patience] == [Agreement(i, "multi_label") for i in (2, 3, 4, 5)]
    confidence = search_exits(random_outputs(task="single_label"), kind="confidence").curve
    assert confidence[90].rule == Confidence(0.9)


def test_exits_pay_where_an_inner_layer_knows_better() -> None:
    """What is found on one half of the data raises accuracy on the other, at less cost."""
    outputs = random_outputs(n=4000)
    found = search_exits(_part(outputs, slice(0, 2000)), layers=["c"], costs=COSTS)
    exits = evaluate_exits(_part(outputs, slice(2000, 4000)), found.best.rule, layers=["c"], costs=COSTS)
    assert float(exits.difference.value) > 3 * float(exits.difference.stderr)
    assert exits.cost is not None
    assert exits.cost < 1.1


def _part(outputs: LayerOutputs, rows: slice) -> LayerOutputs:
    p, targets = outputs.probabilities[:, rows], outputs.targets[rows]
    return replace(outputs, probabilities=p, targets=targets, ids=outputs.ids[rows])


def test_what_does_not_fit_is_refused() -> None:
    outputs = random_outputs()
    with pytest.raises(ValueError, match="kind: expected one of 'label_count'"):
        search_exits(outputs, kind="sure")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="objective: expected one of 'accuracy', 'cf1', 'of1', 'map', got 'f1'"):
        search_exits(outputs, objective="f1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="within: expected a number, 0 or more, got -1"):
        search_exits(outputs, within=-1)
    with pytest.raises(ValueError, match=r"grid: expected at least one threshold, got \[\]"):
        search_exits(outputs, grid=[])
    with pytest.raises(ValueError, match="grid: expected whole numbers for 'agreement'"):
        search_exits(outputs, kind="agreement", grid=[2, 2.5])
    with pytest.raises(ValueError, match=r"q: expected a probability from p = 0\.5 to 1, got 0\.3"):
        search_exits(outputs, grid=[0.3])
    with pytest.raises(ValueError, match="task: expected 'single_label' with Confidence"):
        search_exits(outputs, kind="confidence")
    with pytest.raises(ValueError, match="layers: expected names among a, b, c, output, got 'd'"):
        search_exits(outputs, layers=["d"])
    with pytest.raises(ValueError, match="validation: expected at least one sample with a label"):
        search_exits(replace(outputs, targets=torch.zeros_like(outputs.targets)))
    holes = outputs.probabilities.clone()
    holes[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="validation: expected probabilities without NaN"):
        search_exits(replace(outputs, probabilities=holes))
