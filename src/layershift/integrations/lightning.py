"""A Lightning callback that measures the layers of the network that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layershift._checks import check_type, import_extra
from layershift.integrations.session import Session
from layershift.monitor import Monitor

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = import_extra("lightning.pytorch", extra="lightning").Callback


class LightningMonitor(Callback):
    """Measure layers while a Lightning Trainer fits: one measured step is one step of the optimiser.

    Steps are numbered by `trainer.global_step`, and a measurement at step i is of the network after i updates. With
    `accumulate_grad_batches` all batches of an optimiser's step are one measurement, except that one that is
    interrupted by a validation ends there. The monitor is built when training starts and closed when it ends, also with
    an exception; a run that is resumed from a checkpoint continues the store of the same path.

    An alarm that asks to stop sets `trainer.should_stop`.

    Args:
        module: the attribute of the LightningModule that is the network, such as `"model"`, whose layers are then named
            without it; None for the whole LightningModule.
        loss: record `train/loss` of the measured steps, the mean over their batches, if the module returns one.
        **options: of `layershift.Monitor`: `layers`, `measures`, `store`, `every`, `on`, `probe`, `sinks`, …. Losses
            and metrics that are modules are no layers.

    Raises:
        TypeError: if the monitor has no such option.
        ModuleNotFoundError: without lightning; the message names the extra to install.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> monitor = LightningMonitor(module="model", layers="*relu", every=100, store="run.db")
        >>> trainer = Trainer(callbacks=[monitor], accelerator="cpu", logger=False, enable_checkpointing=False)
    """

    def __init__(self, *, module: str | None = None, loss: bool = True, **options: Any) -> None:
        check_type("module", module, (str, type(None)), "the name of an attribute, or None")
        self.module, self.loss = module, loss
        self._session = Session(options)
        self._losses: list[Tensor] = []

    @property
    def monitor(self) -> Monitor:
        """The monitor, while training."""
        return self._session.monitor

    def on_train_start(self, _trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the monitor: the network is on its device, and has the weights of a checkpoint."""
        self._losses = []
        self._session.start(pl_module if self.module is None else pl_module.get_submodule(self.module))

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """A step begins with its first batch."""
        self._session.begin(trainer.global_step)
        self._pass_on_stop(trainer)

    def on_train_batch_end(self, trainer: Trainer, _module: LightningModule, outputs: Any, *_: Any) -> None:
        """A step ends when the optimiser has moved on."""
        step = self._session.last
        assert step is not None
        if self.loss and self._session.due(step):
            self._keep_loss(trainer, outputs)
        if trainer.global_step != step:
            self._session.end()
            if self._losses:
                mean = torch.stack(self._losses).mean()
                self._session.record(step, "train/loss", mean, "mean over the batches of the step")
                self._losses = []
        self._pass_on_stop(trainer)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """What is validated is not measured."""
        self._session.end()
        self._pass_on_stop(trainer)

    def on_validation_end(self, *_: Any) -> None:
        """Write what was measured before a checkpoint says that it was."""
        if self._session.started:
            self._session.flush()

    def on_exception(self, _trainer: Trainer, _module: LightningModule, exception: BaseException) -> None:
        """Drop the step that failed, keep the others."""
        self._session.abandon(exception)

    def on_train_end(self, *_: Any) -> None:
        """Write what is left."""
        self._session.close()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the monitor, if nothing else did."""
        self._session.close()

    def _keep_loss(self, trainer: Trainer, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            # Lightning divides it by the number of batches that it accumulates; manual optimisation does not.
            share = trainer.accumulate_grad_batches if trainer.lightning_module.automatic_optimization else 1
            self._losses.append(loss.detach() * share)

    def _pass_on_stop(self, trainer: Trainer) -> None:
        if self._session.stopped:
            trainer.should_stop = True
