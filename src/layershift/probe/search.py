"""Choose a rule for leaving early on validation data, and see what accuracy each amount of computation buys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import check, check_choice, check_items, check_number, check_type
from layershift.measure.multilabel import MultiLabelScores
from layershift.probe.exits import at_layers, cost_of_layers
from layershift.probe.outputs import LayerOutputs
from layershift.probe.rules import RULES, Agreement, Confidence, Entropy, ExitRule, LabelCount, RuleKind

Objective: TypeAlias = Literal["accuracy", "cf1", "of1", "map"]
_OBJECTIVES = ("accuracy", "cf1", "of1", "map")


@dataclass(frozen=True)
class ExitPoint:
    """One rule on the validation data.

    Attributes:
        rule: the rule.
        value: the objective, over samples with a label.
        cost: the mean share of the full network that is computed, over all samples.
    """

    rule: ExitRule
    value: float
    cost: float


@dataclass(frozen=True)
class ExitSearch:
    """What a search found.

    Attributes:
        best: the chosen rule with its value and cost. Of many candidates the best looks better on the data that chose
            it than it is: what it is worth, `evaluate_exits` tells on other data.
        full: the full network.
        curve: every candidate, the full network included, in the order of the grid.
        objective: what `value` is.
        n: how many samples with a label the values rest on.
    """

    best: ExitPoint
    full: ExitPoint
    curve: tuple[ExitPoint, ...]
    objective: Objective
    n: int

    def frontier(self) -> tuple[ExitPoint, ...]:
        """The candidates that no other beats in value at the same cost or less, by rising cost."""
        points: list[ExitPoint] = []
        for point in sorted(self.curve, key=lambda point: (point.cost, -point.value)):
            if not points or point.value > points[-1].value:
                points.append(point)
        return tuple(points)


def search_exits(
    validation: LayerOutputs,
    *,
    kind: RuleKind = "label_count",
    objective: Objective = "accuracy",
    within: float | None = None,
    grid: Sequence[float] | None = None,
    layers: Sequence[str] | None = None,
    costs: Mapping[str, float] | None = None,
) -> ExitSearch:
    """Search the thresholds of a rule on validation data.

    For "label_count" both q and γ go through the grid, as in the paper; for "confidence" and "entropy" the threshold;
    for "agreement" the patience. The full network is always among the candidates.

    Args:
        validation: outputs on validation data. Never test data: what is chosen on them is measured too well on them.
        kind: of rule.
        objective: what is to be large: "accuracy" (exact match), "cf1", "of1" or "map", as `MultiLabelScores` defines
            them. "map" takes the longest by far.
        within: None takes the largest value, of equal ones the one of least cost. A number takes the least cost among
            values that are at most that much below the full network's, of equal ones the largest value.
        grid: thresholds; None for 0.5, 0.55 … 1 ("label_count"), 0, 0.01 … 1 ("confidence" and "entropy") or 2, 3 …
            as many as there are layers ("agreement").
        layers: where samples may leave, as in `evaluate_exits`.
        costs: by layer, as in `evaluate_exits`; None counts layers, the output among them, as if all cost the same.

    Returns:
        The rule, and the trade-off of all candidates.

    Raises:
        ValueError: if an option is unknown or out of range, the rule does not fit the task, or no sample has a label.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section H.

    Example:
        >>> p = torch.rand(4, 500, 3, generator=torch.Generator().manual_seed(0))
        >>> targets = p[1] > 0.5  # the second layer knows best
        >>> names = ("a", "b", "c", "output"), ("x", "y", "z"), tuple(map(str, range(500)))
        >>> outputs = LayerOutputs(names[0], p, targets, "multi_label", *names[1:])
        >>> found = search_exits(outputs, layers=["b"])
        >>> found.best.rule, round(found.best.value, 3), round(found.full.value, 3)
        (LabelCount(q=0.5, gamma=0.5, p=0.5), 1.0, 0.156)
    """
    check_choice("kind", kind, RULES)
    check_choice("objective", objective, _OBJECTIVES)
    check_type("validation", validation, LayerOutputs, "LayerOutputs")
    if within is not None:
        check_number("within", within, "a number, 0 or more", least=0)
    outputs = at_layers(validation, layers)
    labelled = outputs.targets.any(1)
    n = int(labelled.sum())
    check(n > 0, "validation", "at least one sample with a label", f"{len(labelled)} without")
    names = outputs.layers
    spent = torch.arange(1, len(names) + 1).double() / len(names) if costs is None else cost_of_layers(names, costs)
    check(not bool(outputs.probabilities.isnan().any()), "validation", "probabilities without NaN", "some")
    value = _objective(outputs, labelled, objective)
    curve = []
    for rules in _candidates(kind, grid, outputs):
        rules[0].check_task(outputs.task)
        scores = rules[0].scores(outputs.probabilities)  # the same for all of them
        for rule in rules:
            layer = rule.first(scores)
            curve.append(ExitPoint(rule, value(layer), float(spent.to(layer.device)[layer].mean())))
    full = curve[-1]
    if within is None:
        best = max(curve, key=lambda point: (point.value, -point.cost))
    else:
        near = [point for point in curve if point.value >= full.value - within]
        best = min(near, key=lambda point: (point.cost, -point.value))
    return ExitSearch(best, full, tuple(curve), objective, n)


def _candidates(kind: RuleKind, grid: Sequence[float] | None, outputs: LayerOutputs) -> list[list[ExitRule]]:
    """Rules in groups that differ in the threshold of one score only; the last rule is the full network."""
    if grid is not None:
        check_items("grid", grid, (float, int), "thresholds, at least one")
        check(len(grid) > 0, "grid", "at least one threshold", grid)
    if kind == "label_count":
        shares = [i / 20 for i in range(10, 21)] if grid is None else grid
        groups: list[list[ExitRule]] = [[LabelCount(q, gamma) for gamma in shares] for q in shares]
        return [*groups, [LabelCount(1.0, 1.0)]]
    if kind == "agreement":
        depth = len(outputs.layers)
        numbers = range(2, depth + 1) if grid is None else grid
        patiences = [*(int(number) for number in numbers), depth + 1]
        check(all(map(float.is_integer, map(float, numbers))), "grid", "whole numbers for 'agreement'", grid)
        return [[Agreement(patience, outputs.task) for patience in patiences]]
    rule = Confidence if kind == "confidence" else Entropy
    thresholds = [i / 100 for i in range(101)] if grid is None else grid
    return [[rule(threshold) for threshold in (*thresholds, 1.0)]]


def _objective(outputs: LayerOutputs, labelled: Tensor, objective: Objective) -> Callable[[Tensor], float]:
    """The objective as a function of the layer at which each sample leaves, shape `(N,)`."""
    samples = labelled.nonzero().squeeze(1)
    predictions, targets = outputs.predictions(), outputs.targets[labelled]
    if objective == "accuracy":
        correct = outputs.correct()
        return lambda layer: float(correct[layer[samples], samples].double().mean())
    if objective == "of1":
        hits = (predictions & outputs.targets).sum(-1)
        decided = predictions.sum(-1) + outputs.targets.sum(-1)

        def of1(layer: Tensor) -> float:
            at = layer[samples], samples
            return float(2 * hits[at].sum() / decided[at].sum())

        return of1
    if objective == "cf1":
        present = targets.any(0)

        def cf1(layer: Tensor) -> float:
            said = predictions[layer[samples], samples]
            return float((2 * (said & targets).sum(0) / (said.sum(0) + targets.sum(0)))[present].mean())

        return cf1

    def mean_precision(layer: Tensor) -> float:
        scores = MultiLabelScores(targets.shape[1])
        at = layer[samples], samples
        scores.update(outputs.probabilities[at], targets, predictions[at])
        return float(scores.compute().map.value)

    return mean_precision
