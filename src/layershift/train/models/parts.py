"""What the networks share: the normaliser by name, the named block, the initialisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn

from layershift._checks import check_choice
from layershift.nn import Unitization1d, Unitization2d

NormName: TypeAlias = Literal["batch", "unitization"]

NORMS: dict[str, dict[int, Callable[[int], nn.Module]]] = {
    "batch": {1: nn.BatchNorm1d, 2: nn.BatchNorm2d},
    "unitization": {1: Unitization1d, 2: Unitization2d},
}


def make_norm(norm: NormName | None, num_features: int, *, dimensions: Literal[1, 2]) -> nn.Module | None:
    """The normaliser of a network, by name; the only place where a network gets one from.

    Args:
        norm: which normaliser, or None for a network without.
        num_features: channels of the layer that it follows.
        dimensions: 1 after a linear layer, 2 after a convolution of images.

    Returns:
        A new module, or None.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> make_norm("batch", 8, dimensions=1)
        BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """
    if norm is None:
        return None
    check_choice("norm", norm, (None, *NORMS))
    return NORMS[norm][dimensions](num_features)


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
