"""Sinkhorn with one cost matrix for all samples against POT's batched solver, at the same iterations and to one error.

Problems are softmax outputs against sets of one to three labels, costs squared distances of embeddings, float64. With
`tol=0` both sides do every iteration on every sample. Beside the ratios stands the floor: the two matrix products and
the two divisions of an iteration in float32, where most of ours run, and in float64. Exact linear programs, one sample
after another, are what `LabelTransport(method="auto")` weighs against.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from _timing import Case, arguments, interleaved, judged, ratio, report
from layershift.functional import emd, label_cost, sinkhorn

EPS, ITERATIONS = 0.01, 100
SHAPES = {(1024, 20): 12.0, (256, 80): 60.0}


def problem(samples: int, labels: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(labels)
    cost = label_cost(torch.randn(labels, 50, generator=generator, dtype=torch.float64))
    a = torch.softmax(2 * torch.randn(samples, labels, generator=generator, dtype=torch.float64), 1)
    order = torch.rand(samples, labels, generator=generator).argsort(1)
    b = (order < torch.randint(1, 4, (samples, 1), generator=generator)).double()
    return a.to(device), (b / b.sum(1, keepdim=True)).to(device), (cost / cost.max()).to(device)


def products(a: Tensor, cost: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """The operations that no iteration can do without."""
    mass, kernel = a.mT.contiguous().to(dtype), torch.exp(EPS**-1 / 2 - cost / EPS).to(dtype)
    u, sums = torch.ones_like(mass), torch.empty_like(mass)

    def run() -> None:
        for _ in range(2 * ITERATIONS):
            torch.mm(kernel, mass, out=sums)
            torch.div(mass, sums, out=u)

    return run


def once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def against_pot(samples: int, labels: int, target: float, repeats: int, device: str) -> list[Case]:
    from ot.batch import solve_batch

    a, b, cost = problem(samples, labels, device)
    stacked = cost.expand(samples, labels, labels).contiguous()

    def theirs(method: str, iterations: int, tol: float):
        return solve_batch(stacked, EPS, a, b, max_iter=iterations, tol=tol, method=method, grad="detach")

    calls = {
        "ours": lambda: sinkhorn(a, b, cost, EPS, ITERATIONS, 0),
        "POT": lambda: theirs("sinkhorn", ITERATIONS, 0),
        "products in float32": products(a, cost, torch.float32),
        "products in float64": products(a, cost, torch.float64),
        "ours to 1e-6": lambda: sinkhorn(a, b, cost, EPS, 2000, 1e-6),
    }
    times = interleaved(calls, repeats=repeats, warmup=1)
    detail = ", ".join(f"{name} {t.median * 1e3:.3g} ms" for name, t in times.items())
    name = f"B = {samples}, K = {labels}"
    ours, pot = calls["ours"](), calls["POT"]()
    gap = (ours.cost - pot.value_linear).abs().max()
    done = ours.error < 1e-6
    converged = calls["ours to 1e-6"]()
    iterations = int(converged.iterations.max())
    per_iteration = once(lambda: theirs("log_sinkhorn", 10, 0)) / 10
    to_error = once(lambda: theirs("sinkhorn", 5000, 1e-6))
    return [
        judged(
            f"POT / ours, {ITERATIONS} iterations of all, {name}",
            ratio(times["POT"], times["ours"]),
            target,
            sense=">=",
            detail=detail,
        ),
        judged(
            f"POT / its two products and divisions in float64, {name}",
            ratio(times["POT"], times["products in float64"]),
        ),
        judged(f"POT / the same in float32, {name}", ratio(times["POT"], times["products in float32"])),
        judged(
            f"ours: {ITERATIONS} iterations / to an error of 1e-6, {name}", ratio(times["ours"], times["ours to 1e-6"])
        ),
        Case(
            f"POT / ours, until every sample's error is 1e-6, {name}",
            to_error / times["ours to 1e-6"].median,
            detail=f"POT {to_error * 1e3:.4g} ms, one run, all samples until the slowest is done",
        ),
        Case(
            f"POT's default (log domain) / ours, an iteration, {name}",
            per_iteration * ITERATIONS / times["ours"].median,
            detail=f"POT {per_iteration * 1e3:.3g} ms, one run of 10",
        ),
        Case(
            f"difference of costs after {ITERATIONS} iterations, converged samples, {name}",
            float((ours.cost - pot.value_linear).abs()[done].max()),
            target=1e-6,
            unit="of the largest cost",
            detail=f"{int(done.sum())} of {samples} samples; all: {float(gap):.2g}",
        ),
        Case(
            f"not converged to 1e-6 in 2000 iterations, {name}",
            float((~converged.converged).double().mean()),
            unit="share",
            detail=f"the slowest took {iterations}, the mean {float(converged.iterations.double().mean()):.3g}",
        ),
    ]


def crossover(samples: int, labels: int, repeats: int) -> list[Case]:
    a, b, cost = problem(samples, labels, "cpu")
    grown = a.clone().requires_grad_()

    def gradient(call: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(grown).sum(), grown)

    calls = {
        "exact": lambda: emd(a, b, cost),
        "Sinkhorn": lambda: sinkhorn(a, b, cost, EPS),
        "exact with gradient": gradient(lambda x: emd(x, b, cost)),
        "Sinkhorn with gradient": gradient(lambda x: sinkhorn(x, b, cost, EPS).cost),
    }
    times = interleaved(calls, repeats=repeats, warmup=1)
    detail = ", ".join(f"{name} {t.median * 1e3:.3g} ms" for name, t in times.items())
    name = f"B = {samples}, K = {labels}"
    return [
        judged(f"exact / Sinkhorn to 1e-6, {name}", ratio(times["exact"], times["Sinkhorn"]), detail=detail),
        judged(
            f"the same with gradients, {name}", ratio(times["exact with gradient"], times["Sinkhorn with gradient"])
        ),
    ]


def main() -> None:
    options = arguments(__doc__ or "")
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    rounds = max(options.repeats // 3, 2)
    cases = [
        case
        for (samples, labels), target in SHAPES.items()
        for case in against_pot(samples, labels, target, rounds, options.device)
    ]
    if options.device == "cpu":
        for labels in (5, 20, 80):
            for samples in (8, 64, 512):
                cases += crossover(samples, labels, rounds)
    report("sinkhorn", cases, options.out)


if __name__ == "__main__":
    main()
