"""The distribution that a network's layers had, as a target for later training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layershift._checks import check, check_choice, check_type
from layershift.nn.layer_state import layer_key, layer_name
from layershift.nn.penalties import SampleKind


class RecordedTarget(nn.Module):
    """What layers' outputs looked like along fixed random directions; made by `layershift.record_target`.

    It holds two buffers a layer: directions `(P, d)` and quantiles `(P, K)`, K numbers of equal weight in ascending
    order. They follow the module that holds it to its device and into its checkpoint, which `torch.load(...,
    weights_only=True)` reads; an empty target takes the layers of the checkpoint that it loads.

    Args:
        layers: directions and quantiles of each layer, by name.
        sample: what a sample is, see `layershift.nn.as_samples`.

    Raises:
        ValueError: if shapes do not fit, or `sample` has another value.

    Example:
        >>> target = RecordedTarget({"relu": (torch.eye(3), torch.zeros(3, 10))})
        >>> empty = RecordedTarget()
        >>> empty.load_state_dict(target.state_dict())
        <All keys matched successfully>
        >>> empty
        RecordedTarget(sample='image', layers={'relu': (3, 10)})
    """

    def __init__(
        self, layers: Mapping[str, tuple[Tensor, Tensor]] | None = None, *, sample: SampleKind = "image"
    ) -> None:
        super().__init__()
        check_choice("sample", sample, ("image", "position", "step"))
        check_type("layers", layers, (Mapping, type(None)), "directions and quantiles by the names of layers, or None")
        self.sample: SampleKind = sample
        self.layers = nn.ModuleDict()
        for name, kept in (layers or {}).items():
            pair = isinstance(kept, tuple | list) and len(kept) == 2 and all(isinstance(part, Tensor) for part in kept)
            check(pair, "layers", f"a pair of tensors for {name!r}", type(kept).__name__)
            directions, quantiles = kept
            fits = directions.dim() == 2 and quantiles.dim() == 2 and len(directions) == len(quantiles)
            check(fits, "layers", f"directions (P, d) and quantiles (P, K) for {name!r}", directions)
            self.layers[layer_key(name)] = _Layer(directions, quantiles)

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Directions and quantiles of a layer.

        Raises:
            ValueError: if there is no record of it.
        """
        names = [layer_name(key) for key in self.layers]
        check(name in names, "layers", f"layers that were recorded, {', '.join(map(repr, names))}", repr(name))
        kept = self.layers[layer_key(name)]
        assert isinstance(kept, _Layer)
        return kept.directions, kept.quantiles

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        names = [layer_name(key) for key in self.layers]
        shapes = {name: tuple(self.layer(name)[1].shape) for name in names}
        return f"sample={self.sample!r}, layers={shapes}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for the layers that a checkpoint has and this target has not yet."""
        start, end = f"{prefix}layers.", ".directions"
        for key in state_dict:
            if key.startswith(start) and key.endswith(end):
                name = key.removeprefix(start).removesuffix(end)
                if name not in self.layers:
                    kept = (state_dict[f"{start}{name}.{part}"] for part in ("directions", "quantiles"))
                    self.layers[name] = _Layer(*map(torch.empty_like, kept))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Layer(nn.Module):
    directions: Tensor
    quantiles: Tensor

    def __init__(self, directions: Tensor, quantiles: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        self.register_buffer("quantiles", quantiles)
