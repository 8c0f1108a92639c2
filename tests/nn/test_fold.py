"""Folded networks against the networks themselves, and what must not be folded."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrizations, prune
from torchvision.models import densenet121, mobilenet_v3_small, resnet18, vgg16_bn

from layershift.nn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    SyncBatchNorm,
    SyncUnitization,
    Unitization1d,
    Unitization2d,
    Unitization3d,
    convert,
)
from layershift.nn.fold import FoldedNorm, fold
from layershift.train import models


class Net(nn.Module):
    """Parts by name, and a forward of one's own."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def trained(model, dtype=torch.float64):
    """In evaluation, with parameters and running statistics as training might leave them."""
    generator = torch.Generator().manual_seed(0)

    def normal(t, mean, deviation):
        t.data.copy_(mean + deviation * torch.randn(t.shape, generator=generator))

    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            normal(module.running_mean, 0.5, 1.0)
            module.running_var.copy_(0.2 + 2 * torch.rand(module.running_var.shape, generator=generator))
        if hasattr(module, "num_features") and module.affine:
            normal(module.weight, 1.0, 0.3)
            normal(module.bias, 0.0, 0.3)
    return model.to(dtype).eval()


def same(model, folded, x):
    """Outputs agree as well as the dtype allows: to 1e-12 of the largest number in float64, 1e-4 in float32."""
    with torch.no_grad():
        expected, found = model(x), folded(x)
    assert found.dtype == expected.dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}[x.dtype]
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
    return True


def image(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


NETWORKS = {
    "resnet18": (resnet18, (2, 3, 64, 64), 20, 0),
    "vgg16_bn": (lambda: vgg16_bn(init_weights=False).features, (1, 3, 32, 32), 13, 0),
    "mobilenet_v3_small": (mobilenet_v3_small, (2, 3, 64, 64), 34, 0),
    "densenet121": (densenet121, (1, 3, 32, 32), 59, 62),  # the others come before a convolution
    "cnn11": (partial(models.cnn11, norm="batch", width_factor=0.1), (2, 3, 32, 32), 10, 0),
    "cnn11, unitization": (partial(models.cnn11, norm="unitization", width_factor=0.1), (2, 3, 32, 32), 10, 0),
    "small_cnn": (partial(models.small_cnn, norm="unitization"), (2, 1, 16, 16), 4, 0),
    "cifar_resnet": (partial(models.cifar_resnet, 8), (2, 3, 16, 16), 7, 0),
    "cifar_resnet, preactivation": (partial(models.cifar_resnet, 8, preactivation=True), (2, 3, 16, 16), 4, 3),
    "imagenet_resnet": (partial(models.imagenet_resnet, 50, width=8), (2, 3, 32, 32), 33, 15),
    "moments_mlp": (partial(models.moments_mlp, norm="batch"), (2, 64), 11, 0),
    "resnet18 of ours": (partial(models.resnet18, norm="unitization"), (2, 3, 32, 32), 20, 0),
    "vgg16 of ours": (partial(models.vgg16, 10, norm="batch"), (1, 3, 32, 32), 13, 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_what_they_did(name):
    build, shape, folded, left = NETWORKS[name]
    model, x = trained(build()), image(*shape)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = fold(model)
    assert (len(found.folded), len(found.left)) == (folded, left)
    assert found.folded.keys().isdisjoint(found.left)
    assert same(model, found.model, x)
    state = model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in state)
    for layer, norm in found.folded.items():
        assert isinstance(found.model.get_submodule(norm), FoldedNorm)
        assert not isinstance(model.get_submodule(norm), FoldedNorm)
        assert found.model.get_submodule(layer).bias is not None
    assert all(type(found.model.get_submodule(norm)) is type(model.get_submodule(norm)) for norm in found.left)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "cnn11, unitization"])
def test_networks_in_float32(name):
    build, shape, *_ = NETWORKS[name]
    model = trained(build(), torch.float32)
    assert same(model, fold(model).model, image(*shape, dtype=torch.float32))


