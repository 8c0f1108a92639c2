from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from layershift.probe.heads import InternalClassifiers
from layershift.probe.layers import default_layers
from layershift.probe.probe import Probe
from layershift.probe.stages import ExitStage, count_flops, exit_costs, exit_stages, split
from layershift.train.models import cifar_resnet, cnn11, moments_mlp, small_cnn

networks = torchvision.models


def settle(model: nn.Module) -> nn.Module:
    """Give batch normalisation statistics that are not 0 and 1, and random parameters to what starts at 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def nested() -> nn.Module:
    inner = nn.Sequential(OrderedDict(a=nn.Linear(6, 6), b=nn.Sequential(nn.ReLU(), nn.Linear(6, 5)), c=nn.Tanh()))
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), inner, nn.Linear(5, 3))


def vgg() -> nn.Module:
    """With fewer units where there are a hundred million weights, which would take seconds to draw."""
    with torch.device("meta"):
        model = networks.vgg11_bn()
    model.classifier[0], model.classifier[3], model.classifier[6] = (
        nn.Linear(before, after) for before, after in ((512 * 49, 16), (16, 16), (16, 10))
    )
    return model.to_empty(device="cpu").apply(draw)


def draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
        module.reset_parameters()


CASES: dict[str, tuple[Any, list[str] | None, tuple[int, ...]]] = {
    "resnet18": (networks.resnet18, None, (3, 64, 64)),
    "resnet50": (networks.resnet50, ["maxpool", "layer1", "layer2.3", "layer3.0", "layer4.2", "avgpool"], (3, 64, 64)),
    "vgg11_bn": (vgg, None, (3, 32, 32)),
    "inside": (vgg, ["features.0", "features.1", "features.2", "features.3", "features", "classifier.3"], (3, 32, 32)),
    "squeezenet": (networks.squeezenet1_1, None, (3, 64, 64)),
    "mobilenet": (networks.mobilenet_v2, ["features.3", "features.9"], (3, 32, 32)),
    "cifar_resnet": (lambda: cifar_resnet(14, width=4), None, (3, 16, 16)),
    "preactivation": (
        lambda: cifar_resnet(14, width=4, preactivation=True, norm="unitization"),
        ["relu", "stage1.1", "stage2", "last_relu"],
        (3, 16, 16),
    ),
    "small_cnn": (small_cnn, None, (1, 8, 8)),
    "cnn11": (lambda: cnn11(width_factor=1 / 16), None, (3, 32, 32)),
    "moments_mlp": (lambda: moments_mlp(norm="batch"), None, (1, 8, 8)),
    "nested": (nested, ["1", "2.a", "2.b.0", "2.b", "2"], (8,)),
}


@pytest.mark.parametrize("case", CASES)
def test_stages_together_are_the_network(case: str) -> None:
    make, layers, shape = CASES[case]
    model = settle(make())
    layers = list(default_layers(model)) if layers is None else layers
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stages = split(model, layers)
    assert len(stages) == len(layers) + 1
    assert stages.layers == tuple(layers)
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(stages(x), expected)
        # A stage ends with the output of the layer that names it.
        seen: dict[str, Tensor] = {}
        hooks = [
            model.get_submodule(name).register_forward_hook(lambda _m, _x, y, name=name: seen.update({name: y.clone()}))
            for name in layers
        ]
        model(x)
        for hook in hooks:
            hook.remove()
        for name, stage in zip(layers, stages, strict=False):
            x = stage(x)
            assert torch.equal(x, seen[name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    shared = {id(parameter) for parameter in stages.parameters()}
    assert shared == {id(parameter) for parameter in model.parameters()}


def test_stages_copy_and_pickle() -> None:
    model = settle(cifar_resnet(8, width=4))
    stages, x = split(model, ["relu", "stage2.0"]), torch.randn(2, 3, 8, 8)
    for twin in (copy.deepcopy(stages), pickle.loads(pickle.dumps(stages))):
        assert torch.equal(twin(x), model(x))
        assert twin.layers == ("relu", "stage2.0")


class Scaled(nn.Module):
    """A container with a parameter of its own, a second argument, and code that no trace could follow in a block."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if bool(x.sum() > 0) else -self.linear(x)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = self.Block(), self.Block(), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor, shift: Tensor | None = None, *, twice: bool = False) -> Tensor:
        x = self.second(self.first(x) * self.scale) * self.scale
        if shift is not None or twice:
            x = 2 * x
        return self.last(x)


def test_blocks_stay_whole_and_parameters_of_containers_are_found() -> None:
    model = Scaled()
    stages = split(model, ["first", "second"])
    for x in (torch.rand(5, 4), -torch.rand(5, 4)):
        assert torch.equal(stages(x), model(x))


