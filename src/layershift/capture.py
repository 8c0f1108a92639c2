"""Choose layers by name pattern or type, and see their outputs while a context is open.

Hooks exist only inside the context, nothing is set on the user's modules, and a forward that activation checkpointing
runs again during the backward pass is not seen twice.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from layershift._autograd import is_recomputed as is_recomputed
from layershift._checks import check, check_type

LayerSelector: TypeAlias = str | type[nn.Module] | Sequence[str | type[nn.Module]]


def select_layers(model: nn.Module, layers: LayerSelector) -> dict[str, nn.Module]:
    r"""The layers of a model that match name patterns or types, in the model's order.

    A pattern is matched against the full dotted name as a shell pattern (``*``, ``?``, ``[…]``, where ``*`` crosses
    dots); a type selects every layer of that class. Of modules that contain each other only the innermost are kept, so
    ``"*"`` is every layer that holds no other, and ``"layer?"`` the four stages of a ResNet. A module that is reached
    under several names appears once, under its first.

    Args:
        model: any module.
        layers: a pattern, a module class, or a sequence of them.

    Returns:
        Names and modules, in the order of ``model.named_modules()``.

    Raises:
        ValueError: when a pattern or class selects nothing; the message lists the nearest names.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2)))
        >>> list(select_layers(model, "*")), list(select_layers(model, nn.Linear)), list(select_layers(model, "2"))
        (['0', '1', '2.0'], ['0', '2.0'], ['2'])
    """
    check_type("model", model, nn.Module, "a module")
    check_type("layers", layers, (str, type, Sequence), "a pattern, a module class, or a sequence of them")
    selectors = [layers] if isinstance(layers, str | type) else list(layers)
    modules = dict(model.named_modules())
    chosen: set[str] = set()
    check(len(selectors) > 0, "layers", "at least one pattern or class", "none")
    for selector in selectors:
        check_type("layers", selector, (str, type), "patterns and module classes")
        found = [name for name, module in modules.items() if _matches(selector, name, module)]
        if not found:
            raise ValueError(_nothing_matches(selector, modules))
        chosen.update(_innermost(found))
    return {name: modules[name] for name in modules if name in chosen}


def _matches(selector: str | type[nn.Module], name: str, module: nn.Module) -> bool:
    return fnmatch.fnmatchcase(name, selector) if isinstance(selector, str) else isinstance(module, selector)


def _innermost(names: Sequence[str]) -> list[str]:
    """Names that are no prefix, dot by dot, of another; the root's name is empty and a prefix of all."""
    holders = {name[: name.rindex(".")] if "." in name else "" for name in names if name}
    for holder in list(holders):
        holders.update(holder[:dot] for dot in range(len(holder)) if holder[dot] == ".")
        holders.add("")
    return [name for name in names if name not in holders]


def _nothing_matches(selector: str | type[nn.Module], modules: Mapping[str, nn.Module]) -> str:
    if isinstance(selector, type):
        expected, got = "a class of which the model has layers", selector.__name__
        hint = "it has " + ", ".join(sorted({type(module).__name__ for module in modules.values()}))
    else:
        expected, got = "a pattern that matches a layer", repr(selector)
        names = [name for name in modules if name]
        hint = "nearest names: " + ", ".join(difflib.get_close_matches(selector.strip("*"), names, n=5, cutoff=0.0))
    return f"layers: expected {expected}, got {got}; {hint}"


def output_tensor(name: str, output: Any) -> Tensor:
    """The tensor that stands for a layer's output: the output itself, or the first floating point tensor inside it.

    Tuples, lists and dictionaries are searched in order, depth first; the ``(output, (h, c))`` of an LSTM gives
    ``output``, a transformer block's tuple gives its hidden states.

    Raises:
        TypeError: when the output holds no floating point tensor.

    Example:
        >>> import torch
        >>> output_tensor("rnn", (torch.zeros(2, 3), (torch.zeros(1), torch.zeros(1)))).shape
        torch.Size([2, 3])
    """
    if isinstance(output, Tensor) and output.is_floating_point():  # nearly always
        return output
    for tensor in _tensors(output):
        if tensor.is_floating_point():
            return tensor
    raise TypeError(f"layer {name!r}: expected an output with a floating point tensor, got {_describe(output)}")


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of dtype {output.dtype}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {', '.join(type(item).__name__ for item in output) or 'nothing'}"
    return type(output).__name__


class OutputHook:
    """A forward hook that hands a layer's output on, except when checkpointing repeats the forward.

    A copy or a pickle of it does nothing: the copy of a watched model is not watched, and can be saved.
    """

    def __init__(self, name: str = "", see: Callable[[str, Tensor], None] | None = None) -> None:
        self.name = name
        self.see = see

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """See an output; called by PyTorch after the forward."""
        if self.see is not None and not is_recomputed():
            self.see(self.name, output_tensor(self.name, output))

    def __reduce__(self) -> tuple[type[OutputHook], tuple[()]]:
        return OutputHook, ()


def add_output_hook(name: str, module: nn.Module, see: Callable[[str, Tensor], None]) -> RemovableHandle:
    """Call ``see(name, output)`` after each forward of ``module``, except when checkpointing repeats it."""
    return module.register_forward_hook(OutputHook(name, see))


@contextmanager
def capture(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While the context is open, call ``see(name, output)`` for each forward of each layer.

    Outputs arrive detached, as views of what the network computed: do not change them in place.

    Args:
        layers: names and modules, as `select_layers` gives them.
        see: receives the layer's name and its output tensor.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> with capture(select_layers(model, "*"), lambda name, output: print(name, tuple(output.shape))):
        ...     _ = model(torch.zeros(5, 4))
        0 (5, 3)
        1 (5, 3)
    """
    with ExitStack() as stack:
        for name, module in layers.items():
            handle = add_output_hook(name, module, lambda key, output: see(key, output.detach()))
            stack.callback(handle.remove)
        yield
