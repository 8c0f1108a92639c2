"""VCL's formula against loops, its groups, its gradient, and what the paper says of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layershift.functional import variance_constancy
from layershift.functional.variance_constancy import group_rows


def samples(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_loops(x: np.ndarray, beta: np.ndarray, size: int) -> list[float]:
    rows = [i * len(x) // (2 * size) for i in range(2 * size)]
    losses = []
    for unit in range(x.shape[1]):
        first, second = ([x[r, unit] for r in rows[k::2]] for k in (0, 1))
        losses.append((1 - np.var(first, ddof=1) / (np.var(second, ddof=1) + beta[unit])) ** 2)
    return losses


@pytest.mark.parametrize(("n", "size"), [(4, 2), (10, 5), (37, 5), (128, 7)])
def test_loss_is_what_loops_give(n, size) -> None:
    x, beta = samples(n, 4), torch.tensor([0.1, 1.0, 2.0, 0.5], dtype=torch.float64)
    expected = torch.tensor(by_loops(x.numpy(), beta.numpy(), size))
    torch.testing.assert_close(variance_constancy(x, beta, group_size=size), expected)


@given(size=st.integers(2, 20), more=st.integers(0, 300))
def test_groups_are_disjoint_and_spread_over_the_batch(size, more) -> None:
    rows = group_rows(2 * size + more, size).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == 2 * size
    assert rows[0] == 0
    gaps = np.diff([*rows, 2 * size + more])
    assert gaps.max() - gaps.min() <= 1


def test_gradients() -> None:
    x, beta = samples(13, 3).requires_grad_(), (1 + samples(3, seed=1).abs()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, beta: variance_constancy(x, beta, group_size=4), (x, beta))


def test_large_groups_forget_the_distribution() -> None:
    x, beta = 1.5 * samples(200_000, 1), torch.tensor([0.7], dtype=torch.float64)
    expected = (0.7 / (1.5**2 + 0.7)) ** 2
    assert float(variance_constancy(x, beta, group_size=100_000)) == pytest.approx(expected, rel=0.05)


def test_two_modes_have_less_loss_than_a_normal_and_that_less_than_a_heavy_tail() -> None:
    """The loss reacts to the fourth moment: all three have variance 1."""
    n, beta = 20_000, torch.ones(20_000, dtype=torch.float64)
    normal = samples(10, n)
    modes = normal.sign() + 0.1 * samples(10, n, seed=1)
    heavy = normal * samples(10, n, seed=2)  # kurtosis 9
    losses = [variance_constancy(x, beta).mean() for x in (modes, normal, heavy)]
    assert losses[0] < 0.8 * losses[1]
    assert losses[1] < 0.8 * losses[2]


def test_a_dead_unit_has_loss_one_and_no_gradient() -> None:
    x = torch.zeros(10, 1, requires_grad=True)
    loss = variance_constancy(x, torch.ones(1))
    assert loss.tolist() == [1.0]
    assert torch.autograd.grad(loss.sum(), x)[0].tolist() == [[0.0]] * 10


def test_half_precision_is_computed_in_float32() -> None:
    x = 1000 * samples(10, 3)
    loss = variance_constancy(x.half(), torch.ones(3))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), variance_constancy(x, torch.ones(3)), rtol=1e-2, atol=1e-3)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"x: expected at least 10 samples, two groups of 5, got shape \(9, 3\)"):
        variance_constancy(torch.zeros(9, 3), torch.ones(3))
    with pytest.raises(ValueError, match="group_size: expected at least 2, got 1"):
        variance_constancy(torch.zeros(9, 3), torch.ones(3), group_size=1)
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, d\)"):
        variance_constancy(torch.zeros(10, 3, 2), torch.ones(3))
