"""Cut a network at named layers into stages that can be computed one by one.

The network is traced with `torch.fx`, and only through the containers that hold a cut: blocks stay whole, whatever
their code does. Where a layer's output is all that later layers need, the network can be cut there.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from layershift._checks import blaming, check, check_choice, check_items, check_not_empty, check_type, fail
from layershift.probe.heads import InternalClassifiers, Pool, pooled
from layershift.probe.outputs import OUTPUT, TASKS, Task
from layershift.probe.probe import LOSSES, Loss, Probe, label_probabilities


class Stages(nn.Sequential):
    """Parts of a network, one after another; together they are the network.

    Attributes:
        layers: names of the layers that end a stage; the last stage ends with the network's output.
    """

    def __init__(self, layers: Sequence[str], parts: Sequence[nn.Module]) -> None:
        super().__init__(*parts)
        self.layers = tuple(layers)


def split(model: nn.Module, layers: Sequence[str]) -> Stages:
    """Cut a network after named layers.

    Torchvision's ResNets, VGG and SqueezeNet, the residual networks of `layershift.train.models` and any
    `nn.Sequential`, nested ones too, can be cut after each of their blocks or layers; other networks wherever one
    tensor alone crosses the cut. A network whose forward asks for its mode is cut for the mode that it is in.

    Args:
        model: takes one tensor and returns one; other arguments of its forward keep their defaults.
        layers: names as in ``model.named_modules()``, in the order in which they are computed.

    Returns:
        One stage more than there are layers. Parameters, buffers and the modules that hold them are those of the model.

    Raises:
        ValueError: if a layer is not in the model, is never called or more than once, if layers are out of order, if
            something besides a layer's output is needed further on, or if the network cannot be traced.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
        >>> stages = split(model, ["1", "2.0"])
        >>> len(stages), stages[0](torch.randn(5, 4)).shape
        (3, torch.Size([5, 3]))
        >>> x = torch.randn(5, 4)
        >>> torch.equal(stages(x), model(x))
        True
    """
    check_type("model", model, nn.Module, "a module")
    check_items("layers", layers, str, "names of layers, in order of depth")
    _check_names(model, layers)
    tracer = _Tracer(layers)
    try:
        nodes = list(tracer.trace(model).nodes)
    except Exception as error:  # whatever the network's own code makes of a stand-in for a tensor
        raise ValueError(
            "model: expected a network that torch.fx can trace through the containers of the layers, "
            f"got {type(model).__name__}: {error}"
        ) from error
    result = nodes[-1].args[0]
    if not isinstance(result, fx.Node):
        fail("model", "a network that returns one tensor", type(result).__name__)
    computed = [node for node in nodes if node.op not in ("get_attr", "output")]  # of these the first is the input
    position = {node: i for i, node in enumerate(computed)}
    parts: list[nn.Module] = []
    start, previous = computed[0], "input"
    for name in (*layers, None):
        end = result if name is None else tracer.end(name)
        check(position[end] >= position[start], "layers", "the order in which they are computed", list(layers))
        part = computed[position[start] + 1 : position[end] + 1]
        _check_cut(previous, start, part)
        parts.append(_stage(model, start, part, end))
        start, previous = end, name or ""
    return Stages(layers, parts)


def count_flops(call: Callable[[Tensor], Any], x: Tensor) -> int:
    """The floating point operations of a call, as PyTorch counts them: those of products and convolutions.

    Args:
        call: takes `x`.
        x: an input.

    Returns:
        Twice the number of multiplications.

    Example:
        >>> count_flops(nn.Linear(4, 3), torch.randn(5, 4))
        120
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(x)
    return int(counter.get_total_flops())


