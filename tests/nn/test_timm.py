"""Sixty networks of timm, converted to unitization: the same outputs, a step of training, and a checkpoint.

Some of timm's families have PyTorch's batch normalisation, some `BatchNormAct2d`, batch normalisation and activation in
one class, some both.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layershift.nn import Unitization1d, Unitization2d, convert, fold

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.slow

# Name and side of the image. Some networks are made for an image's size, some for one size only.
MODELS = {
    "convmixer_768_32": 28,
    "cpubone_nano": 64,
    "darknet17": 64,
    "densenet121": 64,
    "dla34": 64,
    "dpn48b": 64,
    "ecaresnet26t": 64,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "efficientnet_b0": 64,
    "efficientvim_m1": 64,
    "efficientvit_b0": 64,
    "efficientvit_m0": 224,
    "ese_vovnet19b_slim_dw": 64,
    "fasternet_t0": 64,
    "fastvit_sa12": 64,
    "fbnetc_100": 64,
    "gcresnext26ts": 64,
    "gernet_s": 64,
    "ghostnet_050": 64,
    "ghostnetv2_100": 64,
    "hardcorenas_a": 64,
    "hgnet_tiny": 64,
    "hgnetv2_b0": 64,
    "hrnet_w18_small": 64,
    "iformer_t": 64,
    "inception_next_atto": 64,
    "lcnet_050": 64,
    "legacy_seresnet18": 64,
    "legacy_xception": 64,
    "levit_128s": 224,
    "lowformer_b0": 64,
    "mixnet_s": 64,
    "mnasnet_small": 64,
    "mobilenet_edgetpu_v2_xs": 64,
    "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small": 64,
    "mobilevit_xxs": 64,
    "mobilevitv2_050": 64,
    "regnetx_002": 64,
    "regnety_002": 64,
    "repghostnet_050": 64,
    "repvgg_a0": 64,
    "repvit_m0_9": 64,
    "res2next50": 64,
    "resnest14d": 64,
    "resnet10t": 64,
    "resnet18": 64,
    "resnetblur18": 64,
    "rexnet_100": 64,
    "seresnet18": 64,
    "shvit_s1": 64,
    "skresnet18": 64,
    "spnasnet_100": 64,
    "starnet_s050": 64,
    "swiftformer_xs": 224,
    "tf_efficientnetv2_b0": 64,
    "tiny_vit_5m_224": 64,
    "tinynet_e": 64,
    "visformer_tiny": 64,
    "xcit_nano_12_p8_224": 64,
}
MADE_FOR_A_SIZE = {"visformer_tiny", "efficientvit_m0"}


def test_there_are_sixty() -> None:
    assert len(MODELS) >= 60
    assert set(MODELS) <= set(timm.list_models())


def network(name: str) -> nn.Module:
    """The network, with running statistics as training might leave them."""
    torch.manual_seed(0)
    options = {"img_size": MODELS[name]} if name in MADE_FOR_A_SIZE else {}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=3, **options)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model


def logits(output: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else torch.stack(list(output)).mean(0)


@pytest.mark.parametrize("name", MODELS)
def test_converted_run_trained_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = network(name).eval()
    fresh = copy.deepcopy(model)
    norms = [key for key, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    names = model.state_dict().keys()
    parameters = {key: p.data_ptr() for key, p in model.named_parameters()}
    x = torch.randn(2, 3, MODELS[name], MODELS[name])
    with torch.no_grad():
        expected = logits(model(x))

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* is left as it is")
        converted, fresh = (convert(m, to="unitization") for m in (model, fresh))
    kept = {key: p.data_ptr() for key, p in converted.named_parameters() if key in parameters}
    assert kept == parameters
    assert norms
    assert all(isinstance(converted.get_submodule(key), Unitization1d | Unitization2d) for key in norms)
    assert converted.state_dict().keys() == names | {f"{key}.alpha" for key in norms}
    with torch.no_grad():
        found = logits(converted(x))
    assert torch.isfinite(expected).all()
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())

    converted.train()
    optimizer = torch.optim.SGD(converted.parameters(), lr=1e-3)
    nn.functional.cross_entropy(logits(converted(x)), torch.tensor([0, 2])).backward()
    alphas = {key: converted.get_submodule(key).alpha for key in norms}
    assert all(alpha.grad is not None and torch.isfinite(alpha.grad).all() for alpha in alphas.values())
    optimizer.step()
    assert any(bool((alpha != 0).any()) for alpha in alphas.values())

    torch.save(converted.state_dict(), tmp_path / "model.pt")
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(logits(fresh.eval()(x)), logits(converted.eval()(x)))


@pytest.mark.parametrize("name", ["lcnet_050", "mobilenetv3_small_050", "regnety_002", "resnet10t"])
def test_folded_as_it_is_and_after_conversion_there_and_back(name: str) -> None:
    model = network(name).eval()
    state, kinds = model.state_dict(), [type(m) for m in model.modules()]
    x = torch.randn(2, 3, MODELS[name], MODELS[name])
    with torch.no_grad():
        expected = model(x)
        plain, converted = fold(model), fold(convert(model, to="unitization"))
        assert plain.folded == converted.folded
        assert plain.left == converted.left == {}
        for found in (plain.model(x), converted.model(x)):
            assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert [type(m) for m in convert(model, to="batch").modules()] == kinds
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
