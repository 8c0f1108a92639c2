"""The Epps–Pulley distance: closed form against the integral, quadrature against the closed form, theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from layershift.functional import characteristic_function, epps_pulley


def samples(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 9])
def test_the_double_sum_is_the_integral(n) -> None:
    x = (0.4 + 1.7 * samples(n)).numpy()

    def integrand(t: float) -> float:
        return abs(np.exp(1j * t * x).mean() - np.exp(-(t**2) / 2)) ** 2 * stats.norm.pdf(t)

    expected, _ = integrate.quad(integrand, -np.inf, np.inf, epsabs=1e-12)
    assert float(epps_pulley(torch.tensor(x), method="exact")) == pytest.approx(expected, rel=1e-8)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), scale=st.floats(0, 3), shift=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_the_quadrature_is_as_close_as_it_says(n, scale, shift, seed) -> None:
    x = (shift + scale * samples(2, n, seed=seed)).clamp(-10, 10)
    exact = epps_pulley(x, method="exact")
    torch.testing.assert_close(epps_pulley(x), exact, rtol=0, atol=2e-4)
    torch.testing.assert_close(epps_pulley(x, num_nodes=65, t_max=7.0), exact, rtol=0, atol=1e-10)
    assert (exact >= -1e-15).all()


def test_samples_that_are_too_far_apart_are_taken_for_neighbours() -> None:
    """The limit that the documentation names is real: nodes 1/4 apart cannot tell 8π from 0."""
    apart = torch.tensor([0.0, 8 * torch.pi], dtype=torch.float64)
    torch.testing.assert_close(epps_pulley(apart), epps_pulley(torch.zeros_like(apart)), rtol=0, atol=1e-12)
    assert epps_pulley(apart, method="exact") > epps_pulley(torch.zeros_like(apart), method="exact")


@pytest.mark.parametrize("method", ["quadrature", "exact"])
def test_gradients(method) -> None:
    x = (2 * samples(3, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: epps_pulley(x, method=method), x)
    coarse, exact = (torch.autograd.grad(epps_pulley(x, method=m).sum(), x)[0] for m in ("quadrature", "exact"))
    torch.testing.assert_close(coarse, exact, rtol=0, atol=5e-4)


def test_the_characteristic_function_is_the_mean_of_exponentials() -> None:
    x = 3 * samples(2, 5, 7)
    t = torch.linspace(0, 2.5, 11, dtype=torch.float64)
    expected = torch.exp(1j * t * x.unsqueeze(-1)).mean(-2)
    values = characteristic_function(x, num_nodes=11, t_max=2.5)
    torch.testing.assert_close(torch.complex(*values.unbind(0)), expected, rtol=0, atol=1e-12)


def test_mean_over_samples_of_n01_is_what_the_documentation_says() -> None:
    values = epps_pulley(samples(20_000, 16), method="exact")
    expected = (1 - 3**-0.5) / 16
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 20_000**0.5


def test_descent_makes_a_skewed_sample_normal_but_leaves_an_outlier_alone() -> None:
    x = (-torch.rand(128, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log()).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    start = float(epps_pulley(x.detach(), method="exact"))
    for _ in range(200):
        optimizer.zero_grad()
        epps_pulley(x).backward()
        optimizer.step()
    x = x.detach()
    assert float(epps_pulley(x, method="exact")) < 1e-3 < 0.05 < start
    near = x[x.abs() < 4]
    assert 120 < len(near) < 128
    assert abs(stats.skew(near)) < 0.3
    assert float(x.max()) > 5


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="method: expected one of 'quadrature', 'exact', got 'sum'"):
        epps_pulley(torch.zeros(3), method="sum")
    with pytest.raises(ValueError, match="num_nodes: expected at least 2, got 1"):
        epps_pulley(torch.zeros(3), num_nodes=1)
    with pytest.raises(ValueError, match="t_max: expected a positive number, got 0"):
        epps_pulley(torch.zeros(3), t_max=0)
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        epps_pulley(torch.zeros(2, 0))
