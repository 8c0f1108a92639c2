"""Networks: what they consist of, how they start, and that every method starts from the same weights."""

from __future__ import annotations

import inspect
import math
from functools import partial

import pytest
import torch
from torch import nn

from layershift.nn import Unitization1d, Unitization2d
from layershift.train.models import (
    MODELS,
    NormWithOptions,
    cifar_resnet,
    cnn11,
    group_norm,
    he_init,
    imagenet_resnet,
    make_norm,
    moments_mlp,
    small_cnn,
)


def kernels(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2}


@pytest.mark.parametrize("norm", [None, "batch", "unitization"])
def test_mlp_has_the_layers_of_the_paper(norm) -> None:
    model = moments_mlp(784, 10, norm=norm)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [100] * 10 + [8, 10]
    kinds = ["linear", "relu"] if norm is None else ["linear", "norm", "relu"]
    blocks = [*(f"block{i}" for i in range(1, 11)), "bottleneck"]
    names = [name for name, m in model.named_modules() if not list(m.children())]
    assert names == ["flatten", *(f"{block}.{kind}" for block in blocks for kind in kinds), "classifier"]


def test_parameter_counts() -> None:
    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    weights = 64 * 100 + 9 * 100 * 100 + 100 * 8
    head = 8 * 10 + 10
    assert count(moments_mlp()) == weights + 1008 + head
    assert count(moments_mlp(norm="batch")) == weights + 2 * 1008 + head  # scale and shift, no bias before them
    assert count(moments_mlp(norm="unitization")) == weights + 3 * 1008 + head  # and α
    convolutions = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert count(small_cnn()) == convolutions + 192 + 64 * 10 + 10
    assert count(small_cnn(norm="unitization")) == convolutions + 3 * 192 + 64 * 10 + 10


@pytest.mark.parametrize("network", [moments_mlp, small_cnn])
def test_one_seed_gives_every_method_the_same_weights(network) -> None:
    plain, batch, unit = (kernels(network(norm=norm, seed=3)) for norm in (None, "batch", "unitization"))
    assert plain.keys() == batch.keys() == unit.keys()
    for name in plain:
        assert torch.equal(plain[name], batch[name])
        assert torch.equal(plain[name], unit[name])
    assert not torch.equal(plain["classifier.weight"], kernels(network(seed=4))["classifier.weight"])


def test_unitization_starts_as_batch_normalization() -> None:
    x = torch.randn(64, 1, 8, 8)
    for network in (moments_mlp, small_cnn):
        torch.testing.assert_close(
            network(norm="unitization", seed=0)(x), network(norm="batch", seed=0)(x), rtol=1e-4, atol=1e-4
        )


def test_he_initialisation() -> None:
    conv = he_init(nn.Conv2d(64, 128, 3), seed=0)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert conv.bias.abs().max() == 0
    model = moments_mlp(width=1000, depth=4, seed=0)  # wide, so that the second moment after each ReLU is kept
    hidden = model[:5](torch.randn(500, 64))
    assert hidden.square().mean().item() == pytest.approx(1.0, rel=0.2)


def test_other_channels_and_sizes() -> None:
    assert small_cnn(3, 7, norm="batch")(torch.randn(2, 3, 20, 16)).shape == (2, 7)


LARGE = {"vgg16"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in MODELS])
def test_every_registered_network_is_built_from_sizes_and_a_seed(name) -> None:
    small = {"imagenet_resnet": {"depth": 50, "width": 4}, "cnn11": {"width_factor": 0.05}}.get(name, {})
    sizes = {"in_channels": 1, "in_features": 64, "num_classes": 7, "num_tokens": 50}
    known = inspect.signature(MODELS[name]).parameters
    given = {key: value for key, value in sizes.items() if key in known}
    first, second, other = (MODELS[name](**given, **small, seed=seed) for seed in (1, 1, 2))
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
    assert {"norm", "seed"} <= set(known)


@pytest.mark.parametrize("name", ["batch", "unitization", "group", "layer", "instance"])
def test_every_normaliser_fits_every_network_of_images_and_starts_from_the_same_weights(name) -> None:
    x = torch.randn(2, 3, 64, 64)
    for build in (small_cnn, cifar_resnet, partial(cnn11, width_factor=1 / 4), partial(imagenet_resnet, 50, width=16)):
        options = {"in_channels": 3, "num_classes": 5, "seed": 3}
        model, plain = build(**options, norm=name), build(**options, norm=None)
        assert model(x).isfinite().all()
        mine, theirs = kernels(model), kernels(plain)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("name", ["batch", "unitization", "group", "layer"])
def test_normalisers_of_dense_layers(name) -> None:
    outputs = moments_mlp(norm=name, seed=0)(torch.randn(16, 64))
    assert outputs.std(0).min() > 0


def test_normalisers_by_name_are_what_their_names_say() -> None:
    maps = torch.randn(6, 12, 5, 4, dtype=torch.float64)
    wanted = {
        "group": lambda x: (x.unflatten(1, (3, 4)), (2, 3, 4)),
        "layer": lambda x: (x, (1, 2, 3)),
        "instance": lambda x: (x, (2, 3)),
    }
    for name, parts in wanted.items():
        made = make_norm(name, 12, dimensions=2).double()
        grouped, axes = parts(maps)
        variance, mean = torch.var_mean(grouped, axes, correction=0, keepdim=True)
        torch.testing.assert_close(made(maps), ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(maps.shape))
        assert {p.shape for p in made.parameters()} == {torch.Size([12])}
    rows = torch.randn(6, 12)
    torch.testing.assert_close(make_norm("layer", 12, dimensions=1)(rows), nn.LayerNorm(12)(rows))


def test_norm_factory() -> None:
    assert make_norm(None, 4, dimensions=1) is None
    assert isinstance(make_norm("unitization", 4, dimensions=1), Unitization1d)
    assert isinstance(make_norm("unitization", 4, dimensions=2), Unitization2d)
    assert make_norm(partial(Unitization2d, divisor="elements"), 4, dimensions=2).divisor == "elements"
    for dimensions, kind in ((1, Unitization1d), (2, Unitization2d)):
        made = make_norm(NormWithOptions("unitization", {"divisor": "elements"}), 4, dimensions=dimensions)
        assert isinstance(made, kind)
        assert made.divisor == "elements"
    with pytest.raises(ValueError, match=r"norm: expected one of None, 'batch', .*'instance', got 'power'"):
        make_norm("power", 4, dimensions=1)
    with pytest.raises(ValueError, match="norm: expected one that needs no positions after a linear layer, got 'inst"):
        make_norm("instance", 4, dimensions=1)
    with pytest.raises(ValueError, match="norm: expected groups of more than one unit after a linear layer"):
        moments_mlp(norm=group_norm(channels_per_group=1))
    with pytest.raises(ValueError, match="depth: expected at least one layer, got 0"):
        moments_mlp(depth=0)
