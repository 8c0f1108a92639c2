"""NumPy's sorting stands in for PyTorch's, whatever is asked of the result."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from layershift.functional import sorting
from layershift.functional.sorting import ascending, ascending_order


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64]),
    strided=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_is_torch_sort(shape: list[int], dtype: torch.dtype, strided: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, shape, generator=generator).to(dtype)  # with ties
    if dtype.is_floating_point:
        x[torch.rand(shape, generator=generator) < 0.1] = torch.nan
        x[torch.rand(shape, generator=generator) < 0.1] = torch.inf
    if strided and x.dim() > 1:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    before, expected = x.clone(), x.sort(-1).values
    torch.testing.assert_close(ascending(x), expected, rtol=0, atol=0, equal_nan=True)
    values, order = ascending_order(x)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(x.gather(-1, order), expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(order.sort(-1).values, torch.arange(shape[-1]).expand(shape))
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


def test_rows_in_threads_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "_WORTH_THREADS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = torch.randn(5, 2, 100)
    assert torch.equal(ascending(x), x.sort(-1).values)
    assert torch.equal(ascending_order(x)[1], x.sort(-1).indices)
    assert torch.equal(ascending(x[0, 0]), x[0, 0].sort().values)  # one row, one thread


def test_numpy_sorts_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise nothing here would be faster than what it stands in for.
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.Tensor, "sort", refuse)
    x = torch.randn(3, 7)
    ascending(x)
    ascending_order(x.requires_grad_())[0].sum().backward()
    ascending(torch.nn.Parameter(x.detach()))


@pytest.mark.parametrize("function", [ascending, lambda x: ascending_order(x)[0]])
def test_gradients(function) -> None:
    x = torch.randn(3, 6, dtype=torch.float64).requires_grad_()
    assert gradcheck(function, x, check_forward_ad=True)
    assert gradgradcheck(function, x)


def test_forward_mode() -> None:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([30.0, 10.0, 20.0]))
        assert torch.equal(forward_ad.unpack_dual(ascending(x)).tangent, torch.tensor([10.0, 20.0, 30.0]))


def test_transforms_and_tracers() -> None:
    x = torch.randn(4, 9)
    assert torch.equal(torch.func.vmap(ascending)(x), x.sort(-1).values)
    slope = torch.func.grad(lambda y: (ascending(y) * torch.arange(9.0)).sum())(x[0])
    assert torch.equal(slope, x[0].argsort().argsort().float())
    with FakeTensorMode():
        assert ascending(torch.empty(4, 9)).shape == (4, 9)
    assert ascending(x.to("meta")).is_meta
    program = torch.export.export(_Ascending(), (x,))
    assert torch.equal(program.module()(2 - x), (2 - x).sort(-1).values)


class _Ascending(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ascending(x)
