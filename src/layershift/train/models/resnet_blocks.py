"""What residual networks consist of: blocks, shortcuts, and what stands around their convolutions."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from layershift._checks import check, check_choice
from layershift.nn.fixup import ScalarBias, ScalarScale, fixup_init
from layershift.train.models.parts import Norm, he_init, make_norm

Shortcut: TypeAlias = Literal["pad", "projection"]
Init: TypeAlias = Literal["he", "fixup"]
Layers: TypeAlias = OrderedDict[str, nn.Module]


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

    def __init__(self, branch: nn.Module, shortcut: nn.Module, relu: nn.Module) -> None:
        super().__init__()
        self.branch = branch
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

    def __init__(self, first: nn.Module, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Residual branch plus shortcut."""
        active = self.first(x)
        out: Tensor = self.branch(active) + (x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active))
        return out


@dataclass(frozen=True)
class Style:
    """What stands around convolutions and activations: a normaliser, or Fixup's scalars, or nothing.

    Attributes:
        norm: the normaliser.
        init: "fixup" for the scalar biases and multipliers of `layershift.nn.fixup_init`, "he" for none.
    """

    norm: Norm
    init: Init

    def __post_init__(self) -> None:
        check_choice("init", self.init, ("he", "fixup"))
        check(self.init == "he" or self.norm is None, "norm", "None with init='fixup'", self.norm)

    def conv(self, name: str, before: int, after: int, size: int, stride: int = 1) -> Layers:
        """A convolution; it has a bias only where nothing else shifts what it yields."""
        bias = self.norm is None and self.init == "he"
        conv = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=bias)
        return OrderedDict([*self.scalar(f"input_bias{name}", ScalarBias), (f"conv{name}", conv)])

    def activation(self, channels: int, name: str = "", prefix: str = "") -> Layers:
        """Norm → ReLU."""
        before = *self.normaliser(channels, f"{prefix}norm{name}"), *self.scalar(f"{prefix}bias{name}", ScalarBias)
        return OrderedDict([*before, (f"{prefix}relu{name}", nn.ReLU())])

    def end(self, channels: int, name: str) -> Layers:
        """What follows the last convolution of a branch, before the sum and ReLU."""
        scalars = *self.scalar(f"scale{name}", ScalarScale), *self.scalar(f"bias{name}", ScalarBias)
        return OrderedDict([*self.normaliser(channels, f"norm{name}"), *scalars])

    def head(self, channels: int, num_classes: int) -> Layers:
        """The mean over positions and a linear classifier."""
        mean = ("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())
        scalar = self.scalar("input_bias", ScalarBias)
        return OrderedDict([*mean, *scalar, ("classifier", nn.Linear(channels, num_classes))])

    def initialise(self, model: nn.Sequential, seed: int | None) -> nn.Sequential:
        """He's initialisation, then Fixup's changes to it if asked for."""
        he_init(model, seed)
        if self.init == "fixup":
            branches = [m.branch for m in model.modules() if isinstance(m, PostActivationBlock | PreActivationBlock)]
            classifier = model.get_submodule("classifier")
            assert isinstance(classifier, nn.Linear)
            fixup_init(branches, classifier)
        return model

    def normaliser(self, channels: int, name: str) -> list[tuple[str, nn.Module]]:
        """The normaliser under its name, or nothing."""
        made = make_norm(self.norm, channels, dimensions=2)
        return [] if made is None else [(name, made)]

    def scalar(self, name: str, kind: type[nn.Module]) -> list[tuple[str, nn.Module]]:
        """One of Fixup's scalars under its name, or nothing."""
        return [(name, kind())] if self.init == "fixup" else []


def postactivation_block(
    style: Style, before: int, width: int, out: int, stride: int, kind: Shortcut
) -> PostActivationBlock:
    """Two 3 × 3 convolutions; a projection is normalised like the branch."""
    parts = style.conv("1", before, width, 3, stride) | style.activation(width, "1")
    parts |= style.conv("2", width, out, 3) | style.end(out, "2")
    shortcut = _shortcut(style, before, out, stride, kind)
    if isinstance(shortcut, nn.Sequential) and style.norm is not None:
        shortcut = nn.Sequential(OrderedDict([*shortcut.named_children(), *style.normaliser(out, "norm")]))
    return PostActivationBlock(nn.Sequential(parts), shortcut, nn.ReLU())


def preactivation_block(
    style: Style, before: int, width: int, out: int, stride: int, kind: Shortcut, *, active: bool = False
) -> PreActivationBlock:
    """Two 3 × 3 convolutions, or 1 × 1, 3 × 3 and 1 × 1 where `out` is not `width`.

    Args:
        style: what stands around the convolutions.
        before: channels of the input.
        width: channels inside.
        out: channels of the output.
        stride: of the first 3 × 3 convolution.
        kind: of shortcut, where the shape changes.
        active: whether the input is activated already, as the first block's is.
    """
    sizes = [3, 3] if out == width else [1, 3, 1]
    channels = [before, *[width] * (len(sizes) - 1), out]
    strides = [stride, 1] if len(sizes) == 2 else [1, stride, 1]
    parts: Layers = OrderedDict()
    for i, (size, step) in enumerate(zip(sizes, strides, strict=True)):
        if i > 0:
            parts |= style.activation(channels[i], str(i))
        parts |= style.conv(str(i + 1), channels[i], channels[i + 1], size, step)
    parts |= style.scalar(f"scale{len(sizes)}", ScalarScale)
    first = nn.Identity() if active else nn.Sequential(style.activation(before))
    return PreActivationBlock(first, nn.Sequential(parts), _shortcut(style, before, out, stride, kind))


def _shortcut(style: Style, before: int, after: int, stride: int, kind: Shortcut) -> nn.Module:
    if before == after and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(before, after, stride)
    conv = nn.Conv2d(before, after, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict([*style.scalar("input_bias", ScalarBias), ("conv", conv)]))
