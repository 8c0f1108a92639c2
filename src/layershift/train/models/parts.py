"""What the networks share: the normaliser by name or factory, the named block, the initialisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from layershift._checks import check, check_choice
from layershift.nn import Unitization1d, Unitization2d
from layershift.train.models.norms import group_norm

NormName: TypeAlias = Literal["batch", "unitization", "group", "layer", "instance"]


@dataclass(frozen=True)
class NormWithOptions:
    """A normaliser by its name, with keyword arguments, whatever the dimensions of the layer that it follows.

    Attributes:
        name: as in `make_norm`.
        options: keyword arguments of the layer, of `group_norm` for "group"; empty for its defaults.
    """

    name: NormName
    options: Mapping[str, Any] = field(default_factory=dict)


Norm: TypeAlias = NormName | NormWithOptions | Callable[[int], nn.Module] | None


def _group(num_features: int, **options: Any) -> nn.Module:
    return group_norm(**(options or {"channels_per_group": 4}))(num_features)


def _layer(num_features: int, **options: Any) -> nn.Module:
    return nn.GroupNorm(1, num_features, **options)


NORMS: Mapping[str, Mapping[int, Callable[..., nn.Module]]] = {
    "batch": {1: nn.BatchNorm1d, 2: nn.BatchNorm2d},
    "unitization": {1: Unitization1d, 2: Unitization2d},
    "group": {1: _group, 2: _group},
    "layer": {1: _layer, 2: _layer},
    "instance": {2: partial(nn.InstanceNorm2d, affine=True)},
}


def make_norm(norm: Norm, num_features: int, *, dimensions: Literal[1, 2]) -> nn.Module | None:
    """The normaliser of a network; the only place where a network gets one from.

    Args:
        norm: None for a network without; a factory that gets the number of channels (a class, a `functools.partial`,
            `group_norm(num_groups=8)`); or a name, alone or in `NormWithOptions`: "batch", "unitization"; "group",
            without options groups of four channels, a size that divides every layer of the networks here; "layer", over
            all numbers of a sample, with scale and shift by channel; "instance", over a channel's positions.
        num_features: channels of the layer that it follows.
        dimensions: 1 after a linear layer, 2 after a convolution of images.

    Returns:
        A new module, or None.

    Raises:
        ValueError: for an unknown name; for a normaliser that would see groups of one number after a linear layer, each
            of which it would set to 0; where the channels do not divide into groups.

    Example:
        >>> make_norm("batch", 8, dimensions=1)
        BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
        >>> make_norm(NormWithOptions("group", {"num_groups": 2}), 8, dimensions=2)
        GroupNorm(2, 8, eps=1e-05, affine=True, bias=True)
    """
    if norm is None:
        return None
    if isinstance(norm, NormWithOptions):
        made = _factory(norm.name, dimensions)(num_features, **norm.options)
    else:
        made = (norm if callable(norm) else _factory(norm, dimensions))(num_features)
    if dimensions == 1 and isinstance(made, nn.GroupNorm):
        check(made.num_groups < num_features, "norm", "groups of more than one unit after a linear layer", made)
    return made


def _factory(name: NormName, dimensions: Literal[1, 2]) -> Callable[..., nn.Module]:
    check_choice("norm", name, (None, *NORMS))
    check(dimensions in NORMS[name], "norm", "one that needs no positions after a linear layer", repr(name))
    return NORMS[name][dimensions]


def block(weights: tuple[str, nn.Module], norm: nn.Module | None) -> nn.Sequential:
    """Weights → normaliser (if any) → ReLU, with names that a report can show.

    Example:
        >>> [name for name, _ in block(("linear", nn.Linear(4, 3)), nn.BatchNorm1d(3)).named_children()]
        ['linear', 'norm', 'relu']
    """
    parts: list[tuple[str, nn.Module]] = [weights]
    if norm is not None:
        parts.append(("norm", norm))
    return nn.Sequential(OrderedDict([*parts, ("relu", nn.ReLU())]))


def he_init(model: nn.Module, seed: int | None = None) -> nn.Module:
    r"""He initialisation: weights from $N(0, 2/\text{fan}_\text{in})$, biases zero; normalisers keep their own.

    The draws depend on the seed and on the shapes of the linear and convolutional layers, so networks that differ in
    their normalisers alone start from identical weights.

    Args:
        model: changed in place.
        seed: None draws from torch's global state.

    Returns:
        The model.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", 2015, https://arxiv.org/abs/1502.01852,
        equation 10.

    Example:
        >>> first, second = he_init(nn.Linear(3, 2), seed=1), he_init(nn.Linear(3, 2), seed=1)
        >>> torch.equal(first.weight, second.weight), first.bias.tolist()
        (True, [0.0, 0.0])
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def weight_layers(model: nn.Module) -> list[str]:
    """Names of the layers with weights, in order and without projections of shortcuts: layer 60 is the 60th of them.

    So do the papers on residual networks count: ResNet-110 has 110.

    Example:
        >>> weight_layers(block(("linear", nn.Linear(4, 3)), nn.BatchNorm1d(3)))
        ['linear']
    """
    weighted = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return [name for name in weighted if "shortcut" not in name.split(".")]
