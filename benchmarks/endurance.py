"""An hour of training with a Monitor at every tenth step: memory, store, file handles and hooks at its end.

Memory is the process's resident set, read every 200th step; its slope is fitted over what follows the warm-up, the
first fifth of the time, since Python and the allocator of PyTorch grow into their size. The store is predicted from the
bytes of a record in the warm-up, and must not grow by more.
"""

from __future__ import annotations

import argparse
import gc
import os
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from _timing import Case, report
from layershift.measure import Speeds
from layershift.monitor import Monitor
from layershift.train.data.digits import split_digits
from layershift.train.models import small_cnn

EVERY, BATCH, SAMPLE = 10, 64, 200
WARM = 0.2


def resident() -> float:
    """MB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def handles() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))


def hooks_of(model: nn.Module) -> int:
    """Hooks on all of a network's modules."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def bytes_of(store: Path) -> int:
    """A store on disk, with its log."""
    return sum(path.stat().st_size for path in store.parent.glob(store.name + "*"))


def slope(x: list[int], y: list[float]) -> float:
    """Of y on x, by least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / over


def train(store: Path, minutes: float) -> list[Case]:
    """Train for so long, and judge what is left."""
    x, y, parts = split_digits()
    x, y = x[parts["train"]], y[parts["train"]]
    model = small_cnn(norm="batch", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    before, start = handles(), time.monotonic()
    steps, memory, sizes = [], [], []
    monitor = Monitor(
        model,
        layers=[nn.ReLU, "classifier"],
        measures=["moments", "normality", "health", Speeds(lr=optimizer)],
        store=store,
        every=EVERY,
        budget=None,  # every tenth step is measured, whatever that costs
    )
    i = 0
    while time.monotonic() - start < 60 * minutes:
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        with monitor.step(i):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if i % EVERY == 0:
            monitor.record(i, "train/loss", loss)
        i += 1
        if i % SAMPLE == 0:
            gc.collect()
            steps.append(i)
            memory.append(resident())
            sizes.append((monitor.cost.measured, bytes_of(store)))
    cost = monitor.cost
    monitor.close()
    warm = max(int(WARM * len(steps)), 1)
    with closing(sqlite3.connect(store)) as found:
        (records,) = found.execute("SELECT count(*) FROM record").fetchone()
    (early, early_bytes), (first, first_bytes) = sizes[0], sizes[warm]
    rate = (first_bytes - early_bytes) / max(first - early, 1)
    predicted = first_bytes + rate * (sizes[-1][0] - first)
    about = f"{i} steps in {minutes:g} minutes, {cost.measured} measured, {records} records, n = {len(steps)} samples"
    return [
        Case(
            "memory: growth in 1,000 steps after the warm-up",
            slope(steps[warm:], memory[warm:]) * 1000,
            target=1.0,
            unit="MB",
            n=len(steps) - warm,
            detail=f"{about}; {memory[0]:.0f} MB at the first sample, {memory[warm]:.0f} after the warm-up, "
            f"{memory[-1]:.0f} at the end",
        ),
        Case(
            "store: bytes / predicted from the warm-up",
            sizes[-1][1] / predicted,
            target=1.05,
            n=1,
            detail=f"{sizes[-1][1] / 2**20:.1f} MB, {sizes[-1][1] / max(records, 1):.1f} bytes a record",
        ),
        Case("file handles left", float(handles() - before), target=0.0, unit="handles", n=1),
        Case("hooks left", float(hooks_of(model)), target=0.0, unit="hooks", n=1),
        Case("share of the time that measuring took", cost.share, unit="of the time", n=cost.measured),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="write the figures to this JSON file")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to train (default: 60)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report("endurance", train(Path(folder) / "run.db", given.minutes), given.out)


if __name__ == "__main__":
    main()
