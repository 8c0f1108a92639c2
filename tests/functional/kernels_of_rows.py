"""Triton's kernels for rows against sums in double precision.

`test_triton_rows.py` runs this file in a process of its own: in Triton's interpreter, which has to be switched on
before Triton is imported, and where there is a GPU on that (`--device cuda`).
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from layershift.functional import triton_rows, triton_support
from layershift.functional.triton_rows import apply_rows, available, combine_rows, row_moments, row_sums

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FORMATS = ("contiguous", "channels last", "every second", "other order")
# Half a unit in the last place; the interpreter cuts bfloat16 off where a GPU rounds.
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}
SHAPES = [(2, 3, 1, 1), (1, 70, 3, 11), (0, 3, 4), (1, 1, 13), (3, 2, 3, 5, 2), (1, 2, 60, 75)]


@pytest.fixture(autouse=True)
def kernels_on(device, monkeypatch) -> None:
    monkeypatch.setattr(triton_support, "ON_CPU", device.type == "cpu")


def laid_out(x: Tensor, how: str) -> Tensor:
    """The same numbers elsewhere in memory."""
    if how == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == "every second":
        return torch.stack([x, x], -1)[..., 0]
    if how == "other order" and x.dim() > 3:  # of positions: no single distance leads from one to the next
        return x.transpose(2, -1).contiguous().transpose(2, -1)
    return x.contiguous()


def numbers(shape, dtype, device, *, mean: float = 1.0, how: str = "contiguous") -> Tensor:
    return laid_out((torch.randn(shape, device=device) + mean).to(dtype), how)


def wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def spread(table: Tensor, x: Tensor) -> Tensor:
    return table.double().reshape(*table.shape, *(1,) * (x.dim() - 2))


def sums(x: Tensor) -> Tensor:
    return x.flatten(2).sum(2)


def check_all(x: Tensor, dy: Tensor, tables: list[Tensor], pivot: Tensor | None) -> None:
    """Every kernel against its formula in double precision, errors in units of what rounding does to the largest."""
    eps, size = EPS[wide(x)], x.shape[2:].numel()
    used, mean, square = row_moments(x, pivot)
    assert all(t.dtype == wide(x) for t in (used, mean, square))
    assert mean.shape == square.shape == x.shape[:2]
    exact = x.double()
    if pivot is None:
        expected = sums(exact) / size
        torch.testing.assert_close(used.double(), expected, rtol=4 * eps, atol=4 * eps * float(exact.abs().max()))
    else:
        assert used is pivot
    centred = exact - spread(used, x)
    rms = sums(centred.square()).div(size).sqrt()
    assert ((mean - sums(centred) / size).abs() <= 4 * eps * rms.amax(1, keepdim=True) + 1e-30).all()
    torch.testing.assert_close(square.double(), rms.square(), rtol=8 * eps, atol=1e-30)

    scale, shift, third = tables
    y = apply_rows(x, used, scale, shift)
    exact_y = spread(scale, x) * centred + spread(shift, x)
    close(y, exact_y, x)
    total, product = row_sums(dy, x, used)
    assert total.dtype == product.dtype == wide(x)
    exact_dy = dy.double()
    for found, of in ((total, exact_dy), (product, exact_dy * centred)):
        assert ((found - sums(of)).abs() <= 4 * eps * (sums(of.abs()) + 1e-30)).all()
    dx = combine_rows(dy, x, used, scale, third, shift)
    close(dx, spread(scale, x) * exact_dy + spread(third, x) * centred + spread(shift, x), x)


def close(found: Tensor, expected: Tensor, x: Tensor) -> None:
    assert found.dtype == x.dtype
    assert found.stride() == torch.empty_like(x).stride()
    bound = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected, rtol=EPS[x.dtype], atol=8 * EPS[wide(x)] * bound + 1e-7)


@pytest.mark.parametrize(
    ("dtype", "how"), [(torch.float32, how) for how in FORMATS] + [(d, how) for d in DTYPES[1:] for how in FORMATS[:2]]
)
def test_they_agree_with_double_precision(device, dtype, how) -> None:
    for shape in SHAPES if dtype == torch.float32 else SHAPES[1:3]:
        x, dy = numbers(shape, dtype, device, how=how), numbers(shape, dtype, device, mean=0.0)
        tables = list(torch.randn(3, *shape[:2], dtype=wide(x), device=device))
        if x.numel():
            check_all(x, dy, tables, None)
        check_all(x, laid_out(dy, how), [tables[0], tables[1][:1], tables[2]], tables[2][:1] + 1)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_they_agree_for_any_shape(device, data) -> None:
    positions = data.draw(st.lists(st.sampled_from([1, 2, 3, 7, 16, 31, 97]), min_size=1, max_size=3))
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 70)), *positions)
    if torch.Size(shape).numel() > 20_000:
        shape = (1, min(shape[1], 3), *positions[:2])
    dtype = data.draw(st.sampled_from(DTYPES))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    how = data.draw(st.sampled_from(FORMATS))
    x = numbers(shape, dtype, device, how=how)
    dy = numbers(shape, dtype, device, how=data.draw(st.sampled_from(FORMATS[:3])))
    check_all(x, dy, list(torch.randn(3, *shape[:2], dtype=wide(x), device=device)), None)


@pytest.mark.parametrize("how", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 40_000)])
def test_nothing_cancels_when_the_mean_is_large(device, shape, how) -> None:
    x = numbers(shape, torch.float32, device, mean=1e4, how=how)
    pivot, mean, square = row_moments(x)
    exact = x.double().flatten(2)
    variance = exact.var(2, correction=0)
    torch.testing.assert_close((square.double() - mean.double().square()), variance, rtol=1e-6, atol=0)
    torch.testing.assert_close(pivot.double() + mean.double(), exact.mean(2), rtol=0, atol=1e-7)


def test_a_beginning_unlike_the_rest_costs_no_more_than_a_digit(device) -> None:
    """Sums are shifted by the mean of the first tile."""
    x = numbers((1, 1, 16 * 4096), torch.float32, device, mean=1e4)
    x[..., :4096] = -1e4
    _, mean, square = row_moments(x)
    variance = x.double().flatten(2).var(2, correction=0)
    torch.testing.assert_close(square.double() - mean.double().square(), variance, rtol=2e-6, atol=0)


def test_parts_of_a_row_are_as_good_as_the_whole(device) -> None:
    """One long row is summed by several programs, many of its kind by one each."""
    row = numbers((1, 1, 150_001), torch.float32, device, mean=100.0)
    plan = triton_rows.plan_of(1, row.shape[2], row.stride())
    assert plan.splits(1)[0] > 1
    assert plan.across == 74
    assert plan.splits(2000) == (2, 37)  # no more than 64 tiles for one program
    check_all(row, row, list(torch.randn(3, 1, 1, device=device)), None)
    check_all(row, row, list(torch.randn(3, 1, 1, device=device)), torch.full((1, 1), 99.0, device=device))


def test_the_same_input_gives_the_same_bits(device) -> None:
    x = numbers((1, 2, 100_001), torch.float32, device)
    for first, second in zip(row_moments(x), row_moments(x), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("form", ["one number", "one a row", "one a channel"])
@pytest.mark.parametrize("how", ["contiguous", "channels last"])
def test_a_gradient_that_is_expanded_is_read_as_it_is(device, form, how) -> None:
    """As `y.sum().backward()` and global average pooling send it; no copy is made."""
    x = numbers((2, 5, 6, 7), torch.float32, device, how=how)
    shapes = {"one number": (), "one a row": (2, 5, 1, 1), "one a channel": (5, 1, 1)}
    dy = torch.randn(shapes[form], device=device).expand(x.shape)
    assert triton_rows._regular(dy)[0] is dy
    check_all(x, dy, list(torch.randn(3, 2, 5, device=device)), None)


def test_rows_that_hold_nan_and_infinity_stay_alone(device) -> None:
    x = numbers((2, 3, 50), torch.float32, device)
    x[0, 1, 7], x[1, 2, 3] = torch.nan, torch.inf
    _, mean, square = row_moments(x)
    bad = torch.zeros(2, 3, dtype=torch.bool, device=device)
    bad[0, 1] = bad[1, 2] = True
    assert torch.equal(mean.isfinite() & square.isfinite(), ~bad)
    assert square[0, 1].isnan()
    zero = torch.zeros(2, 3, device=device)
    y = apply_rows(x, zero, zero + 1, zero)
    assert torch.equal(y.nan_to_num(5.0), x.nan_to_num(5.0))


def test_a_row_of_equal_numbers_has_no_spread(device) -> None:
    x = torch.full((2, 3, 5000), 0.1, device=device)
    _, mean, square = row_moments(x)
    assert ((square >= 0) & (square < 1e-14)).all()
    assert (mean.abs() < 1e-7).all()


def test_half_precision_sums_beyond_its_range(device) -> None:
    x = torch.full((1, 2, 3000), 6e4, dtype=torch.float16, device=device)
    total, product = row_sums(x, x, torch.zeros(1, 2, device=device))
    torch.testing.assert_close(total.double(), torch.full((1, 2), float(x[0, 0, 0]) * 3000).double().to(device))
    assert product.isfinite().all()


def test_nothing_gives_nothing(device) -> None:
    x = torch.zeros(2, 3, 0, device=device)
    pivot, mean, square = row_moments(x)
    assert all(t.isnan().all() and t.shape == (2, 3) for t in (pivot, mean, square))
    total, product = row_sums(x, x, pivot)
    assert not total.any()
    assert not product.any()
    assert apply_rows(x, pivot, pivot, pivot).shape == combine_rows(x, x, pivot, pivot, pivot, pivot).shape == x.shape


def test_offsets_of_64_bits_give_the_same(device, monkeypatch) -> None:
    x = numbers((2, 5, 6, 7), torch.float32, device, how="channels last")
    tables = list(torch.randn(3, 2, 5, device=device))
    expected = combine_rows(x, x, tables[0], *tables)
    monkeypatch.setattr(triton_rows, "big", lambda _: True)
    check_all(x, x, tables, None)
    assert torch.equal(combine_rows(x, x, tables[0], *tables), expected)


class TestAvailable:
    def test_in_the_open_only(self, device) -> None:
        x = torch.zeros(2, 3, 4, device=device)
        seen = []
        assert available(x)
        assert available(torch.nn.Parameter(x))
        torch.func.vmap(lambda row: (seen.append(available(row)), row)[1])(x)
        with torch._subclasses.FakeTensorMode():
            seen += [available(x), available(torch.empty(3))]
        assert not any(seen)
        assert not available(x.long())
        assert not available(x.to(torch.complex64))

    def test_a_compiler_of_c_that_is_missing_is_told_once(self, device, monkeypatch) -> None:
        from layershift.functional import row_kernels

        class Broken:
            def __getitem__(self, grid):
                raise RuntimeError("Failed to find C compiler")

        monkeypatch.setattr(row_kernels, "affine", Broken())
        x = torch.zeros(2, 3, 4, device=device)
        triton_support.works.cache_clear()
        try:
            with pytest.warns(UserWarning, match=r"Triton does not work, .* do its part: Failed to find C compiler"):
                assert not available(x)
            assert not available(x)
        finally:
            triton_support.works.cache_clear()
