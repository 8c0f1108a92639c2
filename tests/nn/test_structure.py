"""Which layers feed which normalisers: by trace, by order of registration, and what tracing must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18

from layershift.nn import LSTMLayer, Unitization2d
from layershift.nn.structure import channels, hooked, normalized_layers, trace


class Net(nn.Module):
    """Parts by name, and a forward of one's own."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def test_each_convolution_of_a_resnet_feeds_the_normaliser_beside_it():
    model = resnet18()
    found = normalized_layers(model)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert list(found) == convolutions
    beside = {name: name.replace("conv", "bn").replace("downsample.0", "downsample.1") for name in convolutions}
    assert found == beside


def test_channels_agree_in_a_mobile_net():
    model = mobilenet_v3_small()
    found = normalized_layers(model)
    assert len(found) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 34
    for layer, norm in found.items():
        assert channels(model.get_submodule(layer)) == channels(model.get_submodule(norm))


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(5), nn.RMSNorm(5), Unitization2d(4)],
    ids=lambda norm: type(norm).__name__,
)
def test_every_normaliser(norm):
    assert normalized_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), norm)) == {"0": "2"}


def test_order_of_calls_counts_and_not_of_registration():
    def forward(self, x):
        return self.second(self.norm(self.first(x)))

    model = Net(forward, norm=nn.BatchNorm1d(3), second=nn.Linear(3, 3), first=nn.Linear(3, 3))
    assert normalized_layers(model) == {"first": "norm"}


def linear():
    return {"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3), "relu": nn.ReLU()}


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.norm(self.relu(self.a(x))),
        lambda self, x: self.norm(self.a(x) + self.b(x)),
        lambda self, x: self.norm(self.a(self.a(x))),
        lambda self, x: [h := self.a(x), self.norm(h) + h][1],
        lambda self, x: [h := self.a(x), (self.norm(h), h)][1],
        lambda self, x: self.norm(self.a(x).relu()),
        lambda self, x: self.a(self.norm(x)),
    ],
    ids=["activation", "sum", "twice", "used again", "returned", "method", "before"],
)
def test_layers_that_feed_more_or_something_else(forward):
    assert normalized_layers(Net(forward, **linear())) == {}


def test_what_cannot_be_traced_is_taken_in_the_order_of_registration():
    def forward(self, x):
        return self.norm(self.b(x)) if x.sum() > 0 else self.a(x)

    parts = linear()
    assert normalized_layers(Net(forward, **parts)) == {"b": "norm"}
    assert normalized_layers(Net(forward, **parts | {"norm": nn.BatchNorm1d(5)})) == {}  # channels do not agree


def test_a_normaliser_that_ends_in_an_activation_is_one():
    class NormAct(nn.BatchNorm1d):
        def __init__(self, size):
            super().__init__(size)
            self.drop, self.act = nn.Identity(), nn.ReLU()

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    def forward(self, x):
        return self.norm(self.b(x)) if x.sum() > 0 else self.a(x)

    parts = linear() | {"norm": NormAct(3)}
    assert normalized_layers(Net(forward, **parts)) == {"b": "norm"}
    assert normalized_layers(Net(lambda self, x: self.norm(self.a(x)), **parts)) == {"a": "norm"}


def test_our_layers_are_not_looked_into():
    def forward(self, x):
        return self.norm(self.linear(self.lstm(x)[0]))

    model = Net(forward, lstm=LSTMLayer(3, 4), linear=nn.Linear(4, 4), norm=nn.LayerNorm(4))
    graph = trace(model)
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["lstm", "linear", "norm"]
    assert normalized_layers(model) == {"linear": "norm"}


def test_the_network_its_hooks_and_the_random_state_are_left_alone():
    def forward(self, x):
        self.kept = self.a(x)
        self.seen.append(x)
        self.count += 1
        torch.rand(3)
        return self.norm(self.kept)

    model, ran = Net(forward, **linear() | {"a": nn.Sequential(nn.Linear(3, 3))}), []
    model.kept, model.seen = None, []
    model.register_buffer("count", torch.zeros(()))
    hooked_modules = (model, model.a, model.a[0])
    handles = [module.register_forward_hook(lambda *_: ran.append(1)) for module in hooked_modules]
    state = torch.random.get_rng_state()
    assert normalized_layers(model) == {"a.0": "norm"}
    assert (model.kept, model.seen, model.count.item(), ran) == (None, [], 0, [])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(handle.id in module._forward_hooks for handle, module in zip(handles, hooked_modules, strict=True))


def test_arguments_with_defaults_are_placeholders_or_have_them():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x, mask=None):
            return self.a(x) if mask is None else self.b(x) * mask

    def called(**options):
        return [node.target for node in trace(Masked(), **options).nodes if node.op == "call_module"]

    assert called() == ["b"]
    assert called(defaults=True) == ["a"]


def test_hooked():
    layer = nn.Linear(2, 2)
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        handle = getattr(layer, f"register_{register}")(lambda *_: None)
        assert hooked(layer), register
        handle.remove()
        assert not hooked(layer), register
    layer.forward = lambda x: x
    assert hooked(layer)