PAIRS = [
    (nn.Conv1d, nn.BatchNorm1d, (9,)),
    (nn.Conv1d, Unitization1d, (9,)),
    (nn.Conv1d, SyncUnitization, (9,)),
    (nn.Conv1d, partial(nn.InstanceNorm1d, affine=True, track_running_stats=True), (9,)),
    (nn.Conv2d, BatchNorm2d, (7, 6)),
    (nn.Conv2d, nn.SyncBatchNorm, (7, 6)),
    (nn.Conv2d, partial(nn.InstanceNorm2d, track_running_stats=True), (7, 6)),
    (nn.Conv2d, partial(nn.BatchNorm2d, affine=False), (7, 6)),
    (nn.Conv3d, BatchNorm3d, (5, 4, 5)),
    (nn.Conv3d, Unitization3d, (5, 4, 5)),
    (nn.ConvTranspose1d, BatchNorm1d, (5,)),
    (nn.ConvTranspose2d, Unitization2d, (4, 5)),
    (nn.ConvTranspose3d, nn.BatchNorm3d, (3, 4, 3)),
]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layer", "norm", "size"), PAIRS)
def test_every_layer_and_normaliser(layer, norm, size, groups, bias):
    torch.manual_seed(0)
    model = trained(nn.Sequential(layer(4, 8, 3, stride=2, padding=1, groups=groups, bias=bias), norm(8), nn.ReLU()))
    found = fold(model)
    assert (found.folded, found.left) == ({"0": "1"}, {})
    assert same(model, found.model, image(3, 4, *size))


@settings(max_examples=25, deadline=None)
@given(
    transposed=st.booleans(),
    groups=st.integers(1, 3),
    each=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding_mode=st.sampled_from(["zeros", "reflect", "circular"]),
    seed=st.integers(0, 2**16),
)
def test_any_convolution(transposed, groups, each, kernel, stride, dilation, padding_mode, seed):
    torch.manual_seed(seed)
    options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": 1}
    if not transposed:
        options["padding_mode"] = padding_mode
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = trained(nn.Sequential(kind(groups * each[0], groups * each[1], kernel, **options)))
    model.append(trained(Unitization2d(groups * each[1])))
    assert same(model.double().eval(), fold(model).model, image(2, groups * each[0], 8, 7))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, BatchNorm1d, Unitization1d, SyncBatchNorm])
def test_a_linear_layer(norm):
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Linear(5, 6), nn.Identity(), norm(6), nn.Linear(6, 2)))
    found = fold(model)
    assert found.folded == {"0": "2"}
    assert same(model, found.model, image(4, 5))
    # Of (N, L, C) batch normalisation takes the second dimension, a linear layer the last: never silently another.
    x = image(4, 6, 5)
    assert model[:3](x).shape == (4, 6, 6)
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, C\), got shape \(4, 6, 6\)"):
        found.model(x)


def test_instance_normalisation_takes_a_sample_without_a_batch():
    model = trained(nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)))
    found = fold(model)
    assert same(model, found.model, image(2, 6, 6))
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(N, C, H, W\)"):
        found.model[1](image(2, 6))


@pytest.mark.parametrize("options", [{}, {"form": "bounded"}, {"over": "position"}, {"alpha_constraint": "clamp"}])
def test_unitization_is_folded_if_alpha_is_zero_or_weighs_nothing(options):
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), Unitization2d(4, **options)))
    assert fold(model).folded == {"0": "1"}
    assert same(model, fold(model).model, image(2, 3, 6, 6))
    with torch.no_grad():
        model[1].alpha[2:] = 0.25
    assert fold(model)[1:] == (
        {},
        {"1": "its alpha is not 0 in 2 of 4 channels, which depend on each sample's norm"},
    )
    assert same(model, fold(model).model, image(2, 3, 6, 6))
    with torch.no_grad():
        model[1].weight[2:] = 0.0
    assert fold(model).folded == {"0": "1"}
    assert same(model, fold(model).model, image(2, 3, 6, 6))


def test_alpha_counts_after_its_constraint():
    clamped = trained(nn.Sequential(nn.Conv2d(3, 4, 3), Unitization2d(4, alpha_constraint="clamp")))
    sigmoid = trained(nn.Sequential(nn.Conv2d(3, 4, 3), Unitization2d(4, alpha_constraint="sigmoid")))
    for model in (clamped, sigmoid):
        torch.nn.init.constant_(model[1].alpha, -3.0)
    assert fold(clamped).folded == {"0": "1"}
    assert "4 of 4 channels" in fold(sigmoid).left["1"]


