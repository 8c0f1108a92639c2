"""Steps that begin in one hook and end in another measure what a `with` block would."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torchmetrics.classification import MulticlassAccuracy

from layershift.integrations.session import Session, layers_of
from layershift.monitor import Alarms, Monitor, Store, Threshold

OPTIONS = {"layers": nn.ReLU, "measures": ["moments"], "every": 2, "budget": None}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def values(records) -> list[tuple]:
    return [(r.step, r.layer, r.unit, r.measure, r.value, r.n) for r in records if r.layer]


def test_a_step_over_several_batches_is_that_of_a_with_block(tmp_path) -> None:
    model, batches = network(), torch.randn(6, 5, 4)
    with Monitor(model, **OPTIONS) as monitor:
        for step in range(3):
            with monitor.step(step):
                model(batches[2 * step])
                model(batches[2 * step + 1])
        expected = values(monitor.records())
    session = Session(OPTIONS | {"store": tmp_path / "run.db"})
    session.start(model)
    for i, batch in enumerate(batches):
        session.begin(i // 2)
        model(batch)
        if i % 2:
            session.end()
    found = values(session.monitor.records())
    session.close()
    session.close()
    assert found == expected
    assert {row[-1] for row in found} == {10}
    assert hooks(model) == 0


def test_a_step_that_is_over_does_not_begin_again() -> None:
    """Its records would be replaced by those of its later batches."""
    model, session = network(), Session(OPTIONS)
    session.start(model)
    session.begin(0)
    model(torch.randn(5, 4))
    session.end()
    session.begin(0)
    assert hooks(model) == 0
    session.close()


def test_a_step_that_nobody_ended_ends_with_the_next() -> None:
    model, session = network(), Session(OPTIONS | {"every": 1})
    session.start(model)
    for step in range(2):
        session.begin(step)
        model(torch.randn(5, 4))
    session.end()
    assert {record.step for record in session.monitor.records()} == {0, 1}
    session.close()


def test_a_failure_drops_the_step_and_leaves_no_hook(tmp_path) -> None:
    model, session = network(), Session(OPTIONS | {"store": tmp_path / "run.db"})
    session.start(model)
    for step in (0, 2):
        session.begin(step)
        model(torch.randn(5, 4))
        if step == 0:
            session.end()
    assert hooks(model) == 1
    session.abandon(RuntimeError("out of memory"))
    assert hooks(model) == 0
    assert not session.started
    with Store(tmp_path / "run.db") as store:
        assert store.steps() == [0]


def test_a_failure_is_not_hidden_by_a_store_that_cannot_be_written(tmp_path, monkeypatch) -> None:
    from layershift.monitor import StoreError

    def close(_monitor) -> None:
        raise StoreError("run.db: disk full")

    session = Session(OPTIONS | {"store": tmp_path / "run.db"})
    session.start(network())
    monkeypatch.setattr(Monitor, "close", close)
    with pytest.warns(RuntimeWarning, match="the last records could not be written: run.db: disk full"):
        session.abandon(RuntimeError("out of memory"))


def test_a_probe_is_measured_before_the_update() -> None:
    model, probe = network(), torch.randn(5, 4)
    session = Session(OPTIONS | {"on": "probe", "probe": probe})
    session.start(model)
    before = model[:2](probe).mean().item()
    session.begin(0)
    with torch.no_grad():
        model[0].weight.add_(1.0)  # the update
    session.end()
    (mean,) = [r.value for r in session.monitor.records() if r.measure == "mean" and r.unit is None]
    session.close()
    assert mean == pytest.approx(before, rel=1e-5)


def test_a_request_to_stop_is_kept_until_the_loop_asks(tmp_path) -> None:
    rule = Threshold(measure="variance", kind="exploding", above=0.0)
    model, session = network(), Session(OPTIONS | {"alarms": Alarms([rule], action="stop")})
    session.start(model)
    session.begin(0)
    model(torch.randn(5, 4))
    assert not session.stopped
    session.end()
    assert session.stopped
    session.start(model)
    assert not session.stopped
    session.close()


def alone_or_two(rank: int, folder: str) -> None:
    """A rank that records nothing, and so sees no alarm, is asked to stop at the same step as the one that does."""
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rule = Threshold(measure="variance", kind="exploding", above=0.0)
    model = network()
    session = Session(OPTIONS | {"store": f"{folder}/run.db", "alarms": Alarms([rule], action="stop")})
    session.start(model)
    stops = []
    for step in range(4):
        session.begin(step)
        model(torch.randn(5, 4))
        session.end()
        stops.append(session.stopped)
    session.close()
    distributed.destroy_process_group()
    assert stops == [False, False, True, True], stops


@pytest.mark.slow
def test_all_processes_stop_together(tmp_path) -> None:
    multiprocessing.spawn(alone_or_two, args=(str(tmp_path),), nprocs=2)


def test_an_unknown_option_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match=r"unknown option evry; those of Monitor are .*every"):
        Session({"evry": 3})
    with pytest.raises(RuntimeError, match="there is no monitor: the training has not begun, or is over"):
        _ = Session({}).monitor


def test_losses_and_metrics_are_no_layers() -> None:
    model = nn.ModuleDict(
        {"net*": network(), "criterion": nn.CrossEntropyLoss(), "accuracy": MulticlassAccuracy(num_classes=2)}
    )
    assert layers_of(model, "*") == ["net[*].0", "net[*].1", "net[*].2"]
    session = Session({"layers": "*"})
    session.start(model)  # and the names select what they name
    session.close()
    with pytest.raises(ValueError, match="layers: expected a pattern that matches more than losses and metrics"):
        layers_of(model, ["criterion", "accuracy"])
    assert layers_of(nn.Linear(2, 2), "*") == [""]
