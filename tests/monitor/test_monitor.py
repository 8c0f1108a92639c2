"""The monitor measures when it should, sees what it should, and leaves no trace, whatever happens inside a step."""

from __future__ import annotations

import copy
import functools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import layershift as ls
from layershift.measure import Moments
from layershift.monitor import Monitor, Store, open_store


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))


def watch(model: nn.Module, **options) -> Monitor:
    return Monitor(model, **{"measures": ("moments",), "every": 10} | options)


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def values(monitor: Monitor, measure: str, layer: str) -> dict[int, float]:
    return {r.step: r.value for r in monitor.records() if (r.measure, r.layer, r.unit) == (measure, layer, None)}


def test_it_is_the_public_name() -> None:
    assert ls.Monitor is Monitor
    assert ls.open_store is open_store


def test_every_so_many_steps_are_measured_and_only_these_have_hooks() -> None:
    model = network()
    monitor = watch(model, every=3, budget=None)
    hooks = []
    for i in range(8):
        with monitor.step(i):
            model(torch.randn(16, 4))
            hooks.append(hooks_of(model))
        assert hooks_of(model) == 0
    assert hooks == [5, 0, 0, 5, 0, 0, 5, 0]
    assert sorted({r.step for r in monitor.records()}) == [0, 3, 6]


def test_the_numbers_are_those_of_the_batch() -> None:
    model, x = network(), torch.randn(64, 4)
    with watch(model, layers=["0", nn.ReLU], measures=[Moments(num_units=2, quantiles=[0.5])]) as monitor:
        with monitor.step(0):
            model(x)
        records = monitor.records()
        frame = monitor.to_pandas()
    y = model[0](x).detach()
    assert [r.layer for r in records if r.measure == "mean"] == ["0"] * 3 + ["2"] * 3
    by_name = {(r.layer, r.measure, r.unit): r for r in records}
    mean = by_name["0", "mean", None]
    assert mean.value == pytest.approx(float(y.mean()), rel=1e-5)
    assert mean.stderr == pytest.approx(float(y.mean(1).std()) / 8, rel=1e-4)
    assert (mean.n, mean.units, mean.step) == (64, "x", 0)
    assert by_name["0", "variance", 5].value == pytest.approx(float(y[:, 5].var(correction=0)), rel=1e-5)
    assert by_name["0", "quantile_0.5", None].value == pytest.approx(float(y.median()), abs=0.02)
    assert len(frame) == len(records)
    assert frame.unit.dropna().unique().tolist() == [0, 5]


def test_the_default_measures_cover_the_distance_to_the_normal() -> None:
    model = network()
    with Monitor(model, layers="2", every=1) as monitor:
        with monitor.step(0):
            model(torch.randn(32, 4))
        measures = {r.measure for r in monitor.records() if r.unit is None}
    quantiles = {f"quantile_{q}" for q in ("0.05", "0.25", "0.5", "0.75", "0.95")}
    others = {"mean", "variance", "skewness", "kurtosis", "nonfinite", "normality", "normality_floor"}
    assert measures == quantiles | others


def test_several_forwards_of_a_step_are_one_sample() -> None:
    model = network()
    with watch(model, layers="0") as monitor:
        with monitor.step(0):
            model(torch.randn(10, 4))
            model(torch.randn(6, 4))
        assert {r.n for r in monitor.records()} == {16}


def test_steps_do_not_leak_into_each_other() -> None:
    model = nn.Sequential(nn.Identity())
    with watch(model, every=1) as monitor:
        for i in range(3):
            with monitor.step(i):
                model(torch.full((4, 2), float(i)))
        assert values(monitor, "mean", "0") == {0: 0, 1: 1, 2: 2}