class Skips(nn.Module):
    """A connection past its second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.c(self.b(a) + a)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.a(x))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.both = nn.Linear(3, 3), self.Both()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), x

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.both(self.a(x))
        return y + z


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (Skips(), ["b"], "layers: expected layers whose output is all that later ones need, got 'b': a is used later"),
        (networks.resnet18(), ["layer1.0.conv1"], "output is all that later ones need, got 'layer1.0.conv1'"),
        (nested(), ["2", "1"], r"layers: expected the order in which they are computed, got \['2', '1'\]"),
        (nested(), ["1", "1"], r"layers: expected names that differ, got \['1', '1'\]"),
        (nested(), ["2.d"], "layers: expected names of the model's layers, got '2.d'; nearest names: 2.c, 2.b, 2.a"),
        (Twice(), ["a"], "layers: expected 'a' to be called once, got 2 calls"),
        (Twice(), ["unused"], "layers: expected 'unused' to be called once, got 0 calls"),
        (Pair(), ["both", "both.inner"], "layers: expected 'both' to return one tensor, got tuple"),
        (Pair.Both(), ["inner"], "model: expected a network that returns one tensor, got tuple"),
        (Branches(), ["a"], "model: expected a network that torch.fx can trace .* got Branches: symbolically traced"),
    ],
)
def test_what_cannot_be_cut_is_refused(model: nn.Module, layers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(model, layers)


def test_a_cut_after_the_skip_is_fine() -> None:
    model, x = Skips(), torch.randn(2, 3)
    assert torch.equal(split(model, ["a", "c"])(x), model(x))


def test_flops_are_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5))
    x = torch.randn(2, 3, 4, 4)
    first, second, last = 2 * 2 * 16 * 8 * 27, 2 * 2 * 16 * 4 * 8, 2 * 2 * 64 * 5
    whole = first + second + last
    assert count_flops(model, x) == whole
    classifiers = InternalClassifiers({"1": 8, "2": 4}, num_labels=5)
    heads = 2 * 2 * 8 * 5, 2 * 2 * 4 * 5
    probe = Probe(model, classifiers, task="multi_label", labels=list("abcde"))
    costs = exit_costs(probe, x)
    spent = first + heads[0], first + second + sum(heads), whole + sum(heads)
    assert costs == pytest.approx(dict(zip(("1", "2", "output"), (flops / whole for flops in spent), strict=True)))
    assert exit_costs(probe, x[:1]) == pytest.approx(costs)
    assert exit_costs(probe, x, layers=["2", "output"])["2"] == pytest.approx((first + second + heads[1]) / whole)


def test_stages_with_classifiers_say_what_the_probe_says() -> None:
    model = settle(small_cnn(norm="batch"))
    data = [(torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,)))]
    sizes = {"block1.relu": 32, "block2.relu": 32, "block4.relu": 64}
    for loss in ("bce", "cross_entropy"):
        for head in (None, nn.Linear(64, 10)):
            classifiers = InternalClassifiers(sizes, num_labels=10)
            options: dict[str, Any] = {"task": "single_label", "loss": loss, "head": head}
            outputs = Probe(model, classifiers, labels=list("0123456789"), **options).predict(data)
            x, found = data[0][0], []
            stages = exit_stages(model, classifiers, **options)
            for stage in stages:
                x, p = stage(x)
                found.append(p)
            torch.testing.assert_close(torch.stack(found), outputs.probabilities)
            # With a head, what comes after the last inner layer is not computed, wherever samples may leave.
            few = exit_stages(model, classifiers, **options, layers=["block2.relu"])
            torch.testing.assert_close(nn.Sequential(*(stage.body for stage in few))(data[0][0]), x)
            last = few[-1]
            assert isinstance(last, ExitStage)
            assert any("classifier" in name for name, _ in last.body.named_modules()) == (head is None)


def test_stages_are_copies_in_evaluation_mode() -> None:
    model = small_cnn(norm="batch").train()
    stages = exit_stages(model, InternalClassifiers({"block1.relu": 32}, num_labels=10), task="single_label")
    assert model.training
    assert not any(module.training for module in stages.modules())
    assert not {id(p) for p in stages.parameters()} & {id(p) for p in model.parameters()}


def test_a_layer_of_two_tensors_is_refused_when_it_is_computed() -> None:
    stages = exit_stages(Pair(), InternalClassifiers({"both": 3}, num_labels=3), task="multi_label")
    with pytest.raises(ValueError, match="layers: expected 'both' to return one tensor, got tuple"):
        stages[0](torch.randn(2, 3))


def test_classifiers_that_are_not_there_are_refused() -> None:
    model, classifiers = nested(), InternalClassifiers({"1": 6, "2": 5}, num_labels=3)
    with pytest.raises(ValueError, match=r"layers: expected one of '1', '2', got '2.a'"):
        exit_stages(model, classifiers, task="multi_label", layers=["2.a"])
    with pytest.raises(ValueError, match="layers: expected at least one layer where samples may leave"):
        exit_stages(model, classifiers, task="multi_label", layers=["output"])
    with pytest.raises(ValueError, match="task: expected one of 'single_label', 'multi_label', got 'both'"):
        exit_stages(model, classifiers, task="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="loss: expected one of 'bce', 'cross_entropy', got 'mse'"):
        exit_stages(model, classifiers, task="multi_label", loss="mse")  # type: ignore[arg-type]
