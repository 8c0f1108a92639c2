"""Exact transport, its closed form and its gradients; the distances that know no cost."""

from __future__ import annotations

import math
import sys

import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.spatial.distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import (
    chebyshev,
    emd,
    jensen_shannon,
    label_cost,
    label_distribution,
    total_variation,
    zero_one_cost,
)
from layershift.functional.emd import is_zero_one


def histograms(B: int, K: int, seed: int, *, zeros: bool = True) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    rows = [torch.softmax(2 * torch.randn(B, K, generator=g, dtype=torch.float64), 1) for _ in range(3)]
    if zeros and K > 1:
        rows[1] = torch.where(rows[1] >= rows[1].median(1, keepdim=True).values, rows[1], 0)
    return [x / x.sum(1, keepdim=True) for x in rows]


def costs(K: int, seed: int) -> torch.Tensor:
    return label_cost(torch.randn(K, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@pytest.mark.parametrize("K", [1, 2, 5, 20])
def test_exact_transport_is_the_linear_program(K) -> None:
    (a, b, _), cost = histograms(4, K, K), costs(K, 1)
    rows, columns = np.kron(np.eye(K), np.ones(K)), np.kron(np.ones(K), np.eye(K))
    for i, value in enumerate(emd(a, b, cost)):
        right = np.concatenate([a[i].numpy(), b[i].numpy()])
        program = scipy.optimize.linprog(cost.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=right)
        assert float(value) == pytest.approx(program.fun, abs=1e-8)


@pytest.mark.parametrize("K", [1, 2, 20, 80])
def test_equal_costs_give_total_variation_without_pot(K, monkeypatch) -> None:
    a, b, _ = histograms(6, K, K)
    cost = 2.5 * zero_one_cost(K, dtype=torch.float64)
    program = [float(ot.emd2(x, y, cost.numpy())) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    monkeypatch.setitem(sys.modules, "ot", None)
    value = emd(a, b, cost)
    torch.testing.assert_close(value, torch.tensor(program, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(value, cost[0, -1] * total_variation(a, b))
    with pytest.raises(ModuleNotFoundError, match=r'ot is not installed; run: pip install "layershift\[ot\]"'):
        emd(a, b, costs(K, 0) + 1)


def test_which_costs_are_equal() -> None:
    assert is_zero_one(zero_one_cost(1))
    assert is_zero_one(torch.zeros(3, 3))
    assert is_zero_one(0.3 * zero_one_cost(7))
    assert not is_zero_one(-zero_one_cost(3))
    assert not is_zero_one(torch.ones(2, 2))
    assert not is_zero_one(zero_one_cost(3) + 1e-6 * torch.eye(3))
    other = zero_one_cost(3)
    other[0, 1] = 0.99
    assert not is_zero_one(other)


@given(seed=st.integers(0, 2**31), K=st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_exact_transport_is_a_metric_if_the_cost_is_one(seed, K) -> None:
    a, b, c = histograms(3, K, seed)
    cost = costs(K, seed).sqrt()
    torch.testing.assert_close(emd(a, b, cost), emd(b, a, cost), rtol=0, atol=1e-9)
    assert (emd(a, c, cost) <= emd(a, b, cost) + emd(b, c, cost) + 1e-9).all()
    assert (emd(a, b, cost) >= -1e-12).all()
    assert emd(a, a, cost).abs().max() < 1e-9


@pytest.mark.parametrize("K", [2, 5])
def test_gradients_of_exact_transport(K) -> None:
    (a, b, _), cost = histograms(3, K, 3, zeros=False), costs(K, 2)
    logits = [x.log().requires_grad_() for x in (a, b)]
    cost = (cost + 0.1 * torch.rand(K, K, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y, c: emd(x.softmax(1), y.softmax(1), c), (*logits, cost), atol=1e-6)


def test_gradients_where_there_is_no_mass_are_feasible_prices() -> None:
    """Dual prices are nowhere above the cost, and price the whole of it: no mass that is added can cost less."""
    (b, a, _), cost = histograms(8, 6, 5), costs(6, 6)
    assert (a == 0).any()
    a.requires_grad_()
    b.requires_grad_()
    value = emd(a, b, cost)
    u, v = torch.autograd.grad(value.sum(), (a, b))
    assert (u[:, :, None] + v[:, None, :] <= cost + 1e-9).all()
    torch.testing.assert_close((a * u + b * v).sum(1), value)
    torch.testing.assert_close((a * u).sum(1), (b * v).sum(1))
    moved = torch.roll(torch.eye(6, dtype=torch.float64), 1, 1)[:1]
    step = 1e-3
    there = emd((1 - step) * a.detach() + step * moved, b.detach(), cost)
    assert (there >= value + step * (u * (moved - a)).sum(1) - 1e-12).all()


@pytest.mark.parametrize("cost", [costs(4, 0), zero_one_cost(4, dtype=torch.float64)], ids=["costs", "equal"])
def test_rows_without_mass_or_not_finite_give_nan(cost) -> None:
    a, b, _ = histograms(4, 4, 0)
    whole = emd(a, b, cost)
    b[1], a[2, 0] = 0, torch.nan
    value = emd(a, b, cost)
    assert value.isnan().tolist() == [False, True, True, False]
    torch.testing.assert_close(value[[0, 3]], whole[[0, 3]])


@pytest.mark.parametrize("cost", [costs(4, 0), zero_one_cost(4, dtype=torch.float64)], ids=["costs", "equal"])
def test_the_second_row_is_scaled_to_the_first(cost) -> None:
    a, b, _ = histograms(4, 4, 1)
    torch.testing.assert_close(emd(2 * a, 7 * b, cost), 2 * emd(a, b, cost))
    assert emd(a.float(), b.float(), cost.float()).dtype == torch.float32


@given(seed=st.integers(0, 2**31), K=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_distances_without_a_cost_against_scipy(seed, K) -> None:
    a, b, _ = histograms(4, K, seed)
    root = [scipy.spatial.distance.jensenshannon(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(jensen_shannon(a, b), torch.as_tensor(np.square(root)), rtol=1e-8, atol=1e-12)
    far = [scipy.spatial.distance.chebyshev(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(chebyshev(a, b), torch.as_tensor(np.array(far)))
    torch.testing.assert_close(total_variation(a, b), (a - b).clamp(min=0).sum(1), rtol=0, atol=1e-12)
    assert (jensen_shannon(a, b) <= math.log(2)).all()
    assert (chebyshev(a, b) <= 2 * total_variation(a, b) + 1e-12).all()
    assert (total_variation(a, b).square() / 2 <= jensen_shannon(a, b) + 1e-12).all()  # Pinsker


def test_gradients_without_a_cost() -> None:
    a, b, _ = histograms(3, 5, 2, zeros=False)
    a.requires_grad_()
    b.requires_grad_()
    for distance in (jensen_shannon, chebyshev, total_variation):
        assert torch.autograd.gradcheck(distance, (a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_jensen_shannon_is_finite_at_zero(dtype) -> None:
    a = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=dtype, requires_grad=True)
    b = torch.tensor([[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]], dtype=dtype, requires_grad=True)
    for gradient in torch.autograd.grad(jensen_shannon(a, b).sum(), (a, b)):
        assert gradient.isfinite().all()
        assert (gradient[:, 0] == 0).all()  # both are 0
        assert (gradient[1] == 0).all()
    (gradient,) = torch.autograd.grad(jensen_shannon(a, b).sum(), a)
    assert gradient[0, 1] < -10  # towards -∞
    assert float(gradient[0, 2]) == pytest.approx(math.log(1 / 0.75) / 2)


def test_the_paper_s_cost_is_exact_for_labels_far_from_the_origin() -> None:
    x = torch.randn(6, 300, dtype=torch.float64)
    cost = label_cost((1000 + x).float())
    expected = torch.as_tensor(scipy.spatial.distance.cdist(*2 * [(1000 + x).float().double().numpy()], "sqeuclidean"))
    torch.testing.assert_close(cost.double(), expected, rtol=1e-5, atol=0)
    assert (cost.diagonal() == 0).all()
    assert torch.equal(cost, cost.mT)


def test_label_sets_become_uniform() -> None:
    sets = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    found = label_distribution(sets)
    assert found[:2].tolist() == [[0.5, 0, 0.5], [0, 1, 0]]
    assert found[2].isnan().all()
    assert label_distribution(sets.double()).dtype == torch.float64


def test_errors_say_what_was_expected() -> None:
    a = torch.full((2, 3), 1 / 3)
    for distance in (jensen_shannon, chebyshev, total_variation):
        with pytest.raises(
            ValueError, match=r"b: expected histograms like those of a, shape \(2, 3\), got shape \(2, 2\)"
        ):
            distance(a, a[:, :2])
        with pytest.raises(TypeError, match=r"b: expected a floating point tensor, got torch\.int64"):
            distance(a, a.long())
    with pytest.raises(ValueError, match=r"cost: expected shape \(3, 3\) beside K = 3, got shape \(2, 2\)"):
        emd(a, a, zero_one_cost(2))
    with pytest.raises(ValueError, match=r"labels: expected a tensor of shape \(N, K\), got shape \(3,\)"):
        label_distribution(a[0])
    with pytest.raises(ValueError, match=r"embeddings: expected a tensor of shape \(K, d\), got shape \(3,\)"):
        label_cost(a[0])
    with pytest.raises(ValueError, match="num_labels: expected a number of labels, 1 or more, got 0"):
        zero_one_cost(0)
