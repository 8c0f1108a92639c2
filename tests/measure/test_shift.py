"""All estimators inside their brackets and error bars on what is known; batch equals stream equals two ranks."""

from __future__ import annotations

import copy
import itertools
import math
import os
import pickle
from pathlib import Path

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from layershift.functional import general_unitization, mean_projection, practical_unitization, sliced_wasserstein
from layershift.measure import Critic, Estimate, Shift

CASES = 200
ESTIMATORS = ["sliced", "exact", "gaussian"]
SMALL = Critic(lipschitz="spectral", activation="linear", steps=30, widths=(16, 16))
CLIPPED = Critic(steps=40, widths=(16, 16), learning_rate=1e-3)


def measured(*batches: tuple[torch.Tensor, torch.Tensor], **options) -> Estimate:
    shift = Shift(**options)
    for x, y in batches:
        shift.update(x, y)
    return shift.compute()


def assert_inside(estimate: Estimate, case: object = None) -> None:
    slack = 1e-7 * (1 + abs(float(estimate.upper)))
    assert estimate.lower - slack <= estimate.value <= estimate.upper + slack, case


def assert_near(estimate: Estimate, truth: float, case: object = None) -> None:
    assert abs(float(estimate.value) - truth) <= 4.5 * float(estimate.stderr) + 1e-5 * truth, case


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("estimator", "p"), [("sliced", 1), ("sliced", 2), ("exact", 1), ("exact", 2), ("gaussian", 2)]
)
def test_gaussians_of_known_distance(estimator, p) -> None:
    """N(0, I) scaled by s: W1 is |s - 1| E‖Z‖ by the potential ‖x‖, SW1 is |s - 1| √(2/π), W2 is |s - 1| √d.

    Translated as well, W2² grows by the square of the length, and √d SW2 is the same.
    """
    for seed in range(CASES):
        g = seeded(seed)
        d, s = int(torch.randint(1, 12, (), generator=g)), 0.3 + 2 * float(torch.rand((), generator=g))
        step = (p - 1) * torch.randn(d, dtype=torch.float64, generator=g)
        z = torch.randn(200, d, dtype=torch.float64, generator=g)
        estimate = measured((s * z + step, z), estimator=estimator, p=p, num_projections=48)
        w1 = abs(s - 1) * math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
        w2 = math.hypot(abs(s - 1) * math.sqrt(d), float(step.norm()))
        on_its_scale = abs(s - 1) * math.sqrt(2 / math.pi) / mean_projection(d)
        truth = w2 if p == 2 else w1 if estimator == "exact" else on_its_scale
        assert_inside(estimate, seed)
        assert_near(estimate, truth, seed)
        assert estimate.lower <= truth * (1 + 4.5 * estimate.stderr / estimate.value)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_translations_are_exact(estimator, p) -> None:
    for seed in range(CASES):
        g = seeded(seed)
        d = int(torch.randint(1, 20, (), generator=g))
        x, shift = (
            torch.rand(40, d, generator=g).log(),
            10 ** (2 * torch.rand((), generator=g)) * torch.randn(d, generator=g),
        )
        estimate = measured((x + shift, x), estimator=estimator, p=2 if estimator == "gaussian" else p)
        assert float(estimate.value) == pytest.approx(float(shift.norm()), rel=1e-5)
        assert_inside(estimate, seed)
        assert float(estimate.stderr) < 1e-4 * float(estimate.value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_line_is_exact(estimator) -> None:
    """In one dimension there is one direction, and W1 is a sum over sorted samples."""
    for seed in range(CASES):
        g = seeded(seed)
        x, y = torch.randn(2, 60, 1, dtype=torch.float64, generator=g).exp() * (1 + seed % 5)
        estimate = measured((x, y), estimator=estimator)
        assert_inside(estimate, seed)
        if estimator == "gaussian":
            fit = np.hypot(float(x.mean() - y.mean()), x.numpy().std() - y.numpy().std())
            assert float(estimate.value) == pytest.approx(fit, rel=1e-6)
        else:
            assert float(estimate.value) == pytest.approx(scipy.stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-9)


@pytest.mark.parametrize("kind", ["Gaussians", "translations", "the line"])
@pytest.mark.parametrize("critic", [SMALL, CLIPPED], ids=["certified", "clipped"])
def test_critics_stay_inside_what_they_claim(critic, kind) -> None:
    """The certified one below W1, the clipped one, of unknown scale, between 0 and its Lipschitz constant's bound."""
    g = seeded(0)
    shifts, truths = [], []
    for _ in range(CASES):
        x = torch.randn(64, 1 if kind == "the line" else 5, generator=g)
        y = {
            "Gaussians": (0.3 + 2 * torch.rand((), generator=g)) * x,
            "translations": x + torch.randn(5, generator=g),
            "the line": torch.randn(64, 1, generator=g).exp(),
        }[kind]
        shift = Shift(estimator="critic", critic=critic)
        shift.update(y, x)
        shifts.append(shift)
        truths.append(ot.emd2([], [], torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").double().numpy()))
    for estimate, truth in zip(Shift.compute_all(shifts), truths, strict=True):
        assert estimate.lower - 4.5 * estimate.stderr <= truth if critic is SMALL else estimate.lower == 0
        assert -4.5 * estimate.stderr <= estimate.value <= estimate.upper
        assert critic is not SMALL or estimate.value <= truth * (1 + 1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_brackets_hold_the_exact_distance_of_any_samples(p) -> None:
    for seed in range(CASES):
        g = seeded(seed)
        n, d = int(torch.randint(2, 50, (), generator=g)), int(torch.randint(1, 12, (), generator=g))
        x = torch.randn(n, d, dtype=torch.float64, generator=g)
        y = [x.relu(), torch.randn(n, d, dtype=torch.float64, generator=g), 2 * x + 1, x.pow(3)][seed % 4]
        found = {e: measured((x, y), estimator=e, p=p, num_projections=64, seed=seed) for e in ("sliced", "exact")}
        for estimate in found.values():
            assert_inside(estimate, seed)
        costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").pow(p)
        exact = ot.emd2([], [], costs.numpy()) ** (1 / p)
        assert float(found["exact"].value) == pytest.approx(exact, rel=1e-7, abs=1e-7)
        assert found["sliced"].lower <= exact * (1 + 1e-9)
        if p == 2:
            gelbrich = measured((x, y), estimator="gaussian")
            assert_inside(gelbrich, seed)
            assert gelbrich.value <= exact * (1 + 1e-9) + 1e-7


@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 29), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_stream_gives_what_the_batch_gives(estimator, seed, cuts) -> None:
    x, y = torch.randn(2, 30, 3, 2, 2, generator=seeded(seed))
    parts = [(x[a:b], y[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 30])]
    whole, stream = measured((x, y), estimator=estimator), measured(*parts, estimator=estimator)
    torch.testing.assert_close(whole[:5], stream[:5], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "critic"])
def test_more_pairs_than_are_kept_are_chosen_from_fairly(estimator) -> None:
    critic = Critic(steps=0) if estimator == "critic" else None
    counts = np.zeros(40)
    for seed in range(100):
        shift = Shift(estimator=estimator, max_samples=10, num_projections=1, critic=critic, seed=seed)
        for batch in torch.arange(1.0, 41.0).reshape(4, 10, 1):
            shift.update(batch, -batch)
        kept = torch.cat(shift.kept)
        assert kept.shape == (10, 2, 1)
        assert torch.equal(kept[:, 0], -kept[:, 1])  # pairs stay together
        counts[kept[:, 0, 0].abs().round().int().numpy() - 1] += 1
    assert float(shift.compute().n) == 10
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_the_choice_is_of_one_distribution_with_the_whole() -> None:
    x = torch.randn(4000, 6)
    y = x.relu()
    few = measured(*zip(x.split(500), y.split(500), strict=True), estimator="sliced", max_samples=500)
    all_ = measured((x, y), estimator="sliced", max_samples=4000)
    assert (float(few.n), float(all_.n)) == (500, 4000)
    assert abs(few.value - all_.value) < 4 * few.stderr
    assert float(few.lower) == pytest.approx(float(all_.lower), rel=0.2)
    assert float(few.upper) == pytest.approx(float(all_.upper), rel=1e-6)  # of all that were seen


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "critic"])
def test_merging_resetting_and_copying(estimator) -> None:
    options = {"estimator": estimator, "max_samples": 20} | ({"critic": SMALL} if estimator == "critic" else {})
    x, y = torch.randn(2, 30, 4)
    first, second = Shift(**options), Shift(**options)
    first.update(x, y)
    second.update(y, x)
    first.merge_state(second)
    assert float(first.compute().n) == 20
    first.reset()
    first.update(x[:10], y[:10])
    for twin in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        twin.update(x[10:20], y[10:20])
        torch.testing.assert_close(twin.compute().value, measured((x[:20], y[:20]), **options).value)


