"""What is true of every public layer, penalty and measure, with batches that hypothesis draws.

`METRICS` of `tests/measure/test_metric_contract.py` has what torchmetrics asks of a metric: clones, states, `forward`.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.measure.test_metric_contract import CASES, numbers, same
from torch import Tensor, nn

import layershift as ls
from layershift.capture import select_layers
from layershift.nn import LayerPenalty, RecordedTarget

LIGHT = settings(
    deadline=None, max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DIRECTIONS = torch.eye(6)[:4]


class Layer(NamedTuple):
    """How a module is made, of what shape a batch of N is, and how its samples are arranged."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int = 0  # their dimension
    settings: tuple[str, ...] = ()  # what its repr tells


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def target() -> RecordedTarget:
    return RecordedTarget({"": (DIRECTIONS, torch.linspace(-1, 1, 9).expand(4, -1).clone())})


OPTIONS: dict[str, Any] = {"alpha_init": 0.3, "form": "bounded", "divisor": "elements"}
LAYERS = {
    "BatchNorm1d": Layer(lambda: ls.nn.BatchNorm1d(6), (6,)),
    "BatchNorm2d": Layer(lambda: ls.nn.BatchNorm2d(6), (6, 2, 3)),
    "BatchNorm3d": Layer(lambda: ls.nn.BatchNorm3d(6), (6, 2, 1, 2)),
    "SyncBatchNorm": Layer(lambda: ls.nn.SyncBatchNorm(6), (6, 4)),
    "Unitization1d": Layer(
        lambda: ls.nn.Unitization1d(6, **OPTIONS), (6,), settings=("divisor=elements", "form=bounded")
    ),
    "Unitization2d": Layer(lambda: ls.nn.Unitization2d(6, **OPTIONS), (6, 2, 3), settings=("divisor=elements",)),
    "Unitization3d": Layer(lambda: ls.nn.Unitization3d(6, **OPTIONS), (6, 2, 1, 2), settings=("divisor=elements",)),
    "SyncUnitization": Layer(lambda: ls.nn.SyncUnitization(6, **OPTIONS), (6, 4), settings=("form=bounded",)),
    "LSTMLayer": Layer(lambda: ls.nn.LSTMLayer(6, 3, steps=2), (6,), 1, settings=("6, 3", "norm='batch'", "steps=2")),
    "VariationalDropout": Layer(lambda: ls.nn.VariationalDropout(0.5), (6,), 1, ("p=0.5",)),
    "ScalarBias": Layer(ls.nn.ScalarBias, (6,)),
    "ScalarScale": Layer(ls.nn.ScalarScale, (6,)),
}
PENALTIES = {
    "PER": Layer(lambda: ls.nn.PER(reduction="sum"), (6,), settings=("mode='exact'", "reduction='sum'")),
    "ActivationPenalty": Layer(lambda: ls.nn.ActivationPenalty(1.5), (6,), settings=("p=1.5", "reduction='mean'")),
    "SlicedWasserstein": Layer(lambda: ls.nn.SlicedWasserstein(target()), (6,), settings=("p=2",)),
    "EppsPulley": Layer(lambda: ls.nn.EppsPulley(4, generator=generator()), (6,), 0, ("num_projections=4",)),
    "VarianceConstancy": Layer(
        lambda: ls.nn.VarianceConstancy(6, group_size=2), (6,), settings=("group_size=2", "layers={'': 6}")
    ),
}
NET = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
FUNCTIONS = {"as_samples", "convert", "fold", "fixup_factor", "fixup_init", "fixup_slow_parameters", "speeds"}
"""Tested below, one by one."""
REASONS = {
    "Folded": "what `fold` returns",
    "LayerPenalty": "the base of penalties",
    "RecordedTarget": "tested inside `SlicedWasserstein`, which alone uses it",
    "Critic": "options of `Shift`",
    "CriticDistance": "what `critic_distances` returns",
    "Estimate": "what metrics return",
    "MultiLabelResult": "what `MultiLabelScores` returns",
    "NeuronSpeeds": "what `speeds` returns",
    "ShiftBounds": "what `Shift.bounds` returns",
    "Speeds": "`speeds` at each step",
    "critic_distances": "tested inside `Shift`, by its estimator 'critic'",
}
"""Public names without properties of their own."""


def test_every_public_name_has_properties_or_a_reason() -> None:
    tested = {*LAYERS, *PENALTIES, *FUNCTIONS, *(type(case.make(**case.options)).__name__ for case in CASES.values())}
    assert tested | set(REASONS) == {*ls.nn.__all__, *ls.measure.__all__}
    assert not tested & set(REASONS)


