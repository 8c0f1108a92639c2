"""Networks before and after conversion: what they compute, and what of their state is kept."""

from __future__ import annotations

import copy
import pickle
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

    message = "layer '0' is left as it is: WithActivation may do more than the class it derives from"
    model = nn.Sequential(WithActivation(3), nn.BatchNorm2d(3))
    with pytest.warns(UserWarning, match=message) as caught:
        convert(model, to="unitization")
    assert [type(m) for m in model] == [WithActivation, Unitization2d]
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:no layer to convert")
def test_derived_classes_of_every_kind_of_source():
    class OfSync(nn.SyncBatchNorm):
        pass

    class OfOurs(Unitization2d):
        pass

    for layer, to in ((OfSync(2), "unitization"), (OfOurs(2), "synchronized"), (OfOurs(2), "batch")):
        with pytest.warns(UserWarning, match=f"layer '0' is left as it is: {type(layer).__name__} may do more"):
            assert convert(nn.Sequential(layer), to=to)[0] is layer


def test_a_layer_whose_forward_has_been_replaced():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[0].forward = lambda x: x + 1
    with pytest.warns(UserWarning, match="layer '0' is left as it is: its forward has been replaced"):
        convert(model, to="unitization")
    assert [type(m) for m in model] == [nn.BatchNorm2d, Unitization2d]


class NormAct(nn.BatchNorm2d):
    """As timm's `BatchNormAct2d`; what is wrong with it can be chosen, and its arguments are its own."""

    def __init__(self, wrong=None, *, size=4, drop=None, act=None):
        super().__init__(size)
        self.drop, self.act = drop or nn.Dropout(0.5), act or nn.SiLU(inplace=True)
        self.wrong = wrong

    def forward(self, x):
        if self.wrong == "raises":
            raise RuntimeError("no")
        y = super().forward(x)
        if self.wrong == "order":
            return self.drop(self.act(y))
        if self.wrong == "more":
            return self.act(self.drop(y)) * 2
        if self.wrong == "in training" and self.training:
            return self.act(self.drop(y)) * 2
        if self.wrong == "statistics" and self.training:
            self.running_mean.mul_(0.9)
        if self.wrong == "shape":
            return self.act(self.drop(y)).flatten()
        return self.act(self.drop(y))


class WithArgument(NormAct):
    def forward(self, x, scale=1.0):
        return super().forward(x) * scale


class WithPart(NormAct):
    def __init__(self):
        super().__init__()
        self.scale = ls.nn.ScalarScale()


WRONG = [NormAct(wrong) for wrong in ("raises", "order", "more", "in training", "statistics", "shape")]
WRONG += [WithArgument(), WithPart()]


@pytest.mark.filterwarnings("ignore:no layer to convert")
@pytest.mark.parametrize("layer", WRONG, ids=lambda layer: layer.wrong or type(layer).__name__)
def test_what_only_looks_like_normaliser_dropout_and_activation_is_left_alone(layer):
    if layer.wrong == "order":  # which matters only where the two do not commute
        layer.drop, layer.act = nn.Dropout(0.5), nn.Sigmoid()
    with pytest.warns(UserWarning, match=rf"layer '0' is left as it is: {type(layer).__name__} may do more"):
        assert convert(nn.Sequential(layer), to="unitization")[0] is layer


def timms(kind="BatchNormAct2d", **options):
    """A layer of timm, with statistics and parameters as training might leave them."""
    layers = pytest.importorskip("timm.layers")
    layer = layers.BatchNormAct2d(4, **options)
    if kind == "SyncBatchNormAct":
        layer = layers.convert_sync_batchnorm(layer)
    assert type(layer).__name__ == kind
    return used(layer, 6, 4, 5, 3)


ACTIVATED = [
    ("BatchNormAct2d", {}),
    ("BatchNormAct2d", {"act_layer": nn.SiLU, "drop_layer": nn.Dropout}),
    ("BatchNormAct2d", {"act_layer": nn.PReLU, "act_kwargs": {"num_parameters": 4}, "inplace": None}),
    ("BatchNormAct2d", {"apply_act": False, "momentum": None}),
    ("BatchNormAct2d", {"affine": False, "eps": 0.5}),
    ("BatchNormAct2d", {"track_running_stats": False}),
    ("SyncBatchNormAct", {"act_layer": nn.GELU, "inplace": None}),
]


