"""Speeds of normalised neurons against steps that are taken, against the paper's velocities, and in a monitor."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

import layershift as ls
from layershift.dynamics import NeuronSpeeds, Problem, second_moment, speeds, velocity
from layershift.measure import Speeds
from layershift.nn import Unitization2d


def network(d: int = 5, m: int = 7, *, eps: float = 1e-14) -> nn.Sequential:
    layers = nn.Linear(d, m, bias=False), nn.BatchNorm1d(m, eps=eps, momentum=None), nn.Tanh(), nn.Linear(m, 1)
    return nn.Sequential(*layers).double()


def data(n: int = 64, d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.arange(1.0, d + 1)
    return x, torch.randn(n, 1, generator=generator, dtype=torch.float64)


def backward(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.zero_grad()
    (model(x) - y).square().mean().backward()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def angle(u: Tensor, v: Tensor) -> Tensor:
    """In float64 by the arc sine of half the chord."""
    u, v = (nn.functional.normalize(t.detach().flatten(1).double(), dim=1) for t in (u, v))
    return 2 * ((u - v).norm(dim=1) / 2).asin()


class TestAgainstSteps:
    @pytest.mark.parametrize("rate", [1e-3, 1e-5])
    def test_a_small_step_turns_each_neuron_by_its_speed(self, rate) -> None:
        model, (x, y) = network(), data()
        backward(model, x, y)
        found = speeds(model, lr=rate)["0"]
        before = model[0].weight.detach().clone()
        torch.optim.SGD(model.parameters(), lr=rate).step()
        assert torch.allclose(angle(model[0].weight, before), found.speed, rtol=rate)

    def test_neurons_of_other_lengths_have_other_rates_and_the_same_directions(self) -> None:
        model, (x, y) = network(), data()
        backward(model, x, y)
        found = speeds(model)["0"]
        factors = torch.linspace(0.1, 10, 7, dtype=torch.float64)
        with torch.no_grad():
            model[0].weight *= factors[:, None]
        model[1].reset_running_stats()
        backward(model, x, y)
        scaled = speeds(model)["0"]
        assert torch.allclose(scaled.norm, found.norm * factors)
        assert torch.allclose(scaled.effective_rate, found.effective_rate / factors**2)
        assert torch.allclose(scaled.speed, found.speed / factors**2)
        assert torch.allclose(scaled.variance, found.variance)

    def test_the_gradient_is_across_the_weights_only_under_a_normaliser(self) -> None:
        model, (x, y) = network(), data()
        backward(model, x, y)
        assert speeds(model)["0"].radial.abs().max() < 1e-12
        model[1].eval()  # running statistics do not follow the weights
        backward(model, x, y)
        assert speeds(model)["0"].radial.abs().max() > 1e-2

    def test_the_variance_is_that_of_the_inputs_along_the_direction(self) -> None:
        model, (x, _) = network(), data()
        model(x)
        found = speeds(model)["0"]
        unit = nn.functional.normalize(model[0].weight.detach(), dim=1)
        assert torch.allclose(found.variance, torch.einsum("kd,de,ke->k", unit, torch.cov(x.mT), unit))
        assert found.speed is None
        assert found.radial is None


def test_the_velocity_of_the_paper_in_two_layers() -> None:
    m, (x, y) = 6, data(n=200)
    x = x - x.mean(0)
    model = nn.Sequential(
        nn.Linear(5, m, bias=False), nn.BatchNorm1d(m, eps=1e-14, affine=False), nn.Tanh(), nn.Linear(m, 1, bias=False)
    ).double()
    (model(x) - y).square().mean().mul(0.5).backward()
    problem = Problem(x, y[:, 0], second_moment(x), activation="tanh")
    b, a = model[0].weight.detach(), model[3].weight.detach()[0]
    by_hand = velocity(problem, m * a, b, kind="batch_norm").b.norm(dim=1) / m / b.norm(dim=1)
    assert torch.allclose(speeds(model)["0"].speed, by_hand)


class TestLayers:
    @pytest.mark.parametrize("groups", [1, 2])
    def test_rows_of_transposed_convolutions(self, groups) -> None:
        layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
        model = nn.Sequential(layer, nn.BatchNorm2d(6))
        probe = torch.zeros(1, 4, 5, 5)
        found = speeds(model)["0"].norm
        for k in range(6):  # each output channel's weights, found by what reaches it
            with torch.no_grad():
                layer.bias.zero_()
            inputs = probe.clone().requires_grad_()
            (reached,) = torch.autograd.grad(layer(inputs)[0, k, 3, 3], inputs)
            assert found[k] == pytest.approx(float(reached.norm()), rel=1e-5)

    def test_groups_share_a_length(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8, eps=1e-14)).double()
        x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
        (model(x) * torch.randn(4, 8, 7, 7)).sum().backward()
        found = speeds(model, lr=0.5)["0"]
        rows = model[0].weight.detach().reshape(4, -1)
        assert torch.allclose(found.norm, rows.norm(dim=1).repeat_interleave(2))
        assert torch.allclose(found.effective_rate, 0.5 / found.norm**2)
        assert found.speed.shape == (8,)
        assert found.variance is None

    def test_layer_norm_has_one_length(self) -> None:
        model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.LayerNorm(8, eps=1e-14)).double()
        (model(torch.randn(4, 3, dtype=torch.float64)) * torch.randn(4, 8)).sum().backward()
        found = speeds(model)["0"]
        assert torch.allclose(found.norm, model[0].weight.norm().expand(8))
        assert found.radial.abs().max() < 1e-10

    def test_unitization_and_half_precision(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), Unitization2d(8)).to(torch.bfloat16)
        found = speeds(model)["0"]
        assert found.norm.dtype == torch.float32
        assert torch.equal(found.norm, model[0].weight.detach().float().flatten(1).norm(dim=1))

    def test_what_has_no_weights_of_its_own_is_left_out(self) -> None:
        parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
        model = nn.Sequential(parametrised, nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        assert list(speeds(model)) == ["2"]
        with pytest.raises(ValueError, match=re.escape("layers: expected linear layers or convolutions that a norm")):
            speeds(nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()))


class TestRates:
    def test_an_optimiser_tells_each_layers_rate(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        groups = [{"params": model[:2].parameters(), "lr": 0.1}, {"params": model[2:].parameters(), "lr": 0.01}]
        by_optimiser = speeds(model, lr=torch.optim.Adam(groups))
        for name, rate in (("0", 0.1), ("2", 0.01)):
            by_hand: NeuronSpeeds = speeds(model, lr=rate, layers=name)[name]
            assert torch.equal(by_optimiser[name].effective_rate, by_hand.effective_rate)

    def test_errors_say_what_was_expected(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        with pytest.raises(ValueError, match="lr: expected an optimiser that holds the weights of layer '0'"):
            speeds(model, lr=torch.optim.SGD(model[1].parameters(), lr=1.0))
        with pytest.raises(ValueError, match="lr: expected a positive number or an optimiser, got 0"):
            speeds(model, lr=0)
        with pytest.raises(ValueError, match="layers: expected linear layers or convolutions that a normalis"):
            speeds(nn.Linear(3, 4))
        with pytest.raises(ValueError, match="num_units: expected a number of neurons, 0 or more, got -1"):
            Speeds(num_units=-1)


class TestMonitor:
    def test_turns_are_those_between_measured_steps_whatever_the_optimiser(self) -> None:
        model, (x, y) = network(eps=1e-5), data()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        kept = {}
        with ls.Monitor(model, measures=[Speeds(lr=optimizer, num_units=3)], every=2, budget=None) as monitor:
            for i in range(5):
                with monitor.step(i):
                    backward(model, x, y)
                    optimizer.step()
                kept[i] = copy.deepcopy(model[0].weight.detach())
            records = monitor.records()
        turns = {(r.step, r.unit): r.value for r in records if r.measure == "turn"}
        assert {step for step, _ in turns} == {2, 4}  # there is nothing before step 0
        by_hand = angle(kept[4], kept[2])
        assert turns[4, None] == pytest.approx(float(by_hand.mean()))
        assert {unit: turns[4, unit] for unit in (0, 3, 6)} == pytest.approx({k: float(by_hand[k]) for k in (0, 3, 6)})
        rate = next(r for r in records if r.measure == "effective_rate" and r.unit is None and r.step == 4)
        rates = 0.01 / kept[4].square().sum(1)
        assert rate.value == pytest.approx(float(rates.mean()))
        assert rate.stderr == pytest.approx(float(rates.std()) / 7**0.5)
        assert (rate.n, rate.estimator) == (7, "learning rate / norm²; mean over neurons")

    def test_by_name_beside_measures_of_outputs(self) -> None:
        model = network()
        with ls.Monitor(model, measures=["moments", "speeds"], every=1) as monitor:
            with monitor.step(0):
                model(data()[0])
            measures = {(r.layer, r.measure) for r in monitor.records()}
        assert {("0", "mean"), ("2", "variance"), ("0", "weight_norm"), ("0", "effective_rate")} <= measures
        assert ("0", "speed") not in measures  # there was no gradient
        assert ("3", "weight_norm") not in measures

    def test_alone_it_needs_no_forward(self, recwarn) -> None:
        model = network()
        with ls.Monitor(model, measures=["speeds"], every=1) as monitor:
            with monitor.step(0):
                pass
            assert {r.measure for r in monitor.records() if r.layer} == {
                "weight_norm", "effective_rate", "direction_variance"
            }  # fmt: skip
        assert not recwarn.list

    def test_through_wrappers_and_with_a_probe(self) -> None:
        model, (x, _) = network(), data()
        compiled = torch.compile(model, backend="eager")
        with ls.Monitor(compiled, measures=["speeds"], on="probe", probe=x, every=1) as monitor:
            with monitor.step(0):
                pass
            assert {r.layer for r in monitor.records() if r.measure == "weight_norm"} == {"0"}
