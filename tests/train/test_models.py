"""Networks: what they consist of, how they start, and that every method starts from the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from layershift.nn import Unitization1d, Unitization2d
from layershift.train.models import cifar_resnet, he_init, make_norm, moments_mlp, small_cnn


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


def test_norm_factory() -> None:
    assert make_norm(None, 4, dimensions=1) is None
    assert isinstance(make_norm("unitization", 4, dimensions=1), Unitization1d)
    assert isinstance(make_norm("unitization", 4, dimensions=2), Unitization2d)
    with pytest.raises(ValueError, match="norm: expected one of None, 'batch', 'unitization', got 'layer'"):
        make_norm("layer", 4, dimensions=1)
    with pytest.raises(ValueError, match="depth: expected at least one layer, got 0"):
        moments_mlp(depth=0)


class TestResNet:
    @pytest.mark.parametrize(
        ("depth", "preactivation", "published"),
        [(20, False, 0.27e6), (56, False, 0.85e6), (110, False, 1.7e6), (110, True, 1.7e6), (164, True, 1.7e6)],
    )
    def test_parameters_are_as_many_as_the_papers_say(self, depth, preactivation, published) -> None:
        model = cifar_resnet(depth, preactivation=preactivation)
        count = sum(p.numel() for p in model.parameters())
        assert count == pytest.approx(published, rel=0.03)

    @pytest.mark.parametrize(("depth", "preactivation"), [(20, False), (20, True), (164, True)])
    def test_as_many_layers_with_weights_as_the_name_says(self, depth, preactivation) -> None:
        model = cifar_resnet(depth, preactivation=preactivation)
        weighted = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
        assert len(weighted) == depth

    def test_stages_halve_the_map_and_double_the_channels(self) -> None:
        shapes = []
        for preactivation, last in ((False, 64), (True, 64)):
            model = cifar_resnet(20, preactivation=preactivation)
            for name in ("stage1", "stage2", "stage3"):
                model.get_submodule(name).register_forward_hook(lambda *a: shapes.append(tuple(a[2].shape[1:])))
            model(torch.randn(2, 3, 32, 32))
            assert shapes == [(16, 32, 32), (32, 16, 16), (last, 8, 8)]
            shapes.clear()

    @pytest.mark.parametrize("preactivation", [False, True])
    def test_a_block_without_weights_is_the_identity(self, preactivation) -> None:
        model = cifar_resnet(20, preactivation=preactivation, norm=None)
        block = model.get_submodule("stage1.1")
        for p in block.parameters():
            nn.init.zeros_(p)
        x = torch.rand(2, 16, 8, 8)  # not negative: the ReLU after the sum changes nothing
        assert torch.equal(block(x), x)

    def test_a_padded_shortcut_subsamples_and_adds_zeros(self) -> None:
        model = cifar_resnet(20, preactivation=False, norm=None)
        block = model.get_submodule("stage2.0")
        for p in block.parameters():
            nn.init.zeros_(p)
        x = torch.rand(2, 16, 8, 8)
        expected = torch.zeros(2, 32, 4, 4)
        expected[:, :16] = x[:, :, ::2, ::2]
        assert torch.equal(block(x), expected)

    def test_a_projected_shortcut_of_a_preactivated_block_starts_from_the_activated_input(self) -> None:
        block = cifar_resnet(20, preactivation=True, norm=None, shortcut="projection").get_submodule("stage2.0")
        for p in block.branch.parameters():
            nn.init.zeros_(p)
        x = torch.randn(2, 16, 8, 8)
        torch.testing.assert_close(block(x), block.shortcut(x.relu()))

    def test_every_normaliser_starts_from_the_same_weights(self) -> None:
        kinds = [kernels(cifar_resnet(20, preactivation=True, norm=norm, seed=3)) for norm in ("batch", "unitization")]
        assert kinds[0].keys() == kinds[1].keys()
        assert all(torch.equal(kinds[0][name], kinds[1][name]) for name in kinds[0])

    def test_errors_say_what_was_expected(self) -> None:
        with pytest.raises(ValueError, match=r"depth: expected 6n \+ 2 with n ≥ 1, got 21"):
            cifar_resnet(21)
        with pytest.raises(ValueError, match=r"depth: expected 9n \+ 2 with n ≥ 1, got 170"):
            cifar_resnet(170, preactivation=True)
        with pytest.raises(ValueError, match="bottleneck: expected preactivation=True with it"):
            cifar_resnet(164, bottleneck=True)
        with pytest.raises(ValueError, match="shortcut: expected one of None, 'pad', 'projection', got 'A'"):
            cifar_resnet(20, shortcut="A")
