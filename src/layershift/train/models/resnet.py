"""Residual networks for images of 32 × 32, after and before the pre-activation."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from layershift._checks import check, check_choice
from layershift.train.models.parts import Norm
from layershift.train.models.resnet_blocks import (
    Init,
    Layers,
    Shortcut,
    Style,
    postactivation_block,
    preactivation_block,
)


def cifar_resnet(
    depth: int = 20,
    *,
    preactivation: bool = False,
    norm: Norm = "batch",
    init: Init = "he",
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 16,
    bottleneck: bool | None = None,
    shortcut: Shortcut | None = None,
    seed: int | None = None,
) -> nn.Sequential:
    """The residual networks of the CIFAR experiments: three stages at 32 × 32, 16 × 16 and 8 × 8.

    Stages are 16, 32 and 64 channels wide, four times that with bottlenecks. Blocks are named ``stage1.0`` …, their
    layers ``branch.conv1``, ``branch.norm1``, ``branch.relu1`` …; the network ends with ``pool``, the mean over
    positions, and ``classifier``. Convolutions before a normaliser have no bias.

    In networks with pre-activation the first activation comes right after the first convolution, before the first block
    splits, and the last, ``last_norm`` → ``last_relu``, before the mean (2016b, appendix). There, the authors of
    unitization activate twice before the first branch, project wherever the shape changes, start projections from the
    input as it is, and give convolutions a bias, in the code that they published; their text says "the general
    architecture" of 2016b, which this is.

    Args:
        depth: 6n + 2 with blocks of two convolutions (20, 56, 110), 9n + 2 with bottlenecks (164).
        preactivation: normalise and activate before each convolution, and once more before the mean.
        norm: the normaliser, by name or as a factory that gets the number of channels; or None.
        init: "he", `he_init`; or "fixup" for a deep network without normaliser: `layershift.nn.fixup_init`, a scalar
            bias before each convolution but the first, each ReLU and the classifier, and a scalar multiplier in each
            branch. Those want a tenth of the learning rate: `layershift.nn.fixup_slow_parameters`.
        num_classes: outputs.
        in_channels: of the images.
        width: of the first stage.
        bottleneck: blocks of 1 × 1, 3 × 3 and 1 × 1 convolutions; None chooses them for pre-activated networks of 164
            layers or more, as in the literature.
        shortcut: where the shape changes, "pad" with zeros (option A of 2016a, without parameters) or a 1 × 1
            "projection". None takes "pad", and "projection" with bottlenecks.
        seed: of the initial weights; the same for every normaliser. None draws from torch's global state.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Raises:
        ValueError: if no such network has this depth, or an option has another value, or Fixup meets a normaliser.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, 2016a, "Deep residual learning for image recognition", section 4.2;
        2016b, "Identity mappings in deep residual networks". H. Zhang, Y. Dauphin, T. Ma, 2019, "Fixup initialization".

    Example:
        >>> import torch
        >>> model = cifar_resnet(20)
        >>> model(torch.randn(2, 3, 32, 32)).shape, sum(p.numel() for p in model.parameters())
        (torch.Size([2, 10]), 269722)
    """
    bottleneck = (preactivation and depth >= 164) if bottleneck is None else bottleneck
    per_block = 3 if bottleneck else 2
    check(not bottleneck or preactivation, "bottleneck", "preactivation=True with it", f"preactivation={preactivation}")
    fits = depth > 2 and (depth - 2) % (3 * per_block) == 0
    check(fits, "depth", f"{3 * per_block}n + 2 with n ≥ 1", depth)
    check(width >= 1, "width", "at least one channel", width)
    check_choice("shortcut", shortcut, (None, "pad", "projection"))
    kind: Shortcut = shortcut or ("projection" if bottleneck else "pad")
    style = Style(norm, init)

    stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=norm is None and init == "he")
    layers: Layers = OrderedDict(conv=stem) | style.activation(width)
    channels = width
    for stage in range(3):
        blocks: list[nn.Module] = []
        inside = width * 2**stage
        out = 4 * inside if bottleneck else inside
        for i in range((depth - 2) // (3 * per_block)):
            stride = 2 if stage > 0 and i == 0 else 1
            if preactivation:
                active = stage == i == 0
                blocks.append(preactivation_block(style, channels, inside, out, stride, kind, active=active))
            else:
                blocks.append(postactivation_block(style, channels, inside, out, stride, kind))
            channels = out
        layers[f"stage{stage + 1}"] = nn.Sequential(*blocks)
    if preactivation:
        layers |= style.activation(channels, prefix="last_")
    return style.initialise(nn.Sequential(layers | style.head(channels, num_classes)), seed)
