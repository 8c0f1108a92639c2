"""Triton's kernels for exact PER against the closed form in double precision; `test_triton_per.py` runs this file."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from layershift.functional import per, triton_per, triton_support
from layershift.functional.triton_per import per_gradient, per_rows

ERRORS = {torch.float32: 1e-6, torch.float64: 1e-11}  # what `per` promises
ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}
SMALLEST = {torch.float16: 2.0**-24, torch.bfloat16: 1e-40, torch.float32: 1e-40, torch.float64: 0.0}


@pytest.fixture(autouse=True)
def kernels_on(device, monkeypatch) -> None:
    monkeypatch.setattr(triton_support, "ON_CPU", device.type == "cpu")


def check(x: Tensor, grad: Tensor | None = None) -> None:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    grad = torch.rand(len(x), dtype=wide, device=x.device) + 0.5 if grad is None else grad
    values, factors = per_rows(x, wide)
    found = per_gradient(x, grad, factors)
    exact = x.detach().double().requires_grad_()
    expected = per(exact)
    expected.backward(grad.double())
    assert values.dtype == factors.dtype == wide
    torch.testing.assert_close(values.double(), expected.detach(), rtol=ERRORS[wide], atol=0)
    assert (found.dtype, found.stride()) == (x.dtype, torch.empty_like(x).stride())
    tolerance = {"rtol": ERRORS[wide] + ROUNDING[x.dtype], "atol": SMALLEST[x.dtype]}
    torch.testing.assert_close(found.double(), exact.grad, **tolerance)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_they_agree_with_the_closed_form(device, dtype) -> None:
    for n, d in [(1, 1), (3, 2), (5, 7), (70, 31), (3, 64), (2, 5000)]:
        x = (2 * torch.randn(n, d, device=device)).to(dtype)
        check(x)
        check(x.T.contiguous().T)
        check(torch.stack([x, x], 2)[..., 0])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(1, 700), st.floats(-12, 6), st.sampled_from([torch.float32, torch.float64]))
def test_they_agree_for_any_shape_and_norm(device, n, d, power, dtype) -> None:
    torch.manual_seed(n + d)
    x = torch.randn(n, d, dtype=dtype, device=device)
    check(x / x.norm(dim=1, keepdim=True) * 10**power)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_long_samples_are_shared_among_programs(device, dtype) -> None:
    check(torch.randn(1, 150_001, device=device).to(dtype))
    check(torch.randn(3, 40_000, device=device).to(dtype))


def test_a_sample_of_nothing_has_the_smallest_value_and_no_gradient(device) -> None:
    x = torch.zeros(2, 64, device=device)
    values, factors = per_rows(x, torch.float32)
    torch.testing.assert_close(values, per(x))
    assert not per_gradient(x, torch.ones(2, device=device), factors).any()


def test_no_sample_no_value(device) -> None:
    check(torch.zeros(0, 5, device=device))


def test_an_expanded_gradient_is_read_as_it_is(device) -> None:
    check(torch.randn(6, 9, device=device), torch.full((), 1 / 6, device=device).expand(6))


def test_a_gradient_too_small_for_half_precision_before_it_is_multiplied(device) -> None:
    """factor·grad is near 1e-9, below the smallest half; times 6e4 it is not."""
    check(torch.full((1, 4096), 6e4, dtype=torch.float16, device=device), torch.full((1,), 1.0, device=device))
    check(torch.full((3, 64), 1e3, dtype=torch.float16, device=device), torch.full((3,), 1e-6, device=device))


def test_nan_stays_in_its_sample(device) -> None:
    x = torch.randn(3, 50, device=device)
    x[1, 7] = torch.nan
    values, factors = per_rows(x, torch.float32)
    assert values.isnan().tolist() == factors.isnan().tolist() == [False, True, False]


def test_offsets_of_64_bits_give_the_same(device, monkeypatch) -> None:
    monkeypatch.setattr(triton_per, "big", lambda _: True)
    check(torch.randn(3, 50, device=device))
    check(torch.randn(1, 80_000, device=device))
