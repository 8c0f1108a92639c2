"""Batched Sinkhorn against POT, its own conditions of optimality, and finite differences."""

from __future__ import annotations

import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.functional import label_cost, sinkhorn, sinkhorn_divergence, zero_one_cost
from layershift.functional import scaling as scaling_module


def problem(B: int, K: int, seed: int = 0, *, zeros: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmax outputs against sets of one to three labels; squared distances of embeddings, the largest 3."""
    g = torch.Generator().manual_seed(seed)
    cost = label_cost(torch.randn(K, 10, generator=g, dtype=torch.float64))
    cost = cost * (3 / cost.max()) if K > 1 else cost
    a = torch.softmax(2 * torch.randn(B, K, generator=g, dtype=torch.float64), 1)
    if not zeros:
        return a, torch.softmax(torch.randn(B, K, generator=g, dtype=torch.float64), 1), cost
    labels = torch.rand(B, K, generator=g).argsort(1) < torch.randint(1, 4, (B, 1), generator=g)
    return a, labels.double() / labels.sum(1, keepdim=True), cost


def plan(a, b, cost, eps, result) -> torch.Tensor:
    f, g, epsilon = result.potential_a, result.potential_b, eps * cost.max()
    mass = a.sum(1)[:, None, None]
    logarithm = (f[:, :, None] + g[:, None, :] - cost) / epsilon if cost.max() > 0 else 0
    return torch.exp(logarithm + a.log()[:, :, None] + b.log()[:, None, :] - mass.log())


@pytest.mark.parametrize("eps", [1.0, 0.1, 0.01, 0.003, 0.0012, 1e-3, 5e-4])
@pytest.mark.parametrize("K", [1, 2, 20, 80])
def test_the_sharp_cost_is_that_of_pot(K, eps) -> None:
    a, b, cost = problem(3, K)
    result = sinkhorn(a, b, cost, eps, 20_000, 1e-9)
    assert result.converged.all()
    for i in range(3):
        kept_a, kept_b = a[i] > 0, b[i] > 0  # POT's logarithms do not take zeros
        c = cost[kept_a][:, kept_b].numpy()
        reg = eps * float(cost.max()) or 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            t = ot.bregman.sinkhorn_log(
                a[i][kept_a].numpy(), b[i][kept_b].numpy(), c, reg, numItermax=20_000, stopThr=1e-9
            )
        assert float(result.cost[i]) == pytest.approx(float((t * c).sum()), abs=1e-7)
        relative = ot.sinkhorn2 if eps == 1.0 else None
        if relative is not None and K > 1:
            expected = ot.sinkhorn2(a[i][kept_a].numpy(), b[i][kept_b].numpy(), c, reg, stopThr=1e-12)
            assert float(result.cost[i]) == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize("eps", [1.0, 0.1, 0.03])
def test_the_value_is_the_regularised_objective(eps) -> None:
    a, b, cost = problem(8, 6, zeros=False)
    result = sinkhorn(a, b, cost, eps, 5000, 1e-12)
    t = plan(a, b, cost, eps, result)
    divergence = (t * (t / (a[:, :, None] * b[:, None, :])).log()).sum((1, 2))
    torch.testing.assert_close(result.cost, (t * cost).sum((1, 2)))
    torch.testing.assert_close(result.value, (t * cost).sum((1, 2)) + eps * cost.max() * divergence)
    for i in range(8):
        kl = ot.solve(cost, a[i], b[i], reg=eps * 3.0, reg_type="KL", max_iter=5000, tol=1e-12).value
        assert float(result.value[i]) == pytest.approx(float(kl), abs=1e-8)


@pytest.mark.parametrize("K", [1, 2, 20, 80])
@pytest.mark.parametrize("eps", [1.0, 0.1, 0.01, 0.002, 0.0012, 0.0005])
def test_plans_have_the_marginals(K, eps) -> None:
    a, b, cost = problem(6, K, seed=K)
    result = sinkhorn(a, b, cost, eps, 10_000, 1e-8)
    t = plan(a, b, cost, eps, result)
    torch.testing.assert_close(t.sum(1), b, rtol=0, atol=1e-11)
    off = (t.sum(2) - a).abs().sum(1)
    torch.testing.assert_close(off, result.error, rtol=1e-3, atol=1e-11)
    assert result.converged.all()
    assert (result.error <= 1e-8).all()
    assert result.potential_a.isfinite().all()
    assert result.potential_b.isfinite().all()


@pytest.mark.parametrize("eps", [1e-4, 1e-3, 0.01])
def test_low_eps_tends_to_exact_transport(eps) -> None:
    a, b, cost = problem(8, 12, seed=3)
    exact = torch.as_tensor(
        [float(ot.emd2(x, y, cost.numpy())) for x, y in zip(a.numpy(), b.numpy(), strict=True)], dtype=torch.float64
    )
    result = sinkhorn(a, b, cost, eps, 5000, 1e-6)
    below = exact - 2 * 3.0 * result.error - 1e-9
    assert (result.cost >= below).all()
    assert (result.cost - exact).max() < 3 * eps * cost.max() + 3.0 * result.error.max()


def test_the_paper_s_divergence_tends_to_twice_transport_and_the_entropy_costs() -> None:
    """At an eps of 0.01: the sharp one is at 2 W within 1 %, that of the objective several per cent below."""
    a, b, cost = problem(64, 20, seed=1)
    twice = 2 * np.mean([ot.emd2(x, y, cost.numpy()) for x, y in zip(a.numpy(), b.numpy(), strict=True)])
    sharp = float(sinkhorn_divergence(a, b, cost, form="printed").mean())
    entropic = float(sinkhorn_divergence(a, b, cost, form="printed", of="value").mean())
    assert sharp == pytest.approx(twice, rel=0.01)
    assert 0.9 * twice < entropic < 0.99 * twice
    torch.testing.assert_close(2 * sinkhorn_divergence(a, b, cost), sinkhorn_divergence(a, b, cost, form="printed"))


def test_a_divergence_is_what_its_three_transports_give() -> None:
    a, b, cost = problem(10, 7, seed=2, zeros=False)
    for of in ("cost", "value"):
        between, of_a, of_b = (
            getattr(sinkhorn(x, y, cost, 0.1, 20_000, 1e-11), of) for x, y in ((a, b), (a, a), (b, b))
        )
        debiased = sinkhorn_divergence(a, b, cost, 0.1, tol=1e-11, of=of)
        torch.testing.assert_close(debiased, between - of_a / 2 - of_b / 2, rtol=1e-6, atol=1e-8)


@given(seed=st.integers(0, 2**31), K=st.integers(2, 12), eps=st.sampled_from([0.02, 0.1, 0.5]))
@settings(max_examples=25, deadline=None)
def test_divergences_are_symmetric_not_negative_and_zero_at_equality(seed, K, eps) -> None:
    a, b, cost = problem(4, K, seed)
    forth = sinkhorn_divergence(a, b, cost, eps, tol=1e-8, of="value", warn=False)
    back = sinkhorn_divergence(b, a, cost, eps, tol=1e-8, of="value", warn=False)
    torch.testing.assert_close(forth, back, rtol=0, atol=1e-6)
    assert (forth > -1e-7).all()
    assert sinkhorn_divergence(a, a, cost, eps, of="value", warn=False).abs().max() < 1e-5


@pytest.mark.parametrize("what", ["value", "cost"])
@pytest.mark.parametrize(("K", "eps"), [(1, 0.1), (2, 0.3), (5, 1.0), (5, 0.05), (4, 0.002), (3, 0.0009)])
def test_gradients_by_histograms_and_costs(K, eps, what) -> None:
    a, b, cost = problem(2, K, seed=5, zeros=False)
    cost = (cost + 0.1 * torch.rand(K, K, dtype=cost.dtype) + (K == 1)).requires_grad_()
    logits = [x.log().requires_grad_() for x in (a, b)]

    def call(x, y, c):
        return getattr(sinkhorn(x.softmax(1), y.softmax(1), c, eps, 5000, 1e-13), what)

    assert torch.autograd.gradcheck(call, (*logits, cost), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("of", ["value", "cost"])
def test_gradients_of_the_divergence(of) -> None:
    a, b, cost = problem(2, 4, seed=6, zeros=False)
    symmetric = cost.clone().requires_grad_()
    logits = [x.log().requires_grad_() for x in (a, b)]

    def call(x, y, c):
        return sinkhorn_divergence(x.softmax(1), y.softmax(1), (c + c.mT) / 2, 0.1, tol=1e-13, of=of)

    assert torch.autograd.gradcheck(call, (*logits, symmetric), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("what", ["value", "cost"])
@pytest.mark.parametrize("eps", [0.3, 0.05])
def test_gradients_where_there_is_no_mass_are_those_of_adding_some(what, eps) -> None:
    a, b, cost = problem(3, 5, seed=7)
    a[:, 0] = 0
    a = a / a.sum(1, keepdim=True)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(getattr(sinkhorn(a, b, cost, eps, 5000, 1e-13), what).sum(), a)
    assert gradient.isfinite().all()
    step = 1e-6  # one sided: from mass nowhere but at 1
    move = torch.zeros_like(a)
    move[:, 0], move[:, 1] = step, -step
    there = getattr(sinkhorn(a.detach() + move, b, cost, eps, 5000, 1e-13), what)
    here = getattr(sinkhorn(a.detach(), b, cost, eps, 5000, 1e-13), what)
    torch.testing.assert_close((there - here) / step, gradient[:, 0] - gradient[:, 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("eps", [0.01, 1e-3, 5e-4])
def test_gradients_of_nearly_disconnected_plans_are_finite(eps) -> None:
    a, b, cost = problem(16, 20, seed=8)
    for x, y in ((a, b), (b, b)):
        x, c = x.clone().requires_grad_(), cost.clone().requires_grad_()
        result = sinkhorn(x, y, c, eps)
        for gradient in torch.autograd.grad((result.cost + result.value).sum(), (x, c)):
            assert gradient.isfinite().all()
            assert gradient.abs().max() < 1e3


def test_mass_scales_the_cost_and_neither_plan_nor_gradient() -> None:
    a, b, cost = problem(4, 6, zeros=False)
    one, five = (sinkhorn(s * a, s * b, cost, 0.05, tol=1e-12) for s in (1, 5))
    torch.testing.assert_close(5 * one.cost, five.cost)
    torch.testing.assert_close(5 * one.value, five.value)
    torch.testing.assert_close(one.potential_a, five.potential_a)
    torch.testing.assert_close((a * one.potential_a + b * one.potential_b).sum(1), one.value)  # Euler


def test_convergence_is_told() -> None:
    a, b, cost = problem(32, 20)
    few, many = sinkhorn(a, b, cost, 0.01, 12, 1e-9), sinkhorn(a, b, cost, 0.01, 3000, 1e-9)
    assert not few.converged.all()
    assert (few.converged == (few.error <= 1e-9)).all()
    assert (few.iterations <= 12).all()
    assert many.converged.all()
    assert many.iterations.min() < many.iterations.max() < 3000
    with pytest.warns(RuntimeWarning, match=r"of 32 samples did not converge in 12 iterations at eps=0\.01"):
        sinkhorn_divergence(a, b, cost, max_iter=12, tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sinkhorn_divergence(a, b, cost)
        sinkhorn_divergence(a, b, cost, max_iter=12, tol=1e-9, warn=False)


def test_masses_that_differ_do_not_converge() -> None:
    a, b, cost = problem(2, 5)
    assert not sinkhorn(a, 1.1 * b, cost, 0.1, 100).converged.any()


@pytest.mark.parametrize("eps", [0.5, 0.01, 0.003, 0.0012, 0.0005])
def test_a_row_of_zeros_gives_nan_and_disturbs_no_other(eps) -> None:
    a, b, cost = problem(5, 6)
    whole = sinkhorn(a, b, cost, eps)
    holed = b.clone()
    holed[2] = 0
    result = sinkhorn(a, holed, cost, eps)
    others = torch.tensor([0, 1, 3, 4])
    assert result.cost[2].isnan()
    assert result.value[2].isnan()
    assert not result.converged[2]
    torch.testing.assert_close(result.cost[others], whole.cost[others])
    assert sinkhorn(holed, holed, cost, eps).cost[2].isnan()
    divergence = sinkhorn_divergence(a, holed, cost, eps, warn=False)
    assert divergence.isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("eps", [0.5, 0.01, 0.0012])
def test_no_sample_depends_on_the_others_nor_on_when_the_loop_stops(eps, monkeypatch) -> None:
    """A device that is not waited for runs on when all are done; its results are the same."""
    a, b, cost = problem(12, 9, seed=4)
    together = sinkhorn(a, b, cost, eps, 400, 1e-8)
    for i in range(12):
        alone = sinkhorn(a[i : i + 1], b[i : i + 1], cost, eps, 400, 1e-8)
        torch.testing.assert_close(alone.cost[0], together.cost[i], rtol=1e-9, atol=1e-12)
        assert alone.iterations[0] == together.iterations[i]
    monkeypatch.setattr(scaling_module, "_may_read", lambda device: False)
    blind = sinkhorn(a, b, cost, eps, 400, 1e-8)
    torch.testing.assert_close(blind.cost, together.cost, rtol=1e-9, atol=1e-12)
    assert (blind.converged == together.converged).all()
    if eps > 0.009:  # the rest begins where the iterations in float32 ended, which is known to those who look
        return
    assert (blind.iterations == together.iterations).all()


def test_iterations_that_nothing_stops_are_pot_s() -> None:
    a, b, cost = problem(6, 8, zeros=False)
    stacked = (cost / cost.max()).expand(6, 8, 8).contiguous()
    for count in (1, 3, 10):
        theirs = ot.batch.solve_batch(stacked, 0.05, a, b, max_iter=count, tol=0, method="sinkhorn")
        ours = sinkhorn(a, b, cost / cost.max(), 0.05, count, 0)
        torch.testing.assert_close(ours.cost, theirs.value_linear, rtol=1e-4, atol=1e-5)
        assert (ours.iterations == count).all()


@pytest.mark.parametrize("eps", [0.1, 0.01, 0.002, 5e-4])
def test_float32_in_float32_out_at_float64_s_accuracy(eps) -> None:
    a, b, cost = problem(8, 10)
    wide, single = sinkhorn(a, b, cost, eps), sinkhorn(a.float(), b.float(), cost.float(), eps)
    assert {x.dtype for x in (single.cost, single.value, single.potential_a, single.error)} == {torch.float32}
    torch.testing.assert_close(single.cost, wide.cost.float(), rtol=1e-4, atol=1e-5)
    assert sinkhorn(a.half(), b.half(), cost.half(), eps).cost.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sinkhorn(a.float(), b.float(), cost.float(), eps).cost, single.cost)


def test_the_regularisation_is_a_share_of_the_largest_cost() -> None:
    a, b, cost = problem(4, 6)
    torch.testing.assert_close(sinkhorn(a, b, 7 * cost, 0.1).cost, 7 * sinkhorn(a, b, cost, 0.1).cost)


@pytest.mark.parametrize("eps", [0.01, 0.0025, 0.001, 0.0004])
def test_mass_that_must_cross_the_whole_range(eps) -> None:
    """On a line, potentials span all that the range of numbers has to hold."""
    position = torch.linspace(0, 1, 12, dtype=torch.float64)
    cost = (position[:, None] - position).abs()
    a = torch.zeros(3, 12, dtype=torch.float64)
    b = torch.zeros_like(a)
    a[:, 0], b[:, -1] = 1, 1
    a[1], b[1] = torch.softmax(-30 * position, 0), torch.softmax(30 * position, 0)
    a[2, 0] = a[2, -1] = 0.5
    result = sinkhorn(a, b, cost, eps, 4000)
    assert result.cost.isfinite().all()
    assert result.converged.all()
    exact = [ot.emd2(x, y, cost.numpy()) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(result.cost, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-3 + eps)


def test_errors_say_what_was_expected() -> None:
    a, cost = torch.full((2, 3), 1 / 3), zero_one_cost(3)
    with pytest.raises(TypeError, match=r"a: expected a floating point tensor, got torch\.int64"):
        sinkhorn(a.long(), a, cost)
    with pytest.raises(ValueError, match=r"a: expected a tensor of shape \(B, K\), got shape \(3,\)"):
        sinkhorn(a[0], a, cost)
    with pytest.raises(ValueError, match=r"a: expected at least one sample, got an empty tensor"):
        sinkhorn(a[:0], a[:0], cost)
    with pytest.raises(ValueError, match=r"b: expected histograms like those of a, shape \(2, 3\), got shape \(1, 3\)"):
        sinkhorn(a, a[:1], cost)
    with pytest.raises(ValueError, match=r"cost: expected shape \(3, 3\) beside K = 3, got shape \(2, 3\)"):
        sinkhorn(a, a, cost[:2])
    with pytest.raises(ValueError, match="eps: expected a positive number, got 0"):
        sinkhorn(a, a, cost, 0)
    with pytest.raises(ValueError, match="max_iter: expected a number of iterations, 1 or more, got 0"):
        sinkhorn(a, a, cost, 0.1, 0)
    with pytest.raises(ValueError, match="tol: expected a number, 0 or more, got -1"):
        sinkhorn(a, a, cost, 0.1, 10, -1)
    with pytest.raises(ValueError, match="form: expected one of 'debiased', 'printed', got 'biased'"):
        sinkhorn_divergence(a, a, cost, form="biased")
    with pytest.raises(ValueError, match="of: expected one of 'cost', 'value', got 'plan'"):
        sinkhorn_divergence(a, a, cost, of="plan")
