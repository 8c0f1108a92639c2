"""A frozen batch, and a way to run it through a network that leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Probe:
    """Run one frozen batch through a network in eval mode, without gradients and without side effects.

    Training flags and the random state are as before afterwards; batch statistics and other buffers are not touched, as
    modules do not in eval mode. Compiled parts run as they were written, so that their hooks are called.

    Args:
        model: the network, without wrappers.
        batch: a tensor, a sequence of positional or a mapping of keyword arguments; tensors in it are copied.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> probe = Probe(model, torch.ones(3, 2))
        >>> probe.run()
        >>> model.training
        True
    """

    def __init__(self, model: nn.Module, batch: Tensor | Sequence[Any] | Mapping[str, Any]) -> None:
        self.model = model
        batch = tree_map(lambda item: item.detach().clone() if isinstance(item, Tensor) else copy.deepcopy(item), batch)
        self.args: Sequence[Any] = (
            () if isinstance(batch, Mapping) else (batch,) if isinstance(batch, Tensor) else batch
        )
        self.kwargs: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {}

    def run(self) -> None:
        """One forward; the output is dropped."""
        device = device_of(self.model)
        cuda = [device.index or 0] if device.type == "cuda" else []
        args, kwargs = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, (tuple(self.args), self.kwargs))
        with torch.random.fork_rng(devices=cuda), torch.no_grad(), _eager(self.model), _evaluating(self.model):
            self.model(*args, **kwargs)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside wrappers of `torch.compile` and data parallelism.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(linear)) is linear
        True
    """
    while True:
        if "_orig_mod" in model._modules:
            inner = model._modules["_orig_mod"]
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        else:
            return model
        assert isinstance(inner, nn.Module)
        model = inner


def is_compiled(model: nn.Module) -> bool:
    """Whether a module or a part of it runs compiled.

    Example:
        >>> is_compiled(nn.Linear(2, 2)), is_compiled(nn.Sequential(torch.compile(nn.Linear(2, 2))))
        (False, True)
    """
    return any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU, if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _eager(model: nn.Module) -> AbstractContextManager[Any]:
    return torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode by setting flags, which unlike `model.eval()` runs no code of the modules and can be undone exactly."""
    flags = {module: module.training for module in model.modules()}
    try:
        for module in flags:
            module.training = False
        yield
    finally:
        for module, training in flags.items():
            module.training = training
