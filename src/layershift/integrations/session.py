"""A monitor inside somebody else's loop: steps that begin in one hook and end in another."""

from __future__ import annotations

import glob
import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from layershift._checks import check
from layershift.capture import select_layers
from layershift.monitor import Monitor, StoreError
from layershift.monitor.alarms import StopTraining
from layershift.monitor.probe import unwrap


class Session:
    """Build a monitor when the network is there, and open and close its steps from hooks.

    With `on="batch"` a step lasts from `begin` to `end`, and everything the network computes in between is one
    measurement; with `on="probe"` the network is measured at `begin`, before the step's update. So in both cases a
    measurement at step i is of the network after i updates.

    Args:
        options: of `layershift.Monitor`.

    Attributes:
        step: the step that is open, or None.
        last: the last step that was opened, or None.
        stopped: whether an alarm asked to stop.

    Raises:
        TypeError: if the monitor has no such option.

    Example:
        >>> import torch
        >>> model, session = nn.Linear(2, 2), Session({"every": 1, "store": None})
        >>> session.start(model)
        >>> session.begin(0); _ = model(torch.zeros(3, 2)); session.end()
        >>> session.stopped, session.monitor.cost.measured
        (False, 1)
        >>> session.close()
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = inspect.signature(Monitor).parameters.keys() - {"model"}
        if unknown := options.keys() - known:
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}; those of Monitor are {', '.join(known)}")
        self.options = dict(options)
        self.stopped = False
        self.step: int | None = None
        self.last: int | None = None
        self._context: AbstractContextManager[None] | None = None
        self._monitor: Monitor | None = None

    @property
    def monitor(self) -> Monitor:
        """The monitor, between `start` and `close`."""
        if self._monitor is None:
            raise RuntimeError("there is no monitor: the training has not begun, or is over")
        return self._monitor

    @property
    def started(self) -> bool:
        """Whether there is a monitor."""
        return self._monitor is not None

    def start(self, model: nn.Module) -> None:
        """Build the monitor of a network; losses and metrics that are modules inside it are no layers."""
        self.abandon(RuntimeError("another training begins"))
        self.step = self.last = None
        self.stopped = False
        layers = layers_of(model, self.options.get("layers", "*"))
        self._monitor = Monitor(model, **{**self.options, "layers": layers})

    def begin(self, step: int) -> None:
        """A step begins, or goes on with another of its batches; a step that is over does not begin again."""
        if self._monitor is None or step in (self.step, self.last):
            return
        self.end()
        self.last = step
        context = self._monitor.step(step)
        if not self._stops(context.__enter__):
            return
        self.step, self._context = step, context
        if self.options.get("on", "batch") == "probe":
            self.end()

    def end(self) -> None:
        """The step is over, or as much of it as shall be measured; an alarm may set `stopped`."""
        context, self._context, self.step = self._context, None, None
        if context is not None:
            self._stops(lambda: context.__exit__(None, None, None))

    def drop(self, error: BaseException) -> None:
        """The step failed: measure nothing of it, and leave no hook behind."""
        context, self._context, self.step = self._context, None, None
        if context is not None:
            try:
                context.__exit__(type(error), error, error.__traceback__)
            except BaseException as raised:
                if raised is not error:
                    raise

    def due(self, step: int) -> bool:
        """Whether the number of a step is one of those that are measured."""
        return self._monitor is not None and step % self._monitor.every == 0

    def record(self, step: int, measure: str, value: float | Tensor, estimator: str) -> None:
        """Record a number of the network as a whole."""
        self._stops(lambda: self.monitor.record(step, measure, value, estimator=estimator))

    def flush(self) -> None:
        """Write everything measured so far."""
        self._stops(self.monitor.flush)

    def close(self) -> None:
        """Close the monitor; closing twice does no harm."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            try:
                self.end()
            finally:
                self._stops(monitor.close)

    def abandon(self, error: BaseException) -> None:
        """The training failed: drop the open step and close the monitor, without hiding the failure behind another."""
        try:
            self.drop(error)
            self.close()
        except StoreError as second:
            warnings.warn(f"the last records could not be written: {second}", RuntimeWarning, stacklevel=2)

    def _stops(self, action: Callable[[], object]) -> bool:
        """Whether the action went through; else an alarm asked to stop."""
        try:
            action()
        except StopTraining:
            self.stopped = True
            return False
        return True


def layers_of(model: nn.Module, layers: Any) -> list[str]:
    """The names that a selector chooses, as exact patterns, without losses and metrics.

    Raises:
        ValueError: if it chooses nothing else.

    Example:
        >>> layers_of(nn.ModuleDict({"net": nn.Linear(2, 2), "criterion": nn.CrossEntropyLoss()}), "*")
        ['net']
    """
    from torchmetrics import Metric, MetricCollection

    chosen = select_layers(unwrap(model), layers)
    names = [name for name, module in chosen.items() if not isinstance(module, _Loss | Metric | MetricCollection)]
    check(bool(names), "layers", "a pattern that matches more than losses and metrics", repr(layers))
    return [glob.escape(name) for name in names]
