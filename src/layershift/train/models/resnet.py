"""Residual networks for images of 32 × 32, after and before the pre-activation."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeAlias

from torch import Tensor, nn

from layershift._checks import check, check_choice
from layershift.train.models.parts import NormName, he_init, make_norm

Shortcut: TypeAlias = Literal["pad", "projection"]


class PadShortcut(nn.Module):
    """Every `stride`-th position, and zeros for the channels that are added: a shortcut without parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = out_channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


class PostActivationBlock(nn.Module):
    """Convolution → norm → ReLU → convolution → norm, plus the input, then ReLU (He et al. 2016a, figure 2)."""

    def __init__(self, convs: OrderedDict[str, nn.Module], shortcut: nn.Module, relu: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(convs)
        self.shortcut = shortcut
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Residual branch plus shortcut, rectified."""
        out: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return out


class PreActivationBlock(nn.Module):
    """Norm → ReLU → convolution, repeated, plus the input (He et al. 2016b, figure 1b).

    Where the shortcut changes the shape, it starts from the activated input.
    """

    def __init__(self, first: nn.Module, convs: OrderedDict[str, nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.branch = nn.Sequential(convs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Residual branch plus shortcut."""
        active = self.first(x)
        out: Tensor = self.branch(active) + (x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active))
        return out


def cifar_resnet(
    depth: int,
    *,
    preactivation: bool = False,
    norm: NormName | None = "batch",
    num_classes: int = 10,
    in_channels: int = 3,
    bottleneck: bool | None = None,
    shortcut: Shortcut | None = None,
    seed: int | None = None,
) -> nn.Sequential:
    """The residual networks of the CIFAR experiments: three stages at 32 × 32, 16 × 16 and 8 × 8.

    Stages are 16, 32 and 64 channels wide, four times that with bottlenecks. Blocks are named ``stage1.0`` …; the
    network ends with the mean over positions and a linear classifier. Convolutions before a normaliser have no bias.
    Initialisation: `he_init`.

    Args:
        depth: 6n + 2 with blocks of two convolutions (20, 56, 110), 9n + 2 with bottlenecks (164).
        preactivation: normalise and activate before each convolution, and once more before the mean.
        norm: the normaliser, or None; without, a deep network needs another initialisation to train.
        num_classes: outputs.
        in_channels: of the images.
        bottleneck: blocks of 1 × 1, 3 × 3 and 1 × 1 convolutions; None chooses them for pre-activated networks of 164
            layers or more, as in the literature.
        shortcut: where the shape changes, "pad" with zeros (option A of 2016a, without parameters) or a 1 × 1
            "projection". None takes "pad", and "projection" with bottlenecks.
        seed: of the initial weights; the same for every normaliser. None draws from torch's global state.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Raises:
        ValueError: if no such network has this depth, or an option has another value.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, 2016a, "Deep residual learning for image recognition", section 4.2;
        2016b, "Identity mappings in deep residual networks".

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
    check_choice("shortcut", shortcut, (None, "pad", "projection"))
    kind: Shortcut = shortcut or ("projection" if bottleneck else "pad")

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = _conv(in_channels, 16, 3, 1, norm)
    if not preactivation:
        layers |= _activation(norm, 16)
    channels = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        blocks = []
        for i in range((depth - 2) // (3 * per_block)):
            stride = 2 if stage > 1 and i == 0 else 1
            out = 4 * width if bottleneck else width
            make = _preactivation_block if preactivation else _postactivation_block
            blocks.append(make(channels, width, out, stride, norm, kind))
            channels = out
        layers[f"stage{stage}"] = nn.Sequential(*blocks)
    if preactivation:
        layers |= _activation(norm, channels)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels, num_classes)
    model = nn.Sequential(layers)
    he_init(model, seed)
    return model


def _conv(before: int, after: int, size: int, stride: int, norm: NormName | None) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=norm is None)


def _activation(norm: NormName | None, channels: int, suffix: str = "") -> OrderedDict[str, nn.Module]:
    made = make_norm(norm, channels, dimensions=2)
    parts: list[tuple[str, nn.Module]] = [] if made is None else [(f"norm{suffix}", made)]
    return OrderedDict([*parts, (f"relu{suffix}", nn.ReLU())])


def _shortcut(before: int, after: int, stride: int, kind: Shortcut) -> nn.Module:
    if before == after and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(before, after, stride)
    return nn.Conv2d(before, after, 1, stride=stride, bias=False)


def _postactivation_block(
    before: int, width: int, out: int, stride: int, norm: NormName | None, kind: Shortcut
) -> nn.Module:
    last = make_norm(norm, out, dimensions=2)
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv1=_conv(before, width, 3, stride, norm))
    parts |= _activation(norm, width, "1")
    parts["conv2"] = _conv(width, out, 3, 1, norm)
    if last is not None:
        parts["norm2"] = last
    shortcut = _shortcut(before, out, stride, kind)
    if isinstance(shortcut, nn.Conv2d) and norm is not None:
        made = make_norm(norm, out, dimensions=2)
        assert made is not None
        shortcut = nn.Sequential(OrderedDict(conv=shortcut, norm=made))
    return PostActivationBlock(parts, shortcut, nn.ReLU())


def _preactivation_block(
    before: int, width: int, out: int, stride: int, norm: NormName | None, kind: Shortcut
) -> nn.Module:
    sizes = [3, 3] if out == width else [1, 3, 1]
    channels = [before, *[width] * (len(sizes) - 1), out]
    strides = [stride, 1] if len(sizes) == 2 else [1, stride, 1]
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (size, step) in enumerate(zip(sizes, strides, strict=True)):
        if i > 0:
            parts |= _activation(norm, channels[i], str(i))
        parts[f"conv{i + 1}"] = _conv(channels[i], channels[i + 1], size, step, norm)
    return PreActivationBlock(nn.Sequential(_activation(norm, before)), parts, _shortcut(before, out, stride, kind))
