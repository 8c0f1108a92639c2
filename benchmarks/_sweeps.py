"""What is compared: for each function its sizes, the same job as each peer does it, and the floor of that job.

A job is one function (or several that share their peers) at one size. Traffic that a floor counts is what no
implementation can leave out: for a normaliser the input twice in the forward pass (its statistics must be known before
it can be applied) and once the output; in the backward pass input and slope twice and once the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from _floors import Floor, Rates
from _peers import SIGReg, find, kernels_of, no_compiler
from _timing import Times
from layershift.functional import directions, sliced_wasserstein, sliced_wasserstein_normal, wasserstein
from layershift.functional.sorting import ascending
from layershift.nn import PER, BatchNorm2d, EppsPulley, SlicedWasserstein, Unitization2d

Call = Callable[[], object]

PASSES = "the peer's is one kernel each way; ours reads and writes the map 20 times, in PyTorch's own operations"


@dataclass(frozen=True)
class Setup:
    """Where and how large."""

    device: str
    rates: Rates
    quick: bool = False

    def sizes(self, *full: int, quick: tuple[int, ...]) -> tuple[int, ...]:
        return quick if self.quick else full


def always(floor: Floor) -> Callable[[Mapping[str, Times]], Floor]:
    """A floor that needs no times."""
    return lambda _: floor


@dataclass(frozen=True)
class Job:
    """One job at one size.

    Attributes:
        shape: the size in words.
        size: the number that grows.
        ours: our functions that do it, by name.
        peers: others that do it, by name; a text instead of a call says why the peer is absent.
        floor: from the times of the round, of which it needs at most those of `part`.
        part: a bare operation that ours holds or cannot do without, which tells where the time goes.
        notes: of a peer, what differs in what it gives.
    """

    shape: str
    size: int
    ours: Mapping[str, Call]
    peers: Mapping[str, Call | str]
    floor: Callable[[Mapping[str, Times]], Floor]
    part: tuple[str, Call] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


def training(module: Callable[[Tensor], Tensor], x: Tensor, slope: Tensor | None = None) -> Call:
    """Forward and backward, every gradient afresh."""
    leaves = [x, *(module.parameters() if isinstance(module, nn.Module) else ())]

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        module(x).backward(slope)

    return run


def normalisers(setup: Setup, *, compile: bool = False) -> Iterator[Job]:
    """Maps of a convolutional network; peers have as many parameters, save LayerNorm, which has one for each unit."""
    channels, batch = (8, 4) if setup.quick else (64, 32)
    missing = no_compiler(setup.device) if compile else ""
    for side in setup.sizes(7, 14, 28, 56, quick=(2, 4, 8, 16)):
        shape = (batch, channels, side, side)
        x, dy = torch.randn(shape, device=setup.device).requires_grad_(), torch.randn(shape, device=setup.device)
        ours: dict[str, nn.Module] = {
            "Unitization2d": Unitization2d(channels, alpha_init=0.5).to(setup.device),
            "BatchNorm2d": BatchNorm2d(channels).to(setup.device),
        }
        peers: dict[str, nn.Module] = {
            "torch BatchNorm2d": nn.BatchNorm2d(channels).to(setup.device),
            "torch GroupNorm": nn.GroupNorm(8, channels).to(setup.device),
            "torch LayerNorm": nn.LayerNorm(shape[1:]).to(setup.device),
        }
        notes: dict[str, str] = {}
        if compile and not missing:
            torch._dynamo.reset()
            made = {name: kernels_of(module, x, dy) for name, module in (ours | peers).items()}
            kernels = ", ".join(f"{name} {count}" for name, (_, count) in made.items())
            notes = {f"{name}, compiled": f"kernels: {kernels}" for name in peers}
            ours = {f"{name}, compiled": made[name][0] for name in ours}
            peers = {f"{name}, compiled": made[name][0] for name in peers}
        notes = notes if compile else dict.fromkeys(peers, PASSES)
        theirs: dict[str, Call | str] = {name: training(module, x, dy) for name, module in peers.items()}
        if missing:
            theirs = {f"{name}, compiled": missing for name in peers}
        yield Job(
            str(shape),
            x.numel(),
            {name: training(module, x, dy) for name, module in ours.items()},
            theirs,
            always(setup.rates.floor(8 * 4 * x.numel(), working=4 * 4 * x.numel())),
            ("copying input and slope into fresh tensors", lambda x=x, dy=dy: (x.detach().clone(), dy.clone())),
            notes,
        )


def compiled_normalisers(setup: Setup) -> Iterator[Job]:
    """The same, all of them compiled for each size."""
    return normalisers(setup, compile=True)


def per_penalty(setup: Setup) -> Iterator[Job]:
    """Wide layers, a batch of 128: penalty and its gradient."""
    n = 128
    for d in setup.sizes(256, 1024, 4096, 16384, quick=(8, 16, 32, 64)):
        x = torch.randn(n, d, device=setup.device).requires_grad_()
        floor = setup.rates.floor(2 * 4 * x.numel())
        yield Job(
            f"({n}, {d})",
            d,
            {"PER": training(PER(), x)},
            {"SIGReg": training(SIGReg().to(setup.device), x)},
            always(floor),
            ("x.mean() and its gradient", training(torch.mean, x)),
            {"SIGReg": "another penalty towards N(0, I), by 256 directions"},
        )


def sliced_penalties(setup: Setup) -> Iterator[Job]:
    """Penalties on a batch's distribution along 256 directions, which each call draws, and their gradients."""
    d, p = (16, 16) if setup.quick else (128, 256)
    ot = find("ot")
    for n in setup.sizes(128, 512, 2048, 8192, quick=(8, 16, 32, 64)):
        x = torch.randn(n, d, device=setup.device).requires_grad_()
        floor = setup.rates.floor(4 * (2 * x.numel() + d * p), operations=4.0 * n * d * p)
        ours = EppsPulley(p, reduction="sum", t_max=3.0)
        yield Job(
            f"({n}, {d}), {p} directions",
            n,
            {"EppsPulley": training(ours, x)},
            {"SIGReg": training(SIGReg(p).to(setup.device), x)},
            always(floor),
            ("one cosine and one sine of each projection", _waves(x, p)),
            {"SIGReg": "the same number, up to √(2π)"},
        )

        def pot(y: Tensor, n: int = n) -> Tensor:
            return ot.sliced_wasserstein_distance(y, torch.randn(n, d, device=y.device), n_projections=p, p=2)

        yield Job(
            f"({n}, {d}), {p} directions",
            n,
            {"SlicedWasserstein": training(SlicedWasserstein(num_projections=p), x)},
            {"POT, sampled Gaussian": training(pot, x) if ot else "POT is not installed"},
            always(floor),
            ("projecting and sorting", _sorted(x, p)),
            {"POT, sampled Gaussian": "of two samples; ours is to N(0, I) itself"},
        )


