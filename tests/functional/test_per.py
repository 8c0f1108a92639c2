"""PER against quadrature, Monte Carlo, its own gradient and its theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, gammaln

from layershift.functional import directions, per, per_joint

RADII = [0.0, 1e-8, 1e-3, 0.1, 1.0, 3.0, 10.0, 30.0, 1e3, 1e6]


def quadrature(d: int, r: float) -> tuple[float, float]:
    """PER and its radial derivative: the mean of phi(r t) and erf(r t/√2) t over one coordinate t of the sphere."""
    if d == 1:
        return r * erf(r / math.sqrt(2)) + math.sqrt(2 / math.pi) * math.exp(-r * r / 2), erf(r / math.sqrt(2))
    nodes, weights = np.polynomial.legendre.leggauss(400)
    reach = min(math.pi / 2, math.sqrt(90 / max(d - 2, 1e-9)))
    cut = min(reach, 12 / max(r, 1e-9))  # where phi bends
    value = slope = 0.0
    log_density = gammaln(d / 2) - gammaln((d - 1) / 2) - 0.5 * math.log(math.pi)
    for low, high in ((0.0, cut), (cut, reach)):
        a = low + (nodes + 1) / 2 * (high - low)
        t, density = np.sin(a), np.exp(log_density + (d - 2) * np.log(np.cos(a))) * weights * (high - low)
        phi = r * t * erf(r * t / math.sqrt(2)) + math.sqrt(2 / math.pi) * np.exp(-((r * t) ** 2) / 2)
        value += float((phi * density).sum())
        slope += float((erf(r * t / math.sqrt(2)) * t * density).sum())
    return value, slope


def of_norms(d: int, radii: list[float], dtype: torch.dtype) -> torch.Tensor:
    """Samples of given norms, spread over a few coordinates."""
    x = torch.zeros(len(radii), d, dtype=dtype)
    k = min(d, 4)
    x[:, :k] = torch.tensor(radii, dtype=dtype).unsqueeze(1) / math.sqrt(k)
    return x


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 64, 650, 4096, 10**6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-6)])
def test_value_and_gradient_against_quadrature(d, dtype, tolerance) -> None:
    x = of_norms(d, RADII, dtype).requires_grad_()
    values = per(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    norms = x.detach().double().norm(dim=1)
    expected = [quadrature(d, float(r)) for r in norms]
    # lgamma itself loses digits for large d, in the oracle
    loose = max(tolerance, 2e-16 * d * math.log(d + 1))
    np.testing.assert_allclose(values.detach().double(), [v for v, _ in expected], rtol=loose)
    radial = (gradient.double() * x.detach().double()).sum(1) / norms.clamp(min=1e-300)
    np.testing.assert_allclose(radial, [s for _, s in expected], rtol=loose)
    assert (gradient[0] == 0).all()


@pytest.mark.parametrize("d", [2, 8, 64])
def test_the_mean_over_directions_converges_to_the_closed_form(d) -> None:
    x = torch.randn(6, d) * torch.linspace(0.1, 4, 6).unsqueeze(1)
    sampled = per(x, mode="projections", num_projections=200_000)
    torch.testing.assert_close(sampled, per(x), rtol=0, atol=0.02)


@pytest.mark.parametrize("d", [64, 650, 4096])
def test_the_projected_gradient_is_mostly_noise(d) -> None:
    x = torch.randn(4, d, requires_grad=True)
    (exact,) = torch.autograd.grad(per(x).sum(), x)
    noise = []
    for _ in range(8):
        (projected,) = torch.autograd.grad(per(x, mode="projections", num_projections=256).sum(), x)
        noise.append((projected - exact).norm(dim=1) / exact.norm(dim=1))
    assert float(torch.stack(noise).mean()) == pytest.approx(math.sqrt(d / 256), rel=0.25)


def test_projections_repeat_with_a_generator_and_have_the_gradient_of_algorithm_1() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    first, second = (per(x, "projections", 32, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    theta = directions(7, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(gradient, torch.erf(x @ theta.T / math.sqrt(2)) @ theta / 32)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_gradcheck(d) -> None:
    x = torch.randn(4, d, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(per, (x,))
    assert torch.autograd.gradcheck(lambda a, b: per_joint([a, b]), (x, torch.randn_like(x).requires_grad_()))


def test_only_the_norm_matters_and_the_gradient_is_radial() -> None:
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    torch.testing.assert_close(per(x @ rotation), per(x))
    (gradient,) = torch.autograd.grad(per(x).sum(), x)
    torch.testing.assert_close(torch.cosine_similarity(gradient, x), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-5, 1.0, 3e4])
def test_half_precision_neither_underflows_nor_overflows(dtype, size) -> None:
    x = (torch.randn(3, 500).clamp(-2, 2) * size).to(dtype).requires_grad_()
    values = per(x)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, per(x.float()), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(values.sum() * 1024, x)
    reference = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(per(reference).sum() * 1024, reference)
    torch.testing.assert_close(gradient.float(), expected, rtol=2e-2, atol=1e-6)


def test_joint_is_separate() -> None:
    xs = [torch.randn(6, d, requires_grad=True) * d for d in (1, 8, 100, 5000)]
    joint = per_joint(xs)
    separate = torch.stack([per(x) for x in xs])
    torch.testing.assert_close(joint, separate, rtol=1e-6, atol=0)
    for a, b in zip(
        torch.autograd.grad(joint.sum(), xs, retain_graph=True), torch.autograd.grad(separate.sum(), xs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=0)


def test_what_is_not_finite_and_what_is_empty() -> None:
    x = torch.zeros(3, 4)
    x[0, 1], x[1, 2] = torch.nan, torch.inf
    values = per(x)
    assert values[0].isnan()
    assert values[1] == torch.inf
    assert values[2].isfinite()
    assert per(torch.zeros(0, 4)).shape == (0,)


def test_compiled_equals_eager() -> None:
    x = torch.randn(8, 30, requires_grad=True)
    compiled = torch.compile(lambda x: per(x).mean() + per_joint([x, 2 * x]).sum(), backend="aot_eager", fullgraph=True)
    eager = per(x).mean() + per_joint([x, 2 * x]).sum()
    torch.testing.assert_close(compiled(x), eager)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(eager, x))


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, d\), got shape \(3,\)"):
        per(torch.zeros(3))
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        per(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"mode: expected one of 'exact', 'projections', got 'mean'"):
        per(torch.zeros(3, 2), mode="mean")
    with pytest.raises(ValueError, match="num_projections: expected at least 1, got 0"):
        per(torch.zeros(3, 2), mode="projections", num_projections=0)
    with pytest.raises(ValueError, match="xs: expected the same N in all layers"):
        per_joint([torch.zeros(3, 2), torch.zeros(2, 2)])
    with pytest.raises(ValueError, match="xs: expected at least one layer, got none"):
        per_joint([])
