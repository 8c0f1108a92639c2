"""Proof that a layer's output goes into one normaliser and nowhere else, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import torch.fx
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layershift.nn.structure import _Linear, hooked, trace


class NotExact(Exception):  # noqa: N818 - a finding, no error
    """Why something would not be the same network."""


def need(condition: bool, reason: str) -> None:
    """Raise `NotExact` unless the condition holds.

    Example:
        >>> need(False, "it never runs")
        Traceback (most recent call last):
        ...
        layershift.nn.feeding.NotExact: it never runs
    """
    if not condition:
        raise NotExact(reason)


def unseen(module: nn.Module) -> bool:
    """Whether a module waits for its first input to know its sizes.

    Example:
        >>> unseen(nn.LazyLinear(2)), unseen(nn.Linear(2, 2))
        (True, False)
    """
    return any(map(is_lazy, [*module.parameters(), *module.buffers()]))


class Feeding:
    """What feeds a network's normalisers, by two traces: with optional arguments, and with their defaults.

    Arguments that are None or not choose the path in many networks, and a trace cannot see that it was chosen; the two
    must agree.

    Args:
        model: any module, in the mode that is meant.

    Example:
        >>> feeding = Feeding(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval())
        >>> feeding.layer_before("1")
        '0'
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._tensors: dict[str, Tensor] = parameters | dict(model.named_buffers(remove_duplicate=False))
        self._graphs: list[torch.fx.Graph] = []
        self._failure = ""
        try:
            self._graphs = [trace(model), trace(model, defaults=True)]
        except Exception as error:  # whatever the user's forward does with what is no tensor
            words = str(error).strip().splitlines() or [type(error).__name__]
            self._failure = f"the model cannot be traced ({words[0]})"

    def calls(self) -> list[list[tuple[str, ...]]]:
        """All that the network does, one entry a call, of each trace."""
        return [[(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in graph.nodes] for graph in self._graphs]

    def layer_before(self, norm: str) -> str:
        """The module that a normaliser takes its input from.

        Args:
            norm: its name.

        Returns:
            The name of the module, whose output nothing else uses.

        Raises:
            NotExact: if there is no such module, or the network cannot be traced.
        """
        need(not self._failure, self._failure)
        found = {self._path(graph, norm) for graph in self._graphs}
        need(len(found) == 1, "what feeds it depends on the network's arguments")
        (path,) = found
        ends = [self.modules[name] for name in path]
        for name, module in self.modules.items():
            if hooked(module):
                held = set(module.modules())
                part = any(end in held for end in ends) and not all(end in held for end in ends)
                need(not part, f"{name!r} has a hook or a forward of its own, which may see or change what is between")
        used = {id(self._tensors[name]) for name in self._reads() if name in self._tensors}
        for name in (path[0], path[-1]):
            tensors = [*self.modules[name].parameters(), *self.modules[name].buffers()]
            need(used.isdisjoint(map(id, tensors)), f"the network also uses parameters of {name!r} by themselves")
        return path[0]

    def _path(self, graph: torch.fx.Graph, norm: str) -> tuple[str, ...]:
        """Names from the layer to the normaliser; between them are identities."""
        node, path = self._only_call(graph, norm), [norm]
        while len(path) == 1 or isinstance(self.modules[path[0]], nn.Identity):
            need(len(node.args) == 1 and not node.kwargs, f"{path[0]!r} is called with more than a tensor")
            (node,) = node.all_input_nodes
            name = str(node.target)
            need(node.op == "call_module", f"it takes {str(node.name)!r}, which is no layer's output")
            kind = type(self.modules[name]).__name__
            linear = isinstance(self.modules[name], (*_Linear, nn.Identity))
            need(linear, f"it takes what {name!r} gives, {kind}, no convolution or linear layer")
            need(not unseen(self.modules[name]), f"{name!r} has not seen its first input")
            need(len(node.users) == 1, f"what {name!r} gives is used elsewhere too")
            self._only_call(graph, name)
            path.insert(0, name)
        return tuple(path)

    def _only_call(self, graph: torch.fx.Graph, name: str) -> torch.fx.Node:
        found: list[torch.fx.Node] = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
        need(len(found) > 0, "it does not run")
        need(len(found) == 1, f"{name!r} runs {len(found)} times")
        return found[0]

    def _reads(self) -> Iterator[str]:
        return (str(n.target) for graph in self._graphs for n in graph.nodes if n.op == "get_attr")
