"""Residual networks for large images, with pre-activation and bottlenecks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

from torch import nn

from layershift._checks import check, check_choice
from layershift.train.models.parts import Norm
from layershift.train.models.resnet_blocks import Layers, Style, preactivation_block

BLOCKS: Mapping[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def imagenet_resnet(
    depth: Literal[50, 101, 152] = 101,
    *,
    norm: Norm = "batch",
    num_classes: int = 1000,
    in_channels: int = 3,
    width: int = 64,
    normalize_last: bool = False,
    seed: int | None = None,
) -> nn.Sequential:
    """The residual network of the ImageNet experiment: four stages of bottlenecks at 1/4 to 1/32 of the image's size.

    A 7 × 7 convolution of stride 2, normalised and rectified, and 3 × 3 max-pooling of stride 2 come first. Stages are
    256, 512, 1024 and 2048 channels wide. Shortcuts are projections where the shape changes, and what they yield is not
    normalised; nor, unless `normalize_last`, is what the last block yields, which is rectified, averaged over positions
    and classified. Names are those of `cifar_resnet`. Initialisation: `he_init`.

    Args:
        depth: layers with weights: 50, 101 or 152.
        norm: the normaliser, by name or as a factory that gets the number of channels; or None.
        num_classes: outputs.
        in_channels: of the images.
        width: of the first convolution; 64 in the literature.
        normalize_last: whether the last block's output is normalised before its ReLU, as in He et al. 2016b; the paper
            on unitization leaves this out.
        seed: of the initial weights; the same for every normaliser. None draws from torch's global state.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes), for images of any size.

    Raises:
        ValueError: if an option has another value.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        section 4.3. K. He, X. Zhang, S. Ren, J. Sun, 2016a, "Deep residual learning for image recognition", table 1;
        2016b, "Identity mappings in deep residual networks".

    Example:
        >>> import torch
        >>> imagenet_resnet(50, width=4, num_classes=7)(torch.randn(2, 3, 64, 48)).shape
        torch.Size([2, 7])
    """
    check_choice("depth", depth, BLOCKS)
    check(width >= 1, "width", "at least one channel", width)
    style = Style(norm, "he")
    layers: Layers = OrderedDict(conv=nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=norm is None))
    layers |= style.activation(width) | OrderedDict(max_pool=nn.MaxPool2d(3, stride=2, padding=1))
    channels = width
    for stage, count in enumerate(BLOCKS[depth]):
        inside = width * 2**stage
        blocks = []
        for i in range(count):
            stride, active = (2 if stage > 0 and i == 0 else 1), stage == i == 0
            blocks.append(preactivation_block(style, channels, inside, 4 * inside, stride, "projection", active=active))
            channels = 4 * inside
        layers[f"stage{stage + 1}"] = nn.Sequential(*blocks)
    last = style if normalize_last else Style(None, "he")
    layers |= last.activation(channels, prefix="last_") | style.head(channels, num_classes)
    return style.initialise(nn.Sequential(layers), seed)
