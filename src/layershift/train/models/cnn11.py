"""The 11-layer network in which ELU, VCL and PER were compared with batch normalisation."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeAlias

from torch import nn

from layershift._checks import check, check_choice
from layershift.nn.fixup import ScalarBias
from layershift.train.models.parts import Norm, he_init, make_norm

ActivationName: TypeAlias = Literal["relu", "leaky_relu", "elu"]

# Units and receptive field of each layer, stack by stack; 2 × 2 max-pooling follows each of the first five stacks.
STACKS = (
    ((192, 5),),
    ((192, 1), (240, 3)),
    ((240, 1), (260, 2)),
    ((260, 1), (280, 2)),
    ((280, 1), (300, 2)),
    ((300, 1),),
)
DROPOUT = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def cnn11(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    activation: ActivationName = "elu",
    norm: Norm = None,
    width_factor: float = 1.0,
    scalar_bias: bool | None = None,
    negative_slope: float = 0.1,
    dropout: bool = True,
    seed: int | None = None,
) -> nn.Sequential:
    """Ten convolutions and a linear classifier, with max-pooling and dropout after stacks of one or two.

    Layers are named ``block1.conv``, ``block1.norm``, ``block1.activation``, ``block1.bias`` …, ``max_pool1`` …,
    ``dropout2`` …, ``pool``, ``classifier``. Maps keep their size in convolutions; max-pooling halves it, rounding up,
    so that images of 32 × 32 end at 1 × 1, and of larger ones the mean over positions is classified. A convolution
    before a normaliser has no bias. Initialisation: `he_init`.

    The stacks, their dropout and the pooling are those of Clevert et al. Where this network gives room we took:
    dropout after pooling, and no pooling of the last maps, as in the code that the authors of VCL published; the
    classifier, their 1 × 1 convolution, as a linear layer on the mean, which is the same; the slope of LeakyReLU from
    the other experiments of Clevert et al. That published code doubles all layers but the first; PER's text doubles
    "each layer", which `width_factor=2` does.

    Args:
        in_channels: of the images.
        num_classes: outputs.
        activation: "relu", "leaky_relu" or "elu" (α = 1).
        norm: the normaliser before each activation, by name or as a factory; or None.
        width_factor: multiplies the number of filters in each layer, to the nearest multiple of four; 2 for tiny
            ImageNet.
        scalar_bias: whether one trained number is added after each activation; None adds it after ReLU and LeakyReLU.
            The text on PER does so, and trains all biases with a tenth of the learning rate; see
            `layershift.nn.fixup_slow_parameters`.
        negative_slope: of LeakyReLU.
        dropout: whether there is any.
        seed: of the initial weights; the same for every normaliser and activation. None draws from torch's global
            state.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Raises:
        ValueError: for an unknown activation or a width that is not positive.

    References:
        D.-A. Clevert, T. Unterthiner, S. Hochreiter, "Fast and accurate deep network learning by exponential linear
        units (ELUs)", 2016, https://arxiv.org/abs/1511.07289, the comparison of activation functions in section 4.
        E. Littwin, L. Wolf, "Regularizing by the variance of the activations' sample-variances", 2018,
        https://arxiv.org/abs/1811.08764. "Regularizing activations in neural networks via distribution matching with
        the Wasserstein metric", section 4.1.

    Example:
        >>> import torch
        >>> model = cnn11(width_factor=1 / 16, activation="relu")
        >>> [name for name, _ in model.block3.named_children()], model(torch.randn(2, 3, 32, 32)).shape
        (['conv', 'activation', 'bias'], torch.Size([2, 10]))
    """
    check_choice("activation", activation, ("relu", "leaky_relu", "elu"))
    check(width_factor > 0, "width_factor", "a positive number", width_factor)
    scalar_bias = activation != "elu" if scalar_bias is None else scalar_bias
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, number = in_channels, 0
    for stack, (convolutions, rate) in enumerate(zip(STACKS, DROPOUT, strict=True), start=1):
        for units, size in convolutions:
            after = max(4 * round(units * width_factor / 4), 4)
            number += 1
            parts = _convolution(before, after, size, norm)
            parts["activation"] = _activation(activation, negative_slope)
            if scalar_bias:
                parts["bias"] = ScalarBias()
            layers[f"block{number}"] = nn.Sequential(parts)
            before = after
        if stack < len(STACKS):
            layers[f"max_pool{stack}"] = nn.MaxPool2d(2, ceil_mode=True)
        if dropout and rate > 0:
            layers[f"dropout{stack}"] = nn.Dropout(rate)
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(before, num_classes))
    model = nn.Sequential(layers)
    he_init(model, seed)
    return model


def _convolution(before: int, after: int, size: int, norm: Norm) -> OrderedDict[str, nn.Module]:
    """A convolution that keeps the map's size, and its normaliser."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if size % 2 == 0:
        parts["pad"] = nn.ZeroPad2d((0, 1, 0, 1))
    parts["conv"] = nn.Conv2d(before, after, size, padding=(size - 1) // 2, bias=norm is None)
    made = make_norm(norm, after, dimensions=2)
    if made is not None:
        parts["norm"] = made
    return parts


def _activation(name: ActivationName, negative_slope: float) -> nn.Module:
    if name == "leaky_relu":
        return nn.LeakyReLU(negative_slope)
    return nn.ReLU() if name == "relu" else nn.ELU()
