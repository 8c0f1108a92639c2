"""The paper's four transformations: values, bounds, and what happens at zero."""

from __future__ import annotations

import pytest
import torch

from layershift import functional as lf


def test_the_formulas():
    x, alpha = torch.randn(7, 5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    norm = (x**2).sum(-1, keepdim=True) ** 0.5
    torch.testing.assert_close(lf.vanilla_unitization(x), x / norm)
    torch.testing.assert_close(lf.modified_unitization(x, 0.3), x / (0.3 * norm + 0.7))
    torch.testing.assert_close(lf.general_unitization(x, alpha), x / ((norm - 1) * alpha + 1))
    p = 1 / (norm**2 + 1e-3) ** 0.5
    torch.testing.assert_close(lf.practical_unitization(x, alpha, eps=1e-3), (p * alpha + 1 - alpha) * x)


def test_special_cases_agree():
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(lf.modified_unitization(x, 0.0), x)
    torch.testing.assert_close(
        lf.general_unitization(x, torch.full((5,), 0.3).double()), lf.modified_unitization(x, 0.3)
    )
    torch.testing.assert_close(lf.general_unitization(x, torch.ones(5).double()), lf.vanilla_unitization(x))


@pytest.mark.parametrize("alpha", [0.2, 0.7, 1.0])
def test_theorems_3_bound_the_norm(alpha):
    x = torch.randn(50, 5, dtype=torch.float64) * torch.logspace(-6, 6, 50, dtype=torch.float64)[:, None]
    assert lf.modified_unitization(x, alpha).norm(dim=-1).max() <= 1 / alpha + 1e-12
    several = torch.linspace(alpha, 1, 5, dtype=torch.float64)
    assert lf.general_unitization(x, several).norm(dim=-1).max() <= 1 / alpha + 1e-12


FUNCTIONS = {
    "vanilla": lf.vanilla_unitization,
    "modified": lambda x: lf.modified_unitization(x, 0.5),
    "modified at one": lambda x: lf.modified_unitization(x, 1.0),
    "general": lambda x: lf.general_unitization(x, torch.tensor([0.0, 0.5, 1.0]).to(x.dtype)),
    "practical": lambda x: lf.practical_unitization(x, torch.tensor([0.0, 0.5, 1.0]).to(x.dtype)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_away_from_zero_and_at_zero(name):
    f = FUNCTIONS[name]
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, [x])
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(f(zero).sum(), zero)
    assert gradient.isfinite().all()
    value = (
        torch.full((2, 3), 3**-0.5).double() if name in ("vanilla", "modified at one") else torch.zeros(2, 3).double()
    )
    torch.testing.assert_close(f(zero), value)


def test_gradient_with_respect_to_alpha():
    x, alpha = torch.randn(4, 3, dtype=torch.float64), torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: lf.general_unitization(x, a), [alpha])
    assert torch.autograd.gradcheck(lambda a: lf.practical_unitization(x, a), [alpha])
    one = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: lf.modified_unitization(x, a), [one])


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 6e-8), (torch.float32, 1e-30), (torch.float32, 1e30)])
def test_norms_neither_underflow_nor_overflow(dtype, size):
    x = torch.full((2, 4), size, dtype=dtype, requires_grad=True)
    y = lf.vanilla_unitization(x)
    torch.testing.assert_close(y, torch.full((2, 4), 0.5, dtype=dtype))
    assert not torch.autograd.grad(y.sum(), x)[0].isnan().any()


def test_the_constant_at_zero():
    constant = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(lf.vanilla_unitization(torch.zeros(1, 2), constant=constant), constant[None])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lf.vanilla_unitization(torch.zeros(2).long()), TypeError, "x: expected a floating point tensor"),
        (
            lambda: lf.modified_unitization(torch.zeros(2), 1.5),
            ValueError,
            r"alpha: expected a number in \[0, 1\], got 1.5",
        ),
        (lambda: lf.general_unitization(torch.zeros(2), torch.zeros(3)), ValueError, r"alpha: expected shape \(2,\)"),
        (lambda: lf.practical_unitization(torch.zeros(2), torch.zeros(3)), ValueError, r"alpha: expected shape \(2,\)"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
