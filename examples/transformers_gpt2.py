"""A tiny GPT-2 with random weights learns to count, its blocks are watched. No download; takes some seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import layershift as ls


def main() -> None:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=32, n_positions=16, **ends))
    tokens = (torch.randint(32, (512, 1)) + torch.arange(16)) % 32
    folder = Path(tempfile.mkdtemp())
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=60,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    with ls.integrations.TransformersMonitor(layers="transformer.h.?", every=10, store=folder / "run.db") as monitor:
        data = [{"input_ids": row, "labels": row} for row in tokens]
        Trainer(model, arguments, train_dataset=data, callbacks=[monitor]).train()

    frame = ls.open_store(folder / "run.db").to_pandas()
    variance = frame[(frame.measure == "variance") & frame.unit.isna()]
    print(variance.pivot(index="layer", columns="step", values="value").round(3))
    print(frame[frame.measure == "train/loss"][["step", "value"]].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
