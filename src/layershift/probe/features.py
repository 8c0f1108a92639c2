"""The features of a frozen network's layers: one pass over the data gives those of all layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layershift._checks import blaming, check, check_choice, check_count, check_items, check_type, fail
from layershift.capture import capture, output_tensor
from layershift.probe.heads import POOLS, Pool, pooled
from layershift.probe.outputs import OUTPUT, TASKS, Task

Batches: TypeAlias = Iterable[Any]
"""Batches `(x, y)`, which can be gone through again."""


@dataclass(frozen=True)
class Features:
    """What the layers make of samples, and the samples' labels.

    Attributes:
        layers: features of shape `(N, d)`, float32, by layer in order of depth; the network's own output is among them
            as "output", if it was asked for.
        targets: shape `(N, K)`, bool.
    """

    layers: dict[str, Tensor]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, indices: Tensor | slice) -> Features:
        """Some of the samples."""
        return Features({name: feature[indices] for name, feature in self.layers.items()}, self.targets[indices])

    def to(self, device: torch.device) -> Features:
        """The same on a device."""
        moved = {name: feature.to(device, non_blocking=True) for name, feature in self.layers.items()}
        return Features(moved, self.targets.to(device, non_blocking=True))


@dataclass(frozen=True)
class Extractor:
    """Runs a frozen network and keeps what its layers put out.

    The network runs in evaluation mode and without gradients; after each batch it is in the mode that it was in, and no
    hook is left. Batches go to the device of its parameters.

    Args:
        model: the network.
        layers: names and modules, as `layershift.probe.layers.choose_layers` gives them.
        num_labels: labels, K.
        task: "multi_label" or "single_label".
        pool: how a layer's output becomes a vector, see `layershift.probe.heads.pooled`.
        output: whether to keep the network's own output; it must then have shape `(N, K)`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> extract = Extractor(model, {"relu": model[1]}, num_labels=3, task="single_label")
        >>> features = extract(torch.zeros(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1]))
        >>> {name: tuple(feature.shape) for name, feature in features.layers.items()}
        {'relu': (5, 4), 'output': (5, 3)}
    """

    model: nn.Module
    layers: Mapping[str, nn.Module]
    num_labels: int
    task: Task
    pool: Pool = "average"
    output: bool = True

    def __post_init__(self) -> None:
        check_type("model", self.model, nn.Module, "a module")
        check_type("layers", self.layers, Mapping, "modules by their names")
        check_items("layers", self.layers, nn.Module, "modules by their names")
        check_count("num_labels", self.num_labels, "a number of labels, 1 or more")
        check_choice("task", self.task, TASKS)
        check_choice("pool", self.pool, POOLS)

    def __call__(self, x: Tensor, y: Tensor) -> Features:
        """The features of one batch, on the network's device, and its labels, on the CPU.

        Args:
            x: what the network takes.
            y: labels, see `label_table`.

        Raises:
            TypeError: if a layer puts out no floating point tensor.
            ValueError: if a layer is not called, or is called twice; if it has no row for each sample, or puts out
                numbers that are not finite; if the network's output has another shape; if labels do not fit.
        """
        targets = label_table(y, self.num_labels, self.task)
        check(len(x) == len(targets), "data", f"as many labels as samples, {len(x)}, in a batch", len(targets))
        features: dict[str, Tensor] = {}

        def see(name: str, value: Tensor) -> None:
            if name in features:
                fail("layers", "layers that are called once in a forward", f"{name!r}, which is called again")
            # A copy, because the next layer may work in place.
            feature = pooled(name, value, self.pool)
            features[name] = feature.clone() if feature.data_ptr() == value.data_ptr() else feature

        taken = blaming("data", "inputs that the network takes")
        with taken, frozen(self.model), capture(self.layers, see):
            result = output_tensor(OUTPUT, self.model(x.to(device_of(self.model), non_blocking=True)))
        for name in self.layers:
            if name not in features:
                fail("layers", "layers that the network's forward calls", f"{name!r}, which is never called")
        if self.output:
            wrong = result.dim() != 2 or result.shape[1] != self.num_labels
            if wrong:
                fail("model", f"an output for each of {self.num_labels} labels, or output='head'", result)
            features[OUTPUT] = result.float()
        _check_rows(features, len(x))
        return Features(features, targets)

    def stream(self, data: Batches) -> Iterator[Features]:
        """The features of each batch that holds a sample.

        Raises:
            TypeError: if the data are no batches `(x, y)`.
            ValueError: if there is none, or as for one batch.
        """
        empty = True
        check_type("data", data, Iterable, "batches (x, y)")
        for batch in data:
            x, y = pair(batch)
            if len(x) > 0:
                empty = False
                yield self(x, y)
        check(not empty, "data", "at least one sample", "none")

    def in_order(self, features: Features) -> Extractor:
        """The same, with layers in the order in which they were called."""
        return replace(self, layers={name: self.layers[name] for name in features.layers if name != OUTPUT})


def pair(batch: Any, argument: str = "data") -> tuple[Tensor, Tensor]:
    """A batch's inputs and labels.

    Raises:
        TypeError: if the batch is anything but two tensors.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        return batch[0], batch[1]
    raise TypeError(f"{argument}: expected batches (x, y) of two tensors, got {type(batch).__name__}")


def label_table(y: Tensor, num_labels: int, task: Task) -> Tensor:
    """Which labels samples have.

    A multi-label sample may have none. A single-label sample has one, always: there is no number for "unknown".

    Args:
        y: for "single_label" classes from 0 to K - 1, integers of shape `(N,)`; for "multi_label" zeros and ones, or
            truth values, shape `(N, K)`.
        num_labels: K.
        task: "single_label" or "multi_label".

    Returns:
        Shape `(N, K)`, bool, on the CPU.

    Raises:
        ValueError: if the shape, the type or a label is another.

    Example:
        >>> label_table(torch.tensor([2, 0]), 3, "single_label")
        tensor([[False, False,  True],
                [ True, False, False]])
    """
    y = y.detach().cpu()
    if task == "multi_label":
        check(y.dim() == 2 and y.shape[1] == num_labels, "y", f"shape (N, {num_labels}) for a multi-label task", y)
        table = y.bool()
        known = table == y
        check(bool(known.all()), "y", "zeros and ones", y[~known][:1].tolist())
        return table
    whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    check(y.dim() == 1 and whole, "y", "integers of shape (N,) for a single-label task", f"{y.dtype}, {tuple(y.shape)}")
    outside = y[(y < 0) | (y >= num_labels)]
    check(len(outside) == 0, "y", f"classes from 0 to {num_labels - 1}", outside[:1].tolist())
    return nn.functional.one_hot(y.long(), num_labels).bool()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module is in its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters are; the CPU for a network without."""
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")


def _check_rows(features: Mapping[str, Tensor], n: int) -> None:
    """A row for each sample, of finite numbers. Reading waits for a GPU, once a batch."""
    for name, feature in features.items():
        if len(feature) != n:
            fail(f"layer {name!r}", f"a row for each of {n} samples", feature)
    finite = torch.stack([feature.isfinite().all() for feature in features.values()]).tolist()
    if not all(finite):
        name = list(features)[finite.index(False)]
        fail(f"layer {name!r}", "finite features", "NaN or infinite ones")
