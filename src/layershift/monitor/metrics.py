"""What a monitor measures: the metrics of every layer, fed with outputs and, where they compare, with earlier ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from layershift._checks import check, check_choice
from layershift.monitor.waiting import can_wait, measure_together, measures_together

if TYPE_CHECKING:
    from torchmetrics import Metric

    from layershift.measure import Estimate

    MeasureLike: TypeAlias = str | Metric | Callable[[], Metric] | "ModelMeasure"


_NAMED = {"moments": "Moments", "normality": "Normality", "health": "Health", "shift": "Shift"}


@runtime_checkable
class ModelMeasure(Protocol):
    """Measures a network's parameters, once at the end of a measured step, where a metric measures outputs."""

    def of_model(self, model: nn.Module) -> Iterable[tuple[str, list[int], Mapping[str, Estimate]]]:
        """For each layer its name, the units that stand alone, and estimates by name."""


class Result(NamedTuple):
    """What is known of one layer: estimates by name, those of single units ending in "/units", and which these are."""

    layer: str
    units: list[int]
    estimates: Mapping[str, Estimate]


class LayerMetrics:
    """A copy of every metric for every layer.

    A metric with `needs_reference = True` is updated with pairs: the layer's output and what it was, for the same
    inputs, at the measured step before; so it says nothing at the first.

    Args:
        layers: their names.
        measures: names, metrics, or functions that make them; and measures of the network's parameters.
        model: whose parameters are measured.
    """

    def __init__(self, layers: Iterable[str], measures: Sequence[MeasureLike], model: nn.Module | None = None) -> None:
        self._model = model
        of_model = [_model_measure(measure) for measure in measures]
        self._of_model = [measure for measure in of_model if measure is not None]
        of_outputs = [measure for measure, other in zip(measures, of_model, strict=True) if other is None]
        self._metrics = {name: [_make(measure) for measure in of_outputs] for name in layers}
        self._before: dict[tuple[str, int], Tensor] = {}
        self._now: dict[tuple[str, int], Tensor] = {}
        self._calls = dict.fromkeys(self._metrics, 0)
        self._ran: dict[str, None] = {}  # in this order
        self._first: dict[Hashable, str] = {}  # the layer that gave an output, by what identifies it
        self._waiting: dict[str, Tensor] = {}  # of small layers that ran once so far

    @property
    def needs_reference(self) -> bool:
        """Whether any metric compares with earlier outputs."""
        return any(_compares(metric) for metrics in self._metrics.values() for metric in metrics)

    @property
    def missed(self) -> bool:
        """Whether outputs are to be measured, and no layer has run since the last `reset`."""
        return any(self._metrics.values()) and not any(self._calls.values())

    def see(self, layer: str, output: Tensor) -> None:
        """Take in an output of a layer; what another layer has just given (`nn.Identity`) is not measured again.

        Raises:
            TypeError: if it cannot be measured; the message names the layer.
            ValueError: likewise.
        """
        key = (layer, self._calls[layer])
        self._calls[layer] += 1
        self._ran.setdefault(layer)
        first = layer if key[1] else self._first.setdefault(_identity(output), layer)
        known = first if first != layer and self._calls[first] == 1 else None
        try:
            with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
                if key[1]:
                    self._go_on(layer)
                elif can_wait(output) and not distributed():
                    # A copy, because the network may change its output in place.
                    same = self._waiting.get(known) if known else None
                    self._waiting[layer] = output.detach().clone() if same is None else same
                for i, metric in enumerate(self._metrics[layer]):
                    if _compares(metric):
                        self._compare(metric, key, output)
                    elif known and self._metrics[known][i].update_called:
                        self._metrics[layer][i] = self._metrics[known][i].clone()
                    elif layer not in self._waiting or not measures_together(metric):
                        metric.update(output)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {layer!r}: {error}") from error

    def _compare(self, metric: Any, key: tuple[str, int], output: Tensor) -> None:
        """Update a metric with an output and what it was, if that is known."""
        if key not in self._now:  # a copy: the network may change its output in place
            self._now[key] = output.detach().clone()
        if key in self._before:
            metric.update(output, self._before[key])

    def _go_on(self, layer: str) -> None:
        """A layer that runs again does not wait: what it gave at first is where its metrics begin."""
        output = self._waiting.pop(layer, None)
        for metric in self._metrics[layer] if output is not None else ():
            if not _compares(metric) and measures_together(metric):
                metric.update(output)

    def results(self) -> Iterator[Result]:
        """What the metrics say, measure by measure, of those layers that ran; then what is known of parameters.

        Layers come in the order in which they ran, so that trouble is told where it began; of several processes, which
        must ask each other in one order, in that of the network.
        """
        order = list(self._metrics) if distributed() else list(self._ran)
        with torch.no_grad():
            for column in zip(*(self._metrics[name] for name in order), strict=True):
                metrics = dict(zip(order, column, strict=True))
                updated = {name: metric for name, metric in metrics.items() if metric.update_called}
                waiting = {name: metrics[name] for name in self._waiting if measures_together(metrics[name])}
                found = measure_together(waiting, self._waiting)
                found |= zip(updated, _compute(list(updated.values())) if updated else (), strict=True)
                yield from (_result(name, metrics[name], found[name]) for name in order if name in found)
            for measure in self._of_model:
                assert self._model is not None
                yield from (Result(*known) for known in measure.of_model(self._model))

    def keep(self) -> None:
        """What was seen since the last `reset` is what later outputs are compared with."""
        self._before, self._now = self._now, {}

    def reset(self) -> None:
        """Begin a new step."""
        self._now, self._first, self._ran, self._waiting = {}, {}, {}, {}
        self._calls = dict.fromkeys(self._metrics, 0)
        for metrics in self._metrics.values():
            for metric in metrics:
                if metric.update_called:
                    metric.reset()