def test_measuring_changes_nothing_about_training() -> None:
    def train(watched: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, every=2, measures=("moments", "normality")) as monitor:
            for i in range(4):
                with monitor.step(i if watched else 1):
                    loss = model(torch.randn(16, 4)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return [p.detach() for p in model.parameters()]

    for a, b in zip(train(True), train(False), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_a_step_removes_the_hooks_and_keeps_what_was_recorded(tmp_path, error) -> None:
    model = network()

    def fail() -> None:
        model(torch.randn(8, 4))
        raise error("stop")

    with watch(model, every=1, store=tmp_path / "run.db") as monitor:
        with monitor.step(0):
            model(torch.randn(8, 4))
        with pytest.raises(error, match="stop"), monitor.step(1):
            fail()
        assert hooks_of(model) == 0
        with open_store(tmp_path) as store:
            assert {r.step for r in store.records()} == {0}
        with monitor.step(2):
            model(torch.randn(8, 4))
        assert {(r.step, r.n) for r in monitor.records() if r.layer} == {(0, 8), (2, 8)}


def test_the_store_can_be_read_after_each_measured_step(tmp_path) -> None:
    model = network()
    with watch(model, layers="0", every=2, store=tmp_path / "run.db") as monitor:
        for i in range(4):
            with monitor.step(i):
                model(torch.randn(8, 4))
            with open_store(tmp_path) as store:
                assert {r.step for r in store.records()} == {0, i - i % 2}


def test_a_second_monitor_continues_the_store(tmp_path) -> None:
    model = network()
    for start in (0, 20):
        with watch(model, layers="0", store=tmp_path / "run.db") as monitor:
            for i in range(start, start + 30):
                with monitor.step(i):
                    model(torch.randn(8, 4))
    with open_store(tmp_path / "run.db") as store:
        assert [r.step for r in store.records() if r.measure == "mean" and r.unit is None] == [0, 10, 20, 30, 40]


def test_a_store_that_was_given_open_stays_open(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        with watch(network(), store=store) as monitor:
            monitor.record(0, "train/loss", 1.5)
        store.set_meta("still", "open")
        assert [r.value for r in store.records()] == [1.5]


def test_numbers_of_the_network_stand_beside_those_of_its_layers() -> None:
    with watch(network()) as monitor:
        monitor.record(0, "train/loss", torch.tensor(2.5), n=16)
        monitor.record(1, "train/loss", 1.5, stderr=0.1)
        monitor.record(2, "train/loss", torch.tensor([math.nan]), units="nat", estimator="mean over the batch")
        first, second, third = monitor.records()
    assert (first.layer, first.measure, first.value, first.n, first.stderr) == ("", "train/loss", 2.5, 16, None)
    assert (second.value, second.stderr) == (1.5, 0.1)
    assert math.isnan(third.value)
    assert (third.units, third.estimator) == ("nat", "mean over the batch")


def test_a_recorded_tensor_is_what_it_was_when_it_was_recorded() -> None:
    loss = torch.tensor(1.0, requires_grad=True)
    with watch(network()) as monitor:
        monitor.record(0, "train/loss", loss)
        with torch.no_grad():
            loss += 5
        assert [r.value for r in monitor.records()] == [1.0]


def test_closing_leaves_no_trace_on_the_model(tmp_path) -> None:
    model = network()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    monitor = watch(model, every=1, store=tmp_path / "run.db")
    with monitor.step(0):
        model(torch.randn(8, 4))
        copy.deepcopy(model)
    monitor.close()
    monitor.close()
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model))).eval()
    assert torch.equal(twin(torch.ones(2, 4)), model.eval()(torch.ones(2, 4)))
    with pytest.raises(RuntimeError, match="this monitor is closed"), monitor.step(1):
        pass


def test_a_checkpointed_forward_is_counted_once() -> None:
    model = network()
    with watch(model, layers="0") as monitor:
        with monitor.step(0):
            checkpoint(model, torch.randn(8, 4, requires_grad=True), use_reentrant=False).sum().backward()
        assert {r.n for r in monitor.records()} == {8}


def test_autocast_does_not_reach_the_measures() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    with Monitor(model, every=1) as monitor:
        with monitor.step(0), torch.autocast("cpu", dtype=torch.bfloat16):
            x = torch.randn(32, 4)
            model(x)
            y = model(x).detach().float()
        assert values(monitor, "mean", "0")[0] == pytest.approx(float(y.mean()), abs=1e-4)


def test_inference_mode_is_fine() -> None:
    model = network().eval()
    with Monitor(model, every=1) as monitor:
        for i in range(2):
            with monitor.step(i), torch.inference_mode():
                model(torch.randn(8, 4))
        assert values(monitor, "normality", "0").keys() == {0, 1}


