"""The network of the moments experiment: deep, narrow, fully connected."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from layershift._checks import check
from layershift.train.models.parts import Norm, block, he_init, make_norm


def moments_mlp(
    in_features: int = 64,
    num_classes: int = 10,
    *,
    norm: Norm = None,
    width: int = 100,
    depth: int = 10,
    bottleneck: int = 8,
    seed: int | None = None,
) -> nn.Sequential:
    """Ten layers of 100 units and one of 8, each linear → normaliser → ReLU, then a linear classifier.

    Layers are named ``block1.linear``, ``block1.norm``, ``block1.relu`` … ``block10.relu``, ``bottleneck.linear`` …,
    ``classifier``. A linear layer before a normaliser has no bias, because the normaliser would subtract it.
    Initialisation: `he_init`.

    Args:
        in_features: size of an input, flattened.
        num_classes: outputs.
        norm: the normaliser after each hidden linear layer.
        width: units of each of the wide layers.
        depth: how many wide layers.
        bottleneck: units of the last hidden layer, whose moments the paper shows.
        seed: of the initial weights; the same for every normaliser. None draws from torch's global state.

    Returns:
        The network: (N, …) → (N, num_classes).

    References:
        Unitization and internal covariate shift, section 4.1 (figure 2).

    Example:
        >>> import torch
        >>> moments_mlp(norm="batch")(torch.randn(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    check(depth >= 1, "depth", "at least one layer", depth)
    sizes = [in_features, *[width] * depth, bottleneck]
    names = [*(f"block{i}" for i in range(1, depth + 1)), "bottleneck"]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for name, before, after in zip(names, sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(before, after, bias=norm is None)
        layers[name] = block(("linear", linear), make_norm(norm, after, dimensions=1))
    layers["classifier"] = nn.Linear(bottleneck, num_classes)
    model = nn.Sequential(layers)
    he_init(model, seed)
    return model
