"""Theorem 4 by the steps of its proof: the induction, the inputs left out, and how both add up."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import (
    composition_bound,
    composition_delta,
    composition_lipschitz,
    composition_width,
    exact_wasserstein,
)

DEPTHS = torch.arange(1, 60)


def root(depth):
    return 1 + math.log(depth)


def test_both_forms_are_their_formulas() -> None:
    constants = {"epsilon": 0.2, "s": 0.7, "C": 1.3, "m": 5, "D": 2.0}
    farthest = (2 * 1.3 * math.sqrt(5) + 2.0) ** 2
    for depth in (1, 2, 7, 30):
        printed = (0.2 / root(depth)) ** 2 * (farthest * 3.0 / 0.7**2 + 1)
        proof = (0.2 / root(depth)) ** 2 + farthest * sum((0.2 / 0.7 / root(k)) ** 2 for k in range(1, depth))
        assert float(composition_bound(depth, **constants, delta=3.0)) == pytest.approx(printed)
        assert float(composition_bound(depth, **constants, form="proof")) == pytest.approx(proof)
        # The printed form with the proof's δ is the proof's.
        bound = composition_bound(depth, **constants, delta=composition_delta(depth))
        assert float(bound) == pytest.approx(proof)


@given(
    epsilon=st.floats(1e-3, 1),
    C=st.floats(0, 10),
    m=st.integers(1, 100),
    D=st.floats(0, 10),
    s=st.floats(0.01, 1),
)
@settings(max_examples=50, deadline=None)
def test_the_printed_bound_falls_with_depth_and_the_proofs_rises(epsilon, C, m, D, s) -> None:
    constants = {"epsilon": epsilon, "C": C, "m": m, "D": D + s}  # no useful s is larger than the diameter
    printed = composition_bound(DEPTHS, **constants, s=s)
    proof = composition_bound(DEPTHS, **constants, s=s, form="proof")
    assert (printed.diff() < 0).all()
    assert (proof.diff() > 0).all()
    # Only the constants can stop the fall: D as 1 + log l cancels it.
    growing = composition_bound(DEPTHS, epsilon=epsilon, s=s, C=0.0, m=m, D=1 + DEPTHS.double().log())
    assert (growing >= epsilon**2 / s**2).all()


def test_the_constant_of_the_printed_bound_grows_like_the_depth() -> None:
    depths = torch.tensor([10**3, 10**4, 10**5, 10**6])
    ratio = composition_delta(depths) / depths
    assert (ratio > 1).all()
    assert (ratio.diff() < 0).all()
    assert float(ratio[-1]) < 1.2


def test_shares_left_out_can_add_up_to_what_the_proof_allows() -> None:
    """Steps that err on different inputs: no constant δ covers the union at every depth."""
    epsilon, s, n = 0.05, 1.0, 200_000
    left_out, start = torch.zeros(n, dtype=torch.bool), 0
    for depth in range(2, 40):
        # The error of step l - 1 is s on as many fresh inputs as its mean square, (ε/L)², affords, and 0 elsewhere.
        count = int(n * (epsilon / root(depth - 1) / s) ** 2)
        left_out[start : start + count] = True
        start += count
        share = float(left_out.double().mean())
        allowed = float(composition_delta(depth)) * (epsilon / s / root(depth)) ** 2
        assert share <= allowed + 1e-12
        assert share >= 0.95 * allowed - 1e-4
    assert share > 10 * (epsilon / s / root(depth - 1)) ** 2


def compose(rates, errors, start):
    """How far the student is off after each step, at worst: what the step makes of earlier errors, and its own."""
    off = [start]
    for rate, error in zip(rates, errors, strict=True):
        off.append(rate * off[-1] + error)
    return off


@given(epsilon=st.floats(1e-3, 10), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_induction_holds_up_to_the_lipschitz_limit_and_not_beyond(epsilon, seed) -> None:
    depths = torch.arange(2, 50)
    own = [epsilon / (root(depth - 1) * root(depth)) for depth in depths.tolist()]
    allowed = [epsilon / root(depth) for depth in range(1, 50)]
    limit = composition_lipschitz(depths)
    slower = limit * torch.rand(len(depths), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for rates in (limit, slower):
        off = compose(rates.tolist(), own, epsilon)
        assert all(o <= a * (1 + 1e-12) for o, a in zip(off, allowed, strict=True))
    off = compose((limit + 0.05).tolist(), own, epsilon)
    assert all(o > a for o, a in zip(off[1:], allowed[1:], strict=True))


def test_only_a_teacher_that_is_constant_from_layer_two_on_meets_the_assumption() -> None:
    assert float(composition_lipschitz(2)) == 0
    limits = composition_lipschitz(torch.arange(2, 10_000))
    assert (limits < 1).all()
    assert (limits.diff() > 0).all()
    assert math.isinf(composition_lipschitz(1))


@pytest.mark.parametrize("seed", range(5))
def test_the_combination_bounds_the_exact_distance(seed) -> None:
    """Teachers and students at random, with errors as the proof allows them and a few inputs thrown far away."""
    g = torch.Generator().manual_seed(seed)
    n, m, epsilon, s = 150, 2, 0.3, 0.5
    teacher = torch.rand(n, m, dtype=torch.float64, generator=g)
    student, near = teacher.clone(), torch.ones(n, dtype=torch.bool)
    for depth in range(1, 12):
        rate = min(float(composition_lipschitz(depth)), 1.0)
        turn, _ = torch.linalg.qr(torch.randn(m, m, dtype=torch.float64, generator=g))
        teacher, student = rate * teacher @ turn, rate * student @ turn
        wrong = torch.nn.functional.normalize(torch.randn(n, m, dtype=torch.float64, generator=g), dim=1)
        student = student + wrong * epsilon / (root(max(depth - 1, 1)) * root(depth))
        if depth > 1:  # as many more as Markov's inequality lets the step throw out
            count = int(n * (epsilon / s / root(depth - 1)) ** 2)
            near[near.nonzero().flatten()[:count]] = False
        # Those thrown out are wherever networks of bounded weights, 2C = 2 a coordinate, can put them.
        far = (torch.rand(n, m, dtype=torch.float64, generator=g) - 0.5) * 2
        student = torch.where(near[:, None], student, far)
        diameter = 2 * float(teacher.norm(dim=1).max())
        bound = composition_bound(depth, epsilon=epsilon, s=s, C=1.0, m=m, D=diameter, form="proof")
        exact = exact_wasserstein(student, teacher, p=2).value.square()
        assert exact <= (student - teacher).square().sum(1).mean() * (1 + 1e-9)
        assert exact <= bound * (1 + 1e-9)
    assert not near.all()  # or nothing was tried


def test_widths_bring_the_error_that_the_induction_needs() -> None:
    """Barron: a layer of r neurons errs by at most 2C/√r in each of m outputs."""
    widths = composition_width(DEPTHS, epsilon=0.1, C=1.5, m=3)
    errors = 2 * 1.5 / widths.double().sqrt() * math.sqrt(3)
    allowed = torch.tensor(
        [0.1 / (root(max(depth - 1, 1)) * root(depth)) for depth in DEPTHS.tolist()], dtype=torch.float64
    )
    assert (errors <= allowed * (1 + 1e-12)).all()
    one_less = 2 * 1.5 / (widths.double() - 1).sqrt() * math.sqrt(3)
    assert (one_less > allowed).all()


def test_arguments_broadcast() -> None:
    diameters = torch.rand(4, 1, dtype=torch.float64)
    bounds = composition_bound(DEPTHS, epsilon=0.1, s=1.0, C=1.0, m=DEPTHS, D=diameters)
    assert bounds.shape == (4, len(DEPTHS))
    single = composition_bound(3, epsilon=0.1, s=1.0, C=1.0, m=3, D=float(diameters[2]))
    assert float(bounds[2, 2]) == pytest.approx(float(single))


def test_errors_name_the_argument() -> None:
    constants = {"epsilon": 0.1, "s": 1.0, "C": 1.0, "m": 2, "D": 1.0}
    with pytest.raises(ValueError, match="form: expected one of 'printed', 'proof', got 'garbled'"):
        composition_bound(2, **constants, form="garbled")
    with pytest.raises(ValueError, match="depth: expected at least 1 layer, got 0"):
        composition_bound(0, **constants)
    with pytest.raises(ValueError, match="depth: expected at least 1 layer"):
        composition_delta(torch.tensor([1, 0]))