class TestProbe:
    def test_the_frozen_batch_is_measured_in_eval_mode_and_leaves_no_trace(self) -> None:
        model, x = network(), torch.randn(32, 4)
        model[3].eval()
        probe = x.clone()
        with watch(model, on="probe", probe=probe, every=1) as monitor:
            probe.zero_()  # the monitor keeps its own copy
            state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
            flags = [module.training for module in model.modules()]
            with monitor.step(0):
                pass
            assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
            assert torch.equal(random, torch.get_rng_state())
            assert [module.training for module in model.modules()] == flags == [True, True, True, True, False, True]
            expected = copy.deepcopy(model).eval()[:3](x)
            assert values(monitor, "mean", "2")[0] == pytest.approx(float(expected.detach().mean()), rel=1e-5)

    def test_the_training_batch_is_not_seen(self) -> None:
        model = network()
        with watch(model, on="probe", probe=torch.randn(32, 4)) as monitor:
            with monitor.step(0):
                model(torch.randn(7, 4))
            assert {r.n for r in monitor.records()} == {32}

    def test_it_may_stand_between_forward_and_backward(self) -> None:
        model = network()
        with watch(model, on="probe", probe=torch.randn(32, 4)) as monitor:
            with monitor.step(0):
                loss = model(torch.randn(16, 4)).sum()
            loss.backward()
        assert model[0].weight.grad is not None

    def test_it_can_be_measured_at_any_time(self) -> None:
        model = network()
        with watch(model, on="probe", probe=torch.randn(32, 4), every=10, budget=1e-9) as monitor:
            with monitor.step(0):
                pass
            monitor.measure(7)
            assert {r.step for r in monitor.records() if r.layer} == {0, 7}
        with pytest.raises(RuntimeError, match="this monitor is closed"):
            monitor.measure(8)
        with (
            watch(model) as monitor,
            pytest.raises(RuntimeError, match=r"measure\(\) needs a monitor with on=\"probe\""),
        ):
            monitor.measure(0)

    def test_arguments_may_be_several_or_named(self) -> None:
        class Sum(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Identity()

            def forward(self, a, b):
                return self.inner(a + b)

        a, b = torch.ones(2, 3), torch.full((2, 3), 4.0)
        for probe in ((a, b), [a, b], {"b": b, "a": a}):
            with watch(Sum(), on="probe", probe=probe) as monitor:
                with monitor.step(0):
                    pass
                assert values(monitor, "mean", "inner") == {0: 5}

    def test_flags_and_random_state_come_back_after_a_failure(self) -> None:
        model = network()
        with watch(model, on="probe", probe=torch.randn(32, 3)) as monitor:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), monitor.step(0):
                pass
            assert all(module.training for module in model.modules())
            assert hooks_of(model) == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
    def test_a_compiled_model_is_measured_and_not_compiled_again(self, how) -> None:
        compilations = []

        def backend(graph, _):
            compilations.append(1)
            return graph.forward

        model = network()
        if how == "wrapped":
            called = watched = torch.compile(model, backend=backend)
        elif how == "in place":
            model.compile(backend=backend)
            called = watched = model
        else:
            called = watched = nn.Sequential(torch.compile(model, backend=backend))
        x = torch.randn(16, 4)
        with watch(watched, layers="*2", on="probe", probe=x, every=2) as monitor:
            for i in range(6):
                with monitor.step(i):
                    loss = called(torch.randn(16, 4)).sum()
                loss.backward()
            records = monitor.records()
        assert {r.n for r in records if r.layer} == {16}
        assert {r.step for r in records} == {0, 2, 4}
        assert len(compilations) == 1

    @pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
    def test_measuring_the_batch_of_a_compiled_model_says_what_to_do(self, how) -> None:
        model = network()
        if how == "in place":
            model.compile()
        elif how == "wrapped":
            model = torch.compile(model)
        else:
            model = nn.Sequential(torch.compile(model))
        with pytest.raises(ValueError, match=r"on: expected 'probe' for a compiled model, .* got 'batch'"):
            watch(model)