def test_slices_are_those_of_the_function_and_directions_are_the_seeds() -> None:
    x, y = torch.randn(2, 100, 8, dtype=torch.float64)
    a, b, c = (measured((x, y), seed=seed, num_projections=2000) for seed in (1, 1, 2))
    assert a.value == b.value != c.value
    plain = sliced_wasserstein(x, y, num_projections=20_000)
    assert float(a.value) * mean_projection(8) == pytest.approx(float(plain.mean()), rel=0.03)
    state = torch.get_rng_state()
    measured((x, y))
    assert torch.equal(state, torch.get_rng_state())


def test_layers_of_the_same_options_are_estimated_together() -> None:
    generator = seeded(0)
    shifts = [Shift(estimator="critic", critic=SMALL) for _ in range(3)]
    for i, shift in enumerate(shifts):
        x = torch.randn(40, 5, 2 if i < 2 else 1, generator=generator)
        shift.update(x + i, x)
    together, alone = Shift.compute_all(shifts), [shift.compute() for shift in shifts]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[:5], b[:5], rtol=1e-4, atol=1e-5)
        assert a.seconds > 0
    assert together[0].value == 0


def test_what_the_critic_claims() -> None:
    x = torch.randn(100, 6)
    certified = measured((x + 1, x), estimator="critic", critic=SMALL)
    assert certified.value <= certified.upper
    assert float(certified.upper) == pytest.approx(6**0.5, rel=1e-5)
    clipped = measured((x + 1, x), estimator="critic", critic=Critic(steps=30))
    assert 0 <= clipped.lower <= clipped.value <= clipped.upper < 0.1
    assert clipped.units == "K·x"
    assert "K unknown" in clipped.estimator


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_table_of_bounds(estimator) -> None:
    x = torch.randn(200, 8, 2, 2)
    alpha = torch.linspace(0.5, 1, 32, dtype=torch.float64)
    now, before = (general_unitization(s.flatten(1).double(), alpha) for s in (1.5 * x, x))
    shift = Shift(estimator=estimator)
    shift.update(now, before)
    bounds = shift.bounds(alpha, p=4)
    exact = ot.emd2([], [], torch.cdist(now, before).numpy())
    moments = [f for s in (now, before) for f in (s.mean(0), s.var(0, correction=0))]
    spread = [float(v.sum()) for v in moments[1::2]]
    moved = float((moments[0] - moments[2]).norm())
    assert float(bounds.theorem1) == pytest.approx(sum(spread) + moved + 2)
    assert float(bounds.jensen) == pytest.approx(spread[0] ** 0.5 + spread[1] ** 0.5 + moved)
    C = max(now.abs().max(), before.abs().max())
    gap = (now.pow(4).sum(1).mean() - before.pow(4).sum(1).mean()).abs() / (4 * C**3 * 32**0.5)
    assert float(bounds.theorem2) == pytest.approx(float(gap), rel=1e-5)
    assert float(bounds.theorem33) == 4
    assert bounds.theorem32 is None
    assert max(bounds.lower, bounds.theorem2) <= exact
    assert exact <= min(bounds.upper, bounds.jensen, bounds.theorem1, bounds.theorem33, bounds.norms)
    lines = str(bounds).splitlines()
    assert len(lines) == 9
    assert len({line.index("  ", 27) for line in lines}) == 1  # numbers end in one column
    assert "not of eq. 10" in lines[-1]
    scalar = shift.bounds(0.5)
    assert float(scalar.theorem32) == 4
    assert scalar.theorem33 is None
    assert shift.bounds().theorem31 is None