@pytest.fixture(params=[*LAYERS, *PENALTIES])
def layer(request: pytest.FixtureRequest) -> Layer:
    return {**LAYERS, **PENALTIES}[request.param]


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def run(module: nn.Module, x: Tensor, *, training: bool = False) -> Tensor:
    """The output, of the same random numbers each time."""
    if isinstance(getattr(module, "generator", None), torch.Generator):
        module.generator.manual_seed(3)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return first(module.train(training)(x))


def modes(module: nn.Module) -> tuple[bool, ...]:
    """Evaluation, and training unless that draws for each sample."""
    return (False,) if isinstance(module, ls.nn.VariationalDropout) else (False, True)


@st.composite
def batches(draw: st.DrawFn, layer: Layer, least: int = 4) -> Tensor:
    """A batch of any size, scale and origin."""
    n, scale, shift = draw(st.integers(least, 9)), draw(st.sampled_from([0.1, 1.0, 30.0])), draw(st.integers(-2, 2))
    shape = (3, n, *layer.shape) if layer.samples else (n, *layer.shape)
    return scale * (shift + torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))))


def seen(layer: Layer) -> nn.Module:
    """A module that has trained for a step, so that its state is not that of the start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = layer.make()
        x = torch.randn((3, 8, *layer.shape) if layer.samples else (8, *layer.shape))
        with torch.no_grad():
            module.train()(x)
            for parameter in module.parameters():
                parameter -= 0.01 * torch.randn_like(parameter)
    return module


@given(data=st.data())
@LIGHT
def test_evaluation_changes_nothing_and_repeats(layer: Layer, data: st.DataObject) -> None:
    module, x = seen(layer), data.draw(batches(layer))
    before, given_x = copy.deepcopy(module.state_dict()), x.clone()
    assert torch.equal(run(module, x), run(module, x))
    assert torch.equal(x, given_x)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@given(data=st.data())
@LIGHT
def test_training_leaves_the_input_and_moves_statistics_alone(layer: Layer, data: st.DataObject) -> None:
    module, x = seen(layer), data.draw(batches(layer))
    before, given_x = copy.deepcopy(dict(module.named_parameters())), x.clone()
    run(module, x, training=True)
    assert torch.equal(x, given_x)
    assert all(torch.equal(value, before[key]) for key, value in module.named_parameters())


@given(data=st.data())
@LIGHT
def test_copies_compute_the_same(layer: Layer, data: st.DataObject) -> None:
    module, x = seen(layer), data.draw(batches(layer))
    loaded = layer.make()
    loaded.load_state_dict(module.state_dict())
    drawing = getattr(module, "generator", None) is not None  # PyTorch's generators cannot be pickled
    pickled = copy.deepcopy(module) if drawing else pickle.loads(pickle.dumps(module))
    for training in (False, True):
        expected = run(copy.deepcopy(module), x, training=training)
        for other in (loaded, pickled):
            assert torch.equal(run(other, x, training=training), expected)


@given(data=st.data())
@LIGHT
def test_the_order_of_samples_does_not_matter(layer: Layer, data: st.DataObject) -> None:
    module, x = seen(layer).double(), data.draw(batches(layer)).double()
    if isinstance(module, ls.nn.VarianceConstancy):
        return  # its two groups are the first samples and those after them
    order = torch.tensor(data.draw(st.permutations(range(x.shape[layer.samples]))))
    for training in modes(module):
        found = run(copy.deepcopy(module), x.index_select(layer.samples, order), training=training)
        expected = run(copy.deepcopy(module), x, training=training)
        expected = expected if expected.dim() == 0 else expected.index_select(layer.samples, order)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@given(data=st.data())
@LIGHT
def test_float32_agrees_with_float64(layer: Layer, data: st.DataObject) -> None:
    module, x = seen(layer), data.draw(batches(layer))
    if isinstance(module, ls.nn.EppsPulley):
        return  # other directions are drawn for another dtype
    wide = copy.deepcopy(module).double()
    for training in modes(module):
        found, expected = run(module, x, training=training), run(wide, x.double(), training=training)
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()) + 1e-6)


def test_what_it_is_told(layer: Layer) -> None:
    module = layer.make()
    assert repr(module) == repr(layer.make()) == repr(copy.deepcopy(module))
    assert all(setting in repr(module) for setting in (type(module).__name__, *layer.settings)), repr(module)


@pytest.mark.parametrize("name", PENALTIES)
@given(data=st.data())
@LIGHT
def test_penalties_are_scalars_joint_ones_are_theirs(name: str, data: st.DataObject) -> None:
    module, x = seen(PENALTIES[name]), data.draw(batches(PENALTIES[name]))
    assert isinstance(module, LayerPenalty)
    alone = run(module, x)
    assert alone.shape == ()
    assert bool(alone.isfinite())
    if isinstance(getattr(module, "generator", None), torch.Generator):
        module.generator.manual_seed(3)
    with torch.no_grad():
        torch.testing.assert_close(module.named([("", x)])[0], alone)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@settings(LIGHT, max_examples=5)
def test_batches_in_any_split_are_the_whole(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    n = data.draw(st.integers(6, 20)) if not case.by_order else 20
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4)))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    metric, whole = case(), case()
    for parts in zip(*(side[:n].split(sizes) for side in case.data), strict=True):
        metric.update(*parts)
    whole.update(*(side[:n] for side in case.data))
    same(metric.compute(), whole.compute())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.by_order])
@given(data=st.data())
@LIGHT
def test_the_order_of_a_metrics_samples_does_not_matter(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    n = data.draw(st.integers(6, 20))
    order = torch.tensor(data.draw(st.permutations(range(n))))
    metric, other = case(), case()
    metric.update(*(side[:n][order] for side in case.data))
    other.update(*(side[:n] for side in case.data))
    found, expected = numbers(metric.compute()), numbers(other.compute())
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-6)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.sampled_from(["image", "position", "step"]))
@LIGHT
def test_as_samples_keeps_every_number_once(shape: list[int], sample: Any) -> None:
    x = torch.arange(torch.tensor(shape).prod().item(), dtype=torch.float64).view(shape)
    samples = ls.nn.as_samples(x, sample)
    assert samples.dim() == 2
    assert torch.equal(samples.flatten().sort().values, x.flatten())


@given(st.integers(0, 99), st.sampled_from(["unitization", "sync_unitization", "synchronized"]))
@LIGHT
def test_a_converted_network_computes_the_same_and_converts_back(seed: int, to: Any) -> None:
    model, x = copy.deepcopy(NET), torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    run(model, x, training=True)
    expected = run(model, x)
    state = copy.deepcopy(model.state_dict())
    converted = ls.convert(model, to=to)
    torch.testing.assert_close(run(converted, x), expected)
    if to == "unitization":
        back = ls.convert(converted, to="batch")
        assert back.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in back.state_dict().items())
        assert torch.equal(run(back, x), expected)


@given(st.integers(0, 99), st.booleans())
@LIGHT
def test_a_folded_network_computes_the_same_and_leaves_the_first_alone(seed: int, kept: bool) -> None:
    model, x = copy.deepcopy(NET), torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    run(model, 3 + x, training=True)
    expected = run(model, x)
    folded = ls.fold(model, keep=["1"] if kept else [])
    torch.testing.assert_close(run(folded.model, x), expected)
    assert set(folded.folded.values()) | set(folded.left) == {"1"}
    assert bool(folded.left) == kept
    assert torch.equal(run(model, x), expected)


@given(st.integers(1, 30), st.integers(2, 6))
@LIGHT
def test_fixup_makes_so_many_branches_one(branches: int, depth: int) -> None:
    factor = ls.nn.fixup_factor(branches, depth)
    assert 0 < factor <= 1
    assert branches * factor ** (2 * depth - 2) == pytest.approx(1)
    made = [nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth))) for _ in range(min(branches, 3))]
    head, x = nn.Linear(2, 2), torch.randn(4, 2)
    ls.nn.fixup_init(made, head)
    assert not any(run(branch, x).any() for branch in [*made, head])
    slow = ls.nn.fixup_slow_parameters(nn.ModuleList([*made, ls.nn.ScalarScale(), ls.nn.ScalarBias()]))
    assert len(slow) == len(made) * depth + 2


@given(st.floats(1e-3, 1e3), st.floats(0.1, 10))
@LIGHT
def test_speeds_are_in_proportion_to_the_rate_and_fall_with_length(rate: float, length: float) -> None:
    model = copy.deepcopy(NET)
    short = ls.measure.speeds(model, lr=1.0)["0"]
    with torch.no_grad():
        model[0].weight.mul_(length)
    found = ls.measure.speeds(model, lr=rate)["0"]
    torch.testing.assert_close(found.norm, length * short.norm)
    torch.testing.assert_close(found.effective_rate, rate / length**2 * short.effective_rate)
    assert list(select_layers(model, "0")) == ["0"]
