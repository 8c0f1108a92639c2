"""The residual network for large images."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet50, resnet101, resnet152

from layershift.train.models import imagenet_resnet, weight_layers


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "other"), [(50, resnet50), (101, resnet101), (152, resnet152)])
def test_as_many_weights_as_the_post_activated_networks(depth, other) -> None:
    with torch.device("meta"):
        model, theirs = imagenet_resnet(depth), other()
    kernels = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert kernels == sum(p.numel() for p in theirs.parameters() if p.dim() > 1)
    assert count(model) == pytest.approx(count(theirs), rel=2e-3)  # normalisers stand elsewhere
    assert len(weight_layers(model)) == depth
    assert (depth, round(count(model) / 1e6, 1)) in {(50, 25.5), (101, 44.5), (152, 60.2)}


def test_stages_and_what_is_not_normalised() -> None:
    model = imagenet_resnet(50, width=4, num_classes=6)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("relu", "max_pool", "stage1", "stage2", "stage3", "stage4"):
        hook = lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])})  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 6)
    assert list(shapes.values()) == [(4, 32, 48), (4, 16, 24), (16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    names = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert not [name for name in names if "shortcut" in name or "last" in name]
    assert len(names) == 1 + 16 * 3 - 1  # one after the stem serves the first block
    assert [name for name, _ in imagenet_resnet(50, width=4, normalize_last=True).named_children()][-5:] == [
        "last_norm",
        "last_relu",
        "pool",
        "flatten",
        "classifier",
    ]


def test_the_last_activation_is_a_relu_of_the_sum() -> None:
    model = imagenet_resnet(50, width=4, num_classes=6, seed=0).eval()
    x = torch.randn(2, 3, 32, 32)
    features = model[: list(dict(model.named_children())).index("last_relu")](x)
    assert features.min() < 0
    torch.testing.assert_close(model(x), model.classifier(features.relu().mean((2, 3))))


def test_errors() -> None:
    with pytest.raises(ValueError, match="depth: expected one of 50, 101, 152, got 34"):
        imagenet_resnet(34)
    with pytest.raises(ValueError, match="width: expected at least one channel, got 0"):
        imagenet_resnet(width=0)
