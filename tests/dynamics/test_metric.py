"""The metric as it is printed, in float64: symmetric, positive, the sphere's; and everything without matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from tests.dynamics.neurons import CONDITIONS, DIMENSIONS, SEEDS, covariance, normal, points

from layershift.dynamics.metric import (
    check_covariance,
    covariance_range,
    inner_product,
    inverse_metric_matrix,
    lift,
    metric_gradient,
    metric_matrix,
    push,
    retract,
    sigma_norm,
    tangent_projection,
    to_ellipsoid,
)

some = settings(max_examples=25, deadline=None)


def printed_bracket(b, sigma):
    eye = torch.eye(len(b), dtype=b.dtype)
    return (eye - b[:, None] * (sigma @ b)) @ (eye - (sigma @ b)[:, None] * b)


def printed_metric(b, sigma):
    """Proposition 1, letter by letter; the bracket's eigenvalues are 0 and from 1 up."""
    s = sigma @ b
    across = torch.eye(len(b), dtype=b.dtype) - s[:, None] * s / (b @ sigma @ sigma @ b)
    return across @ torch.linalg.pinv(printed_bracket(b, sigma), atol=0.5, rtol=0, hermitian=True) / (b @ b)


def close(found, expected, condition, *, scale=None):
    """Equal up to rounding, which a badly conditioned Σ multiplies."""
    scale = float(expected.abs().max()) if scale is None else scale
    assert float((found - expected).abs().max()) <= 1e-14 * (100 + condition) * scale


@some
@given(DIMENSIONS, CONDITIONS, SEEDS)
def test_the_matrix_is_the_printed_one(d, condition, seed) -> None:
    sigma = covariance(d, condition, seed)
    (b,) = points(1, sigma, seed)
    found = metric_matrix(b, sigma)
    close(found, printed_metric(b, sigma), condition)
    close(inverse_metric_matrix(b, sigma), (b @ b) * printed_bracket(b, sigma), condition)
    # Pseudo-inverses of each other: their product is the projection onto the tangent space.
    close(found @ inverse_metric_matrix(b, sigma), tangent_projection(b, torch.eye(d).double(), sigma), condition)


@some
@given(DIMENSIONS, CONDITIONS, SEEDS)
def test_an_inner_product_on_the_tangent_space(d, condition, seed) -> None:
    sigma = covariance(d, condition, seed)
    (b,) = points(1, sigma, seed)
    g = metric_matrix(b, sigma)
    torch.testing.assert_close(g, g.mT)
    values = torch.linalg.eigvalsh(g * (b @ b))
    assert abs(values[0]) < 1e-9  # across Ω
    assert values[1] > 1e-7  # at least 4 over the condition
    assert values[-1] < 1 + 1e-9
    s = sigma @ b
    close(g @ s, torch.zeros(d), 1, scale=float(s.norm() / (b @ b)))


@some
@given(DIMENSIONS, CONDITIONS, SEEDS)
def test_it_is_the_round_sphere_seen_through_directions(d, condition, seed) -> None:
    sigma = covariance(d, condition, seed)
    b = points(4, sigma, seed)
    u, v = (tangent_projection(b, normal(4, d, seed=seed + k), sigma) for k in (1, 2))
    by_matrix = torch.einsum("ki,kij,kj->k", u, metric_matrix(b, sigma), v)
    scale = float((u.norm(dim=1) * v.norm(dim=1) / b.square().sum(1)).max())
    close(inner_product(b, u, v), by_matrix, condition, scale=scale)
    # The differential, by automatic differentiation.
    _, along = torch.func.jvp(lambda x: x / x.norm(dim=1, keepdim=True), (b,), (u,))
    close(push(b, u), along, 1)
    close(lift(b, push(b, u), sigma), u, condition)


