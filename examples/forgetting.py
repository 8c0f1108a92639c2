"""Does a recorded distribution keep a network from forgetting? Digits 0–4, then 5–9. Takes about 15 seconds."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import layershift as ls

digits = load_digits()
rest, TEST = train_test_split(range(1797), test_size=450, stratify=digits.target, random_state=0)
TRAIN, _ = train_test_split(rest, test_size=270, stratify=digits.target[rest], random_state=0)
X, Y = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
SEEDS = 3
HIDDEN = ["0", "2"]


def samples(part: list[int], task: int) -> Tensor:
    rows = torch.tensor(part)
    return rows[(Y[rows] >= 5 * task) & (Y[rows] < 5 * task + 5)]


def train(model: nn.Module, task: int, penalty=None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rows, outputs = samples(TRAIN, task), slice(5 * task, 5 * task + 5)
    for _ in range(20):
        for batch in rows[torch.randperm(len(rows))].split(64)[:-1]:
            loss = nn.functional.cross_entropy(model(X[batch])[:, outputs], Y[batch] - 5 * task)
            loss = loss + penalty.loss() if penalty else loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, task: int) -> Tensor:
    rows = samples(TEST, task)
    return (model(X[rows])[:, 5 * task : 5 * task + 5].argmax(1) == Y[rows] - 5 * task).float().mean()


def run(recorded: int | None, seed: int) -> Tensor:
    """Accuracy on the first task before and after the second, and on the second."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    train(model, 0)
    before, penalty = accuracy(model, 0), None
    if recorded is not None:  # the task whose inputs show the distribution
        target = ls.record_target(model, [X[samples(TRAIN, recorded)]], layers=HIDDEN, num_projections=64)
        penalty = ls.regularize(model, ls.nn.SlicedWasserstein(target), layers=HIDDEN, weight=1.0)
    train(model, 1, penalty)
    return torch.stack([before, accuracy(model, 0), accuracy(model, 1)])


for name, recorded in {"nothing kept": None, "old inputs' kept": 0, "new inputs' kept": 1}.items():
    found = torch.stack([run(recorded, seed) for seed in range(SEEDS)])
    cells = (f"{m:.3f}±{s:.3f}" for m, s in zip(found.mean(0), found.std(0), strict=True))
    print("{:18} first task {}, after the second {}; second task {}".format(name, *cells))
