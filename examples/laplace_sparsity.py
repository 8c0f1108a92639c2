"""Are layers sparser with a Laplace target? Digits, beside L1 and a normal target. Takes about 15 seconds."""

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
DEVIATION = 0.2 * 2**0.5  # of a Laplace distribution of scale 0.2
normal = ls.nn.SlicedWasserstein("normal", num_projections=64)
PENALTIES = {  # weights were chosen on validation data
    "none": (None, 0.0),
    "L1": (ls.nn.ActivationPenalty(1), 0.3),
    "normal": (lambda h: DEVIATION**2 * normal(h / DEVIATION), 3.0),
    "Laplace": (ls.nn.SlicedWasserstein("laplace", scale=0.2), 3.0),
}


def trained(name: str, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    penalty, weight = PENALTIES[name]
    handle = ls.regularize(model, penalty, layers=["0", "2"], weight=weight) if penalty else None
    for _ in range(30):
        for batch in torch.tensor(TRAIN)[torch.randperm(len(TRAIN))].split(128)[:-1]:
            loss = nn.functional.cross_entropy(model(X[batch]), Y[batch])
            loss = loss + handle.loss() if handle else loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@torch.no_grad()
def numbers(model: nn.Sequential) -> Tensor:
    """Accuracy; share of |h| < 0.1 before both ReLUs; the same relative to the root mean square of h."""
    layers = [model[:1](X[TEST]), model[:3](X[TEST])]
    small = [(h.abs() < 0.1).float().mean() for h in layers]
    relative = [(h.abs() < 0.1 * h.square().mean().sqrt()).float().mean() for h in layers]
    return torch.stack([(model(X[TEST]).argmax(1) == Y[TEST]).float().mean(), *small, *relative])


print(
    f"{'':8}" + "".join(f"{title:>15}" for title in ("accuracy", "|h|<.1 first", "second", "|h|<.1rms first", "second"))
)
for name in PENALTIES:
    found = torch.stack([numbers(trained(name, seed)) for seed in range(SEEDS)])
    print(f"{name:8}" + "".join(f"{m:9.3f}±{s:.3f}" for m, s in zip(found.mean(0), found.std(0), strict=True)))
