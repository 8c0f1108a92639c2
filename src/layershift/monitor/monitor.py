"""When to measure: at every so many steps, on the training batch or on a frozen probe, without slowing the rest."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from layershift._checks import check, check_choice
from layershift.capture import LayerSelector, capture, select_layers
from layershift.monitor.pending import Pending
from layershift.monitor.probe import Probe, is_compiled, unwrap
from layershift.monitor.store import Record, Store

if TYPE_CHECKING:
    import pandas as pd
    from torchmetrics import Metric

    MeasureLike: TypeAlias = str | Metric | Callable[[], Metric]


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
        measures: names (`"moments"`, `"normality"`), metrics of `layershift.measure`, or functions that make them; each
            layer gets a copy of its own.
        store: where records go: the path of a store (continued, if it exists), an open `Store`, or None for memory.
        every: how many steps lie between two measured ones; step 0 is measured.
        on: `"batch"` measures what the network computes in the step, all of its forwards; `"probe"` runs a frozen batch
            through the network at the step's end, in eval mode, which makes steps comparable and works with
            `torch.compile`.
        probe: the frozen batch, for `on="probe"`: a tensor, a tuple of arguments, or a mapping of keyword arguments.

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
    ) -> None:
        check_choice("on", on, ("batch", "probe"))
        check(every >= 1, "every", "a number of steps, 1 or more", every)
        check(not isinstance(measures, str) and len(measures) > 0, "measures", "a sequence of measures", repr(measures))
        check(
            (probe is not None) == (on == "probe"), "probe", 'a batch if and only if on="probe"', type(probe).__name__
        )
        if on == "batch":
            check(not is_compiled(model), "on", "'probe' for a compiled model, which runs no new hooks", "'batch'")
        self.every = every
        self._layers = select_layers(unwrap(model), layers)
        self._metrics = {name: [_make(measure) for measure in measures] for name in self._layers}
        self._probe = None if probe is None else Probe(unwrap(model), probe)
        self._owns_store = not isinstance(store, Store)
        self._store = (
            store if isinstance(store, Store) else Store(":memory:" if store is None or not _first() else store)
        )
        self._pending = Pending()
        self._closed = False

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Put one training step, or its forward, into this context: `with monitor.step(i): output = model(x)`.

        An exception inside ends the measurement of this step; what was recorded before stays.

        Args:
            step: its number; it is measured if `every` divides it.

        Raises:
            RuntimeError: if the monitor is closed.
            StoreError: if records cannot be written.
        """
        if self._closed:
            raise RuntimeError("this monitor is closed")
        if self._pending.ready():
            self.flush()
        if step % self.every:
            yield
            return
        try:
            with ExitStack() as stack:
                if self._probe is None:
                    stack.enter_context(capture(self._layers, self._see))
                yield
            if self._probe is not None:
                with capture(self._layers, self._see):
                    self._probe.run()
            self._measure(step)
        finally:
            for metric in self._all_metrics():
                metric.reset()

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
            self._write([record._replace(value=float(value))])

    def flush(self) -> None:
        """Write everything measured so far, waiting for it if it is still being computed.

        Raises:
            StoreError: if it cannot be written.
        """
        self._write(self._pending.collect())

    def records(self) -> list[Record]:
        """Everything recorded, by this monitor or earlier in the same store; a closed one must be opened again."""
        self.flush()
        return self._store.records()

    def to_pandas(self) -> pd.DataFrame:
        """Everything recorded, as a table; see `Store.to_pandas`."""
        self.flush()
        return self._store.to_pandas()

    def close(self) -> None:
        """Write what is left and let go of the model; a store that was given open stays open."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._layers, self._metrics, self._probe = {}, {}, None
            if self._owns_store:
                self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all_metrics(self) -> Iterator[Metric]:
        for metrics in self._metrics.values():
            yield from metrics

    def _see(self, name: str, output: Tensor) -> None:
        try:
            with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
                for metric in self._metrics[name]:
                    metric.update(output)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {name!r}: {error}") from error

    def _measure(self, step: int) -> None:
        seen = [name for name, metrics in self._metrics.items() if metrics[0].update_called]
        if not seen:
            warnings.warn(
                f"step {step}: none of the watched layers ran inside the monitor's step, so nothing was measured; "
                'for a compiled model use on="probe"',
                stacklevel=4,
            )
        with torch.no_grad():
            for metrics in zip(*(self._metrics[name] for name in seen), strict=True):
                for name, metric, result in zip(seen, metrics, _compute(metrics), strict=True):
                    self._add(step, name, metric, result)
            self._pending.send()
        if self._pending.ready():
            self.flush()

    def _add(self, step: int, name: str, metric: Metric, result: Any) -> None:
        """Take over what a metric says: an estimate, called after the metric, or several by name."""
        named = result if isinstance(result, Mapping) else {type(metric).__name__.lower(): result}
        chosen = getattr(metric, "unit_indices", None)
        units = [] if chosen is None else chosen.tolist()
        for measure, estimate in named.items():
            record = Record(step, name, measure.removesuffix("/units"), 0.0)
            self._pending.add_estimate(record, estimate, units)

    def _write(self, records: Sequence[Record]) -> None:
        if records and _first():
            self._store.write(records)


def _first() -> bool:
    """Whether this process is the one that writes."""
    return not _distributed() or torch.distributed.get_rank() == 0


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _compute(metrics: Sequence[Any]) -> Sequence[Any]:
    """The results of all layers' metrics of one kind, at once where the kind offers that and no rank must be asked."""
    together = hasattr(metrics[0], "compute_all") and len({metric.device for metric in metrics}) == 1
    if together and not _distributed():
        results: Sequence[Any] = metrics[0].compute_all(metrics)
        return results
    return [metric.compute() for metric in metrics]


def _make(measure: MeasureLike) -> Metric:
    """A metric of one layer's own."""
    from torchmetrics import Metric  # here, because it takes seconds, and opening a store needs none of it

    from layershift.measure import Moments, Normality

    if isinstance(measure, str):
        known: dict[str, type[Metric]] = {"moments": Moments, "normality": Normality}
        check_choice("measures", measure, known)
        return known[measure]()
    if isinstance(measure, Metric):
        return copy.deepcopy(measure)
    made = measure()
    check(isinstance(made, Metric), "measures", "names, metrics, or functions that make metrics", repr(measure))
    return made
