"""Networks before and after conversion: what they compute, and what of their state is kept."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, vgg11_bn
from torchvision.ops import FrozenBatchNorm2d

import layershift as ls
from layershift.nn import (
    BatchNorm1d,
    BatchNorm2d,
    SyncBatchNorm,
    SyncUnitization,
    Unitization1d,
    Unitization2d,
    Unitization3d,
    convert,
)


def vgg_features(num_classes):
    return vgg11_bn(num_classes=num_classes, init_weights=False).features


def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)
    )


def used(model, *shape):
    """A model whose running statistics and parameters are not what they were at first."""
    for _ in range(2):
        model(torch.randn(*shape) + 1)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize(
    ("build", "size", "layers"), [(resnet18, 64, 20), (vgg_features, 32, 8)], ids=["resnet18", "vgg11_bn"]
)
def test_with_alpha_zero_real_networks_compute_what_they_did(build, size, layers):
    model = used(build(num_classes=7), 4, 3, size, size).double()
    x = torch.randn(4, 3, size, size, dtype=torch.float64)
    expected = model.eval()(x)
    converted = ls.convert(model, to="unitization")
    assert converted is model
    assert sum(type(m) is Unitization2d for m in model.modules()) == layers
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    torch.testing.assert_close(model(x), expected)
    model.train()
    model(x).sum().backward()
    assert all(m.alpha.grad is not None for m in model.modules() if isinstance(m, Unitization2d))
    back = convert(model.eval(), to="batch")
    assert sum(type(m) is nn.BatchNorm2d for m in back.modules()) == layers
    assert not any("alpha" in name for name in back.state_dict())


def test_state_is_kept_not_copied():
    model = used(net(), 4, 3, 6, 6).double()
    model[1].eval()
    model[1].weight.requires_grad_(False)
    old, state = list(model), copy.deepcopy(model.state_dict())
    old[1].eps, old[1].momentum = 0.125, None
    convert(model, to="unitization")
    new = model[1]
    assert isinstance(model[5], Unitization1d)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert getattr(new, name) is getattr(old[1], name)
    assert not new.weight.requires_grad
    assert (new.training, model[5].training) == (False, True)
    assert (new.eps, new.momentum) == (0.125, None)
    assert new.alpha.dtype == torch.float64
    kept = {key: value for key, value in model.state_dict().items() if "alpha" not in key}
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[key], state[key]) for key in state)


def test_hooks_are_kept_and_can_be_removed():
    model, seen = net(), []
    handle = model[1].register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    model[1].register_full_backward_hook(lambda *_: seen.append("backward"))
    convert(model, to="unitization")
    model(torch.randn(4, 3, 6, 6)).sum().backward()
    assert seen == ["Unitization2d", "backward"]
    handle.remove()
    model(torch.randn(4, 3, 6, 6))
    assert seen == ["Unitization2d", "backward"]


def test_a_shared_layer_stays_shared():
    shared = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared, "c": shared})
    convert(model, to="unitization")
    assert model["a"][0] is model["b"] is model["c"]
    assert type(model["b"]) is Unitization1d


def test_the_root_itself():
    assert type(convert(nn.BatchNorm3d(2), to="unitization")) is Unitization3d
    assert type(convert(BatchNorm2d(2), to="unitization")) is Unitization2d


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"momentum": 0.3}], ids=str)
def test_every_kind_of_batch_norm(options):
    layer = nn.BatchNorm1d(4, **options)
    x = torch.randn(6, 4)
    expected = copy.deepcopy(layer)(x)
    new = convert(layer, to="unitization")
    torch.testing.assert_close(new(x), expected)
    assert (new.affine, new.track_running_stats) == (layer.affine, layer.track_running_stats)
    torch.testing.assert_close(convert(new.eval(), to="batch")(x), new(x))


def test_options_pass_through():
    options = {
        "alpha_init": 0.5,
        "divisor": "elements",
        "over": "position",
        "form": "bounded",
        "alpha_constraint": "clamp",
    }
    layer = convert(net(), to="unitization", **options)[1]
    assert {key: getattr(layer, key) for key in options} == options
    assert layer.alpha.tolist() == [0.5] * 4
    sync = convert(layer, to="sync_unitization")
    assert type(sync) is SyncUnitization
    assert {key: getattr(sync, key) for key in options} == options
    assert sync.alpha is layer.alpha


def test_synchronised_layers_stay_synchronised():
    group = object()
    model = nn.Sequential(nn.SyncBatchNorm(3, process_group=group), nn.BatchNorm2d(3))
    convert(model, to="unitization")
    assert [type(m) for m in model] == [SyncUnitization, Unitization2d]
    assert model[0].process_group is group
    convert(model, to="sync_unitization", process_group=None)
    assert [type(m) for m in model] == [SyncUnitization, SyncUnitization]
    assert [type(m) for m in convert(model, to="batch")] == [nn.SyncBatchNorm, nn.SyncBatchNorm]
    assert model[0].process_group is group


def test_all_that_depends_on_the_batch_can_be_synchronised():
    model = nn.Sequential(nn.BatchNorm1d(4), Unitization1d(4, divisor=2.0), nn.GroupNorm(2, 4), BatchNorm1d(4))
    before = dict(model.state_dict())
    convert(model, to="synchronized")
    assert [type(layer) for layer in model] == [SyncBatchNorm, SyncUnitization, nn.GroupNorm, SyncBatchNorm]
    assert model[1].divisor == 2.0
    assert all(before[key].data_ptr() == value.data_ptr() for key, value in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(nn.Linear(2, 2), to="synchronized")  # nothing to do is no reason to warn
    with pytest.raises(ValueError, match=r"options: expected process_group only .*got \['alpha_init'\]"):
        convert(model, to="synchronized", alpha_init=1.0)


def test_going_back_is_refused_where_it_would_change_the_result():
    model = convert(net(), to="unitization")
    with torch.no_grad():
        model[1].alpha[2] = 0.5
    with pytest.raises(ValueError, match="alpha of layer '1': expected 0 in every channel"):
        convert(model, to="batch")
    assert type(model[5]) is Unitization1d  # nothing has been replaced


def test_other_norms_are_left_alone():
    model = nn.Sequential(
        nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.LayerNorm(3), nn.InstanceNorm2d(2), FrozenBatchNorm2d(2)
    )
    others = list(model)[1:]
    convert(model, to="unitization")
    assert all(a is b for a, b in zip(list(model)[1:], others, strict=True))


def test_derived_classes_are_left_alone_with_a_warning():
    class WithActivation(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    model = nn.Sequential(WithActivation(3), nn.BatchNorm2d(3))
    with pytest.warns(UserWarning, match="layer '0' is left as it is: WithActivation may do more than BatchNorm"):
        convert(model, to="unitization")
    assert [type(m) for m in model] == [WithActivation, Unitization2d]


def test_lazy_layers_need_their_first_input():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    with pytest.raises(
        ValueError, match="model: expected layers that have seen their first input, got LazyBatchNorm1d"
    ):
        convert(model, to="unitization")
    model(torch.randn(4, 3))
    assert type(convert(model, to="unitization")[0]) is Unitization1d


def test_nothing_to_convert():
    with pytest.warns(UserWarning, match=r"no layer to convert to 'unitization' in Sequential; it has \['LayerNorm'\]"):
        convert(nn.Sequential(nn.LayerNorm(3)), to="unitization")
    model = convert(net(), to="unitization")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(model, to="unitization")  # twice is as good as once


def test_errors():
    with pytest.raises(
        ValueError, match="to: expected one of 'unitization', 'sync_unitization', 'batch', 'synchronized', got 'x'"
    ):
        convert(net(), to="x")
    with pytest.raises(TypeError, match=r"options: expected some of alpha_init, .* got {'alpha'}"):
        convert(net(), to="unitization", alpha=1.0)
    with pytest.raises(ValueError, match="options: expected none when converting to 'batch'"):
        convert(net(), to="batch", alpha_init=1.0)