def _identity(output: Tensor) -> Hashable:
    """Equal for two outputs only if they are the same memory, not written to in between; nothing is kept alive."""
    if type(output) is not Tensor or output.layout != torch.strided or output.is_inference():
        return object()
    memory = StorageWeakRef(output.untyped_storage())  # type: ignore[no-untyped-call]
    return memory, output.storage_offset(), output.shape, output.stride(), output.dtype, output._version


def distributed() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _compares(metric: Any) -> bool:
    return bool(getattr(metric, "needs_reference", False))


def _compute(metrics: Sequence[Any]) -> Sequence[Any]:
    """The results of all layers' metrics of one kind, at once where the kind offers that and no rank must be asked."""
    together = hasattr(metrics[0], "compute_all") and len({metric.device for metric in metrics}) == 1
    if together and not distributed():
        results: Sequence[Any] = metrics[0].compute_all(metrics)
        return results
    return [metric.compute() for metric in metrics]


def _result(layer: str, metric: Any, found: Any) -> Result:
    """What a metric says: an estimate, called after the metric, or several by name."""
    name = getattr(metric, "measure_name", type(metric).__name__.lower())
    units = getattr(metric, "unit_indices", None)
    named = found if isinstance(found, Mapping) else {name: found}
    return Result(layer, [] if units is None else units.tolist(), named)


def _model_measure(measure: MeasureLike) -> ModelMeasure | None:
    if isinstance(measure, str) and measure == "speeds":  # a metric makes another one of ==
        from layershift.measure import Speeds

        return Speeds()
    return measure if isinstance(measure, ModelMeasure) else None


def _make(measure: MeasureLike) -> Metric:
    """A metric of one layer's own."""
    from torchmetrics import Metric  # here, because it takes seconds, and opening a store needs none of it

    from layershift import measure as room

    if isinstance(measure, str):
        check_choice("measures", measure, (*_NAMED, "speeds"))
        named: Metric = getattr(room, _NAMED[measure])()
        return named
    if isinstance(measure, Metric):
        return copy.deepcopy(measure)
    assert not isinstance(measure, ModelMeasure)
    check(callable(measure), "measures", "names, metrics, or functions that make metrics", repr(measure))
    made = measure()
    check(isinstance(made, Metric), "measures", "names, metrics, or functions that make metrics", repr(measure))
    return made
