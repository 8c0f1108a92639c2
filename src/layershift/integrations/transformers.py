"""A callback of Hugging Face's Trainer that measures the layers of the network that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from layershift._checks import check, import_extra
from layershift.integrations.session import Session
from layershift.measure import Moments, Normality
from layershift.monitor import Monitor

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainingArguments
else:
    TrainerCallback = import_extra("transformers", extra="transformers").TrainerCallback

_LOGGED = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "learning_rate",
    "eval_loss": "val/loss",
}


class TransformersMonitor(TrainerCallback):
    """Measure layers while a `transformers.Trainer` trains: one measured step is one step of the optimiser.

    Steps are numbered by `state.global_step`, and a measurement at step i is of the network after i updates. With
    `gradient_accumulation_steps` all batches of an optimiser's step are one measurement. The monitor is built when
    training begins and closed when it ends; a run that is resumed from a checkpoint continues the store of the same
    path. Of what the Trainer logs, `train/loss`, `train/grad_norm`, `learning_rate` and `val/loss` are recorded.

    An alarm that asks to stop sets `control.should_training_stop`.

    The Trainer tells nobody of an exception. After one, `close()` removes the hooks of the step that failed; so does
    leaving a `with` block, and starting another training.

    Args:
        **options: of `layershift.Monitor`: `layers`, `measures`, `store`, `every`, `on`, `probe`, `sinks`, …. The
            measures are `Moments(channel_dim=-1)` and `Normality()` unless you choose others: layers give
            (batch, tokens, channels), of which the last are the units.

    Raises:
        TypeError: if the monitor has no such option.
        ModuleNotFoundError: without transformers; the message names the extra to install.

    Example:
        >>> with TransformersMonitor(layers="transformer.h.?", every=100, store=None) as monitor:
        ...     callbacks = [monitor]  # trainer = Trainer(model, arguments, callbacks=callbacks); trainer.train()
    """

    def __init__(self, **options: Any) -> None:
        self._session = Session({"measures": (Moments(channel_dim=-1), Normality()), **options})

    @property
    def monitor(self) -> Monitor:
        """The monitor, while training."""
        return self._session.monitor

    def on_train_begin(self, args: TrainingArguments, *_: Any, **given: Any) -> None:
        """Build the monitor."""
        on = self._session.options.get("on", "batch")
        check(on == "probe" or not args.torch_compile, "on", "'probe' with torch_compile, which runs no new hooks", on)
        self._session.start(given["model"])

    def on_step_begin(self, *event: Any, **_: Any) -> None:
        """A step begins with its first batch."""
        _, state, control = event
        self._session.begin(state.global_step)
        self._pass_on_stop(control)

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """A step ends after the optimiser's."""
        _, _, control = event
        self._session.end()
        self._pass_on_stop(control)

    def on_log(self, *event: Any, **given: Any) -> None:
        """Record what the Trainer logs."""
        _, state, control = event
        for key, value in (given.get("logs") or {}).items():
            if self._session.started and key in _LOGGED:
                self._session.record(state.global_step, _LOGGED[key], float(value), "as the Trainer logs it")
        self._pass_on_stop(control)

    def on_save(self, *_: Any, **__: Any) -> None:
        """Write what was measured before a checkpoint is relied upon."""
        if self._session.started:
            self._session.flush()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Write what is left and close the monitor."""
        self._session.close()

    def close(self) -> None:
        """Close the monitor, and drop a step that is open because the training failed in it."""
        self._session.abandon(RuntimeError("the training did not come to the end of this step"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pass_on_stop(self, control: TrainerControl) -> None:
        if self._session.stopped:
            control.should_training_stop = True
