"""Layers are found by name and type, their outputs seen once, and nothing stays behind."""

from __future__ import annotations

import copy
import fnmatch
import io
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from layershift.capture import capture, output_tensor, select_layers


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.relu = nn.ReLU()

    def forward(self, x):
        return x + self.relu(self.linear(x))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.layer1 = nn.Sequential(Block(), Block())
        self.layer2 = nn.Sequential(Block())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))))


LEAVES = [f"{block}.{part}" for block in ("layer1.0", "layer1.1", "layer2.0") for part in ("linear", "relu")]


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def seen_by(model: nn.Module, run, layers="*") -> list[str]:
    seen: list[str] = []
    with capture(select_layers(model, layers), lambda name, _: seen.append(name)):
        run()
    return seen


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("stem", ["stem"]),
        ("*", ["stem", *LEAVES, "head"]),
        ("layer?", ["layer1", "layer2"]),
        ("layer1.[0]", ["layer1.0"]),
        ("*.relu", ["layer1.0.relu", "layer1.1.relu", "layer2.0.relu"]),
        (Block, ["layer1.0", "layer1.1", "layer2.0"]),
        (["head", "stem"], ["stem", "head"]),
        (["stem", nn.ReLU], ["stem", "layer1.0.relu", "layer1.1.relu", "layer2.0.relu"]),
        (["layer2", "layer2.*"], ["layer2", "layer2.0.linear", "layer2.0.relu"]),
        (Network, [""]),
    ],
)
def test_layers_are_found_by_pattern_and_type_in_the_models_order(layers, names) -> None:
    assert list(select_layers(Network(), layers)) == names


@given(pattern=st.text("layer12.*?[]0hesd", min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_pattern_selects_something_or_says_what_there_is(pattern) -> None:
    model = Network()
    matching = [name for name, _ in model.named_modules() if fnmatch.fnmatchcase(name, pattern)]
    if matching:
        assert set(select_layers(model, pattern)) <= set(matching)
    else:
        with pytest.raises(ValueError, match=r"expected a pattern that matches a layer, got .*; nearest names: "):
            select_layers(model, pattern)


def test_a_pattern_that_matches_nothing_lists_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"layers: expected a pattern .* got '\*layr1\*'; nearest names: layer1\b"):
        select_layers(Network(), "*layr1*")
    with pytest.raises(ValueError, match=r"got Conv2d; it has Block, Linear, Network, ReLU, Sequential"):
        select_layers(Network(), nn.Conv2d)
    with pytest.raises(ValueError, match="got 'haed'; nearest names: head"):
        select_layers(Network(), ["stem", "haed"])


def test_a_shared_module_is_seen_at_each_call_under_its_first_name() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    assert list(select_layers(model, nn.ReLU)) == ["1"]
    assert seen_by(model, lambda: model(torch.zeros(2, 3)), nn.ReLU) == ["1", "1"]


class Result(NamedTuple):
    index: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "output",
    [
        torch.ones(2, 3),
        (torch.ones(2, 3), None),
        [torch.zeros(2, dtype=torch.int64), (torch.ones(2, 3),)],
        {"mask": torch.zeros(2, dtype=torch.bool), "hidden": {"last": torch.ones(2, 3)}},
        Result(torch.zeros(2, dtype=torch.int64), torch.ones(2, 3)),
    ],
)
def test_the_first_floating_point_tensor_stands_for_a_nested_output(output) -> None:
    assert torch.equal(output_tensor("a", output), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("output", "described"),
    [
        (None, "NoneType"),
        ((), "tuple of nothing"),
        (torch.zeros(2, dtype=torch.int64), r"a tensor of dtype torch\.int64"),
        (["x", 3], "list of str, int"),
    ],
)
def test_an_output_without_one_is_an_error_that_names_the_layer(output, described) -> None:
    with pytest.raises(TypeError, match=f"layer 'body.3': expected an output with a .* tensor, got {described}"):
        output_tensor("body.3", output)


def test_an_lstm_gives_its_output_sequence() -> None:
    model = nn.Sequential(nn.LSTM(3, 5, batch_first=True))
    shapes = []
    with capture(select_layers(model, nn.LSTM), lambda _, x: shapes.append(tuple(x.shape))):
        model(torch.zeros(2, 7, 3))
    assert shapes == [(2, 7, 5)]


def test_outputs_arrive_detached_and_gradients_flow_as_before() -> None:
    model, x = Network(), torch.randn(5, 3)
    seen = {}
    with capture(select_layers(model, "*"), seen.__setitem__):
        model(x).sum().backward()
    assert not any(output.requires_grad for output in seen.values())
    watched = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(watched, model.parameters(), strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_hooks_go_whatever_happens_inside(error) -> None:
    model = Network()
    inside = []

    def run() -> None:
        inside.append(hooks_of(model))
        raise error

    with pytest.raises(error):
        seen_by(model, run)
    assert inside == [8]
    assert hooks_of(model) == 0


def test_hooks_go_when_the_observer_fails() -> None:
    def refuse(*_) -> None:
        raise ValueError("no")

    model = Network()
    with pytest.raises(ValueError, match="no"), capture(select_layers(model, "*"), refuse):
        model(torch.zeros(2, 3))
    assert hooks_of(model) == 0


def test_hooks_go_when_registering_fails_half_way() -> None:
    class Refusing(nn.Linear):
        def register_forward_hook(self, *_, **__):
            raise RuntimeError("no hooks here")

    model = nn.Sequential(nn.Linear(2, 2), Refusing(2, 2))
    with pytest.raises(RuntimeError, match="no hooks here"), capture(select_layers(model, "*"), lambda *_: None):
        pass
    assert hooks_of(model) == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_layer_is_seen_once(reentrant) -> None:
    model, x = Network(), torch.randn(5, 3, requires_grad=True)

    def run() -> None:
        hidden = checkpoint(model.layer1, model.stem(x), use_reentrant=reentrant)
        model.head(hidden).sum().backward()

    assert seen_by(model, run, "layer1.*.relu") == ["layer1.0.relu", "layer1.1.relu"]


def test_the_copy_of_a_watched_model_is_not_watched_and_can_be_saved() -> None:
    model, seen = Network(), []
    with capture(select_layers(model, "stem"), lambda name, _: seen.append(name)):
        twin = copy.deepcopy(model)
        torch.save(model, io.BytesIO())
        twin(torch.zeros(2, 3))
    assert seen == []
