"""A network that stops computing for each sample as soon as a rule lets it leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor, nn

from layershift._checks import (
    blaming,
    check,
    check_file,
    check_floating,
    check_items,
    check_number,
    check_rank,
    check_type,
)
from layershift.probe.heads import InternalClassifiers
from layershift.probe.outputs import Task, whole_file
from layershift.probe.probe import Loss, Probe, load_state
from layershift.probe.rules import ExitRule, exit_rule
from layershift.probe.stages import ExitStage, exit_stages

Step: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Computes one stage: from the samples' activations those at its end, and their probabilities there."""

_FORMAT = "layershift early exit, version 1"


class ExitOutput(NamedTuple):
    """What a network says of each sample, and where it left.

    Attributes:
        probabilities: of the layer at which the sample left, shape `(N, K)`, float32.
        layer: the position of that layer, shape `(N,)`.
    """

    probabilities: Tensor
    layer: Tensor


def run_exits(steps: Iterable[Step], rule: ExitRule, x: Tensor, *, compact: float = 0.0) -> ExitOutput:
    """Compute a network stage by stage, for those samples only that are still in it.

    Samples that have left are dropped from the batch, and when none is left the rest is not computed. To know who is
    left, the host waits for the device once a stage.

    Args:
        steps: the stages, each from activations to the activations and the probabilities at its end; modules, or what
            `torch.export` made of them.
        rule: when a sample leaves; the last stage is not asked.
        x: inputs, shape `(N, …)`.
        compact: the share of a batch that must have left before its rows are dropped. Until then they are computed in
            vain; what is returned does not depend on it, up to rounding.

    Returns:
        Probabilities and layers, in the order of `x`.

    Example:
        >>> from layershift.probe.rules import Confidence
        >>> steps = [lambda x: (x, x), lambda x: (x / 2, x / 2)]
        >>> run_exits(steps, Confidence(0.7), torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
        ExitOutput(probabilities=tensor([[0.8000, 0.2000],
                [0.2000, 0.3000]]), layer=tensor([0, 1]))
    """
    check_type("steps", steps, Iterable, "functions, one a stage")
    steps = list(steps)
    check(len(steps) > 0 and all(map(callable, steps)), "steps", "functions, one a stage", steps)
    check_type("rule", rule, ExitRule, "an exit rule")
    check_rank("x", x, range(1, x.dim() + 1) if isinstance(x, Tensor) else (), "(N, …)")
    check_number("compact", compact, "a share from 0 to 1", least=0, most=1)
    rows = torch.arange(len(x), device=x.device)  # which sample a row of the batch is
    layer = torch.full_like(rows, len(steps) - 1)
    here = torch.ones_like(rows, dtype=torch.bool)  # whether a row of the batch has not left
    state: tuple[Tensor, ...] = ()
    found: Tensor | None = None
    for depth, step in enumerate(steps):
        with blaming("x", "what the network takes"):
            x, probabilities = step(x)
        check_floating("steps", probabilities)
        check_rank("steps", probabilities, (2,), "(N, K), the probabilities of a stage")
        found = probabilities.new_empty(len(layer), probabilities.shape[1]) if found is None else found
        labels = found.shape[1]
        check(probabilities.shape[1] == labels, "model", f"{labels} outputs, as the classifiers have", probabilities)
        if depth == len(steps) - 1:
            leaves = here
        else:
            leaves, state = rule.step(probabilities, state)
            leaves = leaves & here
        gone = leaves.nonzero().squeeze(1)
        if len(gone) == 0:
            continue
        found.index_copy_(0, rows[gone], probabilities[gone])
        layer[rows[gone]] = depth
        here = here & ~leaves
        stay = here.nonzero().squeeze(1)
        if len(stay) == 0:
            break
        if len(stay) <= (1 - compact) * len(here):
            x, rows, here = x[stay], rows[stay], here[stay]
            state = tuple(part[stay] for part in state)
    assert found is not None
    return ExitOutput(found, layer)


