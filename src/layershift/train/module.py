"""A classifier as a Lightning module: criterion plus penalty, SGD, and estimates that carry their error bars."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from layershift._checks import check_choice
from layershift._seeds import derive_seed
from layershift.measure import Estimate
from layershift.train.config import SCHEDULES, ScheduleName


class PenaltyLoss(Protocol):
    """What `layershift.regularize` returns, as far as a training step needs it."""

    def loss(self) -> Tensor:
        """The weighted penalty of the forward passes since the last call."""
        ...


class Mean(Metric):
    r"""The mean of numbers that come in batches, with its standard error $s / \sqrt n$; reduced across processes.

    Example:
        >>> mean = Mean("mean over samples")
        >>> mean.update(torch.tensor([1.0, 2.0])); mean.update(torch.tensor([3.0]))
        >>> [round(float(x), 4) for x in mean.compute()[:3]]
        [2.0, 0.5774, 3.0]
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, estimator: str) -> None:
        super().__init__()
        self.estimator = estimator
        self.add_state("sums", torch.zeros(3), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add a batch, (N,)."""
        values = values.detach().float()
        self.sums += torch.stack([torch.ones_like(values), values, values.square()]).sum(1)

    def compute(self) -> Estimate:
        """The mean over all that came since the last reset."""
        n, total, squares = self.sums
        mean = total / n
        variance = (squares / n - mean.square()).clamp(min=0) * n / (n - 1)
        return Estimate(mean, (variance / n).sqrt(), n, estimator=self.estimator)


class Classifier(LightningModule):
    """Train a network to classify: cross entropy plus a penalty, SGD with Nesterov's momentum.

    Estimates of an epoch lie in `estimates` under the names `train/loss`, `train/penalty`, `val/loss`, `val/accuracy`,
    `test/loss` and `test/accuracy`, each with its standard error and n; their values are logged under the same names.
    `train/loss` is the cross entropy alone, over the batches of the epoch, while the weights move.

    Everything random in an epoch (dropout, say) depends on the seed and the epoch alone, so that a resumed run computes
    what an uninterrupted one does.

    Args:
        model: (N, …) → (N, classes).
        penalty: a penalty with parameters of its own that shall be trained, or None.
        learning_rate: at the start.
        momentum: Nesterov's; 0 is plain gradient descent.
        weight_decay: on tensors of two and more dimensions only, so not on biases, nor on α, scale and shift of
            normalisers.
        schedule: "cosine" falls to 0 with a half cosine, every step; "step" divides by 5 at 30, 60 and 80% of the
            steps; "constant".
        seed: of what is random in an epoch.

    Attributes:
        penalty_loss: what `layershift.regularize` returned for the network, or None; set before training.
        config: plain values that are kept in each checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        penalty: nn.Module | None = None,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: ScheduleName = "cosine",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("schedule", schedule, SCHEDULES)
        self.model, self.penalty = model, penalty
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.schedule, self.seed = schedule, seed
        self.penalty_loss: PenaltyLoss | None = None
        self.config: dict[str, Any] = {}
        self.estimates: dict[str, Estimate] = {}
        self.means = nn.ModuleDict(
            {
                "train_loss": Mean("mean over the epoch's batches, in training mode"),
                "train_penalty": Mean("mean over the epoch's batches, weighted"),
                "val_loss": Mean("mean over samples"),
                "val_accuracy": Mean("mean over samples"),
                "test_loss": Mean("mean over samples"),
                "test_accuracy": Mean("mean over samples"),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        return self.model(x)  # type: ignore[no-any-return]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 (the name is Lightning's)
        """Start the epoch's random numbers, after the loader has drawn its own, whose number a resumed run changes."""
        if batch_idx == 0:
            torch.manual_seed(derive_seed(self.seed, self.current_epoch, self.global_rank))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Criterion plus penalty."""
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        self._add("train_loss", losses)
        loss = losses.mean()
        if self.penalty_loss is not None:
            penalty = self.penalty_loss.loss()
            self._add("train_penalty", penalty.reshape(1))
            loss = loss + penalty
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Close the epoch's estimates after its last batch, before validation."""
        if self.trainer.is_last_batch:
            self._close("train")

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss and accuracy."""
        self._evaluate("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss and accuracy."""
        self._evaluate("test", *batch)

    def on_validation_epoch_end(self) -> None:
        """Close the pass's estimates."""
        self._close("val")

    def on_test_epoch_end(self) -> None:
        """Close the pass's estimates."""
        self._close("test")

    def _evaluate(self, stage: str, x: Tensor, y: Tensor) -> None:
        output = self(x)
        self._add(f"{stage}_loss", F.cross_entropy(output, y, reduction="none"))
        self._add(f"{stage}_accuracy", output.argmax(1).eq(y))

    def _add(self, name: str, values: Tensor) -> None:
        mean = self.means[name]
        assert isinstance(mean, Mean)
        mean.update(values)

    def _close(self, stage: str) -> None:
        for key, mean in self.means.items():
            if isinstance(mean, Mean) and key.startswith(stage) and mean.update_called:
                name = key.replace("_", "/")
                self.estimates[name] = mean.compute()
                self.log(name, self.estimates[name].value, prog_bar=name == "val/accuracy")
                mean.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint says what it is a checkpoint of."""
        checkpoint["config"] = self.config

    def configure_optimizers(self) -> Any:
        """SGD over two groups, and the schedule, which steps with the optimiser."""
        groups = [
            {"params": [p for p in self.parameters() if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in self.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        nesterov = self.momentum > 0
        optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov)
        factor = Schedule(self.schedule, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


class Schedule:
    """The factor of the learning rate at a step.

    Example:
        >>> [round(Schedule("cosine", 4)(step), 2) for step in range(5)], Schedule("step", 200)(160)
        ([1.0, 0.85, 0.5, 0.15, 0.0], 0.008)
    """

    def __init__(self, name: ScheduleName, steps: int) -> None:
        self.name, self.steps = name, steps

    def __call__(self, step: int) -> float:
        """The factor."""
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1)))
        if self.name == "step":
            return round(0.2 ** sum(step >= part * self.steps for part in (0.3, 0.6, 0.8)), 12)
        return 1.0
