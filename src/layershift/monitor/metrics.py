"""What a monitor measures: the metrics of every layer, fed with outputs and, where they compare, with earlier ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from layershift._checks import check, check_choice

if TYPE_CHECKING:
    from torchmetrics import Metric

    MeasureLike: TypeAlias = str | Metric | Callable[[], Metric]


_NAMED = {"moments": "Moments", "normality": "Normality", "health": "Health", "shift": "Shift"}


class Result(NamedTuple):
    """What one metric says of one layer: an estimate, or several by name."""

    layer: str
    metric: Metric
    estimates: Any


class LayerMetrics:
    """A copy of every metric for every layer.

    A metric with `needs_reference = True` is updated with pairs: the layer's output and what it was, for the same
    inputs, at the measured step before; so it says nothing at the first.

    Args:
        layers: their names.
        measures: names, metrics, or functions that make them.
    """

    def __init__(self, layers: Iterable[str], measures: Sequence[MeasureLike]) -> None:
        self._metrics = {name: [_make(measure) for measure in measures] for name in layers}
        self._before: dict[tuple[str, int], Tensor] = {}
        self._now: dict[tuple[str, int], Tensor] = {}
        self._calls = dict.fromkeys(self._metrics, 0)
        self._first: dict[Hashable, str] = {}  # the layer that gave an output, by what identifies it

    @property
    def needs_reference(self) -> bool:
        """Whether any metric compares with earlier outputs."""
        return any(_compares(metric) for metrics in self._metrics.values() for metric in metrics)

    @property
    def seen(self) -> bool:
        """Whether any layer has run since the last `reset`."""
        return any(self._calls.values())

    def see(self, layer: str, output: Tensor) -> None:
        """Take in an output of a layer; what another layer has just given (`nn.Identity`) is not measured again.

        Raises:
            TypeError: if it cannot be measured; the message names the layer.
            ValueError: likewise.
        """
        key = (layer, self._calls[layer])
        self._calls[layer] += 1
        first = layer if key[1] else self._first.setdefault(_identity(output), layer)
        known = first != layer and self._calls[first] == 1
        try:
            with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
                for i, metric in enumerate(self._metrics[layer]):
                    if not _compares(metric):
                        if known:
                            self._metrics[layer][i] = self._metrics[first][i].clone()
                        else:
                            metric.update(output)
                        continue
                    if key not in self._now:  # a copy: the network may change its output in place
                        self._now[key] = output.detach().clone()
                    if key in self._before:
                        metric.update(output, self._before[key])
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {layer!r}: {error}") from error

    def results(self) -> Iterator[Result]:
        """What the metrics say, measure by measure, of those layers that ran."""
        with torch.no_grad():
            for column in zip(*self._metrics.values(), strict=True):
                found = [
                    (name, metric) for name, metric in zip(self._metrics, column, strict=True) if metric.update_called
                ]
                if found:
                    names, metrics = zip(*found, strict=True)
                    yield from map(Result, names, metrics, _compute(metrics))

    def keep(self) -> None:
        """What was seen since the last `reset` is what later outputs are compared with."""
        self._before, self._now = self._now, {}

    def reset(self) -> None:
        """Begin a new step."""
        self._now, self._first = {}, {}
        self._calls = dict.fromkeys(self._metrics, 0)
        for metrics in self._metrics.values():
            for metric in metrics:
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


def _make(measure: MeasureLike) -> Metric:
    """A metric of one layer's own."""
    from torchmetrics import Metric  # here, because it takes seconds, and opening a store needs none of it

    from layershift import measure as room

    if isinstance(measure, str):
        check_choice("measures", measure, _NAMED)
        named: Metric = getattr(room, _NAMED[measure])()
        return named
    if isinstance(measure, Metric):
        return copy.deepcopy(measure)
    made = measure()
    check(isinstance(made, Metric), "measures", "names, metrics, or functions that make metrics", repr(measure))
    return made
