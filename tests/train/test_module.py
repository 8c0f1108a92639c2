"""The Lightning module: estimates against NumPy, decay where it belongs, schedules, randomness that can be resumed."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from layershift.train.data import DigitsData
from layershift.train.learner import Mean
from layershift.train.models import moments_mlp
from layershift.train.module import Classifier
from layershift.train.optimizer import Schedule


def trainer(epochs: int, **options) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(max_epochs=epochs, enable_checkpointing=False, num_sanity_val_steps=0, **quiet, **options)


def test_mean_and_standard_error_of_batches() -> None:
    values = torch.randn(100) * 3 + 5
    mean = Mean("mean over samples")
    for part in values.split(7):
        mean.update(part)
    estimate = mean.compute()
    assert estimate.value.item() == pytest.approx(values.mean().item(), rel=1e-5)
    assert estimate.stderr.item() == pytest.approx(np.std(values.numpy(), ddof=1) / 10, rel=1e-3)
    assert estimate.n == 100


def test_only_kernels_decay() -> None:
    module = Classifier(moments_mlp(norm="unitization"), weight_decay=0.1)
    module.trainer = type("T", (), {"estimated_stepping_batches": 10})()
    decayed, free = module.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    named = {id(p): name for name, p in module.named_parameters()}
    assert all(named[id(p)].endswith(("linear.weight", "classifier.weight")) for p in decayed["params"])
    assert {named[id(p)].split(".")[-1] for p in free["params"]} == {"alpha", "weight", "bias"}
    assert len(decayed["params"]) + len(free["params"]) == len(named)


def test_schedules() -> None:
    paper = [0.05 * Schedule("step", 200)(epoch) for epoch in (0, 59, 60, 119, 120, 159, 160, 199)]
    assert paper == pytest.approx([0.05, 0.05, 0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])
    assert Schedule("constant", 10)(9) == 1
    assert Schedule("cosine", 10)(10) == pytest.approx(0)
    with pytest.raises(ValueError, match=r"schedule: expected one of 'cosine', .*, got 'linear'"):
        Classifier(nn.Linear(1, 1), schedule="linear")


def test_estimates_are_those_of_the_network() -> None:
    data, module = DigitsData(seed=1), Classifier(moments_mlp(norm="batch", seed=0))
    trainer(1).fit(module, datamodule=data)
    x, y = data.parts["val"]
    with torch.no_grad():
        output = module.eval()(x)
    losses = nn.functional.cross_entropy(output, y, reduction="none")
    assert module.estimates["val/loss"].value.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    p = output.argmax(1).eq(y).float().mean().item()
    assert module.estimates["val/accuracy"].value.item() == pytest.approx(p)
    assert module.estimates["val/accuracy"].stderr.item() == pytest.approx((p * (1 - p) / 269) ** 0.5, rel=1e-4)
    assert module.estimates["train/loss"].n == 1024


def test_the_penalty_is_added_to_the_loss() -> None:
    class Handle:
        def loss(self):
            return module.model[0].weight.square().sum()

    data = DigitsData()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    module = Classifier(nn.Sequential(nn.Linear(64, 10)))
    module.model.forward = lambda x: nn.functional.linear(x.flatten(1), module.model[0].weight)
    plain = module.training_step(batch)
    module.penalty_loss = Handle()
    assert torch.allclose(module.training_step(batch) - plain, Handle().loss())


def test_randomness_of_an_epoch_depends_on_seed_and_epoch_alone(tmp_path) -> None:
    def network() -> Classifier:
        torch.manual_seed(0)
        return Classifier(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, 10)), schedule="constant"
        )

    whole = network()
    trainer(2).fit(whole, datamodule=DigitsData())
    first = trainer(1)
    first.fit(network(), datamodule=DigitsData())
    first.save_checkpoint(tmp_path / "last.ckpt")
    torch.rand(17)
    resumed = network()
    trainer(2).fit(resumed, datamodule=DigitsData(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
