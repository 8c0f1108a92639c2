"""Which layers of a network get a classifier: those of the paper for the networks it used, or those that are named."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from layershift._checks import check, check_type, fail
from layershift.capture import LayerSelector, select_layers
from layershift.probe.outputs import OUTPUT


def default_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that get a classifier where none are named, in order of depth.

    | network | layers |
    | --- | --- |
    | ResNets of torchvision | the stem's max-pooling, and each block: 0 to 8 for ResNet-18, 0 to 16 for ResNet-50 |
    | VGG networks of torchvision | the ReLU of each convolution: 0 to 12 for VGG-16 |
    | SqueezeNets of torchvision | the stem's max-pooling, and each Fire module |
    | `nn.Sequential`, also nested | each activation function and each module that is a block of others |

    The first two are the paper's. "After each convolution" is read as after its activation, because that is what the
    next layer sees, and what ends the blocks of a ResNet. In a sequence the last module is left out, as it gives the
    network's output; a network of this table inside a sequence has the layers it has alone. So `cifar_resnet` has its
    stem's activation and its blocks, and `moments_mlp`, `small_cnn` and `cnn11` have their activations.

    Args:
        model: a network.

    Returns:
        Names and modules. The network's own output is not among them.

    Raises:
        ValueError: for any other network; the message names candidates.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", appendix E, figures 7 and 8.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Flatten())
        >>> list(default_layers(model))
        ['1', '2.1']
    """
    check_type("model", model, nn.Module, "a module")
    names = _known(model) or _in_sequence(model)
    if not names:
        kind = type(model).__name__
        expected = f"names of layers for a network of type {kind}, of which no default is known"
        fail("layers", f"{expected}; it has {', '.join(_candidates(model)) or 'no layers inside'}", None)
    return {name: model.get_submodule(name) for name in names}


def choose_layers(model: nn.Module, layers: LayerSelector | None = None) -> dict[str, nn.Module]:
    """The layers that are named, or else the default ones.

    A name that a module has is that module, whether or not it holds others. Anything else is a pattern or a type as in
    `layershift.capture.select_layers`, which keeps the innermost of modules that contain each other: `"layer?.?"` are
    the blocks of a ResNet only if no deeper name matches, which for `*` is so seldom that blocks are better named.

    Args:
        model: a network.
        layers: names, patterns, types, or None.

    Returns:
        Names and modules, in the order of `model.named_modules()`.

    Raises:
        ValueError: if a name selects nothing, or no layer at all is selected.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2))
        >>> list(choose_layers(model, ["0", nn.ReLU])), list(choose_layers(model))
        (['0', '0.1'], ['0.1'])
    """
    if layers is None:
        return default_layers(model)
    check_type("model", model, nn.Module, "a module")
    check_type("layers", layers, (str, type, Sequence), "names, patterns, or types")
    selectors: Sequence[str | type[nn.Module]] = [layers] if isinstance(layers, str | type) else list(layers)
    check(len(selectors) > 0, "layers", "at least one layer", selectors)
    modules = dict(model.named_modules())
    chosen: set[str] = set()
    for selector in selectors:
        exact = isinstance(selector, str) and selector != "" and selector in modules
        chosen.update([selector] if exact else select_layers(model, selector))  # type: ignore[list-item]
    check("" not in chosen, "layers", "layers inside the network, whose own output is probed anyway", layers)
    check(OUTPUT not in chosen, "layers", f"layers of other names than {OUTPUT!r}, the network's own", repr(OUTPUT))
    return {name: module for name, module in modules.items() if name in chosen}


def _known(model: nn.Module) -> list[str]:
    """The layers of a network of torchvision, which is recognised without importing that."""
    if _is(model, "torchvision.models.resnet", "ResNet"):
        stages = [f"layer{i}" for i in range(1, 5)]
        return ["maxpool", *(f"{stage}.{i}" for stage in stages for i in range(len(model.get_submodule(stage))))]  # type: ignore[arg-type]
    if _is(model, "torchvision.models.vgg", "VGG"):
        return [f"features.{name}" for name, module in _features(model) if isinstance(module, nn.ReLU)]
    if _is(model, "torchvision.models.squeezenet", "SqueezeNet"):
        stem = [name for name, module in _features(model) if isinstance(module, nn.MaxPool2d)][:1]
        fires = [name for name, module in _features(model) if _is(module, "torchvision.models.squeezenet", "Fire")]
        return [f"features.{name}" for name in [*stem, *fires]]
    return []


def _features(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(model.get_submodule("features").named_children())


def _is(model: nn.Module, module: str, name: str) -> bool:
    return any(kind.__module__ == module and kind.__qualname__ == name for kind in type(model).__mro__)


def _in_sequence(model: nn.Module) -> list[str]:
    """Activations and blocks of a sequence, all but what comes last; of a network inside it, that network's layers."""
    names: list[str] = []
    steps = _steps(model) if isinstance(model, nn.Sequential) else []
    for name, step in steps:
        known = [f"{name}.{inner}" for inner in _known(step)]
        activation = type(step).__module__ == nn.ReLU.__module__
        own = step is not steps[-1][1] and (activation or _is_block(step))
        names += known or [name] * own
    return names


def _steps(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """What a sequence of sequences does, one after the other."""
    steps: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        inside = _steps(child) if isinstance(child, nn.Sequential) else []
        steps += [(f"{name}.{inner}", step) for inner, step in inside] or [(name, child)]
    return steps


def _candidates(model: nn.Module, most: int = 20) -> list[str]:
    """Blocks, or where there are none all layers; of many those that come first."""
    modules = [(name, module) for name, module in model.named_modules() if name]
    blocks = [name for name, module in modules if _is_block(module)]
    names = blocks or [name for name, _ in modules]
    return names if len(names) <= most else [*names[:most], f"… ({len(names)} in all)"]


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and not isinstance(
        module, nn.Sequential | nn.ModuleList | nn.ModuleDict
    )
