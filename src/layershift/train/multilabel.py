"""A classifier of samples that may have several labels, as a Lightning module."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from layershift.measure.multilabel import MultiLabelScores
from layershift.train.learner import Learner

_LOSS = "mean over samples of the sum over labels"
_LABELS = "mean over samples of the share of labels"
_MEANS = {
    "train_loss": "mean over the epoch's batches, in training mode, of the sum over labels",
    "train_penalty": "mean over the epoch's batches, weighted",
    "val_loss": _LOSS,
    "val_label_accuracy": _LABELS,
    "test_loss": _LOSS,
    "test_label_accuracy": _LABELS,
}


class MultiLabelClassifier(Learner):
    r"""Train a network to tell for each label whether it is there: binary cross entropy plus a penalty, SGD.

    The estimates are `train/loss` and `train/penalty`; `val/loss` and `val/label_accuracy`, the share of labels that
    are told right; and `val/accuracy`, the share of samples whose labels are all told right, `val/cf1`, `val/of1` and
    `val/map`, see `layershift.measure.multilabel.MultiLabelScores`; likewise for `test`. A label is told to be there if
    its probability, the sigmoid of the network's output, is above one half.

    The loss of a sample is the sum over its K labels, $-\log p(y \mid x)$ of labels that are independent given x, in
    nats as the cross entropy of classes is. PyTorch's default is the mean over labels: a learning rate that was chosen
    for that is K times too large here.

    Args:
        model: (N, …) → (N, K), logits.
        **options: of `Learner`.
    """

    headline: ClassVar[str] = "val/accuracy"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, means=_MEANS, **options)
        self.scores: dict[str, MultiLabelScores] = {}

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Criterion plus penalty."""
        x, y = batch
        losses = _losses(self(x), y)
        self.average("train_loss", losses)
        return self.penalized(losses.mean())

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss and scores."""
        self._evaluate("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss and scores."""
        self._evaluate("test", *batch)

    def close(self, stage: str) -> None:
        """Turn the means and the scores of a stage into estimates."""
        super().close(stage)
        if stage in self.scores:
            for name, estimate in self.scores.pop(stage).compute()._asdict().items():
                self.estimates[f"{stage}/{name}"] = estimate
                self.log(f"{stage}/{name}", estimate.value, prog_bar=f"{stage}/{name}" == self.headline)

    def _evaluate(self, stage: str, x: Tensor, y: Tensor) -> None:
        output: Tensor = self(x)
        self.average(f"{stage}_loss", _losses(output, y))
        self.average(f"{stage}_label_accuracy", (output > 0).eq(y > 0).float().mean(1))
        if stage not in self.scores:  # here the number of labels is known
            self.scores[stage] = MultiLabelScores(output.shape[1]).to(output.device)
        self.scores[stage].update(output.float().sigmoid(), y)


def _losses(output: Tensor, y: Tensor) -> Tensor:
    """Binary cross entropy of each sample, (N,)."""
    return F.binary_cross_entropy_with_logits(output, y.to(output.dtype), reduction="none").sum(1)
