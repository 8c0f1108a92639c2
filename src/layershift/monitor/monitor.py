"""When to measure: at every so many steps, on the training batch or on a frozen probe, without slowing the rest."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from layershift._checks import check, check_choice, check_count, check_type
from layershift.capture import LayerSelector, capture, select_layers
from layershift.monitor.alarms import Alarms, StopTraining
from layershift.monitor.budget import Budget, Cost
from layershift.monitor.journal import Journal
from layershift.monitor.metrics import LayerMetrics, Result, distributed
from layershift.monitor.pending import Pending
from layershift.monitor.probe import Probe, device_of, is_compiled, unwrap
from layershift.monitor.sink import Sink
from layershift.monitor.store import Record, Store

if TYPE_CHECKING:
    import pandas as pd

    from layershift.monitor.metrics import MeasureLike


class Monitor:
    """Measure a network's layers while it trains, and record the numbers.

    Every `every`-th step is measured. Hooks exist only inside a measured step, nothing is set on the model, and nothing
    waits for the device inside a step: the numbers of a step are copied once, asynchronously, and written when they
    have arrived (on a CPU at the end of the step).

    Under `torch.distributed`, build and step the monitor on every rank: measures are reduced across ranks, and rank 0
    alone writes.

    Args:
        model: the network; wrappers of `torch.compile` and data parallelism are looked through.
        layers: which layers, by name pattern or class, see `layershift.capture.select_layers`.
        measures: names (`"moments"`, `"normality"`, `"health"`, `"shift"`, `"speeds"`), metrics of
            `layershift.measure`, or functions that make them; each layer gets a copy of its own. Those that compare
            outputs of two steps, as `"shift"` does, need `on="probe"`. `"speeds"` is of weights, see
            `layershift.measure.Speeds`.
        store: where records go: the path of a store (continued, if it exists), an open `Store`, or None for memory.
        every: how many steps lie between two measured ones; step 0 is measured.
        on: `"batch"` measures what the network computes in the step, all of its forwards; `"probe"` runs a frozen batch
            through the network at the step's end, in eval mode, which makes steps comparable and works with
            `torch.compile`.
        probe: the frozen batch, for `on="probe"`: a tensor, a tuple of arguments, or a mapping of keyword arguments.
        budget: the share of the run's time that measuring may take, beyond a first second that is free. A step that is
            due is not measured where it would exceed that; `cost` tells. None measures whenever it is due.
        alarms: what watches the records for layers in trouble, and whether it warns or stops the run by raising
            `StopTraining` from `step`; `Alarms` for rules and actions of one's own. With several processes all stop at
            the next step that is due. None for no watch.
        sinks: where records go besides the store, such as those of `layershift.integrations`. One that fails is
            dropped with a warning. They are closed with the monitor.

    Raises:
        ValueError: if an option is out of range, a pattern matches no layer, or a compiled model is to be measured
            `on="batch"`.
        StoreError: if the store cannot be opened.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> with Monitor(model, layers=nn.ReLU, every=10) as monitor:
        ...     for i in range(20):
        ...         with monitor.step(i):
        ...             _ = model(torch.randn(32, 4))
        ...     records = monitor.records()
        >>> [(r.step, r.layer, r.measure, r.n) for r in records if r.measure == "variance" and r.unit is None]
        [(0, '1', 'variance', 32), (10, '1', 'variance', 32)]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: LayerSelector = "*",
        measures: Sequence[MeasureLike] = ("moments", "normality"),
        store: str | Path | Store | None = None,
        every: int = 100,
        on: Literal["batch", "probe"] = "batch",
        probe: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
        budget: float | None = 0.02,
        alarms: Alarms | Literal["warn", "stop"] | None = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        check_type("model", model, nn.Module, "a module")
        check_choice("on", on, ("batch", "probe"))
        check_type("measures", measures, Sequence, "a sequence of measures")
        check_count("every", every, "a number of steps, 1 or more")
        check(not isinstance(measures, str) and len(measures) > 0, "measures", "a sequence of measures", repr(measures))
        check(
            (probe is not None) == (on == "probe"), "probe", 'a batch if and only if on="probe"', type(probe).__name__
        )
        batches = (Tensor, Sequence, Mapping, type(None)) if not isinstance(probe, str) else ()
        check_type("probe", probe, batches, "a tensor, a tuple of arguments, or a mapping of keyword arguments")
        if on == "batch":
            check(not is_compiled(model), "on", "'probe' for a compiled model, which runs no new hooks", "'batch'")
        self.every = every
        self._layers = select_layers(unwrap(model), layers)
        self._metrics = LayerMetrics(self._layers, measures, unwrap(model))
        check(
            on == "probe" or not self._metrics.needs_reference,
            "on",
            "'probe' for a measure that compares steps, since it needs the same inputs at each",
            "'batch'",
        )
        self._budget = Budget(budget)
        self._device = device_of(unwrap(model))
        self._costly: int | None = None  # the measured step whose cost is still to be recorded
        self._probe = None if probe is None else Probe(unwrap(model), probe)
        self._journal = Journal(store, alarms, sinks)
        self._pending = Pending()
        self._closed = False

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Put one training step, or its forward, into this context: `with monitor.step(i): output = model(x)`.

        An exception inside ends the measurement of this step; what was recorded before stays.

        Args:
            step: its number; it is measured if `every` divides it and the budget allows it.

        Raises:
            RuntimeError: if the monitor is closed.
            StoreError: if records cannot be written.
            StopTraining: if an alarm asks for it; what was measured is in the store.
        """
        if self._closed:
            raise RuntimeError("this monitor is closed")
        if self._pending.ready():
            self.flush()
        if not self._due(step):
            yield
            return
        with self._measuring(step):
            yield

    def measure(self, step: int) -> None:
        """Measure the probe now, whatever the interval and the budget say: the network as it is when training ends.

        Args:
            step: what the step is called in the store.

        Raises:
            RuntimeError: if the monitor is closed, or has no probe.
            StoreError: if records cannot be written.
            StopTraining: if an alarm asks for it.
        """
        if self._closed or self._probe is None:
            raise RuntimeError(
                "this monitor is closed" if self._closed else 'measure() needs a monitor with on="probe"'
            )
        with self._measuring(step):
            pass

    @contextmanager
    def _measuring(self, step: int) -> Iterator[None]:
        self._report_cost()
        try:
            with ExitStack() as stack:
                with self._budget.spending():
                    if self._probe is None:
                        stack.enter_context(capture(self._layers, self._see))
                yield
            with self._budget.spending(self._device):
                if self._probe is not None:
                    with capture(self._layers, self._see):
                        self._probe.run()
                self._measure(step)
            self._budget.finish_step()
            self._costly = step
        finally:
            self._metrics.reset()

    def record(
        self,
        step: int,
        measure: str,
        value: float | Tensor,
        *,
        n: int | None = None,
        stderr: float | None = None,
        estimator: str = "",
        units: str = "1",
    ) -> None:
        """Add a number of the network as a whole, such as its loss.

        Args:
            step: the step it belongs to.
            measure: its name, such as `"train/loss"`.
            value: a number, written at once, or a tensor of one element, which is not waited for: it is written with
                the next measured step, by `flush`, `records` or `close`.
            n: how many independent samples it rests on.
            stderr: its standard error.
            estimator: how it was made.
            units: its unit of measurement.

        Raises:
            StoreError: if it cannot be written.
        """
        record = Record(step, "", measure, 0.0, stderr, n, estimator=estimator, units=units)
        if isinstance(value, Tensor):
            self._pending.add(record, value)
        else:
            self._journal.write([record._replace(value=float(value))])

    @property
    def cost(self) -> Cost:
        """What measuring and writing have cost so far; also recorded, as `monitor/seconds` and `monitor/share`."""
        return self._budget.cost

    def flush(self) -> None:
        """Write everything measured so far, waiting for it if it is still being computed.

        Raises:
            StoreError: if it cannot be written.
        """
        with self._budget.spending():
            self._journal.write(self._pending.collect())

    def records(self) -> list[Record]:
        """Everything recorded, by this monitor or earlier in the same store; a closed one must be opened again."""
        self.flush()
        return self._journal.store.records()

    def to_pandas(self) -> pd.DataFrame:
        """Everything recorded, as a table; see `Store.to_pandas`."""
        self.flush()
        return self._journal.store.to_pandas()

    def close(self) -> None:
        """Write what is left and let go of the model; a store that was given open stays open."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(StopTraining):  # it is over anyway
                self.flush()
                self._report_cost()
        finally:
            self._layers, self._metrics, self._probe = {}, LayerMetrics([], []), None
            self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _due(self, step: int) -> bool:
        """Whether this step is one to measure; ranks agree, because measures are reduced over them."""
        check_type("step", step, Integral, "a whole number")
        if step % self.every:
            return False
        allowed, stop = self._budget.allows(), self._journal.stop is not None
        if distributed():
            flags = torch.tensor([allowed, stop], device=self._device)
            torch.distributed.broadcast(flags, 0)
            allowed, stop = flags.tolist()
        if stop:
            stopped, self._journal.stop = self._journal.stop or StopTraining([]), None
            raise stopped
        if not allowed:
            self._budget.skip()
        return allowed

    def _see(self, name: str, output: Tensor) -> None:
        with self._budget.spending(output.device):
            self._metrics.see(name, output)

    def _measure(self, step: int) -> None:
        if self._metrics.missed:
            warnings.warn(
                f"step {step}: none of the watched layers ran inside the monitor's step, so nothing was measured; "
                'for a compiled model use on="probe"',
                stacklevel=4,
            )
        for result in self._metrics.results():
            self._add(step, result)
        self._metrics.keep()
        self._pending.send()
        if self._pending.ready():
            self.flush()

    def _add(self, step: int, result: Result) -> None:
        for measure, estimate in result.estimates.items():
            record = Record(step, result.layer, measure.removesuffix("/units"), 0.0)
            self._pending.add_estimate(record, estimate, result.units)

    def _report_cost(self) -> None:
        """Record what the last measured step cost, now that all of it is known."""
        if self._costly is None:
            return
        step, self._costly = self._costly, None
        how, seconds, share = "the monitor's own clock", self._budget.last_seconds, self._budget.cost.share
        self._journal.write(
            [
                Record(step, "", "monitor/seconds", seconds, n=1, estimator=how, units="s"),
                Record(step, "", "monitor/share", share, n=self._budget.cost.measured, estimator=how),
            ]
        )
