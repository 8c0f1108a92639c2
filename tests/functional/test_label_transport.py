"""Distances by name against the functions that they stand for, and exact transport to single labels against POT."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layershift import functional as F

ot = pytest.importorskip("ot")


def samples(n: int, k: int, labels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distributions, targets of so many labels each, and the costs of points in the plane."""
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(n, k, generator=g, dtype=torch.float64) + 1e-3
    order = torch.rand(n, k, generator=g).argsort(1).argsort(1)
    target = (order < labels).double() / labels
    cost = F.label_cost(torch.randn(k, 2, generator=g, dtype=torch.float64))
    return p / p.sum(1, keepdim=True), target, cost


@settings(max_examples=30, deadline=None)
@given(k=st.integers(2, 7), labels=st.integers(1, 2), seed=st.integers(0, 2**20))
def test_exact_transport_is_that_of_pot_also_to_a_single_label(k, labels, seed) -> None:
    p, target, cost = samples(4, k, labels, seed)
    by_pot = torch.stack([torch.as_tensor(ot.emd2(a, b, cost)) for a, b in zip(p, target, strict=True)])
    torch.testing.assert_close(F.label_transport(p, target, cost, method="emd").value, by_pot)


def test_single_and_several_labels_in_one_batch() -> None:
    p, one, cost = samples(6, 5, 1, 0)
    target = torch.cat([one[:3], samples(6, 5, 2, 1)[1][3:]])
    together = F.label_transport(p, target, cost, method="emd").value
    alone = [F.label_transport(a[None], b[None], cost, method="emd").value for a, b in zip(p, target, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_costs_that_are_not_symmetric_are_paid_from_the_distribution_to_the_label() -> None:
    cost = torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    to_first = F.label_transport(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), cost, method="emd")
    assert float(to_first.value) == 5


@pytest.mark.parametrize(
    ("method", "function"),
    [("total_variation", F.total_variation), ("chebyshev", F.chebyshev), ("jensen_shannon", F.jensen_shannon)],
)
def test_distances_without_a_cost(method, function) -> None:
    p, target, _ = samples(4, 5, 2, 0)
    found = F.label_transport(p, target, method=method)
    torch.testing.assert_close(found.value, function(p, target))
    assert found.converged.all()


def test_distances_by_iteration() -> None:
    p, target, cost = samples(4, 5, 2, 0)
    options = {"eps": 0.05, "max_iter": 500}
    plan = F.sinkhorn(p, target, cost, 0.05, 500)
    torch.testing.assert_close(F.label_transport(p, target, cost, method="sinkhorn", **options).value, plan.cost)
    debiased = F.label_transport(p, target, cost, method="divergence", **options).value
    torch.testing.assert_close(F.label_transport(p, target, cost, method="printed", **options).value, 2 * debiased)
    assert not F.label_transport(p, target, cost, method="sinkhorn", max_iter=1, tol=0).converged.any()


def test_equal_costs_are_a_closed_form_that_may_be_known_beforehand() -> None:
    p, target, _ = samples(4, 5, 2, 0)
    cost = 3 * F.zero_one_cost(5).double()
    expected = 3 * F.total_variation(p, target)
    for known in (None, True, False):
        torch.testing.assert_close(F.label_transport(p, target, cost, equal_costs=known).value, expected)


def test_a_single_label_has_gradients() -> None:
    p, target, cost = samples(3, 4, 1, 0)
    assert torch.autograd.gradcheck(
        lambda a, c: F.label_transport(a, target, c, method="emd", equal_costs=False).value,
        (p.requires_grad_(), cost.requires_grad_()),
    )


def test_errors_say_what_was_expected() -> None:
    p, target, cost = samples(3, 4, 1, 0)
    with pytest.raises(ValueError, match=r"method: expected one of 'auto', 'emd', .*, got 'w2'"):
        F.label_transport(p, target, cost, method="w2")
    with pytest.raises(ValueError, match=r"cost: expected costs of shape \(K, K\) for method 'auto', got None"):
        F.label_transport(p, target)
    with pytest.raises(ValueError, match=r"cost: expected costs of shape \(K, K\), got shape \(3, 4\)"):
        F.label_transport(p, target, cost[:3])
