"""Evaluation at several scales: the crops, the fully-convolutional form, and unitization's divisor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layershift.nn import Unitization2d
from layershift.train.models import (
    crop_scores,
    dense_scores,
    fully_convolutional,
    imagenet_resnet,
    multi_scale_crops,
    small_cnn,
    training_divisors,
)
from layershift.train.models.multiscale import resize_shorter_side


def trained(norm: str, **options: object) -> nn.Sequential:
    """A network whose running statistics and α are not those of the start."""
    model = small_cnn(3, 5, norm=norm, widths=(8, 8), strides=(1, 2), seed=0, **options)
    for module in model.modules():
        if isinstance(module, Unitization2d):
            nn.init.constant_(module.alpha, 0.5)
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8))
    return model.eval()


def test_there_are_42_crops_at_the_scales_of_the_paper() -> None:
    image = torch.rand(1, 3, 250, 333)
    crops = list(multi_scale_crops(image))
    assert len(crops) == 2 + 4 * 10
    assert {crop.shape for crop in crops} == {torch.Size([1, 3, 224, 224])}
    small = resize_shorter_side(image, 224)
    assert small.shape[-2:] == (224, 298)
    assert torch.equal(crops[0], small[..., 37 : 37 + 224])


def test_ten_crops_are_the_standard_ones() -> None:
    from torchvision.transforms.functional import ten_crop

    image = torch.rand(3, 12, 16)
    ours = list(multi_scale_crops(image[None], scales=(12,), crop=8))
    for wanted in ten_crop(image, [8, 8]):
        assert sum(torch.equal(crop[0], wanted) for crop in ours) == 1


def test_crop_scores_are_a_mean_of_probabilities() -> None:
    model = trained("batch")
    images = torch.randn(2, 3, 9, 12)
    scores = crop_scores(model, images, scales=(8, 10), crop=8)
    wanted = torch.stack([model(crop).softmax(1) for crop in multi_scale_crops(images, scales=(8, 10), crop=8)])
    assert len(wanted) == 12
    torch.testing.assert_close(scores, wanted.mean(0))
    torch.testing.assert_close(scores.sum(1), torch.ones(2))
    assert not scores.requires_grad


@pytest.mark.parametrize("norm", ["batch", "unitization", None])
def test_at_the_training_size_the_fully_convolutional_form_is_the_network(norm) -> None:
    model = trained(norm)
    x = torch.randn(4, 3, 8, 8)
    dense = fully_convolutional(model, train_size=8)
    assert not dense.training
    assert dense(x).shape == (4, 5, 1, 1)
    torch.testing.assert_close(dense(x)[..., 0, 0], model(x))


def test_each_position_scores_the_window_that_it_sees() -> None:
    model = trained("batch")
    x = torch.randn(2, 3, 12, 16)
    features = model[: list(dict(model.named_children())).index("pool")](x)
    scores = fully_convolutional(model, train_size=8)(x)
    assert scores.shape == (2, 5, 3, 5)
    torch.testing.assert_close(scores[:, :, 1, 2], model.classifier(features[:, :, 1:5, 2:6].mean((2, 3))))


def test_fully_convolutional_shares_the_weights_and_leaves_the_network_alone() -> None:
    model = trained("batch").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dense = fully_convolutional(model, train_size=8)
    assert dense.training
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert dense.classifier.weight.data_ptr() == model.classifier.weight.data_ptr()
    with pytest.raises(ValueError, match="model: expected pool → flatten → classifier at its end"):
        fully_convolutional(nn.Sequential(nn.Conv2d(3, 4, 3)), train_size=8)


def test_dense_scores_average_positions_then_scales() -> None:
    model = trained("batch")
    images = torch.randn(2, 3, 9, 12)
    scores = dense_scores(model, images, scales=(8, 12), train_size=8)
    dense = fully_convolutional(model, train_size=8)
    sizes = [(8, 11), (12, 16)]
    scaled = [F.interpolate(images, size, mode="bilinear", antialias=True) for size in sizes]
    wanted = torch.stack([dense(x).mean((2, 3)).softmax(1) for x in scaled]).mean(0)
    torch.testing.assert_close(scores, wanted)


def test_unitization_keeps_the_divisor_of_training() -> None:
    model = trained("unitization")
    layers = [m for m in model.modules() if isinstance(m, Unitization2d)]
    small, large = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 16, 16)
    at_training, free = model(small), model(large)
    statistics = [layer.running_mean.clone() for layer in layers]
    with training_divisors(model, train_size=8):
        assert [layer.divisor for layer in layers] == [64.0, 16.0]
        torch.testing.assert_close(model(small), at_training)
        fixed = model(large)
    assert [layer.divisor for layer in layers] == ["paper", "paper"]
    assert (fixed - free).abs().max() > 1e-3
    assert not model.training
    assert all(torch.equal(a, layer.running_mean) for a, layer in zip(statistics, layers, strict=True))
    assert not any(layer._forward_hooks for layer in layers)
    assert not torch.allclose(
        dense_scores(model, large, scales=(16,), train_size=8), dense_scores(model, large, scales=(16,), train_size=16)
    )


def test_the_divisor_is_the_n_of_line_9() -> None:
    layer = Unitization2d(3, alpha_init=1.0).eval()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad(), training_divisors(model, train_size=4):
        y = model(x)
    hat = model[0](x) / (1 + layer.eps) ** 0.5
    s = hat.square().sum((1, 2, 3), keepdim=True) / (16 * 36)
    torch.testing.assert_close(y, hat / (s + layer.eps).sqrt())


def test_divisors_come_back_after_an_error_and_others_are_left_alone() -> None:
    layers = Unitization2d(4, divisor="elements"), Unitization2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *layers)
    seen = []

    def fail() -> None:
        with training_divisors(model, train_size=(4, 5)):
            seen.extend(layer.divisor for layer in layers)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert seen == ["elements", 20.0]
    assert [layer.divisor for layer in layers] == ["elements", "paper"]


def test_a_large_network_at_several_scales() -> None:
    model = imagenet_resnet(50, norm="unitization", width=2, num_classes=4, seed=0).eval()
    image = torch.randn(1, 3, 70, 50)
    crops = crop_scores(model, image, scales=(32, 40), crop=32)
    dense = dense_scores(model, image, scales=(32, 40), train_size=32)
    for scores in (crops, dense):
        assert scores.shape == (1, 4)
        torch.testing.assert_close(scores.sum(1), torch.ones(1))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"scales: expected none smaller than the crop, 16, got \(8, 16\)"):
        list(multi_scale_crops(torch.zeros(1, 3, 20, 20), scales=(8, 16), crop=16))
    with pytest.raises(ValueError, match=r"images: expected a tensor of shape \(N, C, H, W\)"):
        resize_shorter_side(torch.zeros(3, 20, 20), 8)
