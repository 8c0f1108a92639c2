"""Normalisers that end in a dropout and an activation, as `BatchNormAct2d` of timm does: ours, and how it is known."""

from __future__ import annotations

import copy
import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from layershift.nn.normalization import Unitization2d, _RunningNorm
from layershift.nn.structure import without_hooks
from layershift.nn.synchronized import SyncBatchNorm, SyncUnitization

_PARTS = {"drop", "act"}


class Activated(_RunningNorm):
    """What follows the normaliser, `act(drop(y))`; `convert` makes such layers.

    Attributes:
        drop: a dropout.
        act: an activation.
        origin: the class that such a layer replaced.
    """

    drop: nn.Module
    act: nn.Module
    origin: type[_BatchNorm]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, drop and activate a batch."""
        return cast("Tensor", self.act(self.drop(super().forward(x))))


class UnitizationAct2d(Activated, Unitization2d):
    """`Unitization2d`, then what `BatchNormAct2d` of timm does after its batch normalisation."""


class SyncUnitizationAct(Activated, SyncUnitization):
    """`SyncUnitization`, then what `BatchNormAct2d` of timm does after its batch normalisation."""


class SyncBatchNormAct(Activated, SyncBatchNorm):
    """`SyncBatchNorm`, then what `BatchNormAct2d` of timm does after its batch normalisation."""


ACTIVATED: dict[type, type[Activated]] = {
    Unitization2d: UnitizationAct2d,
    SyncUnitization: SyncUnitizationAct,
    SyncBatchNorm: SyncBatchNormAct,
}
"""Of our layers, those that end in an activation."""
_PLAIN: dict[type, type[nn.Module]] = {activated: plain for plain, activated in ACTIVATED.items()}


def plain_kind(layer: nn.Module) -> type[nn.Module]:
    """The class that a layer would have without its dropout and activation; its own, if it does not end in these.

    A class derived from PyTorch's batch normalisation may do anything. It is taken for one that ends in `act(drop(y))`
    if it has these two parts and no other, and a copy of it gives the same numbers, and keeps the same statistics, as
    that formula: with random parameters, in evaluation and in training. (In training a synchronised one would wait for
    other processes, and is not asked.)

    Args:
        layer: any module.

    Returns:
        The class.

    Example:
        >>> class WithReLU(nn.BatchNorm2d):
        ...     def __init__(self, size):
        ...         super().__init__(size)
        ...         self.drop, self.act = nn.Identity(), nn.ReLU()
        ...     def forward(self, x):
        ...         return self.act(self.drop(super().forward(x)))
        >>> plain_kind(WithReLU(3)), plain_kind(nn.BatchNorm2d(3))
        (<class 'torch.nn.modules.batchnorm.BatchNorm2d'>, <class 'torch.nn.modules.batchnorm.BatchNorm2d'>)
    """
    own = type(layer)
    if own in _PLAIN:
        return _PLAIN[own]
    for base in (nn.BatchNorm2d, nn.SyncBatchNorm):
        if isinstance(layer, base) and own is not base and layer._modules.keys() == _PARTS:
            return base if _computes_as(layer, base) else own
    return own


def _computes_as(layer: _BatchNorm, base: type[_BatchNorm]) -> bool:
    """Whether a layer's forward is that of a base class, dropout and activation."""
    if len(inspect.signature(layer.forward).parameters) != 1:
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
            return all(_agree(layer, base, training) for training in _modes(base))
    except Exception:  # whatever the class does with a copy and another input
        return False


def _modes(base: type[_BatchNorm]) -> tuple[bool, ...]:
    return (False,) if base is nn.SyncBatchNorm else (False, True)


def _agree(layer: _BatchNorm, base: type[_BatchNorm], training: bool) -> bool:
    seeded = torch.default_generator.manual_seed  # torch.manual_seed would seed devices too, which are not put back
    seeded(0)
    asked: Any = without_hooks(copy.deepcopy(layer).to_empty(device="cpu").double().train(training))
    for t in [*asked.parameters(), *asked.buffers()]:
        t.uniform_(0.5, 1.5) if t.is_floating_point() else t.zero_()
    told: Any = copy.deepcopy(asked)
    x = torch.randn(3, layer.num_features, 2, 2, dtype=torch.float64, device="cpu")
    seeded(1)
    found = asked.forward(x.clone())
    seeded(1)
    expected = told.act(told.drop(base.forward(told, x.clone())))
    kept = zip(asked.buffers(), told.buffers(), strict=True)
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in [(found, expected), *kept])
