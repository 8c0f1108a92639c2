"""The same in Lightning: PER on the ReLUs, which are watched on a frozen batch. Takes some seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lightning.pytorch import Trainer

import layershift as ls
from layershift.train.data import DigitsData
from layershift.train.models import small_cnn
from layershift.train.module import Classifier


def main() -> None:
    data = DigitsData(batch_size=128, seed=0)
    model = small_cnn(data.in_channels, data.num_classes, norm="unitization", seed=0)
    store = Path(tempfile.mkdtemp()) / "run.db"
    module = Classifier(model, learning_rate=0.05, momentum=0.9)
    module.penalty_loss = penalty = ls.regularize(model, ls.nn.PER(), layers="*relu", weight=1e-3)
    monitor = ls.integrations.LightningMonitor(
        module="model", layers="*relu", store=store, every=8, on="probe", probe=data.probe()
    )

    trainer = Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    penalty.remove()

    accuracy = module.estimates["val/accuracy"]
    print(f"validation accuracy {accuracy.value.item():.3f} ± {accuracy.stderr.item():.3f} ({int(accuracy.n)} images)")
    print(f"look at it: layershift watch {store} --once; make a page of it: layershift report {store}")


if __name__ == "__main__":
    main()
