"""What critics make of known distances: the estimate over the exact W1 of the same samples, median over seeds.

512 samples of 16 units, moved in five ways; critics of all cases and seeds are trained side by side, 1,500 updates or
as told, and evaluated on the samples that they were trained on. A calibrated estimator would show 1 everywhere; one
with an unknown factor K would show the same number everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from _timing import Case, Times, arguments, report
from layershift.functional import exact_wasserstein
from layershift.measure import Critic, critic_distances

N, D, SEEDS = 512, 16, 3
KINDS = {
    "clip, sigmoid (the paper's)": Critic(),
    "clip, linear": Critic(activation="linear"),
    "penalty, linear, 500 steps": Critic(lipschitz="penalty", activation="linear", steps=500),
    "spectral, linear, 500 steps": Critic(lipschitz="spectral", activation="linear", steps=500),
}


def moved(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, N, D, generator=generator)
    step = torch.randn(D, generator=generator)
    return {
        "translated": (x + step, x),
        "translated by 1/20 of that": (x + step / 20, x),
        "scaled by 1.5": (1.5 * x, x),
        "rectified": (x.relu(), x),
        "independent noise 0.5": (x + 0.5 * noise, x),
    }


def main() -> None:
    options = arguments(__doc__ or "")
    samples = [moved(seed) for seed in range(SEEDS)]
    names = list(samples[0])
    pairs = [(x.to(options.device), y.to(options.device)) for name in names for x, y in (s[name] for s in samples)]
    exact = [float(exact_wasserstein(x, y).value) for x, y in pairs]
    cases = []
    for kind, critic in KINDS.items():
        found = critic_distances(pairs, critic)
        for i, name in enumerate(names):
            rows = range(i * SEEDS, (i + 1) * SEEDS)
            shares = Times([float(found[r].value) / exact[r] for r in rows])
            error = Times([float(found[r].stderr) / exact[r] for r in rows]).median
            detail = (
                f"error bar {error:.2g}, n = {N}, {D} units, W1 = {Times(exact[rows[0] : rows[-1] + 1]).median:.3g}"
            )
            cases.append(Case(f"{kind}: {name}", shares.median, shares.quartiles, n=SEEDS, unit="of W1", detail=detail))
    report("critic bias", cases, options.out)


if __name__ == "__main__":
    main()