def parts(**more):
    return {"a": nn.Conv2d(3, 3, 3, padding=1), "b": nn.Conv2d(3, 3, 3, padding=1), "n": nn.BatchNorm2d(3), **more}


def flat(self, x):
    return self.n(self.a(x))


class Derived(nn.Conv2d):
    pass


class DerivedNorm(nn.BatchNorm2d):
    pass


def masked():
    class Masked(Net):
        def forward(self, x, mask=None):
            return self.n(self.a(x)) if mask is None else self.n(self.b(x)) * mask

    return Masked(None, **parts())


def by_type():
    def forward(self, x):
        return self.n(self.a(x)) if isinstance(self.n, nn.BatchNorm2d) else self.n(self.a(x)).relu()

    return Net(forward, **parts())


def hooked(name, hook="register_forward_hook"):
    model = Net(lambda self, x: self.n(self.inner(x)), inner=nn.Sequential(nn.Conv2d(3, 3, 3)), n=nn.BatchNorm2d(3))
    getattr(model.get_submodule(name), hook)(lambda module, args, output=None: None)
    return model


def pruned():
    model = Net(flat, **parts())
    with torch.no_grad():
        prune.l1_unstructured(model.a, "weight", 0.5)
    model.a.weight = model.a.weight.detach()
    return model


def patched():
    model = Net(flat, **parts())
    model.a.forward = lambda x: 2 * x
    return model


