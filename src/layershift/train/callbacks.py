"""Lightning callbacks: measure layers, record the network's numbers, keep checkpoints, show progress."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from layershift.measure import Estimate
from layershift.monitor import Record, Store
from layershift.train.folder import written
from layershift.train.learner import Learner


class StepMonitor(Protocol):
    """What `layershift.Monitor` offers, as far as training needs it."""

    def step(self, step: int) -> AbstractContextManager[Any]:
        """Measure inside the context if this step is one to measure."""
        ...

    def flush(self) -> None:
        """Write what was measured."""
        ...


class Measuring(Callback):
    """Measure the network on the monitor's probe before the updates that are to be measured.

    A measurement at step i is of the network after i updates, so step 0 is the network as it was initialised.

    Args:
        monitor: of the network that is trained, with `on="probe"`; the caller closes it.
    """

    def __init__(self, monitor: StepMonitor) -> None:
        self.monitor = monitor

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Measure, if this step is one to measure."""
        with self.monitor.step(trainer.global_step):
            pass

    def on_train_epoch_end(self, *_: Any) -> None:
        """Write what was measured before a checkpoint says that it was."""
        self.monitor.flush()


class Recording(Callback):
    """Write the network's own numbers into the store: the estimates of `Learner`, and the time of a step.

    `step_seconds` is the median over the steps of an epoch in which no layer was measured: from before forward to after
    the optimiser's update, on a GPU waiting for it before and after every tenth step, and only these.

    Args:
        store: of the run.
        every: steps between two measurements of layers; 0 if there are none.
    """

    def __init__(self, store: Store, every: int) -> None:
        self.store, self.every = store, every
        self.seconds: list[float] = []
        self.start: float | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Start the clock."""
        step = trainer.global_step
        measured = self.every and step % self.every == 0
        self.start = None if measured or not _timed(module.device, step) else _clock(module.device)

    def on_train_batch_end(self, _trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Stop the clock."""
        if self.start is not None:
            self.seconds.append(_clock(module.device) - self.start)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch's numbers."""
        assert isinstance(module, Learner)
        records = list(_records(trainer.global_step, module.estimates))
        if self.seconds:
            median, n = statistics.median(self.seconds), len(self.seconds)
            estimator = "median over the epoch's steps without a measurement"
            records.append(Record(trainer.global_step, "", "step_seconds", median, n=n, estimator=estimator, units="s"))
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        records.append(Record(trainer.global_step, "", "learning_rate", rate))
        self.store.write(records)
        self.seconds.clear()

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the final numbers."""
        assert isinstance(module, Learner)
        final = {name: estimate for name, estimate in module.estimates.items() if name.startswith("test/")}
        self.store.write(_records(trainer.global_step, final))


class Saving(Checkpoint):
    """Keep `last.ckpt`, complete, at ends of epochs at least a second apart, and `best.ckpt`, the weights alone.

    A file is replaced only when its successor is complete; one that cannot be written is a `RunError`.

    Args:
        folder: where they lie.
        seconds: how far apart two `last.ckpt` are at least; the first epoch and the last always leave one.
    """

    def __init__(self, folder: Path, seconds: float = 1.0) -> None:
        self.folder, self.seconds = folder, seconds
        self.saved = -float("inf")
        self.best = -float("inf")

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save, where that is due; Lightning calls this after everything else that ends an epoch."""
        assert isinstance(module, Learner)
        good = _goodness(module)
        if good > self.best:
            self.best = good
            _save(trainer, self.folder / "best.ckpt", weights_only=True)
        final = trainer.current_epoch + 1 == trainer.max_epochs
        due = final or time.monotonic() - self.saved >= self.seconds
        if trainer.strategy.broadcast(due):  # processes save together, and each has a clock of its own
            _save(trainer, self.folder / "last.ckpt")
            self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from it."""
        self.best = state_dict["best"]


class EpochProgress(Callback):
    """Tell a function about each finished epoch.

    Args:
        tell: receives how many epochs are done and how good the network is on the validation data, by its headline.
    """

    def __init__(self, tell: Callable[[int, float], None]) -> None:
        self.tell = tell

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell."""
        assert isinstance(module, Learner)
        found = module.estimates.get(module.headline)
        self.tell(trainer.current_epoch + 1, math.nan if found is None else float(found.value))


def _goodness(module: Learner) -> float:
    """More is better; NaN, which is no better than anything, without validation data."""
    found = module.estimates.get(module.headline)
    sign = 1 if module.higher_is_better else -1
    return math.nan if found is None else sign * float(found.value)


def _save(trainer: Trainer, path: Path, *, weights_only: bool = False) -> None:
    draft = path.with_suffix(".tmp")
    with written(path):
        trainer.save_checkpoint(draft, weights_only=weights_only)
        if trainer.is_global_zero:
            draft.replace(path)


def _records(step: int, estimates: dict[str, Estimate]) -> Iterator[Record]:
    for name, e in estimates.items():
        yield Record(step, "", name, float(e.value), float(e.stderr), int(e.n), estimator=e.estimator, units=e.units)


def _timed(device: torch.device, step: int) -> bool:
    return device.type == "cpu" or step % 10 == 5


def _clock(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