class FullDepth(nn.Module):
    """The same decisions without stopping: all stages are computed, then the rule says which one counts.

    Nothing depends on the data but numbers, so that `torch.export` takes the whole of it, the rule included.

    Example:
        >>> from layershift.probe.rules import Confidence
        >>> stages = [ExitStage(nn.Linear(4, 4), name, None, pool="average", task="single_label") for name in "ab"]
        >>> probabilities, layer = FullDepth(stages, Confidence(0.5))(torch.zeros(5, 4))
        >>> probabilities.shape, layer.shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    def __init__(self, stages: Iterable[nn.Module], rule: ExitRule) -> None:
        super().__init__()
        check_type("stages", stages, Iterable, "modules, one a stage")
        stages = list(stages)
        check_items("stages", stages, nn.Module, "modules, one a stage")
        check(len(stages) > 0, "stages", "modules, one a stage", "none")
        check_type("rule", rule, ExitRule, "an exit rule")
        self.stages, self.rule = nn.ModuleList(stages), rule

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of shape `(N, K)` and the layers that they are of, shape `(N,)`."""
        each = []
        for stage in self.stages:
            x, probabilities = stage(x)
            each.append(probabilities)
        stacked = torch.stack(each)
        layer = self.rule.exits(stacked)
        chosen = layer[None, :, None].expand(1, -1, stacked.shape[2])
        return stacked.gather(0, chosen)[0], layer


