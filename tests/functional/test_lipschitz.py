"""Norms of convolutions are never underestimated, and not by much overestimated."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d

from layershift.functional import convolution_norm_bound, linear_norm


def norm(weight: torch.Tensor, stride: int, size: int) -> float:
    """The norm of the operator's matrix."""
    basis = torch.eye(weight.shape[1] * size**2, dtype=torch.float64).view(-1, weight.shape[1], size, size)
    return float(torch.linalg.matrix_norm(conv2d(basis, weight, stride=stride, padding=1).flatten(1), 2))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_is_bounded_tightly(stride, kernel) -> None:
    for _ in range(5):
        weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
        bound, seen = float(convolution_norm_bound(weight, stride=stride)), norm(weight, stride, 12)
        assert seen * (1 - 1e-12) <= bound < 1.3 * seen
        counted = float(convolution_norm_bound(weight, stride=stride, tight=False))
        assert seen * (1 - 1e-12) <= counted < (kernel + 1) * seen


def test_smooth_kernels_reach_the_bound_but_for_the_grid() -> None:
    weight = torch.ones(1, 1, 3, 3)  # norm 9 on an infinite image, at frequency 0
    assert 9 <= float(convolution_norm_bound(weight)) <= 9 * 1.04


def test_bounds_are_batched() -> None:
    weight = torch.randn(2, 5, 4, 3, 3, 3)
    bounds = convolution_norm_bound(weight, stride=2)
    assert bounds.shape == (2, 5)
    torch.testing.assert_close(bounds[1, 2], convolution_norm_bound(weight[1, 2], stride=2))
    torch.testing.assert_close(linear_norm(weight[..., 0])[1, 2, 1], linear_norm(weight[1, 2, 1, ..., 0]))


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"weight: expected square kernels of shape \(…, O, I, k, k\)"):
        convolution_norm_bound(torch.zeros(2, 2, 3, 1))
    with pytest.raises(ValueError, match="stride: expected a stride of 1 or more, got 0"):
        convolution_norm_bound(torch.zeros(1, 1, 3, 3), stride=0)
    with pytest.raises(TypeError, match="weight: expected a floating point tensor"):
        linear_norm(torch.zeros(2, 2).long())
