"""Streaming many activations of 512 units through Moments and Normality: peak memory, and the numbers.

A process of its own draws batches by seed, so that nothing else counts in its peak resident memory. Moments are checked
against sums of powers in float64 over the same stream; both measures against one update with all of a smaller stream,
whose samples are all kept. `--samples` is how many in all, 10⁷ by default (about two minutes on two cores).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from _timing import Case, report
from layershift.measure import Moments, Normality

UNITS, BATCH = 512, 2_500
NAMES = ("mean", "variance", "skewness", "kurtosis")


def batches(samples: int, device: str) -> Iterator[Tensor]:
    for seed, start in enumerate(range(0, samples, BATCH)):
        generator = torch.Generator(device).manual_seed(seed)
        z = torch.randn(min(BATCH, samples - start), UNITS, generator=generator, device=device)
        yield z.relu_().add_(0.5)


def power_sums(x: Tensor) -> Tensor:
    wide = x.double()
    return torch.stack([wide.pow(k).sum() for k in range(5)])


def from_powers(sums: Tensor) -> dict[str, float]:
    _, a, b, c, d = (sums / sums[0]).tolist()
    variance = b - a**2
    third, fourth = c - 3 * a * b + 2 * a**3, d - 4 * a * c + 6 * a**2 * b - 3 * a**4
    return dict(zip(NAMES, (a, variance, third / variance**1.5, fourth / variance**2), strict=True))


def stream(samples: int, device: str) -> dict[str, object]:
    """What the process of its own measures."""
    moments, normality = Moments(num_units=8), Normality()
    sums, start, base = torch.zeros(5, dtype=torch.float64, device=device), time.perf_counter(), 0.0
    for i, x in enumerate(batches(samples, device)):
        moments.update(x)
        normality.update(x)
        sums += power_sums(x[:, :: UNITS // 16])  # a sixteenth of the units, for an independent sum
        if i == min(20, samples // BATCH - 1):
            base = peak()
    found, near = moments.compute(), normality.compute()
    exact = from_powers(sums)
    return {
        "seconds": time.perf_counter() - start,
        "peak": peak(),
        "after 20 batches": base,
        "found": {name: float(found[name].value) for name in NAMES},
        "error bars": {name: float(found[name].stderr) for name in NAMES},
        "sixteenth": exact,
        "kept": float(near.n),
        "normality": float(near.value),
    }


def peak() -> float:
    """Peak resident memory of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


def equal_to_batch(device: str) -> list[Case]:
    """A stream of batches against one update with all of it."""
    parts = [x[:1000] for x in batches(4 * BATCH, device)]
    whole = torch.cat(parts)
    cases = []
    streamed, at_once = Moments(num_units=8), Moments(num_units=8)
    near, near_at_once = Normality(max_samples=len(whole)), Normality(max_samples=len(whole))
    for part in parts:
        streamed.update(part)
        near.update(part)
    at_once.update(whole)
    near_at_once.update(whole)
    exact = from_powers(power_sums(whole))
    a, b = streamed.compute(), at_once.compute()
    names = [f"{name}{suffix}" for name in NAMES for suffix in ("", "/units")]
    worst = max(float(((a[n].value - b[n].value).abs() / b[n].value.abs()).max()) for n in names)
    cases.append(
        Case("moments of layer and units, stream against batch", worst, target=1e-9, unit="relative", n=len(whole))
    )
    worst = max(abs(float(a[n].value) - exact[n]) / abs(exact[n]) for n in NAMES)
    cases.append(
        Case("moments of the layer, stream against float64 sums", worst, target=1e-6, unit="relative", n=len(whole))
    )
    gap = abs(float(near.compute().value / near_at_once.compute().value) - 1)
    cases.append(Case("normality, stream against batch", gap, target=1e-6, unit="relative", n=len(whole)))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="write the figures to this JSON file")
    parser.add_argument("--samples", type=int, default=10**7, help="how many samples (default: 10⁷)")
    parser.add_argument("--device", default="cpu", help="device (default: cpu)")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        print(json.dumps(stream(options.samples, options.device)))
        return
    command = [sys.executable, __file__, "--inner", "--samples", str(options.samples), "--device", options.device]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    shape = f"{options.samples:.0e} × {UNITS}"
    off = max(abs(told["found"][n] - told["sixteenth"][n]) / (told["error bars"][n] * 4) for n in NAMES)
    cases = [
        Case(
            f"peak resident memory, {shape}",
            told["peak"],
            target=1.0,
            unit="GiB",
            detail=f"{told['after 20 batches']:.3f} GiB after 20 batches, PyTorch included; {told['seconds']:.0f} s",
        ),
        Case(
            f"growth of the peak after 20 batches, {shape}",
            told["peak"] - told["after 20 batches"],
            target=0.05,
            unit="GiB",
        ),
        Case(
            f"moments against float64 sums over a sixteenth of the units, {shape}",
            off,
            target=4.0,
            unit="error bars",
            detail=f"kept for normality: {told['kept']:.0f} samples",
        ),
        *equal_to_batch(options.device),
    ]
    report("streaming", cases, options.out)


if __name__ == "__main__":
    main()
