"""Record what a network's layers look like, as a target that later training shall keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from layershift._checks import accumulation_dtype, blaming, check, check_choice, check_count, check_type
from layershift._seeds import derive_seed
from layershift.capture import LayerSelector, capture, select_layers
from layershift.functional.sliced import directions
from layershift.functional.sorting import ascending
from layershift.functional.synchronize import gather_samples, world_size
from layershift.nn.penalties import SampleKind, as_samples
from layershift.nn.targets import RecordedTarget


def record_target(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelector,
    num_projections: int = 128,
    num_quantiles: int = 512,
    max_samples: int = 8192,
    sample: SampleKind = "image",
    seed: int = 0,
) -> RecordedTarget:
    r"""Record the distributions of a network's layers along random directions, as a target for later training.

    Use it with `layershift.nn.SlicedWasserstein(target=…)` to keep a pretrained network's layers near what they were:
    against forgetting, as section 5 of the PER paper proposes. The distributions are held, not the function: which
    sample lies where in them may change. Directions are fixed, so a layer of more dimensions is watched along these
    alone.

    The model is run in evaluation mode without gradients. Under `torch.distributed` each process runs its own batches,
    and all get the record of the union.

    Args:
        model: the trained network.
        batches: inputs: tensors, batches of a loader whose first entry is the input, or mappings of keyword arguments.
        layers: a name pattern, a module class, or a sequence of them, see `layershift.capture.select_layers`.
        num_projections: directions for each layer.
        num_quantiles: how many numbers describe the distribution along a direction; fewer if there are fewer samples.
        max_samples: how many samples are looked at, in each process; of more a uniform choice without replacement.
            Memory is that many times `num_projections` numbers a layer.
        sample: what a sample is, see `layershift.nn.as_samples`.
        seed: of the directions and of the choice of samples.

    Returns:
        The target, on the model's device.

    Raises:
        ValueError: if there is no batch, a pattern matches no layer, or an option is out of range.

    Example:
        >>> import layershift as ls
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> target = record_target(model, torch.randn(10, 32, 4), layers="1")
        >>> penalty = ls.regularize(model, ls.nn.SlicedWasserstein(target), layers="1", weight=1.0)
        >>> _ = model(torch.randn(32, 4))
        >>> bool(penalty.loss() < 0.1)  # of new inputs from the same distribution
        True
    """
    check_count("num_projections", num_projections, "at least 1")
    check_count("num_quantiles", num_quantiles, "at least 1")
    check_count("max_samples", max_samples, "at least 1")
    check_choice("sample", sample, ("image", "position", "step"))
    check_count("seed", seed, "a whole number, 0 or more", least=0)
    chosen = select_layers(model, layers)
    check_type("batches", batches, Iterable, "batches of inputs")
    slices: dict[str, Tensor] = {}
    kept: dict[str, _Choice] = {}
    for batch in batches:
        for i, (name, output) in enumerate(outputs_of(model, chosen, batch, argument="batches").items()):
            samples = as_samples(output, sample)
            samples = samples.to(accumulation_dtype(samples))
            if name not in kept:
                slices[name] = _directions(samples, num_projections, derive_seed(seed, 0, i))
                kept[name] = _Choice(max_samples, derive_seed(seed, 1, i, _rank()))
            with torch.autocast(samples.device.type, enabled=False):
                kept[name].add(samples @ slices[name].mT)
    check(len(kept) > 0, "batches", "at least one batch", "none")
    found = {name: (slices[name], _quantiles(gather_samples(kept[name].rows), num_quantiles)) for name in kept}
    return RecordedTarget(found, sample=sample)


def outputs_of(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Any, *, argument: str = "batch"
) -> dict[str, Tensor]:
    """What layers give for a batch, in evaluation mode and without gradients; nothing of the model changes.

    Args:
        model: the network.
        layers: names and modules.
        batch: inputs: a tensor, a sequence whose first entry is the input, or a mapping of keyword arguments. Tensors
            are moved to the model's device.
        argument: what an error calls the batch.

    Returns:
        The outputs by name, in the order of `layers`; of a layer that runs several times, the last.

    Raises:
        TypeError: if the batch is none.
        ValueError: if the model cannot take it, or a layer did not run.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> {name: tuple(x.shape) for name, x in outputs_of(model, {"1": model[1]}, torch.zeros(5, 4)).items()}
        {'1': (5, 3)}
    """
    inputs = batch
    if not isinstance(batch, Tensor | Mapping):
        kinds = "a tensor, a sequence whose first entry is the input, or a mapping of keyword arguments"
        check_type(argument, batch, (tuple, list), kinds)
        check(len(batch) > 0 and batch[0] is not None, argument, "an input", batch)
        inputs = batch[0]
    seen: dict[str, Tensor] = {}
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    inputs = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, inputs)
    training = {module: module.training for module in model.modules()}
    try:
        for module in training:  # flags alone, which runs no code of the modules
            module.training = False
        taken = blaming(argument, "inputs that the model takes")
        with taken, torch.no_grad(), capture(layers, seen.__setitem__):
            if isinstance(batch, Mapping):
                model(**inputs)
            else:
                model(inputs)
    finally:
        for module, flag in training.items():
            module.training = flag
    missing = [name for name in layers if name not in seen]
    check(not missing, "layers", "layers that run in a forward", ", ".join(map(repr, missing)))
    return {name: seen[name] for name in layers}


class _Choice:
    """At most so many rows of a stream, each as likely as another: those of least priority."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)
        self.priority, self.rows = torch.empty(0, dtype=torch.float64), torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Take in rows `(N, P)`."""
        priority = torch.rand(len(rows), dtype=torch.float64, generator=self.generator)
        self.priority = torch.cat([self.priority, priority])
        self.rows = torch.cat([self.rows, rows]) if len(self.rows) else rows
        if len(self.rows) > self.count:
            best = self.priority.topk(self.count, largest=False).indices
            self.priority, self.rows = self.priority[best], self.rows[best.to(self.rows.device)]


def _directions(samples: Tensor, num: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return directions(samples.shape[1], num, generator=generator, device=samples.device, dtype=samples.dtype)


def _quantiles(rows: Tensor, count: int) -> Tensor:
    """Numbers of equal weight that stand for each column of `(N, P)`: `(P, N)` or, of more, `(P, count)` quantiles."""
    values = ascending(rows.mT)
    n = values.shape[-1]
    if n <= count:
        return values
    place = (torch.arange(count, dtype=values.dtype, device=rows.device) + 0.5) * (n / count) - 0.5
    below = place.floor().long().clamp(0, n - 2)
    return torch.lerp(values[:, below], values[:, below + 1], place - below)


def _rank() -> int:
    return torch.distributed.get_rank() if world_size() > 1 else 0
