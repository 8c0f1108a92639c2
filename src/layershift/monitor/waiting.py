"""Outputs of small layers wait for the end of a step: those of one shape are measured together, at the cost of one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SMALL = {"cpu": 2**16}  # numbers of an output; of more, measuring costs more than beginning to
_SMALL_ELSEWHERE = 2**18


def can_wait(output: Tensor) -> bool:
    """Whether an output is small, and whatever measures layers together takes it.

    Example:
        >>> can_wait(torch.zeros(8, 3)), can_wait(torch.zeros(1024, 1024))
        (True, False)
    """
    small = 0 < output.numel() <= _SMALL.get(output.device.type, _SMALL_ELSEWHERE)
    plain = type(output) is Tensor and output.layout == torch.strided and output.is_contiguous()
    return small and plain and output.dim() >= 2 and output.is_floating_point()


def measures_together(metric: Any) -> bool:
    """Whether a metric offers `measure_all` and has seen nothing; a class derived from one that does may differ.

    Example:
        >>> from layershift.measure import Health, Moments
        >>> measures_together(Moments()), measures_together(Health())
        (True, False)
    """
    return "measure_all" in vars(type(metric)) and not metric.update_called


def measure_together(metrics: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What metrics of one kind say of outputs, each metric of that of its layer.

    Args:
        metrics: by layer.
        outputs: by layer, those of other layers too.

    Returns:
        Results by layer.
    """
    alike: dict[Hashable, list[str]] = {}
    for layer in metrics:
        output = outputs[layer]
        alike.setdefault((output.shape, output.dtype, output.device), []).append(layer)
    found: dict[str, Any] = {}
    for layers in alike.values():
        kind: Sequence[Any] = [metrics[layer] for layer in layers]
        stacked = torch.stack([outputs[layer] for layer in layers])
        found.update(zip(layers, kind[0].measure_all(kind, stacked), strict=True))
    return found