@pytest.mark.parametrize("to", ["unitization", "sync_unitization", "synchronized"])
@pytest.mark.parametrize(("kind", "options"), ACTIVATED, ids=str)
def test_normaliser_and_activation_of_timm(kind, options, to):
    if options.get("inplace", 1) is None:
        options = {key: value for key, value in options.items() if key != "inplace"}
    layer = timms(kind, **options).double()
    layer.note = "kept"
    twin, parts = copy.deepcopy(layer), dict(layer.named_children())
    new = convert(layer, to=to)
    assert not isinstance(new, nn.modules.batchnorm._BatchNorm)
    assert dict(new.named_children()) == parts
    assert new.note == "kept"
    assert new.state_dict().keys() - twin.state_dict().keys() == ({"alpha"} if to != "synchronized" else set())
    x, seen = torch.randn(6, 4, 5, 3, dtype=torch.float64) + 1, []
    weights = torch.randn(x.shape, dtype=torch.float64)
    for module in (twin.train(), new.train()):
        torch.manual_seed(3)  # of the dropout
        given = x.clone().requires_grad_()
        output = module(given)
        (weights * output).sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if name != "alpha"}
        seen.append((output, given.grad, gradients, dict(module.named_buffers()), module.eval()(x)))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-9, atol=1e-9)
    assert len(seen[0][2]) == len(list(twin.parameters()))

    state = timms(kind, **options).state_dict()
    assert new.load_state_dict(state, strict=False).unexpected_keys == []
    twin.load_state_dict(state)
    torch.testing.assert_close(new(x), twin(x), rtol=1e-9, atol=1e-9)
    if to == "synchronized":
        twin.load_state_dict(new.state_dict())
        return
    back = convert(copy.deepcopy(new), to="batch")
    torch.testing.assert_close(back(x), twin(x), rtol=1e-12, atol=1e-12)
    synchronised = "Sync" in kind or to == "sync_unitization"
    assert type(back).__name__ == ("SyncBatchNormAct" if synchronised else "BatchNormAct2d")
    assert type(back) is type(twin) or to == "sync_unitization"
    twin.load_state_dict(back.state_dict())
    with torch.no_grad():
        new.alpha[0] = 0.5
    with pytest.raises(ValueError, match="alpha of layer '': expected 0 in every channel"):
        convert(new, to="batch")


def test_a_class_of_ones_own_that_ends_in_an_activation():
    model, ran = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct()), []
    handles = [
        model[1].act.register_forward_hook(lambda *_: ran.append("act")),
        model[1].register_forward_hook(lambda *_: ran.append("layer")),
    ]
    state = torch.random.get_rng_state()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    convert(model, to="unitization", divisor="elements")
    assert ran == []
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert repr(model[1]).startswith("UnitizationAct2d(\n  4, eps=1e-05, ")
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    assert ran == ["act", "layer"]
    assert model[1].alpha.grad is not None
    for handle in handles:
        handle.remove()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model[1])))
    assert (copied.divisor, copied.origin) == ("elements", NormAct)
    back = convert(copied, to="batch")
    assert (type(back), back.wrong) == (NormAct, None)  # though its constructor takes other arguments
    assert not {"alpha", "divisor", "origin"} & vars(back).keys()


def test_a_layer_with_activation_becomes_synchronised_and_keeps_its_alpha():
    layer = convert(NormAct(), to="unitization", alpha_init=0.5, over="position")
    sync = convert(layer, to="synchronized")
    assert (type(sync).__name__, sync.over, sync.origin) == ("SyncUnitizationAct", "position", NormAct)
    assert sync.alpha is layer.alpha
    assert sync.act is layer.act
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(sync, to="sync_unitization") is sync
        assert convert(layer, to="unitization") is layer
        assert type(convert(convert(NormAct(), to="synchronized"), to="unitization")).__name__ == "SyncUnitizationAct"


def test_a_layer_with_activation_without_numbers():
    with torch.device("meta"):
        new = convert(NormAct(), to="unitization")
    assert type(new).__name__ == "UnitizationAct2d"
    assert {t.device.type for t in (*new.parameters(), *new.buffers())} == {"meta"}


def test_frozen_layers_of_timm_stay():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(layers.freeze_batch_norm_2d(timms()), nn.BatchNorm2d(4))
    frozen = model[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(model, to="unitization")[0] is frozen


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
