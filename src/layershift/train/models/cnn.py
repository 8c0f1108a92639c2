"""A small convolutional network, for images of a few pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from layershift.train.models.parts import Norm, block, he_init, make_norm


def small_cnn(
    in_channels: int = 1,
    num_classes: int = 10,
    *,
    norm: Norm = None,
    widths: Sequence[int] = (32, 32, 64, 64),
    strides: Sequence[int] = (1, 1, 2, 1),
    seed: int | None = None,
) -> nn.Sequential:
    """3 × 3 convolutions, each followed by a normaliser and ReLU, then the mean over positions and a linear classifier.

    Layers are named ``block1.conv``, ``block1.norm``, ``block1.relu`` …, ``pool``, ``classifier``. A convolution before
    a normaliser has no bias. Initialisation: `he_init`.

    Args:
        in_channels: of the images; 1 for digits.
        num_classes: outputs.
        norm: the normaliser after each convolution.
        widths: output channels of each convolution.
        strides: stride of each convolution.
        seed: of the initial weights; the same for every normaliser. None draws from torch's global state.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Example:
        >>> import torch
        >>> small_cnn(norm="unitization")(torch.randn(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = in_channels
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True), start=1):
        conv = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=norm is None)
        layers[f"block{i}"] = block(("conv", conv), make_norm(norm, width, dimensions=2))
        before = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(before, num_classes)
    model = nn.Sequential(layers)
    he_init(model, seed)
    return model
