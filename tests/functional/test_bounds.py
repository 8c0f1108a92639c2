"""Every bound against the exact distance: 200 random pairs of samples, and the transformations that bounds speak of."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift import functional as lf

CASES = 200
SLACK = 1e-9


def random_pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of many kinds: shifted, scaled, rectified, heavy-tailed, mixed, noisy, unrelated; of many sizes."""
    g = torch.Generator().manual_seed(seed)
    n, d = int(torch.randint(2, 40, (), generator=g)), int(torch.randint(1, 9, (), generator=g))
    x = torch.randn(n, d, dtype=torch.float64, generator=g)
    if seed % 2:
        x = x.sign() * x.abs().pow(3)
    kinds = [
        lambda: x + torch.randn(d, dtype=torch.float64, generator=g),
        lambda: 3 * x * torch.rand(d, dtype=torch.float64, generator=g),
        lambda: x.relu(),
        lambda: x @ torch.randn(d, d, dtype=torch.float64, generator=g),
        lambda: x + 0.1 * torch.randn(n, d, dtype=torch.float64, generator=g),
        lambda: torch.randn(n, d, dtype=torch.float64, generator=g),
        lambda: x.clone(),
    ]
    size = 10.0 ** float(torch.randint(-3, 4, (), generator=g))
    return size * kinds[seed % len(kinds)](), size * x


def w1(x: torch.Tensor, y: torch.Tensor, p: int = 1) -> float:
    return float(ot.emd2([], [], torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").pow(p).numpy())) ** (
        1 / p
    )


@pytest.mark.parametrize("p", [1, 2])
def test_the_bracket_holds_exactly_for_the_samples(p) -> None:
    for seed in range(CASES):
        x, y = random_pair(seed)
        lower, upper = lf.shift_bracket(x, y, p=p)
        exact = w1(x, y, p)
        slack = SLACK * (1 + x.abs().max() + y.abs().max()) + (1e-7 if p == 2 else 0)
        assert lower - slack <= exact <= upper + slack, seed


@given(seed=st.integers(0, 2**31), length=st.floats(0, 1e3))
@settings(max_examples=50, deadline=None)
def test_translations_close_the_bracket(seed, length) -> None:
    g = torch.Generator().manual_seed(seed)
    x, v = torch.randn(20, 4, dtype=torch.float64, generator=g), torch.randn(4, dtype=torch.float64, generator=g)
    lower, upper = lf.shift_bracket(x + length * v / v.norm(), x)
    assert float(lower) == pytest.approx(length, abs=1e-9)
    assert float(upper) == pytest.approx(length, abs=1e-9)


@pytest.mark.parametrize("form", ["printed", "jensen"])
def test_theorem_1(form) -> None:
    for seed in range(CASES):
        x, y = random_pair(seed)
        moments = [f for s in (x, y) for f in (s.mean(0), s.var(0, correction=0))]
        assert w1(x, y) <= lf.moment_bound(*moments, form=form) + SLACK * x.abs().max(), seed
        assert lf.moment_bound(*moments, form="jensen") <= lf.moment_bound(*moments, form="printed")


def test_normalised_layers_have_the_bounds_that_the_docstring_says() -> None:
    zero, one = torch.zeros(64), torch.ones(64)
    assert float(lf.moment_bound(zero, one, zero, one, form="printed")) == 2 * 64 + 2
    assert float(lf.moment_bound(zero, one, zero, one)) == 2 * 8


@pytest.mark.parametrize("p", [2, 3, 4, 5])
def test_theorem_2(p) -> None:
    for seed in range(CASES):
        x, y = random_pair(seed)
        exact = w1(x, y)
        for C in (None, 0.1, 1.0, 30.0):
            bound = lf.high_moment_bound(x, y, p=p, C=C)
            assert bound <= exact * (1 + 1e-9) + SLACK * x.abs().max(), (seed, C)


@given(seed=st.integers(0, 2**31), p=st.integers(2, 7), C=st.floats(0.05, 20))
@settings(max_examples=100, deadline=None)
def test_the_function_of_theorem_2_is_not_steep_and_is_the_printed_one(seed, p, C) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = 5 * torch.randn(2, 30, 6, dtype=torch.float64, generator=g)
    fx, fy = lf.clipped_moment(x, p, C), lf.clipped_moment(y, p, C)
    assert ((fx - fy).abs() <= (x - y).norm(dim=1) + 1e-12).all()
    printed = torch.where(x.abs() <= C, x**p, torch.where(x > C, C**p, (-C) ** p)).sum(1) / (p * C ** (p - 1) * 6**0.5)
    torch.testing.assert_close(fx, printed)


def test_equation_5_is_theorem_2_for_p_2() -> None:
    x, y = random_pair(1)
    C, d = max(x.abs().max(), y.abs().max()), x.shape[1]
    expected = (x.square().sum(1).mean() - y.square().sum(1).mean()).abs() / (2 * C * d**0.5)
    torch.testing.assert_close(lf.high_moment_bound(x, y), expected)


def test_large_powers_do_not_overflow_and_dead_layers_are_at_zero() -> None:
    x = 1e20 * torch.randn(50, 3)
    assert lf.high_moment_bound(x, 2 * x, p=4).isfinite()
    assert lf.high_moment_bound(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_the_sliced_lower_bound_is_that_of_the_sphere(p, d) -> None:
    """The mean of |θ₁| by quadrature over its density, that of θ₁² by symmetry."""
    theta = lf.directions(d, 200_000, dtype=torch.float64)[:, 0].abs()
    error = float(theta.pow(p).std()) / 200_000**0.5
    mean = lf.mean_projection(d) if p == 1 else 1 / d
    assert abs(float(theta.pow(p).mean()) - mean) <= 4 * error + 1e-12
    value = torch.tensor(mean ** (1 / p), dtype=torch.float64)
    assert float(lf.sliced_lower_bound(value, d, p=p)) == pytest.approx(1)


def test_the_sliced_lower_bound_holds_and_is_tight() -> None:
    """SW1 over 4000 directions, so that what is left is far below the gap."""
    shares = []
    for seed in range(CASES):
        x, y = random_pair(seed)
        sliced = lf.sliced_wasserstein(x, y, num_projections=4000, generator=torch.Generator().manual_seed(seed))
        exact = w1(x, y)
        if exact > 0:
            error = 4 * sliced.std() / 4000**0.5 / lf.mean_projection(x.shape[1])
            bound = lf.sliced_lower_bound(sliced.mean(), x.shape[1])
            assert bound <= exact + error + SLACK, seed
            shares.append(float(bound / exact))
    assert torch.tensor(shares).median() > 0.8


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0])
def test_theorems_3_hold_for_their_transformations(alpha) -> None:
    for seed in range(CASES):
        x, y = random_pair(seed)
        slack = 1e-9
        assert w1(lf.vanilla_unitization(x), lf.vanilla_unitization(y)) <= lf.unitization_bound() + slack
        modified = (lf.modified_unitization(s, alpha) for s in (x, y))
        assert w1(*modified) <= lf.unitization_bound(alpha) + slack
        several = torch.linspace(alpha, 1, x.shape[1], dtype=x.dtype)
        general = (lf.general_unitization(s, several) for s in (x, y))
        assert w1(*general) <= lf.unitization_bound(several) + slack


