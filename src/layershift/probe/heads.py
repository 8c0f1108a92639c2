"""The classifiers inside a network: a fully connected layer on what each of its layers puts out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from layershift._checks import (
    check,
    check_choice,
    check_count,
    check_floating,
    check_not_empty,
    check_seed,
    check_type,
    fail,
)
from layershift._seeds import derive_seed
from layershift.probe.outputs import OUTPUT

Pool: TypeAlias = Literal["average", "flatten"]
POOLS = ("average", "flatten")


class InternalClassifiers(nn.Module):
    r"""A fully connected layer on the pooled or flattened output of each inner layer.

    $z_l=W_lh_l+b_l$, where $h_l$ is the feature of layer $l$, see `pooled`. What becomes of the logits $z_l$, a sigmoid
    or a softmax, is the task's matter. Weights and biases start uniform within $\pm1/\sqrt d$, as PyTorch's do, by a
    draw that depends on the seed and on the layer's name alone: a classifier is the same whichever others there are.

    Args:
        features: the sizes of the layers' features, by name, in order of depth.
        num_labels: labels, K.
        pool: how a layer's output becomes a feature.
        seed: of the initial weights.

    Attributes:
        layers: the names, in order of depth.
        num_labels: K.
        pool: as above.
        classifiers: the fully connected layers, in that order.

    Raises:
        ValueError: if a size or `num_labels` is not positive, there is no layer, or `pool` is unknown.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", appendix E.

    Example:
        >>> heads = InternalClassifiers({"conv": 8, "block": 16}, num_labels=3)
        >>> heads.logits("conv", torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 3])
        >>> heads({"conv": torch.zeros(5, 8), "block": torch.zeros(5, 16)}).shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, features: Mapping[str, int], num_labels: int, *, pool: Pool = "average", seed: int = 0) -> None:
        super().__init__()
        check_type("features", features, Mapping, "sizes by the names of layers")
        check(len(features) > 0, "features", "the size of at least one layer's feature", dict(features))
        for size in features.values():
            check_count("features", size, "positive sizes")
        check_count("num_labels", num_labels, "at least one label")
        check_choice("pool", pool, POOLS)
        check_seed("seed", seed)
        check(OUTPUT not in features, "features", f"layers of other names than {OUTPUT!r}, the network's own", OUTPUT)
        self.layers = tuple(features)
        self.num_labels, self.pool = num_labels, pool
        # Names hold dots, which names of modules may not.
        self.classifiers = nn.ModuleList(classifier(name, d, num_labels, seed) for name, d in features.items())

    def feature(self, layer: str, output: Tensor) -> Tensor:
        """What the classifier of a layer sees of the layer's output.

        Args:
            layer: its name.
            output: what the layer gave, see `pooled`.

        Returns:
            Shape `(N, d)`, float32.
        """
        check_floating("output", output)
        check_not_empty("output", output)
        feature = pooled(layer, output, self.pool)
        size = self._classifier(layer).in_features
        check(feature.shape[1] == size, "output", f"{size} features a sample of layer {layer!r}", feature)
        return feature

    def logits(self, layer: str, output: Tensor) -> Tensor:
        """What the classifier of a layer says of the layer's output.

        Args:
            layer: its name.
            output: what the layer gave.

        Returns:
            Shape `(N, K)`.
        """
        logits: Tensor = self._classifier(layer)(self.feature(layer, output))
        return logits

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """What all classifiers say.

        Args:
            features: by layer, shape `(N, d)` each; more layers than there are classifiers do not matter.

        Returns:
            Logits of shape `(L, N, K)`, in order of depth.
        """
        check_type("features", features, Mapping, "features by the names of layers")
        missing = [name for name in self.layers if not isinstance(features.get(name), Tensor)]
        check(not missing, "features", "a tensor for each layer", f"none for {', '.join(missing)}")
        # Stacking the classifiers of equal size into one batched product was measured 15 % faster for ResNet-18's nine:
        # too little for weights that are harder to read.
        return torch.stack([f(features[name]) for name, f in zip(self.layers, self.classifiers, strict=True)])

    def _classifier(self, layer: str) -> nn.Linear:
        if layer not in self.layers:
            fail("layer", f"one of {', '.join(self.layers)}", repr(layer))
        found = self.classifiers[self.layers.index(layer)]
        assert isinstance(found, nn.Linear)
        return found


def classifier(layer: str, size: int, num_labels: int, seed: int) -> nn.Linear:
    """A fully connected layer whose initial weights depend on the seed and the layer's name."""
    made = nn.Linear(size, num_labels, device="meta").to_empty(device="cpu")  # without a draw of its own
    generator = torch.Generator().manual_seed(derive_seed(seed, zlib.crc32(layer.encode())))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-1 / math.sqrt(size), 1 / math.sqrt(size), generator=generator)
    return made


def pooled(layer: str, output: Tensor, pool: Pool) -> Tensor:
    """A vector for each sample of a layer's output.

    | output | "average" | "flatten" |
    | --- | --- | --- |
    | vectors `(N, C)` | as they are | as they are |
    | token sequences `(N, T, C)` | mean over tokens, size C | size TC |
    | maps `(N, C, H, W)` or `(N, C, D, H, W)` | mean over positions, size C | size CHW |

    Args:
        layer: its name, for errors.
        output: what it gave.
        pool: "average" or "flatten".

    Returns:
        Shape `(N, d)`, float32; it may share memory with `output`.

    Raises:
        ValueError: if `output` has another shape.

    Example:
        >>> maps = torch.ones(5, 8, 4, 4)
        >>> pooled("conv", maps, "average").shape, pooled("conv", maps, "flatten").shape
        (torch.Size([5, 8]), torch.Size([5, 128]))
    """
    if not 2 <= output.dim() <= 5:
        fail(f"layer {layer!r}", "an output of shape (N, C), (N, T, C) or (N, C, positions …)", output)
    if output.dim() == 2 or pool == "flatten":
        return output.flatten(1).float()
    positions = [1] if output.dim() == 3 else list(range(2, output.dim()))
    return output.mean(positions, dtype=torch.float32)
