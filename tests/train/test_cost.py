"""The cost of a step: that the step is a real one, that turns are taken, and whose clock it is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import layershift.train.cost as cost
from layershift.nn import PER
from layershift.train.components import build_model
from layershift.train.config import Config
from layershift.train.cost import step_seconds, training_step

SIZES = {"in_channels": 1, "in_features": 64, "num_classes": 10}
CONFIG = Config(method="vanilla", model="small_cnn", learning_rate=0.1, momentum=0.0, threads=1, accelerator="cpu")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 10


def after_one_step(config: Config, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The network that a step was taken of."""
    built = []

    def build(*arguments) -> torch.nn.Module:
        built.append(build_model(*arguments))
        return built[-1]

    monkeypatch.setattr(cost, "build_model", build)
    training_step(config.resolved(), SIZES, *batch())()
    return built[0]


@pytest.mark.parametrize("method", ["vanilla", "per"])
def test_a_step_is_gradient_descent_on_criterion_plus_penalty(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(**{**vars(CONFIG), "method": method, "penalty_weight": 1e-2 if method == "per" else None})
    found = after_one_step(config, monkeypatch)
    model, penalty = build_model(config, SIZES), PER(reduction="sum", mode="exact")
    terms: list[torch.Tensor] = []
    for name, module in model.named_modules():
        if "relu" in name:
            module.register_forward_hook(lambda _module, _inputs, output: terms.append(penalty(output)))
    x, y = batch()
    output = model(x)
    loss = F.cross_entropy(output, y) + (1e-2 * sum(terms) if method == "per" else 0)
    expected = copy.deepcopy(model)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient
    assert terms
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_penalty_with_parameters_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """β of variance constancy starts at 1."""
    built = []
    original = cost.build_penalty
    monkeypatch.setattr(cost, "build_penalty", lambda config: built.append(original(config)) or built[-1])
    config = Config(**{**vars(CONFIG), "method": "vcl", "penalty_weight": 1.0})
    training_step(config.resolved(), SIZES, *batch())()
    parameters = torch.cat([parameter.flatten() for parameter in built[0].parameters()])
    assert len(parameters) > 0
    assert not torch.allclose(parameters, torch.ones_like(parameters))


def test_methods_take_turns_on_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, seen = [], []

    def step_of(config: Config, sizes, x, y):
        seen.append((x, y))
        return lambda: turns.append(config.method)

    monkeypatch.setattr(cost, "training_step", step_of)
    configs = {name: Config(method=name, accelerator="cpu").resolved() for name in ("vanilla", "batch", "per")}
    seconds = step_seconds(configs, rounds=5)
    assert turns == ["vanilla", "batch", "per"] * (cost.WARMUP + 5)
    assert {name: len(found) for name, found in seconds.items()} == {"vanilla": 5, "batch": 5, "per": 5}
    assert all(x is seen[0][0] and y is seen[0][1] for x, y in seen)


def test_seconds_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    steps = {"vanilla": 1.0, "batch": 3.0}

    def step_of(config: Config, *_):
        def step() -> None:
            clock[0] += steps[config.method]

        return step

    monkeypatch.setattr(cost, "training_step", step_of)
    monkeypatch.setattr(cost, "_now", lambda device: clock[0])
    seconds = step_seconds({name: Config(method=name, accelerator="cpu").resolved() for name in steps}, rounds=2)
    assert seconds == {"vanilla": [1.0, 1.0], "batch": [3.0, 3.0]}


def test_the_threads_of_the_process_are_as_before() -> None:
    before = torch.get_num_threads()
    step_seconds({"vanilla": CONFIG.resolved()}, rounds=1)
    assert torch.get_num_threads() == before
