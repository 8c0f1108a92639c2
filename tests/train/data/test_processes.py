"""Two processes under Lightning see, side by side, what one with the doubled batch sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from layershift.train.data import CIFAR10Data


class Recorder(LightningModule):
    """Keeps all batches, and writes them to a file for each process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.layer = folder, nn.Linear(3072, 1)
        self.seen: dict[str, list[Tensor]] = {"train": [], "val": []}

    def training_step(self, batch):
        self.seen["train"].append(batch[0])
        return self.layer(batch[0].flatten(1)).mean()

    def validation_step(self, batch):
        self.seen["val"].append(batch[0])

    def on_fit_end(self):
        torch.save(self.seen, self.folder / f"{self.global_rank}of{self.trainer.world_size}.pt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.slow
def test_lightning_gives_each_process_its_slice(write_cifar, tmp_path) -> None:
    root = write_cifar()
    options = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    for batch_size, world in ((20, 1), (10, 2)):
        trainer = Trainer(devices=world, strategy="ddp_spawn" if world > 1 else "auto", **options)
        trainer.fit(Recorder(tmp_path), datamodule=CIFAR10Data(batch_size, 3, root=root, verify=False))
    whole, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0of1", "0of2", "1of2"))
    for part, count in {"train": 8, "val": 2}.items():
        together = [torch.cat(halves) for halves in zip(first[part], second[part], strict=True)]
        assert len(whole[part]) == count
        assert all(torch.equal(a, b) for a, b in zip(whole[part], together, strict=True))