class EarlyExit(nn.Module):
    """A classifier that stops computing for a sample as soon as a rule lets it leave.

    The network is cut after the layers that have classifiers, see `split`, and runs stage by stage; samples that have
    left are dropped from the batch. Decisions are those of the rule on `LayerOutputs` of the same network, up to
    rounding: convolutions and products may sum in another order in a batch of another size, which moves a probability
    by its last digits and, where it lies that close to a threshold, a decision.

    Network and classifiers are copied and stay in evaluation mode: a batch's statistics would depend on who has left.

    Args:
        model: a trained network, of one tensor `(N, …)` to logits `(N, K)`.
        classifiers: those of its layers, trained.
        rule: when a sample leaves.
        task: "single_label" or "multi_label".
        loss: what the classifiers were trained with, see `layershift.probe.probe.label_probabilities`.
        head: a classifier on the last inner layer's feature that stands for the network's own output, or None.
        layers: where samples may leave, in order of depth; None for all that have a classifier.
        compact: the share of a batch that must have left before its rows are dropped, see `run_exits`. On a CPU no
            larger value was faster than 0, neither where many nor where few leave (`benchmarks/early_exit.py`).

    Attributes:
        layers: where samples leave, in order of depth; the last is "output".

    Raises:
        ValueError: if a layer has no classifier, the network cannot be cut there, the rule does not fit the task, or an
            option is out of range.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section H. S. Teerapittayanon,
        B. McDanel, H. T. Kung, 2016, "BranchyNet: fast inference via early exiting from deep neural networks",
        https://arxiv.org/abs/1709.01686.

    Example:
        >>> from layershift.probe.rules import LabelCount
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> classifiers = InternalClassifiers({"1": 4}, num_labels=3)
        >>> early = EarlyExit(model, classifiers, LabelCount(q=0.5, gamma=0.5), task="multi_label")
        >>> probabilities, layer = early(torch.randn(5, 1, 8, 8))
        >>> probabilities.shape, early.layers
        (torch.Size([5, 3]), ('1', 'output'))
    """

    def __init__(
        self,
        model: nn.Module,
        classifiers: InternalClassifiers,
        rule: ExitRule,
        *,
        task: Task,
        loss: Loss = "bce",
        head: nn.Linear | None = None,
        layers: Sequence[str] | None = None,
        compact: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("compact", compact, "a share from 0 to 1", least=0, most=1)
        check_type("rule", rule, ExitRule, "an exit rule")
        rule.check_task(task)
        self.rule, self.task, self.loss, self.compact = rule, task, loss, compact
        self.stages = exit_stages(model, classifiers, task=task, loss=loss, head=head, layers=layers)
        self._below_head = None if head is None else classifiers.layers[-1]
        self.layers = tuple(str(stage.layer) for stage in self.stages)
        self.eval()

    @classmethod
    def from_probe(
        cls, probe: Probe, rule: ExitRule, *, layers: Sequence[str] | None = None, compact: float = 0.0
    ) -> EarlyExit:
        """The early exit of a network with trained classifiers.

        Args:
            probe: as `layershift.probe.fit` gives it.
            rule: when a sample leaves.
            layers: where samples may leave.
            compact: as above.

        Returns:
            The early exit, on the device of the network.
        """
        options: dict[str, Any] = {"task": probe.task, "loss": probe.loss, "head": probe.head}
        return cls(probe.model, probe.classifiers, rule, **options, layers=layers, compact=compact)

    @torch.no_grad()
    def forward(self, x: Tensor) -> ExitOutput:
        """Classify samples, each as deep as it needs.

        Args:
            x: what the network takes, shape `(N, …)`.

        Returns:
            Probabilities of shape `(N, K)` and positions among `layers` of shape `(N,)`.
        """
        return run_exits(self.stages, self.rule, x, compact=self.compact)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked."""
        del mode
        return super().train(False)

    def full_depth(self) -> FullDepth:
        """The same decisions by a network that never stops, for `torch.export`; it shares parameters with this one."""
        return FullDepth(self.stages, self.rule).eval()

    def export_stages(self, x: Tensor) -> list[torch.export.ExportedProgram]:
        """Export each stage with its classifier by `torch.export`, for batches of any size.

        Stopping depends on the data, so it stays outside: `run_exits` takes the `module()` of each program.

        Args:
            x: an example of what the network takes, shape `(N, …)`.

        Returns:
            One program a stage, from activations to activations and probabilities.
        """
        x = torch.cat([x, x])  # of a batch of one, export would take the size for a constant
        batch, programs = torch.export.Dim("batch", min=1), []
        with torch.no_grad():
            for stage in self.stages:
                programs.append(torch.export.export(stage, (x,), dynamic_shapes=({0: batch},)))
                x, _ = stage(x)
        return programs

    def save(self, path: str | Path) -> None:
        """Write parameters, rule and layers to a file; `load` reads it.

        Args:
            path: of the file.
        """
        stage = self.stages[0]
        assert isinstance(stage, ExitStage)
        saved: dict[str, Any] = {
            "format": _FORMAT,
            "rule": self.rule.to_dict(),
            "layers": list(self.layers[:-1]),
            "below_head": self._below_head,
            "pool": stage.pool,
            "options": {"task": self.task, "loss": self.loss, "compact": self.compact},
            "state": self.state_dict(),
        }
        with whole_file(path) as file:
            torch.save(saved, file)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> EarlyExit:
        """Read what `save` wrote, on the CPU.

        Args:
            path: of the file.
            model: a network of the same architecture; its parameters do not matter.

        Returns:
            The same early exit.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or something else, or belongs to another architecture.
        """
        check_file("path", path)
        check_type("model", model, nn.Module, "a module")
        saved = load_state(Path(path), _FORMAT, torch.device("cpu"))
        state, names, below = saved["state"], saved["layers"], saved["below_head"]
        ends = [*names] if below is None else [*names, below]
        shapes = [state[f"stages.{i}.classifier.weight"].shape for i in range(len(ends))]
        sizes = {name: int(shape[1]) for name, shape in zip(ends, shapes, strict=True)}
        num_labels = int(shapes[0][0])
        classifiers = InternalClassifiers(sizes, num_labels, pool=saved["pool"])
        head = None if below is None else nn.Linear(sizes[below], num_labels)
        rule = exit_rule(**saved["rule"])
        try:
            made = cls(model, classifiers, rule, head=head, layers=names, **saved["options"]).cpu()
            made.load_state_dict(state)
        except (ValueError, RuntimeError) as error:
            expected = "a network of the architecture that was saved"
            raise ValueError(f"model: expected {expected}, got {type(model).__name__}: {error}") from error
        return made
