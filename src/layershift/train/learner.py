"""What every run trains by: criterion plus penalty, SGD with its schedule, estimates that carry their error bars."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from layershift._checks import check_choice, check_items, check_number, check_seed, check_type
from layershift._seeds import derive_seed
from layershift.measure import Estimate
from layershift.train.config import SCHEDULES, ScheduleName
from layershift.train.optimizer import Decay, parameter_groups, schedule_of


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


class Learner(LightningModule):
    """The base of what trains: the criterion and the evaluation are a subclass's.

    Estimates of an epoch lie in `estimates` under names such as `train/loss`, `train/penalty` and `val/loss`, each with
    its standard error and n; their values are logged under the same names.

    Everything random in an epoch (dropout, say) depends on the seed and the epoch alone, so that a resumed run computes
    what an uninterrupted one does.

    Args:
        model: what is trained.
        means: names of what is averaged in an epoch, such as `"val_accuracy"`, and how, in words.
        penalty: a penalty with parameters of its own that shall be trained, or None.
        learning_rate: at the start.
        momentum: 0 is plain gradient descent.
        nesterov: Nesterov's momentum, not Polyak's.
        weight_decay: on tensors of two and more dimensions only, so not on biases, nor on α, scale and shift of
            normalisers.
        bias_rate: the learning rate of biases and of Fixup's scalars, as a part of the others'.
        schedule: "cosine" falls to 0 with a half cosine, every step; "step" multiplies by `decay` at each of
            `milestones`, parts of the training; "plateau" multiplies by `decay` after an epoch whose validation loss is
            no better than the best; "constant".
        milestones: see `schedule`.
        decay: see `schedule`.
        warmup: the part of the training, at its start, with a tenth of the rate.
        seed: of what is random in an epoch.

    Attributes:
        headline: the estimate that says how good the network is.
        higher_is_better: whether more of it is better.
        penalty_loss: what `layershift.regularize` returned for the network, or None; set before training.
        config: plain values that are kept in each checkpoint.
    """

    headline: ClassVar[str] = "val/loss"
    higher_is_better: ClassVar[bool] = False
    best_loss: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        means: dict[str, str],
        penalty: nn.Module | None = None,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        bias_rate: float = 1.0,
        schedule: ScheduleName = "cosine",
        milestones: tuple[float, ...] = (0.3, 0.6, 0.8),
        decay: Decay = 0.2,
        warmup: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_type("model", model, nn.Module, "a module")
        check_type("penalty", penalty, (nn.Module, type(None)), "a module, or None")
        check_choice("schedule", schedule, SCHEDULES)
        rates = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
        for name, value in (rates | {"bias_rate": bias_rate}).items():
            check_number(name, value, "a number, 0 or more", least=0)
        check_number("warmup", warmup, "a number in [0, 1]", least=0, most=1)
        check_items("milestones", milestones, (float, int), "parts of the training")
        for factor in decay if isinstance(decay, list | tuple) else [decay]:
            check_number("decay", factor, "a factor in (0, 1], or several", above=0, most=1)
        check_seed("seed", seed)
        self.model, self.penalty = model, penalty
        self.learning_rate, self.momentum, self.nesterov = learning_rate, momentum, nesterov
        self.weight_decay, self.bias_rate = weight_decay, bias_rate
        self.schedule, self.milestones, self.decay, self.warmup = schedule, milestones, decay, warmup
        self.seed = seed
        self.penalty_loss: PenaltyLoss | None = None
        self.config: dict[str, Any] = {}
        self.estimates: dict[str, Estimate] = {}
        self.means = nn.ModuleDict({name: Mean(estimator) for name, estimator in means.items()})
        self.register_buffer("best_loss", torch.tensor(torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        return self.model(x)  # type: ignore[no-any-return]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 (the name is Lightning's)
        """Start the epoch's random numbers, after the loader has drawn its own, whose number a resumed run changes."""
        if batch_idx == 0:
            torch.manual_seed(derive_seed(self.seed, self.current_epoch, self.global_rank))

    def penalized(self, loss: Tensor) -> Tensor:
        """The criterion plus the penalty of this step's forwards."""
        if self.penalty_loss is None:
            return loss
        penalty = self.penalty_loss.loss()
        self.average("train_penalty", penalty.reshape(1))
        return loss + penalty

    def average(self, name: str, values: Tensor) -> None:
        """Take numbers of a batch into one of the epoch's means."""
        mean = self.means[name]
        assert isinstance(mean, Mean)
        mean.update(values)

    def on_train_batch_end(self, *_: Any) -> None:
        """Close the epoch's estimates after its last batch, before validation."""
        if self.trainer.is_last_batch:
            self.close("train")

    def on_validation_epoch_end(self) -> None:
        """Close the pass's estimates; on a plateau, let the learning rate fall."""
        self.close("val")
        if self.schedule == "plateau" and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._fall_on_plateau()

    def _fall_on_plateau(self) -> None:
        """Before the epoch's checkpoint, which holds rate and best loss: Lightning lets a plateau act after it."""
        loss = self.estimates["val/loss"].value
        assert isinstance(self.decay, float), "a plateau has one factor"
        if not loss < self.best_loss:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] *= self.decay
        self.best_loss.copy_(torch.fmin(self.best_loss, loss))

    def on_test_epoch_end(self) -> None:
        """Close the pass's estimates."""
        self.close("test")

    def close(self, stage: str) -> None:
        """Turn the means of a stage into estimates."""
        for key, mean in self.means.items():
            if isinstance(mean, Mean) and key.startswith(stage) and mean.update_called:
                name = key.replace("_", "/", 1)
                self.estimates[name] = mean.compute()
                self.log(name, self.estimates[name].value, prog_bar=name == self.headline)
                mean.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint says what it is a checkpoint of."""
        checkpoint["config"] = self.config

    def configure_optimizers(self) -> Any:
        """SGD over groups of parameters, and the schedule."""
        groups = parameter_groups(
            self.named_parameters(),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            bias_rate=self.bias_rate,
        )
        nesterov = self.nesterov and self.momentum > 0
        optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov)
        if self.schedule == "plateau":  # see `on_validation_epoch_end`
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = schedule_of(
            optimizer, self.schedule, steps, milestones=self.milestones, decay=self.decay, warmup=self.warmup
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}
