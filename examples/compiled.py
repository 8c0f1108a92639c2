"""A compiled model is measured on a probe, because compiled code calls no new hooks. Takes some seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import layershift as ls


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    # "aot_eager" is compiled without a C++ compiler; leave it out for speed.
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    store = Path(tempfile.mkdtemp()) / "run.db"

    with ls.Monitor(compiled, layers=nn.ReLU, store=store, every=20, on="probe", probe=x[-256:]) as monitor:
        for step in range(100):
            batch = torch.randint(len(x) - 256, (128,))
            with monitor.step(step):
                loss = nn.functional.cross_entropy(compiled(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.record(step, "train/loss", loss, n=len(batch))

    frame = ls.open_store(store).to_pandas()
    means = frame[(frame.measure == "mean") & frame.unit.isna()]
    print(means.pivot(index="layer", columns="step", values="value").round(3))
    print(f"loss {loss.item():.3f}; look at it: layershift watch {store} --once")


if __name__ == "__main__":
    main()
