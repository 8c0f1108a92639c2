"""Which layer feeds which normaliser: what such a layer's weights are is only a direction."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

NORMALIZERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Normalisers of PyTorch and of `layershift.nn`: batch, instance and group normalisation, unitization, layer norms."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_Linear = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def normalized_layers(model: nn.Module) -> dict[str, str]:
    """The linear layers and convolutions whose output goes into one normaliser and nowhere else.

    The network is traced by `torch.fx`, without running a layer. `nn.Identity` between the two does not count. Where a
    network cannot be traced (its path depends on the data) a normaliser is taken to follow the layer that is registered
    just before it, if their channels agree; this is the order in nearly all networks, and nothing proves it.

    Args:
        model: any module.

    Returns:
        Names of the layers, in the model's order, and of the normaliser that each feeds.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> normalized_layers(model)
        {'0': '1'}
    """
    try:
        found = dict(_traced(model))
    except Exception:  # whatever the user's forward does with what is no tensor
        found = dict(_registered(model))
    return {name: found[name] for name, _ in model.named_modules() if name in found}


class _Tracer(torch.fx.Tracer):
    """Looks into containers only."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = m.__module__.startswith("layershift.nn.")
        return ours or isinstance(m, NORMALIZERS) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, *, defaults: bool = False) -> torch.fx.Graph:
    """The calls that a network makes in its present mode, without running a layer or touching the network.

    Its forward runs once with placeholders, on a copy that shares the parameters: what it keeps of them, counts or
    draws at random stays there, and hooks do not run.

    Args:
        model: any module.
        defaults: whether arguments that have a default have it; otherwise they are placeholders too.

    Returns:
        The graph; names of modules are those of `named_modules`.

    Raises:
        Exception: whatever the forward does with what is no tensor, if it cannot be traced.

    Example:
        >>> graph = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        >>> [str(node.target) for node in graph.nodes if node.op == "call_module"]
        ['0', '1']
    """
    shared = [*model.parameters(), *filter(is_lazy, model.buffers())]
    traced = copy.deepcopy(model, {id(t): t for t in shared})
    without_hooks(traced)
    arguments = inspect.signature(model.forward).parameters.values() if defaults else ()
    given = {a.name: a.default for a in arguments if a.default is not a.empty}
    with torch.random.fork_rng(devices=[]):
        return _Tracer().trace(traced, given)


def without_hooks(model: nn.Module) -> nn.Module:
    """Remove all hooks of a network's forward and backward, in place, and return it.

    Example:
        >>> layer = nn.Sequential(nn.ReLU())
        >>> handle = layer[0].register_forward_hook(print)
        >>> hooked(without_hooks(layer)[0])
        False
    """
    for module in model.modules():
        for hooks in _HOOKS:
            getattr(module, hooks).clear()
    return model


def hooked(module: nn.Module) -> bool:
    """Whether something runs beside a module's forward, or in its place.

    Example:
        >>> layer = nn.ReLU()
        >>> handle = layer.register_forward_hook(print)
        >>> hooked(layer), hooked(nn.ReLU())
        (True, False)
    """
    return "forward" in vars(module) or any(getattr(module, hooks) for hooks in _HOOKS)


def _traced(model: nn.Module) -> Iterator[tuple[str, str]]:
    graph = trace(model)
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    used = [str(node.target) for node in calls]
    for node in calls:
        if not isinstance(modules[str(node.target)], _Linear) or used.count(str(node.target)) > 1:
            continue
        following = _follower(node, modules)
        if following is not None and isinstance(modules[following], NORMALIZERS):
            yield str(node.target), following


def _follower(node: torch.fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """The one module that takes what a node gives; None if there are more, or something else takes it."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_module":
            return None
        if not isinstance(modules[str(node.target)], nn.Identity):
            return str(node.target)
    return None


def _registered(model: nn.Module) -> Iterator[tuple[str, str]]:
    ends = [(name, m) for name, m in model.named_modules() if isinstance(m, NORMALIZERS) or not m._modules]
    leaves = [(name, m) for name, m in ends if not isinstance(m, nn.Identity)]
    for (name, layer), (norm_name, norm) in pairwise(leaves):
        if isinstance(layer, _Linear) and isinstance(norm, NORMALIZERS) and channels(layer) == channels(norm):
            yield name, norm_name


def channels(layer: Any) -> int | None:
    """How many channels a layer gives or, of a normaliser, takes; None if that is not known.

    Example:
        >>> channels(nn.Linear(3, 5)), channels(nn.GroupNorm(2, 6)), channels(nn.LayerNorm(7)), channels(nn.ReLU())
        (5, 6, 7, None)
    """
    for name in ("out_features", "out_channels", "num_features", "num_channels"):
        if hasattr(layer, name):
            return int(getattr(layer, name))
    shape = getattr(layer, "normalized_shape", None)
    return None if shape is None else int(shape[-1])
