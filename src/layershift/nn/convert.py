"""Replace the normalisation layers of any model, state kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal, TypedDict, Unpack, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from layershift._checks import check, check_choice, check_type
from layershift.functional.unitize import Divisor, Form, Over
from layershift.nn.activated import ACTIVATED, Activated, plain_kind
from layershift.nn.normalization import (
    AlphaConstraint,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Unitization1d,
    Unitization2d,
    Unitization3d,
)
from layershift.nn.synchronized import SyncBatchNorm, SyncUnitization

_UNITIZATION = {
    nn.BatchNorm1d: Unitization1d,
    nn.BatchNorm2d: Unitization2d,
    nn.BatchNorm3d: Unitization3d,
    nn.SyncBatchNorm: SyncUnitization,
}
_BATCH = {unitization: batch for batch, unitization in _UNITIZATION.items()}
_OURS = {
    BatchNorm1d: Unitization1d,
    BatchNorm2d: Unitization2d,
    BatchNorm3d: Unitization3d,
    SyncBatchNorm: SyncUnitization,
}
_TARGETS: dict[str, dict[Any, Any]] = {
    "unitization": {**_UNITIZATION, **_OURS},
    "sync_unitization": dict.fromkeys(
        [*_UNITIZATION, *_OURS, Unitization1d, Unitization2d, Unitization3d], SyncUnitization
    ),
    "batch": _BATCH,
    "synchronized": {
        **dict.fromkeys([*_UNITIZATION, *_OURS], SyncBatchNorm),
        **dict.fromkeys([Unitization1d, Unitization2d, Unitization3d], SyncUnitization),
    },
}
_OPTIONS = ("alpha_init", "alpha_constraint", "divisor", "over", "form")


class UnitizationOptions(TypedDict, total=False):
    """Options of `Unitization1d` that `convert` passes on; `process_group` only to synchronised layers."""

    alpha_init: float
    alpha_constraint: AlphaConstraint
    divisor: Divisor
    over: Over
    form: Form
    process_group: dist.ProcessGroup | None


def convert(
    model: nn.Module,
    *,
    to: Literal["unitization", "sync_unitization", "batch", "synchronized"],
    **options: Unpack[UnitizationOptions],
) -> nn.Module:
    """Replace a model's normalisation layers, in place, and return the model.

    `"unitization"` replaces every `torch.nn.BatchNorm1d/2d/3d` by the `Unitization` of that rank, and
    `torch.nn.SyncBatchNorm` by `SyncUnitization`; `"sync_unitization"` replaces these and plain unitizations by
    `SyncUnitization`; `"batch"` turns unitizations back into PyTorch's layers, if their alpha is 0; `"synchronized"`
    replaces batch normalisations by `SyncBatchNorm` and unitizations by `SyncUnitization`, for several processes.

    The new layer holds the old one's very parameters and buffers (an optimiser that knows them stays valid; `alpha` is
    new to it), its training flag, its hooks, and eps and momentum; alpha takes the dtype and device of the others. With
    `alpha_init=0` and no sigmoid the network computes what it did, up to rounding. A layer that is reached under
    several names stays one layer.

    A batch normalisation that ends in a dropout and an activation, as timm's `BatchNormAct2d` and `SyncBatchNormAct`
    do, becomes a layer of ours that ends in the same; its `drop`, its `act`, and all names of the checkpoint stay.
    `"batch"` gives such a layer the class that it had. It is known by what it computes: see
    `layershift.nn.activated.plain_kind`.

    Other layers are left alone: LayerNorm, GroupNorm, InstanceNorm, the frozen ones of torchvision and timm (frozen on
    purpose), and, with a warning, a layer whose forward was replaced and all other classes derived from what is
    converted, whose additions (a parametrization, a split of the batch) would be lost. A model without a layer to
    convert gives a warning too, except to `"synchronized"`.

    Args:
        model: any module; a normalisation layer itself is replaced, so use what is returned.
        to: what to convert to.
        **options: `alpha_init`, `alpha_constraint`, `divisor`, `over`, `form`, `process_group`, as the layers take
            them. A unitization that becomes synchronised keeps its own where none is given.

    Returns:
        The model, or the new layer if the model is one.

    Raises:
        TypeError: for an unknown option.
        ValueError: if `to` is unknown; for a lazy layer that has not seen its first input; for `"batch"`, if a layer's
            alpha is not 0 in every channel (the network would compute something else), or an option is given; for
            `"synchronized"`, if an option but `process_group` is given.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> convert(model, to="unitization")[1]
        Unitization2d(4, eps=1e-05, momentum=0.1, affine=True, ...)
    """
    check_type("model", model, nn.Module, "a module")
    check_choice("to", to, _TARGETS)
    unknown = set(options) - UnitizationOptions.__optional_keys__
    if unknown:
        raise TypeError(f"options: expected some of {', '.join(UnitizationOptions.__annotations__)}, got {unknown}")
    check(to != "batch" or not options, "options", "none when converting to 'batch'", sorted(options))
    alone = to != "synchronized" or set(options) <= {"process_group"}
    check(alone, "options", "process_group only when converting to 'synchronized'", sorted(options))
    made: dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        source = _source(name, module, to)
        if source is not None:
            made[id(module)] = _replacement(name, module, to, source, options)
    there = made or to == "synchronized" or any(plain_kind(m) in _TARGETS[to].values() for m in model.modules())
    if not there:
        kinds = sorted({type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__})
        warnings.warn(f"no layer to convert to {to!r} in {type(model).__name__}; it has {kinds}", stacklevel=2)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # named_children would skip a second name of the same layer
            if id(child) in made:
                parent._modules[name] = made[id(child)]
    return made.get(id(model), model)


def _source(name: str, module: nn.Module, to: str) -> type[nn.Module] | None:
    """The class that a layer is converted from, its dropout and activation apart; None if it stays."""
    lazy = isinstance(module, _LazyNormBase) and isinstance(module, _BatchNorm)
    check(not lazy, "model", "layers that have seen their first input", f"{type(module).__name__} at {name!r}")
    if not isinstance(module, (*_TARGETS[to], *(() if to == "batch" else (_BatchNorm,)))):
        return None
    reason = f"{type(module).__name__} may do more than the class it derives from"
    if "forward" in vars(module):
        reason = "its forward has been replaced"
    elif (kind := plain_kind(module)) in _TARGETS[to]:
        return kind
    warnings.warn(f"layer {name!r} is left as it is: {reason}", stacklevel=3)
    return None


def _replacement(name: str, old: Any, to: str, source: type[nn.Module], options: UnitizationOptions) -> nn.Module:
    base, kind = _classes(old, to, source)
    arguments: dict[str, Any] = {key: getattr(old, key) for key in _OPTIONS if hasattr(old, key)} | dict(options)
    group = arguments.pop("process_group", getattr(old, "process_group", None))
    if issubclass(base, (nn.SyncBatchNorm, SyncBatchNorm, SyncUnitization)):
        arguments["process_group"] = group
    if to == "batch":
        zero = bool((old.effective_alpha == 0).all())
        check(
            zero, f"alpha of layer {name!r}", "0 in every channel, or the result differs", old.effective_alpha.detach()
        )
        arguments = {key: value for key, value in arguments.items() if key not in _OPTIONS}
    new: Any = kind.__new__(kind)
    base.__init__(new, old.num_features, old.eps, old.momentum, False, False, **arguments)
    new.affine, new.track_running_stats, new.training = old.affine, old.track_running_stats, old.training
    alpha = new._parameters.get("alpha")
    new._parameters.update({key: p for key, p in old._parameters.items() if to != "batch" or key != "alpha"})
    new._buffers.update(old._buffers)
    new._modules.update(old._modules)
    if alpha is not None and "alpha" not in old._parameters:
        new._parameters["alpha"] = nn.Parameter(_like_others(alpha, old))
    more = {key: value for key, value in vars(old).items() if key not in (*_OPTIONS, "origin", *vars(new))}
    vars(new).update(more | {key: value for key, value in vars(old).items() if "hook" in key})
    if isinstance(new, Activated):
        new.origin = old.origin if isinstance(old, Activated) else type(old)
    return cast("nn.Module", new)


def _classes(old: Any, to: str, source: type[nn.Module]) -> tuple[Any, Any]:
    """The class of the new layer without dropout and activation, and the one it gets."""
    base = _TARGETS[to][source]
    if source is type(old):
        return base, base
    if base is nn.SyncBatchNorm and not issubclass(old.origin, base):
        base = SyncBatchNorm  # the class that the layer once had is not synchronised
    return base, ACTIVATED.get(base) or old.origin


def _like_others(alpha: torch.Tensor, old: nn.Module) -> torch.Tensor:
    others: Iterator[torch.Tensor] = (t for t in [*old.parameters(), *old.buffers()] if t.is_floating_point())
    like = next(others, alpha)
    return alpha.detach().to(like.device, like.dtype)
