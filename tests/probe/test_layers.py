"""Which layers are probed: the paper's, those of this library's networks, and those that are named."""

from __future__ import annotations

import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from layershift.probe.layers import choose_layers, default_layers
from layershift.train.models import cifar_resnet, cnn11, moments_mlp, small_cnn

models = pytest.importorskip("torchvision.models")


def named(model: str, **options) -> list[str]:
    with torch.device("meta"):  # names alone matter, and 138 million weights take their time
        return list(default_layers(getattr(models, model)(**options)))


def test_resnet18_has_nine_layers_as_in_the_paper() -> None:
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert named("resnet18") == ["maxpool", *blocks]


def test_resnet50_has_seventeen() -> None:
    names = named("resnet50")
    assert len(names) == 17
    assert (names[0], names[-1]) == ("maxpool", "layer4.2")


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vgg16_has_one_after_each_of_thirteen_convolutions(name) -> None:
    with torch.device("meta"):
        model = getattr(models, name)()
    names = list(default_layers(model))
    assert len(names) == 13 == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert all(isinstance(model.get_submodule(name), nn.ReLU) for name in names)


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_squeezenet_has_its_stem_and_eight_fire_modules(name) -> None:
    with torch.device("meta"):
        layers = default_layers(getattr(models, name)())
    assert [type(module).__name__ for module in layers.values()] == ["MaxPool2d", *["Fire"] * 8]


def test_the_networks_of_this_library() -> None:
    blocks = [f"stage{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert list(default_layers(cifar_resnet(20))) == ["relu", *blocks]
    assert list(default_layers(cifar_resnet(20, preactivation=True))) == ["relu", *blocks, "last_relu"]
    assert list(default_layers(small_cnn())) == [f"block{i}.relu" for i in (1, 2, 3, 4)]
    assert list(default_layers(moments_mlp(depth=2))) == ["block1.relu", "block2.relu", "bottleneck.relu"]
    assert list(default_layers(cnn11(width_factor=1 / 16))) == [f"block{i}.activation" for i in range(1, 11)]


def test_a_network_inside_a_sequence_keeps_its_layers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Identity(), models.resnet18(), nn.Linear(1000, 5))
    assert list(default_layers(model)) == [f"1.{name}" for name in named("resnet18")]


def test_the_last_module_of_a_sequence_is_no_inner_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)))
    assert list(default_layers(model)) == ["1"]


def test_torchvision_is_not_needed(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert list(default_layers(small_cnn()))


def test_another_network_is_told_its_candidates() -> None:
    with torch.device("meta"):
        model = models.densenet121()
    message = r"layers: expected names of layers .* of type DenseNet.*features\.denseblock1.denselayer1, .*58 in all"
    with pytest.raises(ValueError, match=message):
        default_layers(model)
    with pytest.raises(ValueError, match="of type Sequential, of which no default is known; it has 0, got None"):
        default_layers(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="no layers inside"):
        default_layers(nn.Linear(2, 2))


def test_names_types_and_patterns() -> None:
    model = cifar_resnet(20)
    assert list(choose_layers(model, ["stage2.0", "stage1.1"])) == ["stage1.1", "stage2.0"]
    assert list(choose_layers(model, "stage1")) == ["stage1"]
    assert next(iter(choose_layers(model, "*.branch.relu1"))) == "stage1.0.branch.relu1"
    assert len(choose_layers(model, ["stage1", nn.Conv2d])) == 20
    assert choose_layers(model) == default_layers(model)


def test_what_names_nothing_is_an_error() -> None:
    model = small_cnn()
    with pytest.raises(ValueError, match=r"layers: expected a pattern that matches a layer, got 'block9'; nearest"):
        choose_layers(model, ["block1", "block9"])
    with pytest.raises(ValueError, match="layers: expected at least one layer"):
        choose_layers(model, [])
    with pytest.raises(ValueError, match="layers: expected layers inside the network"):
        choose_layers(model, "")
    with pytest.raises(ValueError, match="layers: expected layers of other names than 'output'"):
        choose_layers(nn.Sequential(OrderedDict(linear=nn.Linear(2, 2), output=nn.ReLU())), "output")