def test_the_table_shows_that_no_constant_bounds_what_is_trained() -> None:
    x, alpha = 50 * torch.randn(100, 6, dtype=torch.float64), torch.full((6,), 0.5, dtype=torch.float64)
    shift = Shift(estimator="exact")
    shift.update(practical_unitization(2 * x, alpha), practical_unitization(x, alpha))
    bounds = shift.bounds(alpha)
    assert bounds.estimate.value > bounds.theorem33
    assert bounds.estimate.value <= bounds.norms


def test_sliced_keeps_projections_and_says_what_it_cannot_tell() -> None:
    shift = Shift(num_projections=3)
    shift.update(torch.randn(5, 1000), torch.randn(5, 1000))
    assert shift.kept[0].shape == (5, 2, 3)
    with pytest.raises(ValueError, match="p: expected 2, 3 or 4 without C, or an estimator that keeps samples"):
        shift.bounds(p=5)
    with pytest.raises(ValueError, match="an estimator that keeps samples"):
        shift.bounds(C=1.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_half_precision_single_samples_and_nan(estimator) -> None:
    x = (100 * torch.randn(64, 2048)).half()
    y = (x.float() * 1.1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = measured((x, y), estimator=estimator)
    torch.testing.assert_close(low.value, measured((x.float(), y.float()), estimator=estimator).value)
    assert measured((x[:1], y[:1]), estimator=estimator).stderr.isnan()
    x[3, 4] = torch.nan
    assert measured((x, y), estimator=estimator).value.isnan()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_layer_that_did_not_move_is_at_zero(estimator) -> None:
    x = torch.randn(50, 7)
    estimate = measured((x, x), estimator=estimator)
    assert float(estimate.value) < 1e-7
    assert float(estimate.upper) == 0 or estimator == "gaussian"


def test_the_monitor_can_tell_that_pairs_are_needed() -> None:
    assert Shift.needs_reference
    assert Shift().needs_reference


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="estimator: expected one of 'exact', 'sliced', 'gaussian', 'critic', got 'x'"):
        Shift(estimator="x")
    with pytest.raises(ValueError, match="p: expected one of 2, got 1"):
        Shift(estimator="gaussian", p=1)
    with pytest.raises(ValueError, match="max_samples: expected a number of pairs, 1 or more, got 0"):
        Shift(max_samples=0)
    with pytest.raises(ValueError, match="num_projections: expected a number of directions, 1 or more, got 0"):
        Shift(num_projections=0)
    with pytest.raises(ValueError, match="critic: expected None unless estimator='critic'"):
        Shift(critic=SMALL)
    with pytest.raises(TypeError, match=r"y: expected a floating point tensor, got torch\.int64"):
        Shift().update(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(N, C, …\), got shape \(3,\)"):
        Shift().update(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"y: expected the same inputs' samples, shape \(2, 3\), got shape \(3, 3\)"):
        Shift().update(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        Shift().update(torch.zeros(0, 3), torch.zeros(0, 3))


X, Y = torch.randn(2, 48, 6, 3, generator=seeded(0))
RANKED = {name: {"estimator": name} for name in ESTIMATORS} | {
    "critic": {"estimator": "critic", "critic": Critic(lipschitz="spectral", activation="linear", steps=5, widths=(8,))}
}


def on_a_rank(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    share = slice(0, 20) if rank == 0 else slice(20, None)
    found = {}
    for name, options in RANKED.items():
        shift = Shift(**options)
        for x, y in zip(X[share].split(14), Y[share].split(14), strict=True):
            shift.update(x, y)
        found[name] = list(shift.compute()[:5])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_union(tmp_path: Path) -> None:
    multiprocessing.spawn(on_a_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, options in RANKED.items():
            expected = list(measured((X, Y), **options)[:5])
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
