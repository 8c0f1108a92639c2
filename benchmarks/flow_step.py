"""One explicit step of the two-layer network against the two matrix products that it cannot avoid, and its growth in m.

The products are a sample with every neuron, and residuals with every sample. They are timed in two ways: each in one
call with its result's memory at hand, and in the chunks of the step, whose values never leave the cache. The latter is
the lower bound that no order of work can beat; the former is what one would write. Autograd does the same step with
`TwoLayerBN` and SGD, and holds all values of all samples at once. Float32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import torch

from _timing import Case, arguments, interleaved, judged, ratio, report
from layershift.dynamics.losses import loss_values
from layershift.dynamics.network import TwoLayerBN, random_particles
from layershift.dynamics.steps import step_
from layershift.dynamics.velocities import Chunk, Problem, VelocityField, slices

M, D, N = 100_000, 64, 4096
WIDTHS = (1_000, 10_000, 100_000, 1_000_000)


def made(n: int, d: int, activation: str, device: str) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator).to(device)
    return Problem.of(x, torch.tanh(x[:, 0]) + x[:, 1].square(), activation=activation)


def stepping(problem: Problem, m: int, kind: str) -> Callable[[], None]:
    d, device = problem.x.shape[1], problem.x.device
    a, b = random_particles(d, m, device=device)
    field = VelocityField(problem, m, kind=kind)

    def run() -> None:
        step_(a, b, field(a, b), kind=kind, rate=1e-3, sigma=problem.sigma)

    return run


def whole_products(problem: Problem, m: int) -> Callable[[], None]:
    x, (_, b) = problem.x, random_particles(D, m, device=problem.x.device)
    z, sums = x.new_empty(len(x), m), x.new_empty(m, D)

    def run() -> None:
        torch.mm(x, b.mT, out=z)
        torch.mm(z.mT, x, out=sums)

    return run


def products_in_cache(problem: Problem, m: int, chunk: Chunk) -> Callable[[], None]:
    x, (_, b) = problem.x, random_particles(D, m, device=problem.x.device)
    z, sums = x.new_empty(chunk[1], chunk[0]), x.new_zeros(m, D)

    def run() -> None:
        for block in slices(len(x), chunk[0]):
            columns = x[block].mT.contiguous()
            for part in slices(m, chunk[1]):
                torch.mm(b[part], columns, out=z[: part.stop - part.start])
            for part in slices(m, chunk[1]):
                sums[part].addmm_(z[: part.stop - part.start], x[block])

    return run


def by_autograd(problem: Problem, m: int) -> Callable[[], None]:
    network = TwoLayerBN(D, m, sigma=problem.sigma, activation=problem.activation).to(problem.x.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3 * m)

    def run() -> None:
        optimizer.zero_grad()
        loss_values(network(problem.x), problem.y, problem.loss).mean().backward()
        optimizer.step()

    return run


def against_products(rounds: int, device: str) -> list[Case]:
    problem = made(N, D, "relu", device)
    chunk = VelocityField(problem, M, kind="batch_norm").chunk
    steps = {f"{kind}, relu": stepping(problem, M, kind) for kind in ("batch_norm", "manifold", "plain")}
    steps["batch_norm, tanh"] = stepping(made(N, D, "tanh", device), M, "batch_norm")
    bounds = {
        "whole": whole_products(problem, M),
        "in cache": products_in_cache(problem, M, chunk),
        "autograd": by_autograd(problem, M),
    }
    # What is judged runs in short rounds of its own: a machine that others use too changes its pace within seconds.
    pair = {"batch_norm, relu": steps.pop("batch_norm, relu"), "whole": bounds.pop("whole")}
    times = interleaved(pair, repeats=4 * rounds, warmup=1)
    slow = interleaved({"ours": pair["batch_norm, relu"], "autograd": bounds.pop("autograd")}, repeats=rounds, warmup=1)
    rest = interleaved({**pair, **steps, **bounds}, repeats=rounds, warmup=1)
    times |= {"autograd": slow["autograd"]} | {name: rest[name] for name in (*steps, *bounds)}
    detail = ", ".join(f"{name} {t.median:.3g} s" for name, t in times.items())
    ours = times["batch_norm, relu"]
    size = f"m = {M}, d = {D}, n = {N}"
    cases = [
        judged(f"step / its two products, {size}", ratio(ours, times["whole"]), 1.3, detail=detail),
        judged("step / its two products in the step's own chunks", ratio(rest["batch_norm, relu"], rest["in cache"])),
        judged("the same step by autograd / step", ratio(slow["autograd"], slow["ours"]), 3.0, sense=">="),
    ]
    return cases + [judged(f"step / its two products: {name}", ratio(rest[name], rest["whole"])) for name in steps]


def growth(rounds: int, device: str) -> list[Case]:
    """Exponents between widths of a step with few samples, so that the widest is over in a second."""
    problem = made(256, 16, "relu", device)
    seconds = []
    for m in WIDTHS:
        run = stepping(problem, m, "batch_norm")
        run()
        taken = []
        for _ in range(max(rounds, 3)):
            start = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        seconds.append(min(taken))
    exponents = [math.log10(wide / narrow) for narrow, wide in pairwise(seconds)]
    each = ", ".join(f"m = {m}: {s * 1e3:.3g} ms" for m, s in zip(WIDTHS, seconds, strict=True))
    overall = math.log(seconds[-1] / seconds[0]) / math.log(WIDTHS[-1] / WIDTHS[0])
    told = ", ".join(f"{e:.2f}" for e in exponents)
    return [
        Case(
            f"growth with the width from {WIDTHS[0]} to {WIDTHS[-1]}, n = 256, d = 16",
            overall,
            target=1.1,
            unit="exponent",
            n=max(rounds, 3),
            detail=f"{each}; exponents between them {told}; least of the rounds",
        )
    ]


def main() -> None:
    options = arguments(__doc__ or "")
    rounds = max(options.repeats // 5, 2)
    report("flow_step", against_products(rounds, options.device) + growth(rounds, options.device), options.out)


if __name__ == "__main__":
    main()