LEFT = {
    "activation": (lambda: Net(lambda self, x: self.n(self.r(x)), r=nn.ReLU(), **parts()), "'r' gives, ReLU, no conv"),
    "before": (lambda: Net(lambda self, x: self.a(self.n(x)), **parts()), "it takes 'x', which is no layer's output"),
    "sum": (lambda: Net(lambda self, x: self.n(self.a(x) + self.b(x)), **parts()), "it takes 'add', which is no layer"),
    "function": (lambda: Net(lambda self, x: self.n(self.a(x).relu()), **parts()), "it takes 'relu', which is no"),
    "used again": (
        lambda: Net(lambda self, x: [h := self.a(x), self.n(h) + h][1], **parts()),
        "what 'a' gives is used elsewhere too",
    ),
    "shared layer": (lambda: Net(lambda self, x: self.n(self.a(self.a(x))), **parts()), "'a' runs 2 times"),
    "shared normaliser": (
        lambda: Net(lambda self, x: self.n(self.b(self.n(self.a(x)))), **parts()),
        "'n' runs 2 times",
    ),
    "unused": (lambda: Net(lambda self, x: self.a(x), **parts()), "it does not run"),
    "weight read": (
        lambda: Net(lambda self, x: self.n(self.a(x)) + self.a.weight.sum(), **parts()),
        "the network also uses parameters of 'a' by themselves",
    ),
    "statistics read": (
        lambda: Net(lambda self, x: self.n(self.a(x)) + self.n.running_mean.view(3, 1, 1), **parts()),
        "depends on the kinds or attributes of its layers",
    ),
    "branch": (lambda: Net(lambda self, x: flat(self, x) if x.sum() > 0 else x, **parts()), "cannot be traced"),
    "arguments": (masked, "what feeds it depends on the network's arguments"),
    "kinds": (by_type, "depends on the kinds or attributes of its layers"),
    "hook on layer": (partial(hooked, "inner.0"), "'inner.0' has a hook or a forward of its own"),
    "hook between": (partial(hooked, "inner"), "'inner' has a hook or a forward of its own"),
    "hook on normaliser": (partial(hooked, "n", "register_forward_pre_hook"), "'n' has a hook or a forward"),
    "patched": (patched, "'a' has a hook or a forward of its own"),
    "pruned": (pruned, "'a' has a hook or a forward of its own"),
    "parametrised": (
        lambda: Net(flat, **parts() | {"a": parametrizations.weight_norm(nn.Conv2d(3, 3, 3))}),
        "'a' computes its weight from other parameters",
    ),
    "derived": (lambda: Net(flat, **parts() | {"a": Derived(3, 3, 3)}), "which is no layer's output"),
    "derived in PyTorch": (
        lambda: Net(flat, a=NonDynamicallyQuantizableLinear(3, 3), n=nn.BatchNorm1d(3)),
        "'a', NonDynamicallyQuantizableLinear, may do more than the class it derives from",
    ),
    "derived normaliser": (lambda: Net(flat, **parts(n=DerivedNorm(3))), "DerivedNorm may do more than the class it"),
    "lazy layer": (lambda: Net(flat, **parts() | {"a": nn.LazyConv2d(3, 3)}), "'a' has not seen its first input"),
    "lazy normaliser": (lambda: Net(flat, **parts(n=nn.LazyBatchNorm2d())), "it has not seen its first input"),
    "layer norm": (lambda: Net(flat, **parts(n=nn.LayerNorm(8))), "by that sample's own moments"),
    "group norm": (lambda: Net(flat, **parts(n=nn.GroupNorm(3, 3))), "by that sample's own moments"),
    "instance norm": (lambda: Net(flat, **parts(n=nn.InstanceNorm2d(3))), "by that sample's own moments"),
    "no running statistics": (
        lambda: Net(flat, **parts(n=nn.BatchNorm2d(3, track_running_stats=False))),
        "it has no running statistics, and takes those of the batch",
    ),
    "other dimensions": (
        lambda: Net(flat, a=nn.Linear(3, 3), n=nn.BatchNorm2d(3)),
        "BatchNorm2d of what 'a', Linear, gives is over other dimensions",
    ),
    "two tensors": (
        lambda: Net(lambda self, x: self.n(input=self.a(x)), **parts()),
        "'n' is called with more than a tensor",
    ),
    "not there": (lambda: Net(flat, **parts()).to("meta"), "its numbers are not there: device meta"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_and_why(name):
    build, reason = LEFT[name]
    model = build().eval()
    if not any(map(nn.parameter.is_lazy, model.parameters())) and name != "not there":
        trained(model, torch.float32)
    found = fold(model)
    (norm,) = found.left
    assert not found.folded
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.left[norm])
    assert type(found.model.get_submodule(norm)) is type(model.get_submodule(norm))
    assert str(found) == f"{norm}: left, {found.left[norm]}"


def test_a_number_that_the_dtype_cannot_hold():
    model = trained(Net(flat, **parts()), torch.float16)
    model.n.running_var.zero_()
    model.n.weight.data.fill_(3e4)
    model.a.weight.data.fill_(10.0)
    assert fold(model).left == {"n": "the weight of 'a' would not be finite in torch.float16"}
    model.n.running_mean[0] = math.nan
    assert fold(model.double()).left == {"n": "the bias of 'a' would not be finite in torch.float64"}


def test_modes():
    model = Net(flat, **parts())
    asked = "training mode: call model.eval() first"
    assert fold(model).left == {"n": asked}
    model.n.eval()
    assert fold(model).left == {"n": asked}  # the path of another mode may be another
    model.eval()
    model.n.train()
    assert fold(model).left == {"n": asked}
    assert fold(model.eval()).folded == {"a": "n"}


def test_the_path_of_evaluation_counts():
    model = trained(Net(lambda self, x: self.n(self.a(x) if self.training else self.b(x)), **parts()))
    found = fold(model)
    assert found.folded == {"b": "n"}
    assert same(model, found.model, image(2, 3, 5, 5))


def test_tied_weights_are_cut():
    model = Net(lambda self, x: self.b(self.n(self.a(x))), **parts())
    model.b.weight = model.a.weight
    trained(model)
    found = fold(model)
    assert found.folded == {"a": "n"}
    assert found.model.b.weight is not found.model.a.weight
    assert same(model, found.model, image(2, 3, 5, 5))


def test_a_normaliser_under_two_names_goes_from_both():
    model = Net(flat, **parts())
    model.again = model.n
    found = fold(trained(model))
    assert found.model.again is found.model.n
    assert isinstance(found.model.n, FoldedNorm)


def test_what_the_copy_keeps():
    model, seen = trained(Net(lambda self, x: flat(self, x).relu(), **parts()), torch.bfloat16), []
    model.a.weight.requires_grad_(False)
    model.a.to(memory_format=torch.channels_last)
    model.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    folded = fold(model).model
    assert not folded.training
    assert (folded.a.weight.requires_grad, folded.a.bias.requires_grad) == (False, True)
    assert folded.a.weight.dtype == folded.a.bias.dtype == torch.bfloat16
    assert folded.a.weight.is_contiguous(memory_format=torch.channels_last)
    folded(image(1, 3, 4, 4, dtype=torch.bfloat16))
    assert seen == [torch.bfloat16]


def test_a_folded_network_can_be_traced_saved_and_folded_again(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU())
    trained(model)
    once = fold(model)
    assert (once.folded, list(once.left)) == ({"0": "1"}, ["2"])
    twice = fold(once.model)
    assert twice.folded == {"0": "2"}
    x = image(2, 3, 6, 6)
    assert same(model, once.model, x)
    assert same(model, twice.model, x)
    assert same(model, torch.fx.symbolic_trace(twice.model), x)
    assert same(model, copy.deepcopy(twice.model), x)
    torch.save(twice.model, tmp_path / "model.pt")
    assert same(model, torch.load(tmp_path / "model.pt", weights_only=False), x)
    assert repr(twice.model[1]) == "FoldedNorm(BatchNorm2d into 0)"


def test_converted_networks():
    model = trained(resnet18(num_classes=5))
    x = image(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        found = fold(convert(model, to="unitization"))
        assert len(found.folded) == 20
        torch.testing.assert_close(found.model(x), expected, rtol=1e-11, atol=1e-11)


class NormAct(nn.BatchNorm2d):
    """As timm's `BatchNormAct2d`."""

    def __init__(self, size):
        super().__init__(size)
        self.drop, self.act = nn.Dropout(0.5), nn.Hardswish(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class NormActMore(NormAct):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("to", [None, "unitization", "sync_unitization", "synchronized"])
def test_a_normaliser_that_ends_in_an_activation_leaves_that(to, tmp_path):
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4), nn.Conv2d(4, 4, 1), nn.Identity(), NormAct(4)))
    x = image(2, 3, 6, 6)
    with torch.no_grad():
        expected = model(x)
    if to is not None:
        convert(model, to=to)
    found = fold(model)
    assert (found.folded, found.left) == ({"0": "1", "2": "4"}, {})
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), expected, rtol=1e-11, atol=1e-11)
    assert type(found.model[1].act) is nn.Hardswish
    assert not any(module.training for module in found.model.modules())
    assert same(model, torch.fx.symbolic_trace(found.model), x)
    assert same(model, torch.export.export(found.model, (x,)).module(), x)
    torch.save(found.model, tmp_path / "model.pt")
    assert same(model, torch.load(tmp_path / "model.pt", weights_only=False), x)
    assert repr(found.model[1]).startswith(f"FoldedNormAct(\n  {type(model[1]).__name__} into 0\n")
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(N, C, H, W\)"):
        found.model[1](image(2, 4))
    if to in ("unitization", "sync_unitization"):
        torch.nn.init.constant_(model[1].alpha, 0.5)
        assert "4 of 4 channels" in fold(model).left["1"]


