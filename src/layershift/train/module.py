"""A classifier as a Lightning module."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from layershift.train.learner import Learner

_OVER_SAMPLES = "mean over samples"
_MEANS = {
    "train_loss": "mean over the epoch's batches, in training mode",
    "train_penalty": "mean over the epoch's batches, weighted",
    "val_loss": _OVER_SAMPLES,
    "val_accuracy": _OVER_SAMPLES,
    "test_loss": _OVER_SAMPLES,
    "test_accuracy": _OVER_SAMPLES,
    "test_accuracy5": f"{_OVER_SAMPLES}, right if among the five largest scores",
}


class Classifier(Learner):
    """Train a network to classify: cross entropy plus a penalty, SGD.

    The estimates are `train/loss`, `train/penalty`, `val/loss`, `val/accuracy`, `test/loss`, `test/accuracy` and, for
    more than five classes, `test/accuracy5`. `train/loss` is the cross entropy alone, over the batches of the epoch,
    while the weights move.

    Args:
        model: (N, …) → (N, classes).
        **options: of `Learner`.
    """

    headline: ClassVar[str] = "val/accuracy"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, means=_MEANS, **options)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Criterion plus penalty."""
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        self.average("train_loss", losses)
        return self.penalized(losses.mean())

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss and accuracy."""
        self._evaluate("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss and accuracy."""
        output, y = self._evaluate("test", *batch), batch[1]
        if output.shape[1] > 5:
            self.average("test_accuracy5", output.topk(5, 1).indices.eq(y.unsqueeze(1)).any(1))

    def _evaluate(self, stage: str, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self(x)
        self.average(f"{stage}_loss", F.cross_entropy(output, y, reduction="none"))
        self.average(f"{stage}_accuracy", output.argmax(1).eq(y))
        return output