@some
@given(DIMENSIONS, CONDITIONS, SEEDS)
def test_the_gradient_is_the_printed_product_and_what_defines_it(d, condition, seed) -> None:
    sigma = covariance(d, condition, seed)
    b, g = points(3, sigma, seed), normal(3, d, seed=seed + 1)
    found = metric_gradient(b, g, sigma)
    projected = tangent_projection(b, g, sigma)
    by_matrix = torch.stack([inverse_metric_matrix(x, sigma) @ y for x, y in zip(b, projected, strict=True)])
    close(found, by_matrix, condition, scale=float(by_matrix.abs().max()) + 1)
    v = tangent_projection(b, normal(3, d, seed=seed + 2), sigma)
    lengths = found.norm(dim=1) * v.norm(dim=1) / b.square().sum(1) + g.norm(dim=1) * v.norm(dim=1)
    close(inner_product(b, found, v), (g * v).sum(1), condition, scale=float(lengths.max()))


@some
@given(DIMENSIONS, CONDITIONS, SEEDS)
def test_projection_and_retraction(d, condition, seed) -> None:
    sigma = covariance(d, condition, seed)
    b, u = points(3, sigma, seed), normal(3, d, seed=seed + 1)
    projected = tangent_projection(b, u, sigma)
    close((projected @ sigma * b).sum(1), torch.zeros(3), condition, scale=1)
    close(tangent_projection(b, projected, sigma), projected, 1)
    close((projected * (u - projected)).sum(1), torch.zeros(3), 1, scale=d)
    moved = retract(b, projected, sigma)
    torch.testing.assert_close(sigma_norm(moved, sigma), torch.ones(3).double())
    # The image of a straight step on the unit sphere.
    sphere = b / b.norm(dim=1, keepdim=True) + push(b, projected)
    torch.testing.assert_close(moved, to_ellipsoid(sphere, sigma))


def test_the_norm_needs_no_point_of_the_ellipsoid() -> None:
    sigma, b = covariance(3, 10, 0), normal(5, 3, seed=1)
    torch.testing.assert_close(sigma_norm(b, sigma), torch.stack([(x @ sigma @ x).sqrt() for x in b]))


def test_lower_rank_is_an_error_that_leads_to_the_range() -> None:
    x = normal(5, 8, seed=0)
    sigma = x.mT @ x / 5
    with pytest.raises(ValueError, match=r"sigma: expected a positive definite matrix \(of a lower rank.*covariance_r"):
        check_covariance("sigma", sigma)
    basis = covariance_range(sigma)
    assert basis.shape == (8, 5)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(5).double())
    check_covariance("sigma", basis.mT @ sigma @ basis)
    torch.testing.assert_close(x @ basis @ basis.mT, x)  # nothing of the data is lost
    b = normal(3, 8, seed=1)
    torch.testing.assert_close(sigma_norm(b @ basis, basis.mT @ sigma @ basis), sigma_norm(b, sigma))


def test_float32_covariances_of_any_use_pass() -> None:
    check_covariance("sigma", covariance(64, 1e4, 0).float())
    x = torch.randn(20, 64)
    with pytest.raises(ValueError, match="positive definite"):
        check_covariance("sigma", x.mT @ x)
    assert covariance_range(x.mT @ x).shape == (64, 20)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"sigma: expected a symmetric matrix of shape \(d, d\), got shape \(2, 3\)"):
        check_covariance("sigma", torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"sigma: expected a symmetric matrix, got entries that differ"):
        check_covariance("sigma", torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"got eigenvalues from -1 to 1"):
        check_covariance("sigma", torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(TypeError, match=r"sigma: expected a floating point tensor, got torch.int64"):
        check_covariance("sigma", torch.eye(2).long())
    with pytest.raises(ValueError, match=r"sigma: expected a symmetric matrix of shape"):
        covariance_range(torch.zeros(3))
    with pytest.raises(ValueError, match="differ from their mirror's by nan"):
        check_covariance("sigma", torch.full((2, 2), torch.nan))
