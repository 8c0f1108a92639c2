"""Which parameters decay and move slower, and how the learning rate falls."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layershift.nn import ScalarBias, ScalarScale, Unitization1d
from layershift.train.optimizer import Schedule, parameter_groups, schedule_of

STEPS = 200


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), ScalarBias(), Unitization1d(4), ScalarScale(), nn.Linear(4, 2))


def test_only_kernels_decay_and_biases_and_scalars_move_slower() -> None:
    named = dict(network().named_parameters())
    groups = parameter_groups(named.items(), learning_rate=0.4, weight_decay=0.1, bias_rate=0.5)
    settings = {id(p): (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}
    assert len(settings) == len(named)
    for name, parameter in named.items():
        slow = name.endswith(("bias", "scale"))
        expected = (0.1, 0.4) if parameter.dim() == 2 else (0.0, 0.2 if slow else 0.4)
        assert settings[id(parameter)] == expected, name


def test_without_a_rate_of_their_own_biases_are_like_other_vectors() -> None:
    named = dict(network().named_parameters())
    groups = parameter_groups(named.items(), learning_rate=0.4, weight_decay=0.1)
    assert [(group["weight_decay"], group["lr"]) for group in groups] == [(0.1, 0.4), (0.0, 0.4)]
    assert sum(len(group["params"]) for group in groups) == len(named)


def test_one_step_is_that_of_the_formula() -> None:
    """θ ← θ − η(∇ + decay θ), by hand."""
    model = nn.Linear(2, 1)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), learning_rate=0.1, weight_decay=0.5, bias_rate=0.1)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    optimizer.step()
    gradient = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(model.weight.detach(), start["weight"] - 0.1 * (gradient + 0.5 * start["weight"]))
    torch.testing.assert_close(model.bias.detach(), start["bias"] - 0.01)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.integers(1, 500), st.floats(0.05, 1))
def test_a_step_schedule_counts_the_milestones_that_are_passed(parts: list[float], steps: int, decay: float) -> None:
    factor = Schedule("step", steps, milestones=parts, decay=decay)
    for step in {0, steps // 3, steps // 2, steps - 1, steps}:
        passed = sum(step >= part * steps for part in parts)
        assert factor(step) == pytest.approx(decay**passed, abs=1e-12)


def test_each_milestone_may_have_a_factor_of_its_own() -> None:
    factor = Schedule("step", 160, milestones=[0.375, 0.625, 0.875], decay=[0.2, 0.1, 0.1])
    rates = [0.05 * factor(step) for step in (0, 59, 60, 99, 100, 139, 140, 159)]
    assert rates == pytest.approx([0.05, 0.05, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_a_warmup_has_a_tenth_of_the_rate_whatever_comes_after() -> None:
    for name in ("step", "cosine", "constant"):
        factor, plain = Schedule(name, STEPS, warmup=0.1), Schedule(name, STEPS)
        assert [factor(step) for step in (0, 19)] == [0.1, 0.1]
        assert factor(20) == plain(20) > 0.1


def test_a_cosine_falls_from_one_to_zero_and_stays_there() -> None:
    factor = Schedule("cosine", STEPS)
    values = [factor(step) for step in range(STEPS + 1)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0)
    assert values == sorted(values, reverse=True)
    assert math.isclose(values[STEPS // 2], 0.5)
    assert factor(STEPS + 7) == pytest.approx(0)


def test_schedules_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"^schedule: expected one of 'cosine', 'step', 'constant', got 'plateau'$"):
        Schedule("plateau", STEPS)
    with pytest.raises(ValueError, match=r"^decay: expected a factor, or one for each milestone, got "):
        Schedule("step", STEPS, milestones=[0.5], decay=[0.1, 0.1])


def test_every_group_falls_by_the_same_factor() -> None:
    groups = parameter_groups(network().named_parameters(), learning_rate=1.0, weight_decay=0.1, bias_rate=0.1)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    rule = schedule_of(optimizer, "step", 10, milestones=[0.5], decay=0.2, warmup=0.0)
    assert rule["interval"] == "step"
    seen = []
    for _ in range(10):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        rule["scheduler"].step()
    assert seen[:5] == [pytest.approx([1.0, 1.0, 0.1])] * 5
    assert seen[5:] == [pytest.approx([0.2, 0.2, 0.02])] * 5