def test_an_activation_between_is_not_an_identity():
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4), nn.BatchNorm2d(4)))
    once = fold(model)
    assert once.folded == {"0": "1"}
    assert "FoldedNormAct, no convolution" in fold(once.model).left["2"]
    assert fold(trained(nn.Sequential(nn.Conv2d(3, 4, 3), NormActMore(4)))).left == {
        "1": "NormActMore may do more than the class it derives from"
    }


def test_keep():
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    found = fold(model, keep=["1"])
    assert found[1:] == ({"2": "3"}, {"1": "as asked"})
    assert str(found) == "3: folded into 2\n1: left, as asked"
    with pytest.raises(ValueError, match=r"keep: expected names of normalisers, some of '1', '3', got \['2'\]"):
        fold(model, keep={"1", "2"})


def test_nothing_to_fold():
    found = fold(nn.Linear(2, 3).eval())
    assert found[1:] == ({}, {})
    assert fold(nn.BatchNorm1d(3).eval()).left[""].startswith("the model cannot be traced")


def test_errors():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got dict"):
        fold({})
    model = nn.Linear(2, 2)
    model.kept = model.weight * 2  # no leaf: PyTorch refuses to copy it
    with pytest.raises(ValueError, match=r"model: expected a module that copy.deepcopy can copy, got RuntimeError: "):
        fold(model)
