"""torchvision's networks: theirs to the last number, normalisers, weights from files, and what cannot go together."""

from __future__ import annotations

import pytest
import torch
import torchvision.models
from torch import nn

from layershift.nn import Unitization2d
from layershift.train.components import build_model
from layershift.train.config import Config
from layershift.train.models import GROUPINGS, MODELS, NormWithOptions, resnet18, resnet50, squeezenet1_1, vgg16

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def their_resnet() -> nn.Module:
    torch.manual_seed(5)
    model = torchvision.models.resnet18(num_classes=10)
    model(torch.randn(8, 3, 32, 32))  # so that running statistics are not those of the start
    return model.eval()


@pytest.fixture
def weights(their_resnet, tmp_path):
    torch.save(their_resnet.state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_seed_starts_as_torchvision_does_and_leaves_the_global_state(name) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = torchvision.models.get_model(name, num_classes=7)
    before = torch.get_rng_state()
    ours = MODELS[name](7, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    state = theirs.state_dict()
    assert state.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())


def test_sizes_of_both_ends() -> None:
    assert resnet50(5, in_channels=1, seed=0)(X[:, :1]).shape == (2, 5)
    assert squeezenet1_1(80, in_channels=2, seed=0)(X[:, :2]).shape == (2, 80)


def test_vgg_with_and_without_normaliser() -> None:
    with torch.device("meta"):  # half a gigabyte each
        plain, batch = vgg16(20), vgg16(20, norm="batch")
        theirs = torchvision.models.vgg16(num_classes=20)
    assert plain.state_dict().keys() == theirs.state_dict().keys()
    assert plain.classifier[6].out_features == 20
    assert sum(isinstance(m, nn.BatchNorm2d) for m in batch.modules()) == 13


def test_squeezenet_is_rectified_at_its_end_only_as_imagenets() -> None:
    whole = squeezenet1_1(seed=0).eval()
    theirs = torchvision.models.squeezenet1_1().eval()
    theirs.load_state_dict(whole.state_dict())
    assert torch.equal(whole(X), theirs(X))
    assert whole(X).min() >= 0
    small = squeezenet1_1(30, seed=0).eval()
    theirs = torchvision.models.squeezenet1_1(num_classes=30).eval()
    theirs.load_state_dict(small.state_dict())
    assert small(X).min() < 0, "a label that is absent needs a negative logit"
    hidden = theirs.classifier[1](theirs.features(X))
    torch.testing.assert_close(small(X), hidden.mean((2, 3)))


@pytest.mark.parametrize("norm", ["group", "layer", "instance", GROUPINGS["channels_4"]])
def test_other_normalisers_take_the_place_and_the_weights_stay(norm) -> None:
    model, plain = resnet18(4, norm=norm, seed=1), resnet18(4, seed=1)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    kinds = [(a, b) for a, b in zip(model.modules(), plain.modules(), strict=True) if isinstance(b, nn.Conv2d)]
    assert all(torch.equal(a.weight, b.weight) for a, b in kinds)
    assert model(X).isfinite().all()


def test_weights_from_a_file(weights, their_resnet) -> None:
    for norm in (None, "batch"):
        assert torch.equal(resnet18(10, weights=weights, norm=norm).eval()(X), their_resnet(X))
    unit = resnet18(10, weights=weights, norm=NormWithOptions("unitization", {"alpha_init": 0.0})).eval()
    assert sum(isinstance(m, Unitization2d) for m in unit.modules()) == 20
    torch.testing.assert_close(unit(X), their_resnet(X), rtol=1e-4, atol=1e-4)


def test_a_classifier_of_another_size_is_new_and_the_rest_is_the_files(weights, their_resnet) -> None:
    model = resnet18(3, weights=weights, seed=2).eval()
    fresh, state = resnet18(3, seed=2).state_dict(), their_resnet.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if key.startswith("fc.") else state[key])
    small = squeezenet1_1(5, seed=0).state_dict()
    torch.save(small, weights)
    other = squeezenet1_1(9, weights=weights, seed=1)
    assert torch.equal(other.features[0].weight, small["features.0.weight"])
    assert other(X).shape == (2, 9)


def test_files_of_before_batches_were_counted(weights) -> None:
    state = {k: v for k, v in torch.load(weights).items() if not k.endswith("num_batches_tracked")}
    torch.save(state, weights)
    assert resnet18(10, weights=weights)(X).shape == (2, 10)


def test_weights_that_do_not_fit(weights, tmp_path) -> None:
    with pytest.raises(ValueError, match="weights: expected those of squeezenet1_1, got others: 52 tensors lack, 122"):
        squeezenet1_1(weights=weights)
    state = torch.load(weights)
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, weights)
    with pytest.raises(ValueError, match=r"1 have another shape, such as conv1.weight"):
        resnet18(10, weights=weights)
    torch.save({"state_dict": state}, weights)
    with pytest.raises(ValueError, match="weights: expected a dictionary of tensors by name, got a dict of other"):
        resnet18(10, weights=weights)
    torch.save(nn.Linear(1, 1), weights)
    with pytest.raises(ValueError, match=r"weights: .*resnet18.pth is not a file of a state dictionary \("):
        resnet18(10, weights=weights)
    weights.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"weights: .*resnet18.pth is not a file of a state dictionary \("):
        resnet18(10, weights=weights)
    with pytest.raises(ValueError, match=r"weights: expected a file of a state dictionary, or 'DEFAULT', got .*none"):
        resnet18(10, weights=tmp_path / "none")


def test_a_download_that_fails_names_the_way_out(monkeypatch) -> None:
    def offline(*args: object, **options: object) -> None:
        assert options["weights_only"]
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"could not download https://.*resnet18.*\(no route to host\); name a file"):
        resnet18(weights="DEFAULT")


def test_options_that_do_not_go_together(weights) -> None:
    with pytest.raises(ValueError, match=r"norm: expected None \(method vanilla\): SqueezeNet has no .* got batch"):
        squeezenet1_1(norm="batch")
    with pytest.raises(ValueError, match="norm: expected None, 'batch' or 'unitization' with weights, got group"):
        resnet18(10, weights=weights, norm="group")
    with pytest.raises(ValueError, match="in_channels: expected 3 with weights, got 1"):
        resnet18(10, weights=weights, in_channels=1)
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        resnet18(0)


def test_networks_by_configuration(weights) -> None:
    sizes = {"in_channels": 3, "in_features": 3 * 64 * 64, "num_classes": 10}
    config = Config(model="resnet18", method="unitization", model_options={"weights": str(weights)})
    model = build_model(config, sizes)
    assert isinstance(model.bn1, Unitization2d)
    assert torch.equal(model.fc.weight, torch.load(weights)["fc.weight"])