def _waves(x: Tensor, p: int) -> Call:
    """Cosines and sines as large as the projections, in place."""
    angles, out = torch.randn(len(x), p, device=x.device), torch.empty(len(x), p, device=x.device)
    return lambda: (torch.cos(angles, out=out), torch.sin(angles, out=out))


def _sorted(x: Tensor, p: int) -> Call:
    rows, columns = directions(x.shape[1], p, device=x.device), x.detach().mT
    return lambda: ascending(rows @ columns)


def sliced_distances(setup: Setup) -> Iterator[Job]:
    """W1 along given directions, to N(0, I) and between two samples."""
    d, p = (16, 16) if setup.quick else (64, 128)
    ot = find("ot")
    for n in setup.sizes(128, 512, 2048, 8192, quick=(8, 16, 32, 64)):
        x, y = torch.randn(n, d, device=setup.device), torch.randn(n, d, device=setup.device)
        rows = directions(d, p, device=setup.device)
        columns = rows.mT.contiguous()

        def pot(x: Tensor = x, y: Tensor = y, columns: Tensor = columns) -> object:
            return ot.sliced_wasserstein_distance(x, y, projections=columns, p=1)

        theirs: Call | str = pot if ot else "POT is not installed"
        sort, shape = _sorted(x, p), f"({n}, {d}), {p} directions"
        one = setup.rates.floor(4 * (x.numel() + d * p), operations=2.0 * n * d * p)
        two = setup.rates.floor(4 * (2 * x.numel() + d * p), operations=4.0 * n * d * p)
        yield Job(
            shape,
            n,
            {"sliced_wasserstein_normal": lambda x=x, rows=rows: sliced_wasserstein_normal(x, directions=rows).mean()},
            {"POT, sampled Gaussian": theirs},
            always(one),
            ("projecting and sorting", sort),
            {"POT, sampled Gaussian": "of two samples, drawing one is not counted; ours is to N(0, I) itself"},
        )
        yield Job(
            shape,
            n,
            {"sliced_wasserstein": lambda x=x, y=y, rows=rows: sliced_wasserstein(x, y, directions=rows).mean()},
            {"POT": theirs},
            always(two),
            ("projecting and sorting both", lambda sort=sort: (sort(), sort())),
        )


def distances_on_the_line(setup: Setup) -> Iterator[Job]:
    """W1 between samples of 32 units."""
    ot, stats = find("ot"), find("scipy.stats")
    rows = 4 if setup.quick else 32
    for n in setup.sizes(256, 1024, 4096, 16384, quick=(8, 16, 32, 64)):
        x, y = torch.randn(rows, n, device=setup.device), torch.randn(rows, n, device=setup.device) + 0.1
        columns = x.mT.contiguous(), y.mT.contiguous()
        arrays = x.cpu().numpy(), y.cpu().numpy()
        floor = setup.rates.floor(2 * 4 * x.numel())
        scipy = lambda arrays=arrays: [stats.wasserstein_distance(u, v) for u, v in zip(*arrays, strict=True)]  # noqa: E731
        pot = lambda columns=columns: ot.wasserstein_1d(*columns, p=1)  # noqa: E731
        yield Job(
            f"({rows}, {n})",
            n,
            {"wasserstein": lambda x=x, y=y: wasserstein(x, y)},
            {
                "SciPy, in a loop": scipy if stats else "SciPy is not installed",
                "POT wasserstein_1d": pot if ot else "POT is not installed",
            },
            always(floor),
            ("sorting both", lambda x=x, y=y: (ascending(x), ascending(y))),
            {"SciPy, in a loop": "on the CPU, in float64"},
        )
