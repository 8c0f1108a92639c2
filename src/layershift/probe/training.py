"""The state of training the classifiers: steps, what is recorded, and the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from layershift._checks import check, fail
from layershift.probe.features import Features, device_of
from layershift.probe.outputs import LayerOutputs, whole_file
from layershift.probe.probe import Loss, Probe, head_logits, history_file, load_state

_FORMAT = "layershift probe checkpoint, version 1"
_FILE = "checkpoint.pt"


def label_loss(logits: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """The sum over classifiers of their mean loss: each gets the gradient that it would get alone.

    Args:
        logits: shape `(L, N, K)`.
        targets: shape `(N, K)`, bool.
        loss: "bce", the mean over samples and labels; "cross_entropy", the mean over samples.

    Returns:
        Shape `()`.

    Example:
        >>> label_loss(torch.zeros(2, 5, 3), torch.zeros(5, 3).bool(), "bce")  # 2 log 2
        tensor(1.3863)
    """
    if loss == "bce":
        table = targets.to(logits.dtype).expand_as(logits)
        return len(logits) * nn.functional.binary_cross_entropy_with_logits(logits, table)
    classes = targets.int().argmax(1).repeat(len(logits))
    return len(logits) * nn.functional.cross_entropy(logits.flatten(0, 1), classes)


class Training:
    """The classifiers of a probe, their optimiser, and the folder of the checkpoint.

    Args:
        probe: whose classifiers are trained, and whose history is filled.
        recipe: plain data that say which training this is; a checkpoint of another is refused.
        folder: of the checkpoint, or None.
    """

    def __init__(self, probe: Probe, recipe: dict[str, Any], folder: Path | None) -> None:
        self.probe, self.recipe, self.folder = probe, recipe, folder
        self.device = device_of(probe.model)
        self.heads: list[nn.Module] = [probe.classifiers, *([] if probe.head is None else [probe.head])]
        for head in self.heads:
            head.to(self.device)
        parameters = [parameter for head in self.heads for parameter in head.parameters()]
        decay, momentum = recipe["weight_decay"], recipe["momentum"]
        self.optimizer = torch.optim.SGD(parameters, momentum=momentum, weight_decay=decay)
        self.saved, self.cost = perf_counter(), 0.0

    def epoch(self, batches: Iterator[Features], rate: float) -> None:
        """One pass over the features."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for batch in batches:
            features = batch.to(self.device)
            loss = label_loss(head_logits(self.heads, features.layers), features.targets, self.probe.loss)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        weights = zip(self.probe.layers, _weights(self.heads), strict=False)
        for layer, weight in weights:
            if not bool(weight.isfinite().all()):
                fail("learning_rate", f"one with which the classifier of layer {layer!r} does not diverge", rate)

    def record(self, epoch: int, outputs: LayerOutputs) -> None:
        """Keep outputs on validation data."""
        self.probe.history[epoch] = outputs
        if self.folder is not None:
            outputs.save(self.folder / history_file(epoch))

    def save(self, epoch: int, *, always: bool) -> None:
        """Write the state, unless it was written a short while ago; never half of it."""
        before = perf_counter()
        if self.folder is None or not (always or before - self.saved > 20 * self.cost):
            return
        state = {
            "format": _FORMAT,
            "recipe": self.recipe,
            "epoch": epoch,
            "heads": [head.state_dict() for head in self.heads],
            "optimizer": self.optimizer.state_dict(),
            "history": list(self.probe.history),
        }
        with whole_file(self.folder / _FILE) as file:
            torch.save(state, file)
        self.saved = perf_counter()
        self.cost = self.saved - before

    def resume(self, epochs: int, recorded: Sequence[int]) -> int:
        """Take up the state that was written last, if any.

        Returns:
            How many epochs are done.
        """
        assert self.folder is not None
        path = self.folder / _FILE
        if not path.exists():
            return 0
        state = load_state(path, _FORMAT, self.device)
        for key, value in self.recipe.items():
            before = state["recipe"].get(key)
            check(before == value, "checkpoint", f"one of a training with {key} {value!r}", repr(before))
        done: int = state["epoch"]
        check(done <= epochs, "checkpoint", f"one of at most {epochs} epochs", done)
        for epoch in recorded:
            if epoch <= done:
                check(epoch in state["history"], "checkpoint", f"one that recorded epoch {epoch}", state["history"])
                self.probe.history[epoch] = LayerOutputs.load(self.folder / history_file(epoch))
        for head, weights in zip(self.heads, state["heads"], strict=True):
            head.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        return done


def _weights(heads: Sequence[nn.Module]) -> list[Tensor]:
    return [parameter for head in heads for name, parameter in head.named_parameters() if name.endswith("weight")]
