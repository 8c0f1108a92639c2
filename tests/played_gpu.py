"""A GPU played by the CPU: tensors that say they are on one, hold their numbers, and notice who waits for them.

On a GPU the host waits when it reads a number, when the size of a result depends on numbers, and at every copy from or
to the host that is not asynchronous. `torch.cuda.set_sync_debug_mode("error")` finds these where there is a GPU; this
finds them anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

from layershift.functional import kept

aten = torch.ops.aten
GPU = torch.device("cuda", 63)  # tables are kept for each device: this one must not be one that there is
_COPIES = {aten._to_copy.default, aten.copy_.default}
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor}


class WaitedError(AssertionError):
    """The host would have waited for the GPU."""


_watching = False


def _wait(how: str) -> None:
    if _watching:
        raise WaitedError(how)


class Played(Tensor):
    """A tensor that tells Python it is on a GPU; PyTorch's own code takes it for one of the CPU."""

    numbers: Tensor
    device = property(lambda _: GPU)
    is_cuda = property(lambda _: True)
    is_cpu = property(lambda _: False)

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Played:
        return torch.Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, device="cpu", requires_grad=False,
        )  # fmt: skip

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def __repr__(self, **_) -> str:
        return f"Played({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    inputs = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, Tensor)]
    made_there = _is_gpu(kwargs.get("device"))
    there = made_there or any(isinstance(t, Played) for t in inputs)
    if func is aten.copy_.default:
        there = isinstance(args[0], Played)
    _notice(func, args, kwargs, inputs, there)
    inner = tree_map_only(Played, lambda t: t.numbers, (args, kwargs))
    options = {k: v for k, v in inner[1].items() if k not in ("pin_memory",)}
    if made_there:
        options["device"] = torch.device("cpu")
    out = func(*inner[0], **options)
    if not there:
        return args[0] if func is aten.copy_.default else out
    wrapped = tree_map_only(Tensor, lambda t: t if isinstance(t, Played) else Played(t), out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _notice(func, args, kwargs, inputs: list[Tensor], there: bool) -> None:
    if func in _COPIES:
        source = args[1] if func is aten.copy_.default else args[0]
        asynchronous = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if isinstance(source, Played) != there and not asynchronous:
            _wait(f"{func}: a copy between host and GPU")
        return
    if not any(isinstance(t, Played) for t in inputs):
        return
    if func in _INDEXED:
        if any(t.dtype in (torch.bool, torch.uint8) for t in args[1] if t is not None):
            _wait(f"{func}: a mask as index")
        return
    asks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
    if asks and kwargs.get("output_size") is None:
        _wait(f"{func}: numbers on the host, or a size that depends on them")


class _Event:
    """What has happened once the host has been waiting, which inside a step it has not."""

    def __init__(self, *_, **__) -> None:
        self.waited_for = False

    def record(self, *_) -> None:
        pass

    def query(self) -> bool:
        return self.waited_for

    def synchronize(self) -> None:
        self.waited_for = True

    def elapsed_time(self, _: _Event) -> float:
        return 0.0


class _Generator(torch.Generator):
    def __new__(cls, *_, **__):
        return super().__new__(cls, "cpu")


class _Calls(TorchFunctionMode):
    """Calls that PyTorch's own code would find to be of the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            places = {Tensor.to: args[1:], Tensor.cpu: ("cpu",), Tensor.cuda: (GPU,)}[func]
            return _moved(args[0], *places, **kwargs)
        if func in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], Played):
            _wait(func.__name__)
            return func(args[0].numbers)
        if func in (torch.tensor, torch.as_tensor) and _is_gpu(kwargs.get("device")):
            _wait(f"torch.{func.__name__}")
            return Played(func(*args, **kwargs | {"device": "cpu"}))
        return func(*args, **kwargs)


def _is_gpu(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _moved(x: Tensor, *args, **kwargs) -> Tensor:
    """`x.to(…)`."""
    given = (*args, kwargs.get("device"), kwargs.get("dtype"))
    named = [a for a in given if isinstance(a, Tensor | str | torch.device)]
    places = [a.device if isinstance(a, Tensor) else torch.device(a) for a in named]
    dtypes = [a.dtype if isinstance(a, Tensor) else a for a in given if isinstance(a, Tensor | torch.dtype)]
    dtype = dtypes[0] if dtypes else x.dtype
    if not places or _is_gpu(places[0]) == isinstance(x, Played):
        return x.to(dtype)
    if not (kwargs.get("non_blocking") or True in args[1:]):
        _wait("to")
    return x.numbers.clone().to(dtype) if isinstance(x, Played) else Played(x.detach().to(dtype))


@contextmanager
def played_gpu() -> Iterator[torch.device]:
    """Inside, there is a GPU."""
    with pytest.MonkeyPatch.context() as patch, _Mode(), _Calls():
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "current_stream", lambda *_: None)
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: None)
        patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        patch.setattr(kept, "_disable_current_modes", nullcontext)
        patch.setattr(torch, "Event", _Event)
        patch.setattr(torch, "Generator", _Generator)
        yield GPU


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Inside, who waits for the GPU raises `WaitedError`."""
    global _watching
    _watching = True
    try:
        yield
    finally:
        _watching = False


def on_gpu(x: Tensor) -> Tensor:
    """The same numbers, there."""
    return Played(x.detach()).requires_grad_(x.requires_grad)


def move(module: torch.nn.Module) -> torch.nn.Module:
    """Its parameters and buffers, there."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(Played(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Played(buffer)
    return module
