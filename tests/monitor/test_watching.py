"""The monitor hands what it records to its alarms, and does what they ask for, on one process and on two."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from layershift.monitor import Alarms, LayerWarning, Monitor, StopTraining, Threshold, open_store

RULE = Threshold(measure="mean", kind="exploding", above=10.0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Identity())


def watch(model: nn.Module, **options) -> Monitor:
    return Monitor(model, **{"every": 1, "measures": ["moments"], "budget": None} | options)


def run(model: nn.Module, monitor: Monitor, means: list[float]) -> int:
    """Steps whose layer has these means; how many were begun."""
    done = 0
    for i, mean in enumerate(means):
        with monitor.step(i):
            done += 1
            model(torch.full((4, 3), float(mean)))
    return done


def test_a_layer_in_trouble_is_warned_about_and_stored(tmp_path) -> None:
    model = network()
    with (
        watch(model, alarms=Alarms([RULE]), store=tmp_path / "run.db") as monitor,
        pytest.warns(LayerWarning, match="step 2: layer '0' is exploding: mean = 20, limit 10.*To try: lower the l"),
    ):
        run(model, monitor, [1, 1, 20, 20])
    with open_store(tmp_path / "run.db") as store:
        (alarm,) = store.alarms()
    assert (alarm.step, alarm.layer, alarm.kind, alarm.value) == (2, "0", "exploding", 20)


def test_a_run_stops_with_everything_written(tmp_path) -> None:
    model = network()
    with watch(model, alarms=Alarms([RULE], action="stop"), store=tmp_path / "run.db") as monitor:
        with pytest.raises(StopTraining, match="layer '0' is exploding") as caught:
            run(model, monitor, [1, 1, 20, 20])
        assert caught.value.alarms[0].step == 2
        assert not model[0]._forward_hooks
    with open_store(tmp_path / "run.db") as store:
        assert {r.step for r in store.records() if r.layer} == {0, 1, 2}
        assert len(store.alarms()) == 1


def test_a_function_is_called_with_each_alarm() -> None:
    model, told = network(), []
    with watch(model, alarms=Alarms([RULE], action=told.append)) as monitor:
        assert run(model, monitor, [20, 20, 1, 20]) == 4
    assert [alarm.step for alarm in told] == [0, 3]


def test_sinks_hear_of_alarms() -> None:
    class Hearing:
        heard = ()

        def write(self, records) -> None: ...

        def close(self) -> None: ...

        def write_alarms(self, alarms) -> None:
            self.heard += tuple(alarms)

    model, sink = network(), Hearing()
    with watch(model, alarms=Alarms([RULE], action=lambda _: None), sinks=[sink]) as monitor:
        run(model, monitor, [1, 20])
    assert [alarm.step for alarm in sink.heard] == [1]


def test_names_stand_for_the_usual_rules() -> None:
    for alarms, error in (
        ("warn", pytest.warns(LayerWarning, match="not finite")),
        ("stop", pytest.raises(StopTraining)),
    ):
        model = network()
        with watch(model, alarms=alarms) as monitor, error:
            run(model, monitor, [1, float("nan")])
    with watch(model, alarms=None) as monitor, warnings.catch_warnings():
        warnings.simplefilter("error", LayerWarning)
        run(model, monitor, [1, float("nan")])
    with pytest.raises(ValueError, match="alarms: expected one of 'warn', 'stop', got 'loud'"):
        watch(model, alarms="loud")


def test_the_store_says_what_was_watched_for(tmp_path) -> None:
    for name, alarms in (("usual", "warn"), ("own", Alarms([RULE])), ("none", None)):
        watch(network(), alarms=alarms, store=tmp_path / f"{name}.db").close()
    watched = {name: open_store(tmp_path / f"{name}.db").meta.get("alarms") for name in ("usual", "own", "none")}
    assert {"dead", "exploding", "nonfinite", "shift"} <= set(watched["usual"])
    assert watched["own"] == ["exploding"]
    assert watched["none"] is None


def test_a_continued_run_remembers_which_alarms_were_raised(tmp_path) -> None:
    model, told = network(), []
    for means in ([1, 20], [1, 20, 20, 20]):
        with watch(model, alarms=Alarms([RULE], action=told.append), store=tmp_path / "run.db") as monitor:
            for i in range(len(told) * 2, len(means)):
                with monitor.step(i):
                    model(torch.full((4, 3), float(means[i])))
    assert [alarm.step for alarm in told] == [1]


def test_what_comes_with_the_last_flush_does_not_hinder_closing() -> None:
    model = network()
    with watch(model, alarms=Alarms([Threshold(measure="val/loss", kind="exploding", above=1.0)], action="stop")) as m:
        with m.step(0):
            model(torch.zeros(4, 3))
        m.record(0, "val/loss", torch.tensor(5.0))


def one_of_two(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, stopped = network(), 0
    with watch(model, alarms=Alarms([RULE], action="stop"), store=f"{folder}/run.db") as monitor:
        try:
            for i, mean in enumerate([1.0, 25.0, 25.0, 25.0]):
                with monitor.step(i):
                    model(torch.full((4, 3), mean * rank))  # above the limit on average over both
        except StopTraining:
            stopped = i
    distributed.barrier()
    Path(f"{folder}/{rank}.txt").write_text(str(stopped))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_all_processes_stop_at_the_same_step(tmp_path) -> None:
    multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["2", "2"]
    with open_store(tmp_path / "run.db") as store:
        assert [alarm.step for alarm in store.alarms()] == [1]
