"""Fixup's rules, on networks small enough to follow by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layershift.nn import ScalarBias, ScalarScale, fixup_factor, fixup_init, fixup_slow_parameters


@given(st.integers(1, 5000), st.integers(2, 6))
def test_factor(branches, depth) -> None:
    factor = fixup_factor(branches, depth)
    # What a step adds to all branches together does not depend on how many there are.
    assert branches * factor ** (2 * depth - 2) == pytest.approx(1)
    assert 0 < factor <= 1


def branch(layers: int, width: int = 6) -> nn.Sequential:
    return nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())][:-1])


def test_last_layers_are_zero_and_the_others_smaller() -> None:
    branches, classifier = [branch(3) for _ in range(16)], nn.Linear(6, 2)
    before = [[m.weight.clone() for m in b if isinstance(m, nn.Linear)] for b in branches]
    fixup_init(branches, classifier)
    x = torch.randn(5, 6)
    for b, weights in zip(branches, before, strict=True):
        assert torch.equal(b(x), torch.zeros(5, 6))
        for i, weight in enumerate(weights):
            torch.testing.assert_close(b[2 * i].weight, weight * (0.5 if i < 2 else 0.0))
    assert classifier(x).abs().max() == 0


def test_convolutions_of_any_rank() -> None:
    for conv in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        b = nn.Sequential(conv(2, 2, 1), conv(2, 2, 1))
        first = b[0].weight.clone()
        fixup_init([b] * 4, nn.Linear(2, 2))
        assert b[1].weight.abs().max() == 0
        torch.testing.assert_close(b[0].weight, first / 2**4)  # four times the same branch: four times the factor


def test_signals_keep_their_size_with_depth_where_the_usual_weights_make_them_explode() -> None:
    x = torch.randn(64, 100)
    for count in (10, 100):
        usual = [nn.Sequential(nn.Linear(100, 100, bias=False), nn.ReLU()) for _ in range(count)]
        signal = x
        for b in usual:
            nn.init.kaiming_normal_(b[0].weight, nonlinearity="relu")
            signal = signal + b(signal)
        assert math.log2((signal.square().mean() / x.square().mean()).item()) > count / 2
        branches = [branch(2, 100) for _ in range(count)]
        fixup_init(branches, nn.Linear(100, 10))
        signal = x
        for b in branches:
            signal = signal + b(signal)
        assert torch.equal(signal, x)


def test_scalars_learn() -> None:
    layer = nn.Sequential(ScalarBias(), ScalarScale())
    x = torch.randn(4, 3)
    assert torch.equal(layer(x), x)
    layer(x).sum().backward()
    assert layer[0].bias.grad.tolist() == [12.0]
    torch.testing.assert_close(layer[1].scale.grad, x.sum().reshape(1))


def test_slow_parameters_are_biases_and_multipliers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), ScalarScale(), nn.Linear(4, 2, bias=False))
    assert fixup_slow_parameters(model) == ["0.bias", "1.bias", "2.scale"]


def test_errors() -> None:
    with pytest.raises(ValueError, match="branches: expected at least one residual branch, got none"):
        fixup_init([], nn.Linear(2, 2))
    with pytest.raises(ValueError, match="depth: expected at least two layers in a branch, got 1"):
        fixup_init([nn.Linear(2, 2)], nn.Linear(2, 2))
    with pytest.raises(ValueError, match="num_branches: expected at least one, got 0"):
        fixup_factor(0, 2)
