"""A plain training loop on digits: unitization, exact PER on the ReLUs, every layer watched. Takes some seconds."""

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
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = nn.Sequential(
        nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 100), nn.BatchNorm1d(100), nn.ReLU()
    )
    model = ls.convert(model.append(nn.Linear(100, 10)), to="unitization")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    store = Path(tempfile.mkdtemp()) / "run.db"

    with (
        ls.regularize(model, ls.nn.PER(), layers=nn.ReLU, weight=1e-3) as penalty,
        ls.Monitor(model, layers="*", store=store, every=20) as monitor,
    ):
        for step in range(100):
            batch = torch.randint(len(x), (128,))
            with monitor.step(step):
                output = model(x[batch])
            loss = nn.functional.cross_entropy(output, y[batch]) + penalty.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    frame = ls.open_store(store).to_pandas()
    distance = frame[frame.measure == "normality"].pivot(index="layer", columns="step", values="value")
    print(distance.round(3))
    print(f"loss {loss.item():.3f}; make a page of it: layershift report {store}")


if __name__ == "__main__":
    main()
