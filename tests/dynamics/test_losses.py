"""Losses and activations against autograd, and in place against out of place."""

from __future__ import annotations

import pytest
import torch
from tests.dynamics.neurons import normal

from layershift.dynamics.losses import ACTIVATIONS, IN_PLACE, LOSSES, activate, loss_slopes, loss_values

Z = torch.cat([torch.linspace(-60, 60, 241, dtype=torch.float64), torch.tensor([-1e-30, 1e-30, -800, 800]).double()])


def slope(z, activation):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(activate(z, activation).sum(), z)[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_slopes_of_losses_are_their_derivatives(loss) -> None:
    f, y = 20 * normal(50, seed=0), normal(50, seed=1).sign()
    f.requires_grad_()
    (derivative,) = torch.autograd.grad(loss_values(f, y, loss).sum(), f)
    torch.testing.assert_close(loss_slopes(f, y, loss), derivative, rtol=1e-13, atol=0)


def test_the_logistic_loss_is_the_negative_log_likelihood() -> None:
    f, y = normal(50, seed=0), normal(50, seed=1).sign()
    torch.testing.assert_close(loss_values(f, y, "logistic"), -torch.sigmoid(y * f).log())
    assert loss_values(torch.tensor([1e4]), torch.tensor([-1.0]), "logistic").tolist() == [1e4]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_derivatives_come_from_values_in_place(activation, dtype) -> None:
    rule, z = IN_PLACE[activation], Z.to(dtype)
    value, out = z.clone(), torch.empty_like(z)
    rule.activate_(value)
    torch.testing.assert_close(value, activate(z, activation), rtol=0, atol=0)
    rule.slope_part(value, out)
    rtol = 1e-13 if dtype == torch.float64 else 1e-6
    atol = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(rule.offset + rule.factor * out, slope(z, activation), rtol=rtol, atol=atol)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if IN_PLACE[name].homogeneous])
def test_signs_are_kept_in_a_byte(activation) -> None:
    rule, z = IN_PLACE[activation], Z.float()
    value, out = z.clone(), torch.empty_like(z)
    rule.activate_(value)
    rule.slope_part(value.gt(0).to(torch.int8), out)
    torch.testing.assert_close(rule.offset + rule.factor * out, slope(z, activation), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_homogeneous_activations_are_those_that_scale(activation) -> None:
    scales = torch.allclose(activate(3 * Z, activation), 3 * activate(Z, activation), rtol=1e-12)
    assert IN_PLACE[activation].homogeneous == scales


def test_softplus_is_exact_in_float64() -> None:
    z = torch.linspace(-40, 40, 81, dtype=torch.float64)
    torch.testing.assert_close(activate(z, "softplus"), torch.logaddexp(z, torch.zeros_like(z)), rtol=1e-15, atol=0)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"loss: expected one of 'squared', 'logistic', got 'hinge'"):
        loss_values(torch.zeros(2), torch.zeros(2), "hinge")
    with pytest.raises(ValueError, match=r"y: expected shape \(2,\), as the predictions have, got shape \(3,\)"):
        loss_slopes(torch.zeros(2), torch.zeros(3), "squared")
    with pytest.raises(ValueError, match=r"activation: expected one of 'relu', .*, got 'gelu'"):
        activate(torch.zeros(2), "gelu")
