"""From names to data, networks, normalisers and penalties; what there is none of is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import layershift.nn as layers
from layershift.train.components import build_data, build_model, build_norm, build_penalty, call, find
from layershift.train.config import Config
from layershift.train.methods import METHODS, method_of
from layershift.train.models.parts import NormWithOptions

SIZES = {"in_channels": 1, "in_features": 64, "num_classes": 10}


class OwnNorm(nn.Module):
    """A newcomer's: the number of channels, and an option."""

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def own_network(*, in_features: int, num_classes: int, norm: object, seed: int | None, width: int = 2) -> nn.Module:
    """A newcomer's: what the data say of themselves comes by name."""
    layer = nn.Linear(in_features, num_classes)
    layer.seen = (norm, seed, width)
    return layer


def test_find_takes_names_and_dotted_paths() -> None:
    assert find("norm", "a", {"a": 1}) == 1
    assert find("norm", "torch.nn.Linear", {"a": 1}) is nn.Linear
    with pytest.raises(ValueError, match=r"^norm: expected one of a, b, or a dotted path, got 'c'$"):
        find("norm", "c", {"b": 1, "a": 2})
    for name, why in (("nowhere.At", "No module named 'nowhere'"), ("torch.nn.Lnear", "has no attribute 'Lnear'")):
        with pytest.raises(ValueError, match=rf"^norm: expected one of a, .* imported, got '{name}' \(.*{why}.*\)$"):
            find("norm", name, {"a": 1})


def test_call_names_the_option_that_there_is_none_of() -> None:
    with pytest.raises(ValueError, match=r"^data_options: expected options of f: a, b, got c, d$"):
        call("data_options", _f, {"c": 1, "a": 2, "d": 3})
    assert call("data_options", _f, {"a": 1, "b": 2}) == (1, 2)
    assert call("data_options", lambda **options: options, {"anything": 1}) == {"anything": 1}


def _f(a: int, b: int = 0) -> tuple[int, int]:
    return a, b


_f.__name__ = "f"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_built(method: str) -> None:
    config = Config(method=method)
    build_norm(config)
    penalty = build_penalty(config)
    assert (penalty is None) == (METHODS[method].penalty is None)
    assert METHODS[method].summary


def test_a_normaliser_is_a_name_a_path_or_either_with_options() -> None:
    path = f"{__name__}.OwnNorm"
    assert build_norm(Config(method="vanilla")) is None
    assert build_norm(Config(method="batch")) == "batch"
    assert build_norm(Config(method="group"))(16).num_groups == 8
    bounded = build_norm(Config(method="bounded"))
    assert isinstance(bounded, NormWithOptions)
    own = build_norm(Config(method="mine", method_options={"norm": path}))(5)
    assert (type(own).__name__, own.channels, own.scale) == ("OwnNorm", 5, 1.0)
    scaled = build_norm(Config(method="mine", method_options={"norm": path, "norm_options": {"scale": 2.0}}))(5)
    assert scaled.scale == 2.0
    with pytest.raises(ValueError, match=r"^norm_options: expected options of group_norm: .*, got groups$"):
        build_norm(Config(method="mine", method_options={"norm": "group", "norm_options": {"groups": 2}}))


def test_a_penalty_is_a_class_of_the_library_or_a_path() -> None:
    assert isinstance(build_penalty(Config(method="per")), layers.PER)
    own = build_penalty(Config(method="mine", method_options={"penalty": "torch.nn.Identity"}))
    assert isinstance(own, nn.Identity)
    with pytest.raises(ValueError, match=r"^penalty: expected one of .*PER, .*, or a dotted path, got 'PERR'$"):
        build_penalty(Config(method="mine", method_options={"penalty": "PERR"}))
    with pytest.raises(ValueError, match=r"^penalty_options: expected options of PER: .*, got made$"):
        build_penalty(Config(method="per", method_options={"penalty_options": {"made": 1}}))


def test_a_network_gets_what_it_asks_of_the_data_and_what_the_configuration_says() -> None:
    config = Config(method="batch", seed=3, model=f"{__name__}.own_network", model_options={"width": 5})
    model = build_model(config, {**SIZES, "num_tokens": 7})
    assert (model.in_features, model.out_features) == (64, 10)
    assert model.seen == ("batch", 3, 5)
    with pytest.raises(ValueError, match=r"^model_options: expected options of own_network: .*, got depth$"):
        build_model(Config(model=f"{__name__}.own_network", model_options={"depth": 5}), SIZES)
    with pytest.raises(ValueError, match=r"^model: expected one of .*, or a dotted path, got 'resnet'$"):
        build_model(Config(model="resnet"), SIZES)


def test_methods_start_from_the_same_weights() -> None:
    kernels = [
        torch.cat([p.flatten() for p in build_model(Config(method=method, seed=4), SIZES).parameters() if p.dim() == 2])
        for method in ("vanilla", "batch", "unitization", "per")
    ]
    for other in kernels[1:]:
        assert torch.equal(kernels[0], other)


def test_data_get_their_options_and_the_root_only_if_one_is_given() -> None:
    assert build_data(Config(data="digits", batch_size=32, seed=5)).batch_size == 32
    assert build_data(Config(data="digits", data_root="/data")).num_classes == 10  # they lie in no folder
    assert str(build_data(Config(data="mnist", data_root="/data")).root) == "/data"
    with pytest.raises(ValueError, match=r"^data: expected one of cifar10, .*, or a dotted path, got 'cifar'$"):
        build_data(Config(data="cifar"))


def test_a_method_is_changed_or_defined_by_its_options() -> None:
    assert method_of("per", {"penalty_options": {"mode": "projections"}}).penalty_options == {
        "reduction": "sum",
        "mode": "projections",
    }
    assert method_of("per", {}) is not method_of("per", {"layers": "relu1"})
    assert METHODS["per"].layers is None
    assert method_of("mine", {"norm": "batch"}).norm == "batch"
    with pytest.raises(ValueError, match=r"^method: expected one of vanilla, .*, or method_options with it, got mine$"):
        method_of("mine", {})