def test_measures_may_be_names_metrics_or_makers() -> None:
    model, shared = network(), Moments(num_units=1)
    for measures in (["moments"], [shared], [Moments], [functools.partial(Moments, num_units=3)]):
        with watch(model, measures=measures) as monitor:
            with monitor.step(0):
                model(torch.randn(8, 4))
            assert len(values(monitor, "mean", "4")) == 1
    assert not shared.update_called


def test_a_step_in_which_nothing_ran_is_told_once() -> None:
    with watch(network()) as monitor:
        with pytest.warns(UserWarning, match="step 0: none of the watched layers ran"), monitor.step(0):
            pass
        assert monitor.records() == []


def test_layers_that_did_not_run_are_left_out() -> None:
    model = network()
    with watch(model) as monitor:
        with monitor.step(0):
            model[0](torch.randn(8, 4))
        assert {r.layer for r in monitor.records()} == {"0"}


def test_an_output_that_cannot_be_measured_names_its_layer() -> None:
    class Loss(nn.Module):
        def forward(self, x):
            return x.mean()

    model = nn.Sequential(nn.Linear(4, 2), Loss())
    with watch(model) as monitor:
        with pytest.raises(ValueError, match=r"layer '1': x: expected a tensor of shape \(N, C, …\)"), monitor.step(0):
            model(torch.randn(8, 4))
        assert hooks_of(model) == 0


def test_errors_say_what_was_expected(tmp_path) -> None:
    model = network()
    with pytest.raises(ValueError, match="on: expected one of 'batch', 'probe', got 'epoch'"):
        Monitor(model, on="epoch")
    with pytest.raises(ValueError, match="every: expected a number of steps, 1 or more, got 0"):
        Monitor(model, every=0)
    with pytest.raises(
        ValueError, match="measures: expected one of 'moments', 'normality', 'health', 'shift', 'speeds', got 'moment'"
    ):
        Monitor(model, measures=["moment"])
    with pytest.raises(ValueError, match="measures: expected a sequence of measures, got 'moments'"):
        Monitor(model, measures="moments")
    with pytest.raises(ValueError, match=r"measures: expected names, metrics, or functions .* got .*dict"):
        Monitor(model, measures=[dict])
    with pytest.raises(ValueError, match='probe: expected a batch if and only if on="probe", got NoneType'):
        Monitor(model, on="probe")
    with pytest.raises(ValueError, match='probe: expected a batch if and only if on="probe", got Tensor'):
        Monitor(model, probe=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"layers: expected a pattern that matches a layer, got 'relu'; nearest names"):
        Monitor(model, layers="relu", store=tmp_path / "run.db")
    assert not (tmp_path / "run.db").exists()


def key_of(record) -> tuple:
    return record.step, record.layer, record.unit, record.measure


class Recorder:
    """A sink that remembers what it is told."""

    def __init__(self) -> None:
        self.told, self.closed = [], 0

    def write(self, records) -> None:
        self.told.append(list(records))

    def close(self) -> None:
        self.closed += 1


def test_sinks_are_told_what_is_stored_when_it_is_stored(tmp_path) -> None:
    model, sink = network(), Recorder()
    with watch(model, layers="0", every=2, store=tmp_path / "run.db", sinks=[sink]) as monitor:
        for i in range(4):
            with monitor.step(i):
                model(torch.randn(8, 4))
            with open_store(tmp_path / "run.db") as store:
                told = {key_of(r): r for part in sink.told for r in part}
                assert told == {key_of(r): r for r in store.records()}
                assert len(told) > 10 * (i // 2 + 1)
        monitor.record(3, "val/loss", 0.5)
    assert sink.closed == 1
    assert any(r.measure == "val/loss" for part in sink.told for r in part)


def test_a_sink_that_fails_harms_nothing(tmp_path) -> None:
    class Broken(Recorder):
        def write(self, records) -> None:
            raise OSError("no route to host")

    model, sink = network(), Recorder()
    with watch(model, every=1, store=tmp_path / "run.db", sinks=[Broken(), sink]) as monitor:
        with pytest.warns(RuntimeWarning, match="Broken: no route to host"), monitor.step(0):
            model(torch.randn(8, 4))
        with monitor.step(1):
            model(torch.randn(8, 4))
        assert {r.step for r in monitor.records()} >= {0, 1}
    assert len(sink.told) >= 2