class ExitStage(nn.Module):
    """A stage of a network and the classifier at its end; at the end of the network, that may be its own output.

    Example:
        >>> stage = ExitStage(nn.Linear(4, 3), "linear", nn.Linear(3, 2), pool="average", task="multi_label")
        >>> [tuple(part.shape) for part in stage(torch.zeros(5, 4))]
        [(5, 3), (5, 2)]
    """

    def __init__(
        self,
        body: nn.Module,
        layer: str,
        classifier: nn.Module | None,
        *,
        pool: Pool,
        task: Task,
        loss: Loss = "bce",
    ) -> None:
        super().__init__()
        self.body, self.classifier = body, classifier
        self.layer, self.pool, self.task = layer, pool, task
        self.loss: Loss = "cross_entropy" if classifier is None else loss  # the network's own scores are a softmax's

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations at the end of the stage, and probabilities of shape `(N, K)`, float32."""
        x = self.body(x)
        check(isinstance(x, Tensor), "layers", f"{self.layer!r} to return one tensor", type(x).__name__)
        logits = x if self.classifier is None else self.classifier(pooled(self.layer, x, self.pool))
        return x, label_probabilities(logits, self.task, self.loss)


def exit_stages(
    model: nn.Module,
    classifiers: InternalClassifiers,
    *,
    task: Task,
    loss: Loss = "bce",
    head: nn.Linear | None = None,
    layers: Sequence[str] | None = None,
) -> nn.ModuleList:
    """The stages of a network, each with the classifier at its end; copies, in evaluation mode.

    Args:
        model: a network.
        classifiers: of its layers.
        task: "single_label" or "multi_label".
        loss: what the classifiers were trained with, see `layershift.probe.probe.label_probabilities`.
        head: a classifier on the last inner layer's feature that stands for the network's own output, or None.
        layers: where to cut, in order of depth; None for all that have a classifier.

    Returns:
        Modules of class `ExitStage`, the last of which gives the output.

    Raises:
        ValueError: if an option is unknown, a layer has no classifier, or the network cannot be cut there.
    """
    check_choice("task", task, TASKS)
    check_choice("loss", loss, LOSSES)
    check_type("model", model, nn.Module, "a module")
    check_type("classifiers", classifiers, InternalClassifiers, "InternalClassifiers")
    check_type("head", head, (nn.Linear, type(None)), "a linear layer, or None")
    if layers is not None:
        check_items("layers", layers, str, "names of layers, in order of depth")
    known = classifiers.layers
    names = list(known) if layers is None else [name for name in layers if name != OUTPUT]
    check(len(names) > 0, "layers", "at least one layer where samples may leave", layers)
    for name in names:
        check_choice("layers", name, known)
    ends: list[nn.Module | None] = [copy.deepcopy(classifiers.classifiers[known.index(name)]) for name in names]
    cuts = names if head is None or known[-1] in names else [*names, known[-1]]
    bodies = list(split(copy.deepcopy(model).eval(), cuts))
    if head is not None:  # what comes after the last inner layer is not needed
        bodies = [*bodies[:-1], nn.Identity()][: len(names) + 1]
    parts = zip(bodies, [*names, OUTPUT], [*ends, copy.deepcopy(head)], strict=True)
    return nn.ModuleList(ExitStage(*part, pool=classifiers.pool, task=task, loss=loss) for part in parts).eval()


def exit_costs(probe: Probe, x: Tensor, *, layers: Sequence[str] | None = None) -> dict[str, float]:
    """What it costs to leave at each layer, as a share of the network's own floating point operations.

    Counted are products and convolutions (`torch.utils.flop_counter`) of the stages up to a layer and of all
    classifiers up to it; so the output costs a little more than 1.

    Args:
        probe: a network with classifiers.
        x: an example of what the network takes, shape `(N, …)`.
        layers: where samples may leave; None for all layers that have a classifier.

    Returns:
        Shares by layer, with "output".

    Raises:
        ValueError: as `exit_stages`.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        >>> classifiers = InternalClassifiers({"0": 4, "1": 4}, num_labels=2)
        >>> exit_costs(Probe(model, classifiers, task="multi_label", labels=["cat", "dog"]), torch.zeros(1, 4))
        {'0': 0.6, '1': 1.2, 'output': 1.4}
    """
    check_type("probe", probe, Probe, "a Probe")
    check_not_empty("x", x)
    stages = exit_stages(probe.model, probe.classifiers, task=probe.task, head=probe.head, layers=layers)
    spent, network, total = [], 0, 0
    for stage in stages:
        assert isinstance(stage, ExitStage)
        with blaming("x", "what the network takes"):
            network += count_flops(stage.body, x)
            total += count_flops(stage, x)
        spent.append(total)
        with torch.no_grad():
            x, _ = stage(x)
    check(network > 0, "probe", "a network with products or convolutions", "one without")
    return {str(stage.layer): flops / network for stage, flops in zip(stages, spent, strict=True)}


class _Tracer(fx.Tracer):
    """Enters only what contains a cut, and notes which node each cut layer ends with."""

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self.outputs: dict[str, list[Any]] = {name: [] for name in layers}

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One input; what else the forward takes keeps its default."""
        del is_module, concrete_args
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether no cut lies inside."""
        del m
        return not any(name.startswith(f"{module_qualified_name}.") for name in self.outputs)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note the outputs of the layers that are cut."""
        output = super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        if name in self.outputs:
            self.outputs[name].append(output)
        return output

    def end(self, name: str) -> fx.Node:
        """The node that a cut layer ends with."""
        outputs = self.outputs[name]
        check(len(outputs) == 1, "layers", f"{name!r} to be called once", f"{len(outputs)} calls")
        (output,) = outputs
        check(isinstance(output, fx.Proxy), "layers", f"{name!r} to return one tensor", type(output).__name__)
        node: fx.Node = output.node
        return node


def _check_names(model: nn.Module, layers: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules() if name]
    for name in layers:
        if name not in names:
            near = ", ".join(difflib.get_close_matches(name, names, n=5, cutoff=0.0))
            fail("layers", "names of the model's layers", f"{name!r}; nearest names: {near}")
    check(len(set(layers)) == len(layers), "layers", "names that differ", list(layers))


def _check_cut(layer: str, start: fx.Node, part: Sequence[fx.Node]) -> None:
    """Raise if a stage needs something that was computed before its start."""
    known = {start, *part}
    for node in part:
        for needed in node.all_input_nodes:
            if needed not in known and needed.op != "get_attr":
                fail("layers", "layers whose output is all that later ones need", f"{layer!r}: {needed} is used later")


def _stage(root: nn.Module, start: fx.Node, part: Sequence[fx.Node], end: fx.Node) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {start: graph.placeholder("x")}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter of a container
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in part:
        copies[node] = graph.node_copy(node, copy)
    graph.output(copy(end))
    return fx.GraphModule(root, graph)
