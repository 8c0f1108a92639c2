"""Residual networks for small images: their shape, their shortcuts, and how those without a normaliser start."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from layershift.nn import ScalarBias, ScalarScale, fixup_factor, fixup_slow_parameters
from layershift.train.models import cifar_resnet, he_init, weight_layers
from layershift.train.models.resnet_blocks import PostActivationBlock, PreActivationBlock


def kernels(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2}


@pytest.mark.parametrize(
    ("depth", "preactivation", "published"),
    [(20, False, 0.27e6), (56, False, 0.85e6), (110, False, 1.7e6), (110, True, 1.7e6), (164, True, 1.7e6)],
)
def test_parameters_are_as_many_as_the_papers_say(depth, preactivation, published) -> None:
    model = cifar_resnet(depth, preactivation=preactivation)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize(("depth", "preactivation"), [(20, False), (20, True), (164, True)])
def test_as_many_layers_with_weights_as_the_name_says(depth, preactivation) -> None:
    names = weight_layers(cifar_resnet(depth, preactivation=preactivation))
    assert len(names) == depth
    assert (names[0], names[-1]) == ("conv", "classifier")


def test_stages_halve_the_map_and_double_the_channels() -> None:
    shapes = []
    for preactivation, last in ((False, 64), (True, 64)):
        model = cifar_resnet(20, preactivation=preactivation)
        for name in ("stage1", "stage2", "stage3"):
            model.get_submodule(name).register_forward_hook(lambda *a: shapes.append(tuple(a[2].shape[1:])))
        model(torch.randn(2, 3, 32, 32))
        assert shapes == [(16, 32, 32), (32, 16, 16), (last, 8, 8)]
        shapes.clear()


@pytest.mark.parametrize("preactivation", [False, True])
def test_a_block_without_weights_is_the_identity(preactivation) -> None:
    model = cifar_resnet(20, preactivation=preactivation, norm=None)
    block = model.get_submodule("stage1.1")
    for p in block.parameters():
        nn.init.zeros_(p)
    x = torch.rand(2, 16, 8, 8)  # not negative: the ReLU after the sum changes nothing
    assert torch.equal(block(x), x)


def test_a_padded_shortcut_subsamples_and_adds_zeros() -> None:
    model = cifar_resnet(20, preactivation=False, norm=None)
    block = model.get_submodule("stage2.0")
    for p in block.parameters():
        nn.init.zeros_(p)
    x = torch.rand(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, :16] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_a_projected_shortcut_of_a_preactivated_block_starts_from_the_activated_input() -> None:
    block = cifar_resnet(20, preactivation=True, norm=None, shortcut="projection").get_submodule("stage2.0")
    for p in block.branch.parameters():
        nn.init.zeros_(p)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(block(x), block.shortcut(x.relu()))


def test_every_normaliser_starts_from_the_same_weights() -> None:
    kinds = [kernels(cifar_resnet(20, preactivation=True, norm=norm, seed=3)) for norm in ("batch", "unitization")]
    assert kinds[0].keys() == kinds[1].keys()
    assert all(torch.equal(kinds[0][name], kinds[1][name]) for name in kinds[0])


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"depth: expected 6n \+ 2 with n ≥ 1, got 21"):
        cifar_resnet(21)
    with pytest.raises(ValueError, match=r"depth: expected 9n \+ 2 with n ≥ 1, got 170"):
        cifar_resnet(170, preactivation=True)
    with pytest.raises(ValueError, match="bottleneck: expected preactivation=True with it"):
        cifar_resnet(164, bottleneck=True)
    with pytest.raises(ValueError, match="shortcut: expected one of None, 'pad', 'projection', got 'A'"):
        cifar_resnet(20, shortcut="A")
    with pytest.raises(ValueError, match="init: expected one of 'he', 'fixup', got 'zero'"):
        cifar_resnet(20, init="zero")
    with pytest.raises(ValueError, match="norm: expected None with init='fixup', got batch"):
        cifar_resnet(20, init="fixup")


def test_pre_activation_activates_before_the_first_split_and_after_the_last_sum() -> None:
    model = cifar_resnet(20, preactivation=True, seed=0).eval()
    x = torch.randn(2, 3, 8, 8)
    active = model.relu(model.norm(model.conv(x)))
    first = model.stage1[0]
    torch.testing.assert_close(first(active), active + first.branch(active))
    features = model.stage3(model.stage2(model.stage1(active)))
    torch.testing.assert_close(model(x), model.classifier(model.last_norm(features).relu().mean((2, 3))))
    assert features.min() < 0  # so that the last activation is needed


@pytest.mark.parametrize("preactivation", [False, True])
def test_without_normalisers_none_is_left(preactivation) -> None:
    sizes = {p.dim() for p in cifar_resnet(20, norm=None, preactivation=preactivation).parameters()}
    names = [name for name, _ in cifar_resnet(20, norm=None, preactivation=preactivation).named_modules()]
    assert not [name for name in names if "norm" in name or "bias" in name]
    assert sizes == {1, 2, 4}


def test_the_paper_counts_layers_as_weight_layers_does() -> None:
    names = weight_layers(cifar_resnet(110, preactivation=True, norm=None))
    assert [names[i - 1] for i in (60, 69, 78, 87, 96, 105)] == [
        "stage2.11.branch.conv1",
        "stage2.15.branch.conv2",
        "stage3.2.branch.conv1",
        "stage3.6.branch.conv2",
        "stage3.11.branch.conv1",
        "stage3.15.branch.conv2",
    ]


FIXUP = [(20, {}), (20, {"preactivation": True}), (29, {"preactivation": True, "bottleneck": True})]


@pytest.mark.parametrize(("depth", "options"), FIXUP)
def test_fixup_branches_are_silent_and_the_others_are_scaled(depth, options) -> None:
    model = cifar_resnet(depth, norm=None, init="fixup", seed=1, **options)
    usual = kernels(he_init(cifar_resnet(depth, norm=None, **options), seed=1))
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, PostActivationBlock | PreActivationBlock)}
    layers = 3 if "bottleneck" in options else 2
    factor = fixup_factor(len(blocks), layers)
    for name, block in blocks.items():
        convolutions = [m for m in block.branch if isinstance(m, nn.Conv2d)]
        x = torch.randn(2, convolutions[0].in_channels, 8, 8)
        assert block.branch(x).abs().max() == 0
        assert len(convolutions) == layers
        for i, conv in enumerate(convolutions[:-1], start=1):
            assert torch.equal(conv.weight, usual[f"{name}.branch.conv{i}.weight"] * factor)
    assert torch.equal(model.conv.weight, usual["conv.weight"])
    assert model(torch.randn(2, 3, 16, 16)).abs().max() == 0


@pytest.mark.parametrize(("depth", "options"), FIXUP)
def test_fixup_puts_a_scalar_before_every_layer_and_one_in_every_branch(depth, options) -> None:
    model = cifar_resnet(depth, norm=None, init="fixup", **options)
    for block in (m for m in model.modules() if isinstance(m, PostActivationBlock | PreActivationBlock)):
        first = [] if isinstance(block, PostActivationBlock) else [*getattr(block.first, "children", list)()]
        layers = [*first, *block.branch]
        before = [a for a, b in pairwise(layers) if isinstance(b, nn.Conv2d | nn.ReLU)]
        assert len(before) >= 3
        assert all(isinstance(layer, ScalarBias) for layer in before)
        assert sum(isinstance(layer, ScalarScale) for layer in layers) == 1
        assert isinstance(block.branch[-1], ScalarBias if isinstance(block, PostActivationBlock) else ScalarScale)
    names = [name for name, _ in model.named_children()]
    assert names[:3] == ["conv", "bias", "relu"]
    assert names[-2:] == ["input_bias", "classifier"]
    assert not any(isinstance(m, nn.Conv2d) and m.bias is not None for m in model.modules())


def test_fixup_names_what_wants_smaller_steps() -> None:
    model = cifar_resnet(20, norm=None, init="fixup")
    slow, parameters = set(fixup_slow_parameters(model)), dict(model.named_parameters())
    assert {name for name, p in parameters.items() if p.dim() < 2} == slow
    assert sum(p.numel() for name, p in parameters.items() if name in slow) == 9 * 5 + 2 + 10


def change_of_one_step(model: nn.Module, rate: float = 0.01) -> float:
    """How far the outputs move in one step of gradient descent on them."""
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(16, 3, 16, 16, generator=generator), torch.randint(10, (16,), generator=generator)
    before = model(x)
    nn.functional.cross_entropy(before, y).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= rate * p.grad
    return (model(x) - before).detach().norm(dim=1).mean().item()


def test_a_step_changes_the_function_alike_whatever_the_depth() -> None:
    # The classifier's zeros hold back the first step's gradients, so give it the usual weights.
    def mean_change(init: str, depth: int) -> float:
        changes = []
        for seed in range(3):
            model = cifar_resnet(depth, norm=None, init=init, width=8, seed=seed)
            he_init(model.classifier, seed=seed + 1)
            changes.append(change_of_one_step(model))
        return sum(changes) / 3

    fixup = [mean_change("fixup", depth) for depth in (8, 32, 74)]
    assert max(fixup) < 2 * min(fixup)
    assert mean_change("he", 32) > 100 * mean_change("he", 8)


@pytest.mark.slow
def test_fixup_trains_a_deep_network_that_does_not_train_from_the_usual_weights() -> None:
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(digits.target)

    def accuracy(init: str) -> float:
        model = cifar_resnet(56, norm=None, init=init, width=8, in_channels=1, seed=0)
        slow, parameters = set(fixup_slow_parameters(model)), dict(model.named_parameters())
        groups = [
            {"params": [p for name, p in parameters.items() if name not in slow]},
            {"params": [parameters[name] for name in slow], "lr": 0.01},
        ]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            batch = torch.randint(1500, (64,), generator=generator)
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return model(x[1500:]).argmax(1).eq(y[1500:]).double().mean().item()

    assert accuracy("fixup") > 0.6
    assert accuracy("he") < 0.2
