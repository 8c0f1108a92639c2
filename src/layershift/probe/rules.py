r"""When a sample may leave a network early: rules that read the probabilities of one layer after another.

Every rule gives a sample a score in each layer and lets it leave at the first one where the score passes a threshold.
The score does not depend on that threshold, and a higher threshold never lets a sample leave earlier. Where a
probability must be above 1 no sample leaves: that is the full network. A score of NaN lets no sample leave.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import check, check_choice, check_floating, check_not_empty, check_number, check_rank, fail
from layershift.probe.outputs import TASKS, Task

RuleKind: TypeAlias = Literal["label_count", "confidence", "entropy", "agreement"]
State: TypeAlias = tuple[Tensor, ...]
"""What a rule remembers of the layers above: tensors with one row a sample, none before the first layer."""


class ExitRule(ABC):
    """When a sample may leave.

    Layer by layer, as a network computes, `step` takes the probabilities of those samples that are still there, and the
    state, of which rows are dropped like those of the samples. `exits` takes the probabilities of all layers at once.
    Both give the same decisions.
    """

    kind: ClassVar[RuleKind]

    @abstractmethod
    def score(self, probabilities: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """How ready each sample is to leave at this layer.

        Args:
            probabilities: of one layer, shape `(N, K)`.
            state: what the call at the layer above returned; empty at the first.

        Returns:
            Scores of shape `(N,)`, and the state for the next layer.
        """

    @abstractmethod
    def leaves(self, scores: Tensor) -> Tensor:
        """Whether a score passes the threshold, in the shape of `scores`."""

    def step(self, probabilities: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Which samples leave at this layer, shape `(N,)`, bool; and the state for the next one."""
        scores, state = self.score(probabilities, state)
        return self.leaves(scores), state

    def scores(self, probabilities: Tensor) -> Tensor:
        """Scores of all layers, shape `(L, N)`, from probabilities of shape `(L, N, K)`."""
        check_floating("probabilities", probabilities)
        check_rank("probabilities", probabilities, (3,), "(L, N, K)")
        check_not_empty("probabilities", probabilities)
        rows: list[Tensor] = []
        state: State = ()
        for layer in probabilities:
            row, state = self.score(layer, state)
            rows.append(row)
        return torch.stack(rows)

    def first(self, scores: Tensor) -> Tensor:
        """The layer at which each sample leaves: the first whose score passes, or the last.

        Args:
            scores: as `scores` gives them, shape `(L, N)`.

        Returns:
            Positions among the layers, shape `(N,)`.
        """
        passed = self.leaves(scores)
        passed[-1:] = True
        return passed.int().argmax(0)  # of equal ones the first

    def exits(self, probabilities: Tensor) -> Tensor:
        """The layer at which each sample leaves.

        Args:
            probabilities: of all layers at which a sample may leave and, last, of the output, shape `(L, N, K)`.

        Returns:
            Positions among the layers, shape `(N,)`; L − 1 for those that never leave early.
        """
        return self.first(self.scores(probabilities))

    def check_task(self, task: Task) -> None:
        """Raise ``ValueError`` if the rule does not fit what the network is to tell: one label or several."""
        check_choice("task", task, TASKS)

    def to_dict(self) -> dict[str, Any]:
        """Kind and options as plain data; `exit_rule` reads it."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class LabelCount(ExitRule):
    r"""Leave when enough of the labels that are predicted are predicted with force: the paper's rule.

    With $N$ labels whose probability is above `p` and $n$ above `q`, a sample leaves at the first layer with
    $n/N\ge\gamma$. Where no label is above `p` there is nothing to be sure of, and the sample stays. No probability is
    above 1, so `q=1` is the full network.

    For "single_label" it reads the same way: of distributions at most one label is above one half.

    Attributes:
        q: what a probability must exceed to count in n, from `p` to 1.
        gamma: the share of labels that must, above 0 and up to 1.
        p: what a probability must exceed to count in N: that at which a label is predicted.

    Raises:
        ValueError: if a threshold is out of range.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section H.

    Example:
        >>> p = torch.tensor([[[0.9, 0.6], [0.9, 0.1], [0.2, 0.1]], [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])
        >>> LabelCount(q=0.8, gamma=0.6).exits(p), LabelCount(q=0.8, gamma=0.5).exits(p)
        (tensor([1, 0, 1]), tensor([0, 0, 1]))
    """

    q: float
    gamma: float
    p: float = 0.5
    kind: ClassVar[RuleKind] = "label_count"

    def __post_init__(self) -> None:
        check_number("p", self.p, "a probability", least=0, most=1)
        check_number("q", self.q, f"a probability from p = {self.p:g} to 1", least=self.p, most=1)
        check_number("gamma", self.gamma, "a share above 0 and up to 1", above=0, most=1)

    def score(self, probabilities: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """The share n/N; 0 where N is 0."""
        predicted = (probabilities > self.p).sum(-1, dtype=torch.float32)
        forceful = (probabilities > self.q).sum(-1, dtype=torch.float32)
        return forceful / predicted.clamp(min=1), state

    def leaves(self, scores: Tensor) -> Tensor:
        """Whether the share is at least `gamma`."""
        return scores >= self.gamma


@dataclass(frozen=True)
class Confidence(ExitRule):
    """Leave when the largest probability is above a threshold; for "single_label".

    Attributes:
        threshold: a probability; 1 is the full network.

    Raises:
        ValueError: if the threshold is out of range.

    References:
        Y. Kaya, S. Hong, T. Dumitras, 2019, "Shallow-deep networks: understanding and mitigating network overthinking",
        https://arxiv.org/abs/1810.07052, section 5.

    Example:
        >>> Confidence(0.8).exits(torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.5, 0.5], [0.5, 0.5]]]))
        tensor([0, 1])
    """

    threshold: float
    kind: ClassVar[RuleKind] = "confidence"

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, "a probability", least=0, most=1)

    def score(self, probabilities: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """The largest probability."""
        return probabilities.amax(-1), state

    def leaves(self, scores: Tensor) -> Tensor:
        """Whether it is above the threshold."""
        return scores > self.threshold

    def check_task(self, task: Task) -> None:
        """Raise unless the task is "single_label": the largest of several labels says nothing of the others."""
        check(task == "single_label", "task", "'single_label' with Confidence", repr(task))


@dataclass(frozen=True)
class Entropy(ExitRule):
    r"""Leave when the entropy of the label distribution is small.

    The entropy is measured as a share of the largest possible one, and the threshold is what is left of it: a sample
    leaves where $1-H(d)/\log K$ is above the threshold, with $d$ the probabilities divided by their sum. To say it in
    nats: where $H(d)<(1-\text{threshold})\log K$. With one label alone, and where all probabilities are 0, the score is
    NaN.

    Attributes:
        threshold: from 0, where only uniform distributions stay, to 1, the full network.

    Raises:
        ValueError: if the threshold is out of range.

    References:
        S. Teerapittayanon, B. McDanel, H. T. Kung, 2016, "BranchyNet: fast inference via early exiting from deep
        neural networks", https://arxiv.org/abs/1709.01686, algorithm 1.

    Example:
        >>> Entropy(0.5).exits(torch.tensor([[[0.9, 0.1], [0.8, 0.2]], [[0.5, 0.5], [0.5, 0.5]]]))
        tensor([0, 1])
    """

    threshold: float
    kind: ClassVar[RuleKind] = "entropy"

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, "a share of the largest entropy, from 0 to 1", least=0, most=1)

    def score(self, probabilities: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """What the entropy lacks of the largest one, as a share of it."""
        d = probabilities / probabilities.sum(-1, keepdim=True)
        largest = math.log(probabilities.shape[-1]) or math.nan
        return 1 + torch.special.xlogy(d, d).sum(-1) / largest, state

    def leaves(self, scores: Tensor) -> Tensor:
        """Whether it is above the threshold."""
        return scores > self.threshold


@dataclass(frozen=True)
class Agreement(ExitRule):
    """Leave when so many consecutive layers predict the same.

    For "multi_label" the same is the same set of labels, which may be the empty one. Layers at which no sample may
    leave are not counted.

    Attributes:
        patience: how many layers must agree, 2 or more; more than there are layers is the full network.
        task: what is predicted, as `LayerOutputs.predictions` reads probabilities.

    Raises:
        ValueError: if an option has another value.

    References:
        W. Zhou, C. Xu, T. Ge, J. McAuley, K. Xu, F. Wei, 2020, "BERT loses patience: fast and robust inference with
        early exit", https://arxiv.org/abs/2006.04152, whose patience is one less: it counts agreements of two layers.

    Example:
        >>> p = torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]], [[0.4, 0.6]], [[0.2, 0.8]]])
        >>> Agreement(2).exits(p), Agreement(3).exits(p)
        (tensor([2]), tensor([3]))
    """

    patience: int
    task: Task = "single_label"
    kind: ClassVar[RuleKind] = "agreement"

    def __post_init__(self) -> None:
        check(isinstance(self.patience, int) and self.patience >= 2, "patience", "2 layers or more", self.patience)
        check_choice("task", self.task, TASKS)

    def score(self, probabilities: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """How many layers up to this one agree with it, itself included."""
        best = probabilities.argmax(-1, keepdim=True)
        predicted = probabilities > 0.5 if self.task == "multi_label" else best
        if state:
            before, length = state
            length = torch.where((predicted == before).all(-1), length + 1, 1)
        else:
            length = torch.ones_like(best[:, 0])
        return length, (predicted, length)

    def leaves(self, scores: Tensor) -> Tensor:
        """Whether they are enough."""
        return scores >= self.patience

    def check_task(self, task: Task) -> None:
        """Raise unless the task is that of the rule."""
        check(task == self.task, "task", f"{self.task!r}, as the rule has", repr(task))


RULES: Mapping[str, type[ExitRule]] = {rule.kind: rule for rule in (LabelCount, Confidence, Entropy, Agreement)}


def exit_rule(kind: RuleKind, **options: Any) -> ExitRule:
    """A rule by its name, from plain data.

    Args:
        kind: "label_count", "confidence", "entropy" or "agreement".
        **options: of the rule.

    Returns:
        The rule.

    Raises:
        ValueError: for an unknown kind, or options that the rule does not have or that are out of range.

    Example:
        >>> exit_rule("label_count", q=0.9, gamma=0.75)
        LabelCount(q=0.9, gamma=0.75, p=0.5)
        >>> exit_rule(**Confidence(0.7).to_dict())
        Confidence(threshold=0.7)
    """
    check_choice("kind", kind, RULES)
    try:
        return RULES[kind](**options)
    except TypeError:
        fail("options", f"those of {RULES[kind].__name__}", options)
