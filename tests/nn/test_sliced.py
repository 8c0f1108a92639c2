"""Penalties along directions: Laplace on coordinates, recorded distributions, Epps–Pulley on random directions."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import layershift as ls
from layershift.functional import directions, epps_pulley, wasserstein, wasserstein_laplace
from layershift.nn import EppsPulley, RecordedTarget, SlicedWasserstein


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


@pytest.mark.parametrize("p", [1, 2])
def test_laplace_is_the_mean_power_over_coordinates(p) -> None:
    x = samples(20, 3, 2, 2)
    value = SlicedWasserstein("laplace", p, scale=0.4)(x)
    torch.testing.assert_close(value, wasserstein_laplace(x.flatten(1).mT, p, scale=0.4).pow(p).mean())
    positions = SlicedWasserstein("laplace", p, sample="position")(x)
    torch.testing.assert_close(
        positions, wasserstein_laplace(x.transpose(0, 1).flatten(1), p, scale=0.5**0.5).pow(p).mean()
    )


def test_of_many_coordinates_a_random_choice_is_looked_at() -> None:
    x = samples(20, 100) * torch.linspace(0.1, 3, 100)
    penalty = SlicedWasserstein("laplace", num_projections=10, generator=generator())
    values = torch.stack([penalty(x) for _ in range(400)])
    whole = SlicedWasserstein("laplace", num_projections=100)(x)
    assert values.std() > 0
    assert abs(values.mean() - whole) < 4 * values.std() / 20
    chosen = torch.randperm(100, generator=generator())[:10]
    torch.testing.assert_close(values[0], SlicedWasserstein("laplace")(x[:, chosen]))


def test_the_laplace_target_makes_samples_sparser_than_the_normal_one() -> None:
    """Of standard deviation 1, P(|h| < 0.1) is 0.132 for Laplace and 0.080 for normal."""
    shares = {}
    for target in ("normal", "laplace"):
        x = samples(256, 8).requires_grad_()
        optimizer = torch.optim.SGD([x], lr=200.0)
        penalty = SlicedWasserstein(target, num_projections=64, generator=generator())
        for _ in range(60):
            optimizer.zero_grad()
            penalty(x).backward()
            optimizer.step()
        shares[target] = float((x.abs() < 0.1).double().mean())
    assert shares["laplace"] == pytest.approx(0.132, abs=0.01)
    assert shares["normal"] == pytest.approx(0.080, abs=0.015)


def test_epps_pulley_is_the_mean_over_directions() -> None:
    x = 1.4 * samples(30, 6)
    slices = directions(6, 16, generator=generator(), dtype=torch.float64)
    expected = epps_pulley(slices @ x.mT).mean()
    torch.testing.assert_close(EppsPulley(16, generator=generator())(x), expected)
    torch.testing.assert_close(EppsPulley(16, reduction="sum", generator=generator())(x), 30 * expected)
    fine = EppsPulley(16, num_nodes=65, t_max=7.0, generator=generator())(x)
    torch.testing.assert_close(fine, epps_pulley(slices @ x.mT, method="exact").mean())


def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh()).double()


def trained(seed: int = 0) -> nn.Sequential:
    model = tiny()
    model(samples(64, 4, seed=seed))  # moves the running statistics
    return model


def test_a_record_is_sliced_distance_to_what_was_recorded() -> None:
    model, x, new = trained(), samples(50, 4), samples(20, 4, seed=1)
    target = ls.record_target(model, x.split(17), layers=nn.Tanh, num_projections=7, seed=3)
    model.eval()
    recorded = {"2": model[:3](x), "4": model(x)}
    model.train()
    penalty = SlicedWasserstein(target, p=2)
    with ls.regularize(model, penalty, layers=nn.Tanh, weight={"2": 1.0, "4": 10.0}) as handle:
        model(new)
        loss = handle.loss()
    now = {"2": (h := model[:3](new)), "4": model[3:](h)}
    expected = 0
    for weight, name in ((1.0, "2"), (10.0, "4")):
        slices, quantiles = target.layer(name)
        projected = slices @ recorded[name].detach().mT
        torch.testing.assert_close(quantiles, projected.sort(-1).values)  # few samples: they are kept as they are
        expected = expected + weight * wasserstein(slices @ now[name].mT, projected, p=2).square().mean()
    torch.testing.assert_close(loss, expected)
    assert all(slices.norm(dim=1).allclose(torch.ones(()).double()) for slices, _ in map(target.layer, recorded))


def test_a_stream_gives_what_the_batch_gives_and_the_model_is_as_it_was() -> None:
    model, x = trained(), samples(200, 4)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    whole = ls.record_target(model, [x], layers="*", num_quantiles=32)
    parts = ls.record_target(model, ((part, None) for part in x.split(33)), layers="*", num_quantiles=32)
    torch.testing.assert_close(dict(parts.state_dict()), dict(whole.state_dict()))
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_quantiles_are_those_of_the_distribution_and_many_samples_are_thinned_evenly() -> None:
    model = nn.Sequential(nn.Identity())
    x = samples(6000, 3)
    options = {"layers": "0", "num_projections": 5, "num_quantiles": 99}
    full = ls.record_target(model, x.split(500), **options).layer("0")[1]
    levels = (torch.arange(99).double() + 0.5) / 99
    slices, thinned = ls.record_target(model, x.split(500), max_samples=3000, **options).layer("0")
    projected = slices @ x.mT
    torch.testing.assert_close(full, torch.quantile(projected, levels, dim=1).mT, rtol=0, atol=0.02)
    torch.testing.assert_close(thinned, full, rtol=0, atol=0.3)
    assert (thinned.diff() >= 0).all()
    late = ls.record_target(model, [x[:3000], x[3000:] + 100], max_samples=3000, **options).layer("0")[1]
    drift = (slices.sum(1, keepdim=True) * 100).abs()
    share = (late.abs() > drift / 2).double().mean()  # about half of what is kept came late
    assert 0.4 < share < 0.6


def test_a_record_goes_through_a_checkpoint_and_follows_its_penalty() -> None:
    model = trained()
    target = ls.record_target(model, [samples(50, 4)], layers=nn.Tanh, num_projections=7)
    penalty = SlicedWasserstein(target)
    assert list(penalty.parameters()) == []
    file = io.BytesIO()
    torch.save(penalty.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    x = samples(20, 6, seed=2)
    for twin in (SlicedWasserstein(RecordedTarget()), copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        twin.load_state_dict(state)
        torch.testing.assert_close(twin(x, "2"), penalty(x, "2"), rtol=0, atol=0)
    assert penalty.to(torch.float32)(x.float(), "2").dtype == torch.float32
    assert repr(target) == "RecordedTarget(sample='image', layers={'2': (7, 50), '4': (7, 50)})"


def test_keyword_inputs_and_steps() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2).double()

        def forward(self, *, tokens: torch.Tensor) -> torch.Tensor:
            return self.layer(tokens)

    target = ls.record_target(Model(), [{"tokens": samples(4, 5, 3)}], layers="layer", sample="step")
    assert target.layer("layer")[1].shape == (128, 20)
    assert SlicedWasserstein(target).sample == "step"


PENALTIES = [SlicedWasserstein("laplace"), SlicedWasserstein("laplace", 1, num_projections=4), EppsPulley()]


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_every_penalty_is_a_float32_scalar_under_autocast_and_survives_copies(penalty) -> None:
    x = torch.randn(16, 12, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = penalty(x)
    assert value.dtype == torch.float32
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.isfinite().all()
    assert repr(pickle.loads(pickle.dumps(penalty))) == repr(copy.deepcopy(penalty)) == repr(penalty)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="target: expected one of 'normal', 'laplace', got 'uniform'"):
        SlicedWasserstein("uniform")
    with pytest.raises(ValueError, match="scale: expected a positive number, got 0"):
        SlicedWasserstein("laplace", scale=0)
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', got 'none'"):
        EppsPulley(reduction="none")
    with pytest.raises(ValueError, match="num_projections: expected at least 1, got 0"):
        EppsPulley(0)
    model = trained()
    with pytest.raises(ValueError, match="batches: expected at least one batch, got none"):
        ls.record_target(model, [], layers="4")
    target = ls.record_target(model, [samples(9, 4)], layers="4")
    with pytest.raises(ValueError, match="layers: expected layers that were recorded, '4', got '2'"):
        ls.regularize(model, SlicedWasserstein(target), layers=nn.Tanh, weight=1.0)
    with pytest.raises(ValueError, match=r"layers: expected directions \(P, d\) and quantiles \(P, K\) for 'a'"):
        RecordedTarget({"a": (torch.zeros(2, 3), torch.zeros(3, 3))})