def test_theorems_3_where_alpha_vanishes() -> None:
    for seed in range(CASES):
        x, y = random_pair(seed)
        norms = [s.norm(dim=1).mean() for s in (x, y)]
        slack = 1e-9 * (1 + norms[0] + norms[1])
        assert w1(x, y) <= lf.unitization_bound(0.0, *norms) + slack  # α = 0 is the identity
        several = torch.linspace(0, 1, x.shape[1], dtype=x.dtype)
        general = (lf.general_unitization(s, several) for s in (x, y))
        assert w1(*general) <= lf.unitization_bound(several, *norms) + slack
    assert lf.unitization_bound(0.0) == math.inf


@pytest.mark.parametrize("low", [-0.4, 0.0, 0.3, 1.0])
def test_what_is_trained_violates_the_constant_bound_and_keeps_the_practical_one(low) -> None:
    """Eq. 10 keeps a linear part: for α < 1 no constant holds."""
    violated = 0
    for seed in range(CASES):
        x, y = random_pair(seed)
        alpha = torch.linspace(low, 1, x.shape[1], dtype=x.dtype)
        outputs = [lf.practical_unitization(s, alpha) for s in (x, y)]
        exact = w1(*outputs)
        bound = lf.practical_bound(alpha, *(s.norm(dim=1).mean() for s in (x, y)))
        assert exact <= bound * (1 + 1e-9), seed
        violated += bool(low > 0 and exact > lf.unitization_bound(alpha) + 1e-9)
    assert (violated > 0) == (0 < low < 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lf.shift_bracket(torch.zeros(3, 2), torch.zeros(4, 2)), ValueError, r"y: expected the same inputs'"),
        (
            lambda: lf.shift_bracket(torch.zeros(3), torch.zeros(3)),
            ValueError,
            r"x: expected a tensor of shape \(N, d\)",
        ),
        (lambda: lf.shift_bracket(torch.zeros(3, 2).long(), torch.zeros(3, 2)), TypeError, "x: expected a floating"),
        (lambda: lf.shift_bracket(torch.zeros(0, 2), torch.zeros(0, 2)), ValueError, "x: expected at least one sample"),
        (lambda: lf.shift_bracket(torch.zeros(1, 2), torch.zeros(1, 2), p=3), ValueError, "p: expected one of 1, 2"),
        (
            lambda: lf.clipped_moment(torch.zeros(1, 2), 1, 1.0),
            ValueError,
            "p: expected a whole number, 2 or more, got 1",
        ),
        (lambda: lf.clipped_moment(torch.zeros(1, 2), 2, 0.0), ValueError, "C: expected a positive number, got 0"),
        (lambda: lf.unitization_bound(1.5), ValueError, r"alpha: expected a number in \[0, 1\], got 1.5"),
        (lambda: lf.unitization_bound(torch.zeros(2, 2)), ValueError, "alpha: expected a number or a vector"),
        (lambda: lf.mean_projection(0), ValueError, "d: expected a dimension of at least 1, got 0"),
        (lambda: lf.moment_bound(*[torch.zeros(2)] * 4, form="x"), ValueError, "form: expected one of 'printed'"),
    ],
)
def test_errors_say_what_was_expected(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
