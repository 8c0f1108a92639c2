"""The Lightning callback, inside a real Trainer."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from layershift.integrations import LightningMonitor
from layershift.monitor import Alarms, Threshold, open_store

BATCH = 6


class Net(LightningModule):
    """A classifier with what users' classifiers have: a criterion and a metric that are modules."""

    def __init__(self, fail_at: int | None = None, manual: bool = False) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.criterion, self.accuracy = nn.CrossEntropyLoss(), MulticlassAccuracy(num_classes=3)
        self.fail_at, self.automatic_optimization = fail_at, not manual
        self.losses: list[tuple[int, float]] = []
        self.inputs: list[torch.Tensor] = []

    def training_step(self, batch, index):
        if index == self.fail_at:
            raise KeyError("a bug in the training step")
        x, y = batch
        output = self.model(x)
        self.accuracy(output, y)
        loss = self.criterion(output, y)
        self.losses.append((self.global_step, loss.item()))
        self.inputs.append(x)
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def validation_step(self, batch, _index):
        self.log("val/loss", self.criterion(self.model(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(batches: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(batches * BATCH, 4, generator=generator), torch.randint(3, (batches * BATCH,))
    return DataLoader(TensorDataset(x, y), batch_size=BATCH)


def trainer(tmp_path, *callbacks, **options) -> Trainer:
    defaults = {"max_epochs": 1, "enable_checkpointing": False, "limit_val_batches": 0}
    return Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **defaults | options,
    )


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def whole(path, measure: str, layer: str) -> dict[int, tuple[float, int | None]]:
    with open_store(path) as store:
        rows = [r for r in store.records() if (r.measure, r.layer, r.unit) == (measure, layer, None)]
    return {r.step: (r.value, r.n) for r in rows}


def monitor(tmp_path, **options) -> LightningMonitor:
    return LightningMonitor(
        **{"store": tmp_path / "run.db", "measures": ["moments"], "every": 2, "budget": None} | options
    )


def test_each_measured_step_is_in_the_store(tmp_path) -> None:
    net = Net()
    trainer(tmp_path, monitor(tmp_path)).fit(net, data())
    assert {step: n for step, (_, n) in whole(tmp_path / "run.db", "mean", "model.1").items()} == dict.fromkeys(
        (0, 2, 4, 6), BATCH
    )
    losses = dict(net.losses)
    found = whole(tmp_path / "run.db", "train/loss", "")
    assert {step: value for step, (value, _) in found.items()} == pytest.approx({i: losses[i] for i in (0, 2, 4, 6)})
    with open_store(tmp_path / "run.db") as store:
        assert store.layers() == ["model.0", "model.1", "model.2"]
    assert hooks(net) == 0


@pytest.mark.parametrize("batches", [8, 7])
def test_accumulated_batches_are_one_measurement(batches, tmp_path) -> None:
    """Also the last one of an epoch, which has fewer batches if their number is odd."""
    net = Net()
    watching = monitor(tmp_path, module="model", every=1)
    trainer(tmp_path, watching, accumulate_grad_batches=2, max_epochs=2).fit(net, data(batches))
    found = whole(tmp_path / "run.db", "mean", "1")
    sizes = [2 * BATCH] * 3 + [2 * BATCH if batches == 8 else BATCH]
    assert {step: n for step, (_, n) in found.items()} == dict(enumerate(sizes * 2))
    losses: dict[int, list[float]] = {}
    for step, loss in net.losses:
        losses.setdefault(step, []).append(loss)
    expected = {step: sum(values) / len(values) for step, values in losses.items()}
    recorded = whole(tmp_path / "run.db", "train/loss", "")
    assert {step: value for step, (value, _) in recorded.items()} == pytest.approx(expected)


def test_what_is_measured_is_the_network_before_the_update(tmp_path) -> None:
    net = Net()
    first = [parameter.detach().clone() for parameter in net.model[0].parameters()]
    trainer(tmp_path, monitor(tmp_path, module="model", layers="0"), accumulate_grad_batches=2).fit(net, data())
    output = torch.nn.functional.linear(torch.cat(net.inputs[:2]), *first)
    assert whole(tmp_path / "run.db", "mean", "0")[0][0] == pytest.approx(output.mean().item(), rel=1e-4)


def test_a_probe_is_measured_at_the_same_steps(tmp_path) -> None:
    probe = torch.randn(32, 4)
    net = Net()
    before = net.model[:2](probe).mean().item()
    trainer(tmp_path, monitor(tmp_path, module="model", on="probe", probe=probe)).fit(net, data())
    found = whole(tmp_path / "run.db", "mean", "1")
    assert {step: n for step, (_, n) in found.items()} == dict.fromkeys((0, 2, 4, 6), 32)
    assert found[0][0] == pytest.approx(before, rel=1e-4)


def test_validation_is_not_measured(tmp_path) -> None:
    """Not even where it comes between the batches of one step, which then ends."""
    options = {"accumulate_grad_batches": 4, "val_check_interval": 2, "limit_val_batches": 3}
    trainer(tmp_path, monitor(tmp_path, every=1), **options).fit(Net(), data(), data(3))
    found = whole(tmp_path / "run.db", "mean", "model.1")
    assert {step: n for step, (_, n) in found.items()} == {0: 2 * BATCH, 1: 2 * BATCH}


def test_manual_optimisation(tmp_path) -> None:
    net = Net(manual=True)
    trainer(tmp_path, monitor(tmp_path)).fit(net, data())
    assert sorted(whole(tmp_path / "run.db", "mean", "model.1")) == [0, 2, 4, 6]
    found = whole(tmp_path / "run.db", "train/loss", "")
    assert [value for value, _ in found.values()] == pytest.approx([loss for _, loss in net.losses[::2]])


def test_an_exception_keeps_what_was_measured_and_leaves_no_hook(tmp_path) -> None:
    net = Net(fail_at=4)
    with pytest.raises(KeyError, match="a bug in the training step"):
        trainer(tmp_path, monitor(tmp_path)).fit(net, data())
    assert sorted(whole(tmp_path / "run.db", "mean", "model.1")) == [0, 2]
    assert hooks(net) == 0


def test_a_resumed_run_continues_the_store(tmp_path) -> None:
    first = trainer(tmp_path, monitor(tmp_path))
    first.fit(Net(), data())
    first.save_checkpoint(tmp_path / "last.ckpt")
    again = trainer(tmp_path, monitor(tmp_path), max_epochs=2)
    again.fit(Net(), data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert sorted(whole(tmp_path / "run.db", "mean", "model.1")) == list(range(0, 16, 2))


def test_one_callback_can_train_twice(tmp_path) -> None:
    watching = monitor(tmp_path)
    for _ in range(2):
        trainer(tmp_path, watching).fit(Net(), data())
    assert len(whole(tmp_path / "run.db", "mean", "model.1")) == 4
    with pytest.raises(RuntimeError, match="there is no monitor"):
        _ = watching.monitor


def test_an_alarm_stops_the_training(tmp_path) -> None:
    rule = Threshold(measure="variance", kind="exploding", above=0.0, patience=3)
    stopped = trainer(tmp_path, monitor(tmp_path, alarms=Alarms([rule], action="stop")), max_epochs=3)
    net = Net()
    stopped.fit(net, data())
    assert stopped.global_step == 5  # the update of step 4 is over when that is measured
    assert sorted(whole(tmp_path / "run.db", "mean", "model.1")) == [0, 2, 4]
    with open_store(tmp_path / "run.db") as store:
        assert {alarm.step for alarm in store.alarms()} == {4}
    assert hooks(net) == 0


def test_what_a_probe_finds_stops_the_training_at_the_step_that_begins(tmp_path) -> None:
    rule = Threshold(measure="variance", kind="exploding", above=0.0, patience=3)
    options = {"on": "probe", "probe": torch.randn(8, 4), "alarms": Alarms([rule], action="stop")}
    stopped = trainer(tmp_path, monitor(tmp_path, module="model", **options), max_epochs=3)
    stopped.fit(Net(), data())
    assert stopped.global_step == 5
