"""Penalties: what a sample is, how values are reduced, and what the paper's equations say."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from layershift.functional import per, sliced_wasserstein_normal
from layershift.nn import PER, ActivationPenalty, SlicedWasserstein


def test_what_a_sample_is() -> None:
    x = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(PER()(x), per(x.reshape(4, 90)).mean())
    torch.testing.assert_close(PER(sample="position")(x), per(x.permute(0, 2, 3, 1).reshape(-1, 3)).mean())
    torch.testing.assert_close(PER(sample="step")(x), per(x.reshape(-1, 6)).mean())
    torch.testing.assert_close(PER()(x.to(memory_format=torch.channels_last)), PER()(x))


def test_mean_is_equation_6_and_sum_is_algorithm_1() -> None:
    x = torch.randn(8, 5, requires_grad=True)
    (mean,) = torch.autograd.grad(PER()(x), x)
    (total,) = torch.autograd.grad(PER(reduction="sum")(x), x)
    torch.testing.assert_close(total, 8 * mean)


@pytest.mark.parametrize("sample", ["image", "position"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_joint_is_separate(sample, reduction) -> None:
    xs = [torch.randn(4, 3, 5, 5, requires_grad=True), torch.randn(4, 8, 2, 2, requires_grad=True)]
    penalty = PER(sample=sample, reduction=reduction)
    joint, separate = penalty.joint(xs), torch.stack([penalty(x) for x in xs])
    torch.testing.assert_close(joint, separate)
    for a, b in zip(torch.autograd.grad(joint.sum(), xs), torch.autograd.grad(separate.sum(), xs), strict=True):
        torch.testing.assert_close(a, b)


def test_projections_repeat_with_a_generator() -> None:
    x = torch.randn(4, 9)
    a, b = (PER("projections", 16, generator=torch.Generator().manual_seed(1))(x) for _ in range(2))
    assert a == b


def test_activation_penalties_are_means_of_powers() -> None:
    x = torch.randn(4, 3, 2, requires_grad=True)
    torch.testing.assert_close(ActivationPenalty(1)(x), x.abs().mean())
    torch.testing.assert_close(ActivationPenalty(2)(x), x.square().mean())
    torch.testing.assert_close(ActivationPenalty(3, reduction="sum")(x), x.abs().pow(3).sum() / 4)
    torch.testing.assert_close(ActivationPenalty(1, reduction="total")(x), x.abs().sum())
    assert ActivationPenalty(2)(x.half() * 1000).isfinite()


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_is_the_mean_power_over_directions(p) -> None:
    x = 2 * torch.randn(64, 6, dtype=torch.float64)
    value = SlicedWasserstein(p=p, num_projections=32, generator=torch.Generator().manual_seed(5))(x)
    slices = sliced_wasserstein_normal(x, p, 32, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(value, slices.pow(p).mean())


@pytest.mark.parametrize("penalty", [PER(), PER("projections"), ActivationPenalty(1), SlicedWasserstein()], ids=repr)
def test_every_penalty_is_a_float32_scalar_under_autocast_and_survives_copies(penalty) -> None:
    x = torch.randn(16, 12, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = penalty(x)
    assert value.dtype == torch.float32
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.isfinite().all()
    assert repr(pickle.loads(pickle.dumps(penalty))) == repr(copy.deepcopy(penalty)) == repr(penalty)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="sample: expected one of 'image', 'position', 'step', got 'pixel'"):
        PER(sample="pixel")
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', got 'none'"):
        PER(reduction="none")
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        PER()(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"x: expected activations of shape \(N, C, …\), got shape \(3,\)"):
        PER()(torch.zeros(3))
    with pytest.raises(TypeError, match="x: expected a floating point tensor"):
        ActivationPenalty(1)(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="p: expected a positive number, got 0"):
        ActivationPenalty(0)
