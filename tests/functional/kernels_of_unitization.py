"""Triton's kernels for unitization against its rule in double precision; `test_triton_unitize.py` runs this file."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layershift.functional import triton_support, triton_unitize, unitize
from layershift.functional.unitize import unitization_rows


@pytest.fixture(autouse=True)
def kernels_on(device, monkeypatch) -> None:
    monkeypatch.setattr(triton_support, "ON_CPU", device.type == "cpu")


def by_rule(x: Tensor, *parameters: Tensor | None, **options) -> tuple:
    """In PyTorch's operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_support, "available", lambda _: False)
        patch.setattr(triton_unitize, "available", lambda _: False)
        return unitization_rows(x, *parameters, **options)


def by_kernels(x: Tensor, *parameters: Tensor | None, form: str = "practical", divisor="paper") -> tuple:
    rules = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unitize, "normalize_rows", lambda _x, rule, *_, **__: rules.append(rule))
        by_rule(x, *parameters, form=form, divisor=divisor)
    size = x[0, 0].numel()
    total = unitize._norm_divisor(divisor, x.shape[1], size)
    assert triton_unitize.serves(x)
    return triton_unitize.unitize_rows(
        x, rules[0], *parameters, eps=1e-5, factor=size / total, bounded=form == "bounded"
    )


def passed(function, tensors: list[Tensor | None], dy: Tensor, dtype: torch.dtype, **options) -> list[Tensor]:
    """Output, statistics and gradients; parameters stay in single precision or better."""
    wide = torch.promote_types(dtype, torch.float32)
    x, *parameters = tensors
    leaves = [x.detach().to(dtype).clone(memory_format=torch.preserve_format).requires_grad_()]
    leaves += [None if p is None else p.detach().to(wide).clone().requires_grad_() for p in parameters]
    normalized = function(*leaves, **options)
    normalized.output.backward(dy.to(dtype))
    assert normalized.size == x.numel() // x.shape[1]
    assert normalized.output.dtype == leaves[0].grad.dtype == dtype
    assert normalized.output.stride() == leaves[0].grad.stride() == leaves[0].stride()
    assert not normalized.mean.requires_grad
    found = [normalized.output, normalized.mean, normalized.variance, *(t.grad for t in leaves if t is not None)]
    return [t.detach().double() for t in found]


def example(shape, device, *, mean: float = 3.0, affine: bool = True, channels_last: bool = False):
    x = 2 * torch.randn(shape, device=device) + mean
    x = x + torch.randn(shape[:2], device=device).reshape(*shape[:2], *(1,) * (len(shape) - 2))
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    alpha = torch.rand(shape[1], device=device)
    others = list(torch.randn(2, shape[1], device=device)) if affine else [None, None]
    return [x, alpha, *others], torch.randn(shape, device=device)


def agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("form", ["practical", "bounded"])
@pytest.mark.parametrize(("divisor", "affine"), [("paper", True), ("elements", False), (3.0, True)])
def test_they_agree_with_the_rule(device, form, divisor, affine) -> None:
    tensors, dy = example((3, 5, 7, 7), device, affine=affine)
    options = {"form": form, "divisor": divisor}
    expected = passed(by_rule, tensors, dy, torch.float64, **options)
    agree(passed(by_kernels, tensors, dy, torch.float32, **options), expected, 1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 9), (2, 33, 6), (66, 2, 2), (1, 1, 3, 5, 2), (2, 1030, 2)])
def test_they_agree_for_every_shape(device, shape) -> None:
    tensors, dy = example(shape, device)
    expected = passed(by_rule, tensors, dy, torch.float64)
    agree(passed(by_kernels, tensors, dy, torch.float32), expected, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_they_agree_in_channels_last_and_half_precision(device, dtype, tolerance) -> None:
    tensors, dy = example((3, 5, 6, 4), device, channels_last=True)
    tensors[0], dy = tensors[0].to(dtype), dy.to(dtype)
    expected = passed(by_rule, tensors, dy, torch.float64)
    agree(passed(by_kernels, tensors, dy, dtype), expected, tolerance)


def test_nothing_cancels_when_the_mean_is_large(device) -> None:
    tensors, dy = example((4, 3, 8, 8), device, mean=1e4)
    expected = passed(by_rule, tensors, dy, torch.float64)
    agree(passed(by_kernels, tensors, dy, torch.float32), expected, 1e-5)


def test_without_alpha_it_is_batch_normalisation(device) -> None:
    tensors, dy = example((4, 3, 5), device)
    tensors[1] = torch.zeros_like(tensors[1])
    found = passed(by_kernels, tensors, dy, torch.float32)[0]
    expected = torch.nn.functional.batch_norm(tensors[0], None, None, tensors[2], tensors[3], training=True)
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-5)


def test_a_gradient_has_a_gradient(device) -> None:
    tensors, dy = example((2, 3, 4), device)

    def twice(function, dtype) -> list[Tensor]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in tensors]
        (first,) = torch.autograd.grad((function(*leaves).output * dy.to(dtype)).sum(), leaves[0], create_graph=True)
        return [g.double() for g in torch.autograd.grad(first.square().sum(), leaves[:3])]

    agree(twice(by_kernels, torch.float32), twice(by_rule, torch.float64), 1e-4)


def test_parameters_alone_get_their_gradients(device) -> None:
    tensors, dy = example((2, 3, 4), device)
    alpha = tensors[1].clone().requires_grad_()
    by_kernels(tensors[0], alpha, *tensors[2:]).output.backward(dy)
    expected = passed(by_rule, tensors, dy, torch.float64)[4]
    agree([alpha.grad.double()], [expected], 1e-5)


def test_double_precision_is_left_to_the_rule(device) -> None:
    assert not triton_unitize.serves(torch.zeros(2, 3, 4, dtype=torch.float64, device=device))
