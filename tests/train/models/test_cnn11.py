"""The 11-layer network: its table, and the numbers of parameters that the papers state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layershift.nn import ScalarBias, fixup_slow_parameters
from layershift.train.models import cnn11, weight_layers


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def activations(model: nn.Module, size: int = 32) -> list[tuple[int, ...]]:
    shapes = []
    hooks = [
        module.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
        for name, module in model.named_modules()
        if name.endswith("activation")
    ]
    model.eval()(torch.randn(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return shapes


def test_layers_are_those_of_the_table() -> None:
    model = cnn11(num_classes=100)
    table = [(m.out_channels, m.kernel_size[0]) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert table == [
        (192, 5),
        *[(192, 1), (240, 3)],
        *[(240, 1), (260, 2)],
        *[(260, 1), (280, 2)],
        *[(280, 1), (300, 2)],
        (300, 1),
    ]
    assert len(weight_layers(model)) == 11
    assert model.classifier.out_features == 100
    order = [name for name, _ in model.named_children() if not name.startswith("block")]
    assert order == [
        *["max_pool1", "max_pool2", "dropout2", "max_pool3", "dropout3", "max_pool4", "dropout4"],
        *["max_pool5", "dropout5", "dropout6", "pool", "flatten", "classifier"],
    ]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [s[1] for s in activations(model)] == [32, 16, 16, 8, 8, 4, 4, 2, 2, 1]


def test_parameters_that_batch_normalisation_and_vcl_add_are_those_that_the_paper_states() -> None:
    plain = cnn11()
    # A scale and a shift by channel, less the biases that the convolutions lose: 2.5K.
    assert count(cnn11(norm="batch")) - count(plain) == 2_544
    # VCL's β, one for each unit, that is channel and position: 350K.
    units = sum(torch.Size(shape).numel() for shape in activations(plain))
    assert units == 350_460


def test_tiny_imagenet_doubles_every_layer_and_averages_the_positions_that_are_left() -> None:
    model = cnn11(num_classes=200, width_factor=2).eval()
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)][:3] == [384, 384, 480]
    narrow = cnn11(num_classes=5, width_factor=0.1, seed=0).eval()
    x = torch.randn(2, 3, 64, 64)
    maps = narrow[: list(dict(narrow.named_children())).index("pool")](x)
    assert maps.shape[2:] == (2, 2)
    scores = torch.einsum("nchw,kc->nkhw", maps, narrow.classifier.weight).mean((2, 3)) + narrow.classifier.bias
    torch.testing.assert_close(narrow(x), scores)


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU), ("elu", nn.ELU)])
def test_activation_and_its_scalar(name, kind) -> None:
    model = cnn11(activation=name, width_factor=0.1)
    assert sum(isinstance(m, kind) for m in model.modules()) == 10
    assert sum(isinstance(m, ScalarBias) for m in model.modules()) == (0 if name == "elu" else 10)
    bare = cnn11(activation=name, width_factor=0.1, scalar_bias=False)
    assert count(model) - count(bare) == (0 if name == "elu" else 10)
    assert len(fixup_slow_parameters(model)) == 11 + (0 if name == "elu" else 10)


def test_activations_start_from_the_same_weights() -> None:
    models = [cnn11(activation=name, width_factor=0.1, seed=4) for name in ("relu", "leaky_relu", "elu")]
    for parameters in zip(*([p for p in m.parameters() if p.dim() > 1] for m in models), strict=True):
        assert torch.equal(parameters[0], parameters[1])
        assert torch.equal(parameters[0], parameters[2])


@pytest.mark.parametrize("size", [8, 28, 33])
def test_other_sizes(size) -> None:
    assert cnn11(1, 3, width_factor=0.05)(torch.randn(2, 1, size, size + 3)).shape == (2, 3)


def test_dropout_can_be_left_out() -> None:
    model = cnn11(width_factor=0.05, dropout=False).train()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), model(x))


def test_errors() -> None:
    with pytest.raises(ValueError, match="activation: expected one of 'relu', 'leaky_relu', 'elu', got 'tanh'"):
        cnn11(activation="tanh")
    with pytest.raises(ValueError, match="width_factor: expected a positive number, got 0"):
        cnn11(width_factor=0)
