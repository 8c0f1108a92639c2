"""Alarms: once an episode, by fixed and learned limits; silent on healthy training, and right about sick training."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layershift.measure import Health, Moments
from layershift.monitor.alarm import ADVICE, Alarm
from layershift.monitor.alarms import Alarms, LayerWarning, StopTraining
from layershift.monitor.monitor import Monitor
from layershift.monitor.rules import Learned, Threshold, default_rules
from layershift.monitor.store import Record, Store
from layershift.train.models import small_cnn


def series(numbers: Iterable[float], measure: str = "dead", layer: str = "a", **fields) -> list[Record]:
    return [Record(step, layer, measure, value, **fields) for step, value in enumerate(numbers)]


def raised(alarms: Alarms, records: list[Record]) -> list[Alarm]:
    """What alarms find when they are told step by step."""
    steps = defaultdict(list)
    for record in records:
        steps[record.step].append(record)
    return [alarm for step in sorted(steps) for alarm in alarms.observe(steps[step])]


def steps_of(rule, numbers: Iterable[float], **fields) -> list[int]:
    return [alarm.step for alarm in raised(Alarms([rule], learn=4), series(numbers, rule.measure, **fields))]


DEAD = Threshold(measure="dead", kind="dead", above=0.5)


def test_an_alarm_says_everything() -> None:
    (alarm,) = raised(Alarms([DEAD]), series([0.2, 0.75], layer="relu1"))
    message = "step 1: layer 'relu1' is dead: dead = 0.75, limit 0.5"
    assert alarm == Alarm(1, "relu1", None, "dead", "dead", 0.75, 0.5, message, ADVICE["dead"])
    assert str(alarm) == f"{message}. To try: {ADVICE['dead']}"
    for word in ("learning rate", "LeakyReLU", "ELU", "bias", "normaliser"):
        assert word in alarm.advice


def test_each_kind_of_the_default_rules_has_advice() -> None:
    kinds = {rule.kind for rule in default_rules()}
    assert kinds == {"dead", "saturated", "collapsed", "exploding", "vanishing", "nonfinite", "shift"}
    assert kinds == ADVICE.keys()
    assert "ls.convert" in ADVICE["exploding"]
    assert "ls.regularize" in ADVICE["exploding"]
    assert "loss scaling" in ADVICE["nonfinite"]


def test_once_an_episode_and_again_after_it_came_clear() -> None:
    numbers = [0.6, 0.9, 0.45, 0.6, 0.39, 0.6, 0.6]  # 0.45 is below the limit, but not clear of it
    assert steps_of(DEAD, numbers) == [0, 5]


def test_patience_counts_measured_steps_in_a_row() -> None:
    rule = Threshold(measure="dead", kind="dead", above=0.5, patience=3)
    assert steps_of(rule, [0.6, 0.6, 0.1, 0.6, 0.6, 0.6]) == [5]
    # Two calm steps do not end an episode, three do; then three in a row begin another.
    assert steps_of(rule, [0.6] * 3 + [0.1] * 2 + [0.6] * 3 + [0.1] * 3 + [0.6] * 3) == [2, 13]


def test_limits_below_and_limits_of_zero_and_less() -> None:
    assert steps_of(Threshold(measure="m", kind="k", below=1.0), [1.1, 0.9, 1.1, 0.9, 1.3, 0.9]) == [1, 5]
    assert steps_of(Threshold(measure="m", kind="k", above=0), [0.0, 0.1, 0.2, 0.0, 0.1]) == [1, 4]
    assert steps_of(Threshold(measure="m", kind="k", above=-1), [-0.9, -1.1, -0.9, -1.3, -0.9]) == [0, 4]


def test_nan_is_not_judged_and_infinity_is() -> None:
    assert steps_of(DEAD, [math.nan, 0.6, math.nan, math.nan, 0.6]) == [1]
    assert steps_of(DEAD, [0.1, math.inf]) == [1]


@given(numbers=st.lists(st.floats(0, 1), max_size=40), patience=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_there_are_never_two_alarms_without_calm_between(numbers, patience) -> None:
    rule = Threshold(measure="dead", kind="dead", above=0.5, patience=patience)
    found = steps_of(rule, numbers)
    for step in found:
        assert min(numbers[step - patience + 1 : step + 1]) > 0.5
    for first, second in itertools.pairwise(found):
        calm = "".join("c" if x <= 0.4 else "." for x in numbers[first:second])
        assert "c" * patience in calm
    longest = max((len(run) for run in "".join("x" if x > 0.5 else " " for x in numbers).split()), default=0)
    assert bool(found) == (longest >= patience)


def test_layers_and_units_are_apart_and_units_are_asked_for() -> None:
    records = [*series([0.9], layer="a"), *series([0.9], layer="b"), *series([0.9], layer="b", unit=3)]
    assert [(a.layer, a.unit) for a in Alarms([DEAD]).observe(records)] == [("a", None), ("b", None)]
    rule = Threshold(measure="dead", kind="dead", above=0.5, units=True)
    found = Alarms([rule]).observe(records)
    assert [(a.layer, a.unit) for a in found] == [("a", None), ("b", None), ("b", 3)]
    assert "layer 'b', unit 3, is dead" in found[2].message


def test_a_rule_may_pass_over_records() -> None:
    rule = Threshold(measure="dead", kind="dead", above=0.5, applies=lambda record: record.layer != "input")
    assert [a.layer for a in Alarms([rule]).observe([*series([1.0], layer="input"), *series([1.0])])] == ["a"]


def test_rules_of_one_kind_raise_one_alarm_between_them() -> None:
    rules = [
        Threshold(measure="rms", kind="exploding", above=10),
        Threshold(measure="rms", kind="exploding", above=100),
        Threshold(measure="rms", kind="huge", above=100),
    ]
    found = raised(Alarms(rules), series([1, 20, 200, 50, 1, 200], "rms"))
    assert [(a.step, a.kind) for a in found] == [(1, "exploding"), (2, "huge"), (5, "exploding"), (5, "huge")]


def test_a_number_that_is_recorded_twice_at_a_step_counts_once() -> None:
    rule = Threshold(measure="nonfinite", kind="nonfinite", above=0, patience=2)
    twice = [Record(0, "a", "nonfinite", 0.5), Record(0, "a", "nonfinite", 0.5)]
    alarms = Alarms([rule])
    assert alarms.observe(twice) == []
    assert [a.step for a in alarms.observe([twice[0]._replace(step=1)])] == [1]


RISING = Learned(measure="rms", kind="exploding", direction="above", least=10)
FALLING = Learned(measure="rms", kind="vanishing", direction="below", least=10)


def test_limits_are_learned_from_the_beginning_of_each_series() -> None:
    assert steps_of(RISING, [1e9, 1, 1, 1, 9, 11, 12, 3.3, 3, 11]) == [5, 9]  # one outlier does no harm
    assert steps_of(FALLING, [1, 1, 1, 0.0, 0.11, 0.09, 0.3, 0.35, 0.09]) == [5, 8]
    (alarm,) = raised(Alarms([RISING], learn=4), series([2, 2, 2, 2, 21], "rms"))
    assert alarm.limit == pytest.approx(20)
    assert alarm.message.endswith("limit 20, learned from 4 measured steps")


def test_what_varies_by_itself_gets_a_wider_band() -> None:
    wild = [0.1, 1, 10, 100, 0.1, 10]  # median 3.16, deviations of a factor of 10 and 30
    rule = Learned(measure="rms", kind="exploding", direction="above", least=10, learn=6)
    spread = 1.4826 * (math.log(10**0.5) + math.log(10**1.5)) / 2
    limit = math.exp(math.log(10**0.5) + 6 * spread)
    assert steps_of(rule, [*wild, 0.99 * limit, 1.01 * limit]) == [7]


def test_a_linear_scale_learns_differences() -> None:
    rule = Learned(measure="mean", kind="moved", direction="above", least=1.0, scale="linear", learn=3)
    assert steps_of(rule, [-5, -5, -5, -4.1, -3.9, -4.4, -4.6, -3.9]) == [4, 7]


def test_a_layer_that_starts_at_nothing_may_become_like_the_others() -> None:
    others = [r for name in "bcd" for r in series([1.0] * 8, "rms", name)]
    for start in (0.0, 1e-6):
        records = [*series([start] * 4 + [0.01, 1.0, 9.0, 11.0], "rms"), *others]
        assert [(a.layer, a.step) for a in raised(Alarms([RISING], learn=4), records)] == [("a", 7)]
    assert steps_of(RISING, [0.0] * 4 + [1.0]) == []  # nothing is known of any layer


@pytest.mark.parametrize("numbers", [[1.0] * 30, [0.6] * 30, [0.0] * 5 + [0.7] * 10 + [0.0] * 5 + [0.9] * 10])
@pytest.mark.parametrize("cut", [1, 4, 9, 22])
def test_a_run_that_goes_on_from_its_store_finds_what_it_would_have_found(tmp_path, numbers, cut) -> None:
    rules = [
        Threshold(measure="dead", kind="dead", above=0.5, patience=2),
        Learned(measure="rms", kind="exploding", direction="above", least=10, patience=2),
    ]
    records = [*series(numbers), *series([10**x if i < 12 else 30 for i, x in enumerate(numbers)], "rms")]
    whole = raised(Alarms(rules, learn=6), records)
    first = raised(Alarms(rules, learn=6), [r for r in records if r.step < cut])
    with Store(tmp_path / "run.db") as store:
        store.write([r for r in records if r.step < cut])
        later = Alarms(rules, learn=6, action="stop")
        later.replay(store)
    assert first + raised(later, [r for r in records if r.step >= cut]) == whole
    again = Alarms(rules, learn=6)
    again.replay(reversed([r for r in records if r.step < cut]))
    assert first + raised(again, [r for r in records if r.step >= cut]) == whole


def test_warnings_are_shown_each_time_and_name_all_layers_together() -> None:
    alarms = Alarms([DEAD])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # python's own: a text that was shown from a place is not shown again
        for record in series([0.9, 0.1, 0.9, 0.1]):
            alarms.act(alarms.observe([record]))
        alarms.act(raised(alarms, [r for name in "bcdefghi" for r in series([0.9], layer=name)]))
    texts = [str(warning.message) for warning in caught]
    assert {warning.category for warning in caught} == {LayerWarning}
    assert [text.split(":")[0] for text in texts] == ["step 0", "step 2", "step 0"]
    assert "layer 'b' is dead" in texts[2]
    assert "; so are 'c', 'd', 'e', 'f', 'g' and 2 more. To try: lower the learning rate" in texts[2]


def test_stopping_carries_the_alarms() -> None:
    alarms = Alarms([DEAD], action="stop")
    alarms.act(alarms.observe(series([0.1])))
    found = alarms.observe([Record(1, "a", "dead", 0.9)])
    with pytest.raises(StopTraining, match=r"step 1: layer 'a' is dead: dead = 0\.9, limit 0\.5\. To try: ") as caught:
        alarms.act(found)
    assert caught.value.alarms == found


def test_a_function_gets_each_alarm() -> None:
    got: list[Alarm] = []
    alarms = Alarms([DEAD], action=got.append)
    found = alarms.observe([*series([0.9], layer="a"), *series([0.9], layer="b")])
    assert got == []
    alarms.act(found)
    assert got == found


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="action: expected 'warn', 'stop' or a function, got 'halt'"):
        Alarms(action="halt")
    with pytest.raises(ValueError, match="learn: expected a number of measured steps, 1 or more, got 0"):
        Alarms(learn=0)
    with pytest.raises(TypeError, match=r"rules: expected rules such as Threshold\(…\) or Learned\(…\), got 'dead'"):
        Alarms(["dead"])
    with pytest.raises(ValueError, match=r"above, below: expected a number for one of them, got \(None, None\)"):
        Threshold(measure="m", kind="k")
    with pytest.raises(ValueError, match=r"above, below: expected a number for one of them, got \(1, 2\)"):
        Threshold(measure="m", kind="k", above=1, below=2)
    with pytest.raises(ValueError, match="patience: expected a number of steps, 1 or more, got 0"):
        Threshold(measure="m", kind="k", above=1, patience=0)
    with pytest.raises(ValueError, match="direction: expected one of 'above', 'below', got 'up'"):
        Learned(measure="m", kind="k", direction="up", least=2)
    with pytest.raises(ValueError, match="least: expected a factor above 1, got 1"):
        Learned(measure="m", kind="k", direction="above", least=1)
    with pytest.raises(ValueError, match="least: expected a positive difference, got 0"):
        Learned(measure="m", kind="k", direction="above", least=0, scale="linear")
    with pytest.raises(ValueError, match="learn: expected a number of steps, 1 or more, or None, got 0"):
        Learned(measure="m", kind="k", direction="above", least=2, learn=0)


# Real training, on digits.


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)


def mlp(activation: type[nn.Module] = nn.ReLU, *, depth: int = 3, norm: bool = False, gain: float = 1) -> nn.Sequential:
    """PyTorch's own initialisation, times `gain`."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(depth):
        linear = nn.Linear(64 if i == 0 else 48, 48)
        with torch.no_grad():
            linear.weight *= gain
        layers += [linear, *([nn.BatchNorm1d(48)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(48, 10))


def cnn(norm: str | None = None) -> nn.Sequential:
    return small_cnn(norm=norm, widths=(8, 16), strides=(1, 2))


def train(
    model: nn.Module, digits: tuple[Tensor, Tensor], *, steps: int, seed: int = 0, lr: float = 0.05, adam: bool = False
) -> tuple[list[Record], float]:
    """Every step is measured; also the mean loss of the last ten steps."""
    x, y = digits
    generator = torch.Generator().manual_seed(seed)
    optimizer = (
        torch.optim.Adam(model.parameters(), lr=lr)
        if adam
        else torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    )
    losses = []
    measures = [Moments(num_units=0), "normality", Health()]
    with Monitor(model, measures=measures, every=1, budget=None, alarms=None) as monitor:
        for i in range(steps):
            chosen = torch.randint(len(x), (64,), generator=generator)
            with monitor.step(i):
                output = model(x[chosen])
            loss = nn.functional.cross_entropy(output, y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return monitor.records(), sum(losses[-10:]) / 10


HEALTHY: dict[str, tuple[Callable[[], nn.Module], dict[str, object]]] = {
    "relu": (mlp, {}),
    "tanh": (lambda: mlp(nn.Tanh), {}),
    "gelu, Adam": (lambda: mlp(nn.GELU), {"adam": True, "lr": 3e-3}),
    "batch norm": (lambda: mlp(norm=True), {}),
    "cnn, batch norm": (lambda: cnn("batch"), {}),
    "cnn, Adam": (cnn, {"adam": True, "lr": 1e-2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_training_raises_no_alarm(name, digits) -> None:
    make, options = HEALTHY[name]
    seed = list(HEALTHY).index(name)
    torch.manual_seed(seed)
    records, loss = train(make(), digits, steps=100, seed=seed, **options)
    assert loss < 1.3  # it learns: 2.3 at the start
    assert raised(Alarms(), records) == []


def sick(name: str) -> tuple[nn.Module, dict[str, object]]:
    options: dict[str, object] = {}
    model = mlp()
    if name == "rate":
        options["lr"] = 10.0
    elif name == "dead":
        with torch.no_grad():
            model[3].bias -= 10
    elif name == "saturated":
        model = mlp(nn.Tanh, gain=40)
    elif name == "constant input":
        model[0] = nn.Sequential(Constant(), nn.Flatten())
    elif name == "rank one":
        nn.utils.parametrize.register_parametrization(model[3], "weight", RankOne())
    elif name == "infinity":
        model[2] = nn.Sequential(nn.ReLU(), InfinityAt(12))
    return model, options


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


class RankOne(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.outer(weight[:, 0], weight[0])


class InfinityAt(nn.Module):
    def __init__(self, call: int) -> None:
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.where(torch.arange(x.shape[1]) == 5, torch.inf, x) if self.calls > self.call else x


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "layers", "latest"),
    [
        ("rate", "exploding", {"1", "3", "5", "7"}, 15),
        ("dead", "dead", {"4"}, 2),
        ("saturated", "saturated", {"2", "4", "6"}, 2),
        ("constant input", "collapsed", {"0.0"}, 2),
        ("rank one", "collapsed", {"3", "3.parametrizations.weight.0"}, 4),
        ("infinity", "nonfinite", {"2.1"}, 12),
    ],
)
def test_sick_training_is_noticed_in_time_and_in_the_right_layer(name, kind, layers, latest, digits) -> None:
    model, options = sick(name)
    records, _ = train(model, digits, steps=latest + 3, **options)
    found = raised(Alarms(), records)
    first = next(alarm for alarm in found if alarm.kind == kind)
    assert first.layer in layers
    assert first.step <= latest
    if name not in ("rate", "infinity"):
        assert {alarm.kind for alarm in found if alarm.step <= first.step and alarm.layer in layers} == {kind}


@pytest.mark.slow
def test_trouble_that_begins_in_the_middle_is_noticed_by_what_was_learned(digits) -> None:
    """Weights of one layer are scaled in a healthy run: past what it has shown, far from any fixed limit."""
    records, _ = train(mlp(), digits, steps=26)
    for factor, kind in ((3e3, "exploding"), (3e-3, "vanishing")):
        later = [
            r._replace(step=r.step + 26, value=r.value * factor) if r.layer == "5" and r.measure == "rms" else None
            for r in records
        ]
        found = raised(Alarms(), records + [r for r in later if r is not None])
        assert [(a.layer, a.kind, a.step) for a in found] == [("5", kind, 26 if kind == "exploding" else 28)]


def test_a_jump_of_the_shift_is_noticed() -> None:
    calm = [0.1 * (1 + 0.3 * math.sin(i)) for i in range(30)]
    found = raised(Alarms(), series([*calm, 0.5, 2.0, 2.0, 0.1], "shift/exact"))
    assert [(a.step, a.kind) for a in found] == [(31, "shift")]


def test_narrow_layers_may_have_one_direction() -> None:
    for upper, expected in ((2.0, []), (8.0, ["collapsed"])):
        records = series([1.0] * 12, "effective_rank", upper=upper)
        assert [alarm.kind for alarm in raised(Alarms(), records)] == expected
