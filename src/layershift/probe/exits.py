"""What leaving early does to a network's predictions and to its cost, from the outputs of all its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from layershift._checks import check, check_items, check_number, check_type, fail
from layershift.measure.estimate import Estimate
from layershift.measure.multilabel import MultiLabelResult, MultiLabelScores
from layershift.probe.outputs import OUTPUT, LayerOutputs
from layershift.probe.rules import ExitRule


@dataclass(frozen=True, eq=False)
class Exits:
    """Where samples leave a network by a rule, and how well they are classified there.

    Scores are over the samples with a label; where samples leave and what it costs are over all.

    Attributes:
        rule: which decided.
        layers: where a sample may leave; the last is "output".
        layer: position among `layers` at which each sample leaves, shape `(N,)`.
        probabilities: of that layer, shape `(N, K)`.
        predictions: of that layer, shape `(N, K)`, bool.
        shares: of the samples that leave at each layer, shape `(L,)`.
        scores: accuracy (exact match), CF1, OF1 and mAP where the samples leave.
        full: the same of the full network.
        difference: accuracy minus that of the full network, with the standard error of the paired difference.
        cost: the mean share of the full network's operations that is computed, or None if no costs were given.
        unlabelled: how many samples have no label.
    """

    rule: ExitRule
    layers: tuple[str, ...]
    layer: Tensor
    probabilities: Tensor
    predictions: Tensor
    shares: Tensor
    scores: MultiLabelResult
    full: MultiLabelResult
    difference: Estimate
    cost: float | None
    unlabelled: int

    def row(self) -> dict[str, Any]:
        """One line of a table, as plain numbers, words and lists."""
        row: dict[str, Any] = {"rule": self.rule.to_dict(), "n": int(self.difference.n), "unlabelled": self.unlabelled}
        for prefix, scores in (("", self.scores), ("full_", self.full)):
            row |= {f"{prefix}{name}": float(score.value) for name, score in scores._asdict().items()}
            row[f"{prefix}accuracy_stderr"] = float(scores.accuracy.stderr)
        row["difference"], row["difference_stderr"] = float(self.difference.value), float(self.difference.stderr)
        row["cost"] = self.cost
        return row | {"layers": list(self.layers), "shares": self.shares.tolist()}


def evaluate_exits(
    outputs: LayerOutputs,
    rule: ExitRule,
    *,
    layers: Sequence[str] | None = None,
    costs: Mapping[str, float] | None = None,
) -> Exits:
    r"""Let each sample leave where a rule says, and compare with the full network.

    The difference of accuracies is over pairs: each sample is classified by both. With $d_i\in\{-1,0,1\}$ its
    standard error is $s(d)/\sqrt n$, which is less than that of two independent samples.

    Args:
        outputs: of all layers.
        rule: when a sample leaves.
        layers: where samples may leave, in order of depth; None for every layer. The output need not be named.
        costs: the share of the full network's operations that is spent once a sample has left at a layer, by the
            layer's name and with "output", as `exit_costs` gives it.

    Returns:
        Where samples leave, what is predicted there, its scores and its cost.

    Raises:
        ValueError: if a layer is unknown or out of order, a cost is missing, the rule does not fit the task, or no
            sample has a label.

    Example:
        >>> from layershift.probe.rules import Confidence
        >>> p = torch.tensor([[[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], [[0.4, 0.6], [0.2, 0.8], [0.6, 0.4]]])
        >>> targets = torch.tensor([[True, False], [False, True], [True, False]])
        >>> names = ("conv", "output"), ("cat", "dog"), ("0", "1", "2")
        >>> outputs = LayerOutputs(names[0], p, targets, "single_label", *names[1:])
        >>> exits = evaluate_exits(outputs, Confidence(0.8), costs={"conv": 0.4, "output": 1.0})
        >>> exits.layer.tolist(), float(exits.scores.accuracy.value), round(exits.cost, 3)
        ([0, 1, 1], 1.0, 0.8)
        >>> round(float(exits.difference.value), 3), round(float(exits.difference.stderr), 3)
        (0.333, 0.333)
    """
    check_type("outputs", outputs, LayerOutputs, "LayerOutputs")
    check_type("rule", rule, ExitRule, "an exit rule")
    rule.check_task(outputs.task)
    outputs = at_layers(outputs, layers)
    labelled = outputs.targets.any(1)
    check(bool(labelled.any()), "outputs", "at least one sample with a label", f"{len(labelled)} without")
    layer = rule.exits(outputs.probabilities)
    samples = torch.arange(len(layer), device=layer.device)
    predictions, correct = outputs.predictions(), outputs.correct()
    gained = (correct[layer, samples].double() - correct[-1].double())[labelled]
    shares = torch.bincount(layer, minlength=len(outputs.layers)).double() / len(layer)
    found = outputs.probabilities[layer, samples], predictions[layer, samples]
    return Exits(
        rule,
        outputs.layers,
        layer,
        *found,
        shares,
        scores=_scores(*found, outputs.targets, labelled),
        full=_scores(outputs.probabilities[-1], predictions[-1], outputs.targets, labelled),
        difference=Estimate(
            gained.mean(),
            gained.std() / len(gained) ** 0.5 if len(gained) > 1 else gained.new_tensor(torch.nan),
            gained.new_tensor(len(gained)),
            estimator="paired difference of exact matches",
        ),
        cost=None if costs is None else float(shares @ cost_of_layers(outputs.layers, costs).to(shares)),
        unlabelled=int((~labelled).sum()),
    )


def at_layers(outputs: LayerOutputs, layers: Sequence[str] | None) -> LayerOutputs:
    """The outputs of some layers and of the network; all of them for None."""
    if layers is None:
        return outputs
    check_items("layers", layers, str, "names of layers, in order of depth")
    names = [*(name for name in layers if name != OUTPUT), OUTPUT]
    for name in names:
        if name not in outputs.layers:
            fail("layers", f"names among {', '.join(outputs.layers)}", repr(name))
    positions = [outputs.layers.index(name) for name in names]
    check(positions == sorted(set(positions)), "layers", "names that differ, in order of depth", list(layers))
    return replace(outputs, layers=tuple(names), probabilities=outputs.probabilities[positions])


def cost_of_layers(layers: Sequence[str], costs: Mapping[str, float]) -> Tensor:
    """Costs in the order of layers, shape `(L,)`, float64."""
    check_type("costs", costs, Mapping, "a cost for each layer, by its name")
    missing = [name for name in layers if name not in costs]
    check(not missing, "costs", "a cost for each layer", f"none for {', '.join(missing)}")
    for name in layers:
        check_number("costs", costs[name], "shares that grow with depth", least=0)
    values = [float(costs[name]) for name in layers]
    check(values[0] >= 0 and values == sorted(values), "costs", "shares that grow with depth", values)
    return torch.tensor(values, dtype=torch.float64)


def _scores(probabilities: Tensor, predictions: Tensor, targets: Tensor, labelled: Tensor) -> MultiLabelResult:
    scores = MultiLabelScores(targets.shape[1])
    scores.update(probabilities[labelled], targets[labelled], predictions[labelled])
    result: MultiLabelResult = scores.compute()
    return result
