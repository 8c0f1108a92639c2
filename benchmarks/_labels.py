"""Optimal transport between label distributions, ours and the peers': entropic, its divergence, and exact."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from _peers import find
from _sweeps import Call, Job, Setup, always
from layershift.functional import emd, sinkhorn, sinkhorn_divergence


def label_distributions(setup: Setup) -> Iterator[Job]:
    """Optimal transport between 64 pairs of histograms of K labels with one cost matrix, squared distances in a plane.

    The iterations end at an error of 1e-6 where a peer can be told so; regularisation is 0.05 of the largest cost, of
    which float32 can hold the exponentials.
    """
    eps, tol = 0.05, 1e-6
    samples = 4 if setup.quick else 64
    ot, geomloss = find("ot"), find("geomloss")
    for k in setup.sizes(16, 32, 64, 128, quick=(4, 6, 8, 12)):
        generator = torch.Generator().manual_seed(k)
        points = torch.rand(k, 2, generator=generator)
        cost = (torch.cdist(points, points).square() / 2).to(setup.device)
        a, b = (torch.softmax(2 * torch.randn(samples, k, generator=generator), 1).to(setup.device) for _ in range(2))
        yield from _transport(setup, ot, a, b, cost, eps, tol)
        yield _divergence(setup, geomloss, a, b, points.to(setup.device), cost, eps)


def _transport(setup: Setup, ot, a: Tensor, b: Tensor, cost: Tensor, eps: float, tol: float) -> Iterator[Job]:
    samples, k = a.shape
    reg, stacked = eps * float(cost.max()), cost.expand(samples, k, k).contiguous()
    arrays, costs = [x.cpu().numpy() for x in (a, b)], cost.cpu().numpy()

    def pot_loop() -> object:
        return [ot.sinkhorn2(x, y, costs, reg, stopThr=tol) for x, y in zip(*arrays, strict=True)]

    def pot_batch() -> object:
        return ot.solve_batch(stacked, reg, a, b, max_iter=2000, tol=tol, method="sinkhorn", grad="detach")

    def pot_exact() -> object:
        return [ot.emd2(x, y, costs) for x, y in zip(*arrays, strict=True)]

    iterations = sinkhorn(a, b, cost, eps, tol=tol).iterations
    done = float(iterations.sum())
    products = setup.rates.floor(4 * 2 * a.numel(), operations=4.0 * k * k * done)
    reading = setup.rates.floor(8.0 * samples * k * k, working=8.0 * k * k)
    missing, shape = "POT is not installed", f"B = {samples}, K = {k}"
    yield Job(
        shape,
        k,
        {"sinkhorn": lambda: sinkhorn(a, b, cost, eps, tol=tol)},
        {"POT sinkhorn2, in a loop": pot_loop if ot else missing, "POT solve_batch": pot_batch if ot else missing},
        always(products),
        ("the bare products and divisions of as many iterations", _iterations(a, cost / reg, int(iterations.max()))),
        notes={"POT sinkhorn2, in a loop": "on the CPU"},
    )
    yield Job(
        shape,
        k,
        {"emd": lambda: emd(a, b, cost)},
        {"POT emd2, in a loop": pot_exact if ot else missing},
        always(reading),
        notes={"POT emd2, in a loop": "ours calls the same network simplex, in float64"},
    )


def _iterations(a: Tensor, exponents: Tensor, iterations: int) -> Call:
    """What no iteration on numbers can do without, in float32 and in place."""
    mass, kernel = a.mT.contiguous(), torch.exp(-exponents)
    scaled, sums = torch.ones_like(mass), torch.empty_like(mass)

    def run() -> None:
        for _ in range(2 * iterations):
            torch.mm(kernel, scaled, out=sums)
            torch.div(mass, sums, out=scaled)

    return run


def _divergence(setup: Setup, geomloss, a: Tensor, b: Tensor, points: Tensor, cost: Tensor, eps: float) -> Job:
    samples, k = a.shape
    places = points.expand(samples, k, 2).contiguous()
    peer: Call | str = "GeomLoss is not installed"
    note = ""
    if geomloss:
        blur = (eps * float(cost.max())) ** 0.5
        loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, debias=True, backend="tensorized")
        peer = lambda: loss(a, places, b, places)  # noqa: E731
        exact = sinkhorn_divergence(a, b, cost, eps, of="value")
        off = float((loss(a, places, b, places) - exact).abs().max() / exact.max())
        note = f"its annealing stops {off:.1%} of the largest divergence away from ours, which is solved to 1e-6"
    done = float(sinkhorn(a, b, cost, eps).iterations.sum())
    floor = setup.rates.floor(4 * 2 * a.numel(), operations=4.0 * k * k * done)
    return Job(
        f"B = {samples}, K = {k}",
        k,
        {"sinkhorn_divergence": lambda: sinkhorn_divergence(a, b, cost, eps, of="value")},
        {"GeomLoss, tensorized": peer},
        always(floor),
        ("the first of its three problems", lambda: sinkhorn(a, b, cost, eps)),
        {"GeomLoss, tensorized": note},
    )
