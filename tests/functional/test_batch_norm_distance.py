"""Proposition 4 against the Bures formula, samples and a real layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import batch_norm_wasserstein, exact_wasserstein, gaussian_wasserstein, wasserstein


def states(d=4, positive=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    betas, gammas = torch.randn(2, 2, d, dtype=torch.float64, generator=g)
    if positive:
        gammas = gammas.abs() + 0.1
    return betas[0], gammas[0], betas[1], gammas[1]


def bures(beta_x, gamma_x, beta_y, gamma_y, power):
    return gaussian_wasserstein(beta_x, torch.diag(gamma_x**power), beta_y, torch.diag(gamma_y**power))


@given(seed=st.integers(0, 2**31), d=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_it_is_the_bures_formula(seed, d) -> None:
    given_states = states(d, seed=seed)
    expected = bures(*given_states, power=2)
    torch.testing.assert_close(batch_norm_wasserstein(*given_states), expected, rtol=1e-6, atol=1e-7)
    given_states = states(d, positive=True, seed=seed)
    expected = bures(*given_states, power=1)
    found = batch_norm_wasserstein(*given_states, form="variance")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    # The printed form is not: it is never smaller, and differs.
    printed = batch_norm_wasserstein(*given_states, form="printed")
    assert printed > expected


def test_it_is_what_sorting_many_samples_of_each_channel_gives() -> None:
    beta_x, gamma_x, beta_y, gamma_y = states()
    x, y = torch.randn(2, 4, 100_000, dtype=torch.float64)
    channels = wasserstein(gamma_x[:, None] * x + beta_x[:, None], gamma_y[:, None] * y + beta_y[:, None], 2)
    expected = batch_norm_wasserstein(beta_x, gamma_x, beta_y, gamma_y)
    assert float(channels.square().sum().sqrt()) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_lower_bound_for_the_outputs_of_a_layer_of_any_distribution(seed) -> None:
    g = torch.Generator().manual_seed(seed)
    before, after = torch.nn.BatchNorm1d(3, eps=1e-30), torch.nn.BatchNorm1d(3, eps=1e-30)
    for layer in (before.double(), after.double()):
        torch.nn.init.normal_(layer.weight, generator=g)
        torch.nn.init.normal_(layer.bias, generator=g)
    inputs = torch.randn(2, 80, 3, dtype=torch.float64, generator=g).exp() @ torch.randn(3, 3, generator=g).double()
    with torch.no_grad():
        exact = exact_wasserstein(before(inputs[0]), after(inputs[1]), p=2).value
        bound = batch_norm_wasserstein(before.bias, before.weight, after.bias, after.weight)
    assert exact >= bound * (1 - 1e-9)
    assert bound > 0


def test_the_printed_form_is_off_by_far_for_small_steps() -> None:
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    step = torch.tensor([1e-4], dtype=torch.float64)
    right, printed = (batch_norm_wasserstein(zero, one, zero, one + step, form=f) for f in ("scale", "printed"))
    assert float(right) == pytest.approx(1e-4)
    assert float(printed) == pytest.approx(1e-2)


def test_a_change_of_sign_alone_is_no_distance() -> None:
    beta, gamma, _, _ = states()
    assert batch_norm_wasserstein(beta, gamma, beta, -gamma) == 0


def test_gradients_and_batches() -> None:
    inputs = [x.requires_grad_() for x in states(positive=True)]
    for form in ("scale", "variance", "printed"):
        assert torch.autograd.gradcheck(lambda *a, form=form: batch_norm_wasserstein(*a, form=form), inputs)
    x = inputs[0]
    (gradient,) = torch.autograd.grad(batch_norm_wasserstein(x, inputs[1], x, inputs[1]), x)
    assert (gradient == 0).all()
    many = torch.randn(4, 5, 3)
    assert batch_norm_wasserstein(*many).shape == (5,)


def test_errors_name_the_argument() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match="form: expected one of 'scale', 'variance', 'printed'"):
        batch_norm_wasserstein(x, x, x, x, form="sd")
    with pytest.raises(ValueError, match=r"gamma_y: expected shape \(3,\), got shape \(2,\)"):
        batch_norm_wasserstein(x, x, x, x[:2])
    with pytest.raises(TypeError, match="beta_y: expected a floating point tensor"):
        batch_norm_wasserstein(x, x, x.long(), x)
