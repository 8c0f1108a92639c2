"""Sliced W1 to N(0, I): the closed form against POT with a sampled Gaussian of equal size, in time and in error.

Time: 10,000 samples, 512 dimensions, 256 directions; POT gets the Gaussian as a tensor, drawing it is not counted.
Error: in one dimension, where there is one direction and W1 is an integral: Gaussians of other mean and variance (in
closed form where there is one), uniform, two points. The input is its own n quantiles at (i − ½)/n, so that what is
seen is the error of the method and not that of a sample; in more dimensions each projection is such a case.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import ot
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from _timing import Case, Times, arguments, interleaved, judged, ratio, report
from layershift.functional import directions, sliced_wasserstein_normal
from layershift.functional.sliced import _project

N, D, P = 10_000, 512, 256


def speed(repeats: int, device: str) -> list[Case]:
    x = torch.randn(N, D, device=device) * 1.5
    gaussian = torch.randn(N, D, device=device)
    theta = directions(D, P, device=device)
    columns = theta.T.contiguous()
    calls = {
        "closed form": lambda: sliced_wasserstein_normal(x, directions=theta).mean(),
        "POT": lambda: ot.sliced.sliced_wasserstein_distance(x, gaussian, projections=columns, p=1),
        "floor": lambda: _project(theta, "x", x).sort(-1),
    }
    times = interleaved(calls, repeats=repeats, warmup=2)
    detail = ", ".join(f"{name} {t.median * 1e3:.3g} ms" for name, t in times.items())
    return [
        judged(
            f"POT / closed form, ({N}, {D}), {P} directions",
            ratio(times["POT"], times["closed form"]),
            5.0,
            sense=">=",
            detail=detail,
        ),
        judged("closed form / projecting and sorting alone", ratio(times["closed form"], times["floor"])),
    ]


def integral(quantile: Callable[[float], float], cuts: tuple[float, ...] = ()) -> float:
    """W1 to N(0, 1) of a distribution on the line."""
    pieces = itertools.pairwise([0.0, *cuts, 1.0])
    return sum(
        scipy.integrate.quad(lambda u: abs(quantile(u) - scipy.stats.norm.ppf(u)), a, b, limit=400)[0]
        for a, b in pieces
    )


def accuracy(repeats: int) -> list[Case]:
    grid = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    ppf = scipy.stats.norm.ppf
    frame = directions(1, 1, dtype=torch.float64).abs()
    inputs: dict[str, tuple[Tensor, float]] = {
        "N(0, 1.5²)": (torch.special.ndtri(grid) * 1.5, 0.5 * math.sqrt(2 / math.pi)),
        "N(0.3, 1)": (torch.special.ndtri(grid) + 0.3, 0.3),
        "N(0.2, 0.8²)": (
            torch.special.ndtri(grid) * 0.8 + 0.2,
            integral(lambda u: 0.2 + 0.8 * ppf(u), (float(scipy.stats.norm.cdf(1.0)),)),
        ),
        "uniform on [−2, 2]": (4 * grid - 2, integral(lambda u: 4 * u - 2, (0.5,))),
        "two points, ±1": (
            torch.where(grid < 0.5, -1.0, 1.0).double(),
            integral(
                lambda u: -1.0 if u < 0.5 else 1.0,
                (float(scipy.stats.norm.cdf(-1.0)), 0.5, float(scipy.stats.norm.cdf(1.0))),
            ),
        ),
    }
    cases = []
    for name, (x, truth) in inputs.items():
        ours = abs(float(sliced_wasserstein_normal(x.float()[:, None], directions=frame).mean()) - truth)
        errors = []
        for seed in range(max(repeats, 10)):
            gaussian = torch.randn(N, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            found = ot.sliced.sliced_wasserstein_distance(x[:, None], gaussian, projections=frame, p=1)
            errors.append(abs(float(found) - truth))
        quotient = Times([error / max(ours, 1e-12) for error in errors])
        detail = f"W1 = {truth:.6f}; closed form in float32 off by {ours:.1e}, POT's median {Times(errors).median:.1e}"
        cases.append(
            judged(f"error of POT / of the closed form, {name}, n = {N}", quotient, 10.0, sense=">=", detail=detail)
        )
    return cases


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    report("sliced", speed(options.repeats, options.device) + accuracy(options.repeats), options.out)


if __name__ == "__main__":
    main()
