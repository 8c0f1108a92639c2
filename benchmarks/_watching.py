"""Training steps that are measured: by Monitor, by histogram hooks, by hooks in the manner of Composer's monitor.

A measured step is compared with a measured step, and a run of 100 steps with such a run, measured at every 10th or
100th. Monitor's budget is off, so that all three measure whenever it is due. It keeps its defaults, moments and
normality of every layer and unit with standard errors in a store in memory; the peers log to a dictionary. Their floor
is the steps themselves, as they were timed in the same rounds, and one reading of what is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from _floors import Floor
from _peers import ComposerHooks, HistogramHooks, hooked
from _sweeps import Call, Job, Setup
from layershift.monitor import Monitor

STEPS, PLAIN = 100, "the same without measuring"
HISTOGRAMS, COMPOSER = "histogram hooks", "hooks like Composer's"


def perceptron(width: int, depth: int = 6) -> nn.Sequential:
    """Layers with ReLU, and a head."""
    layers: list[nn.Module] = []
    for size in [64, *[width] * (depth - 1)]:
        layers += [nn.Linear(size, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def convolutions(width: int) -> nn.Sequential:
    """Four convolutions, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for size in [3, *[width] * 3]:
        layers += [nn.Conv2d(size, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def training_step(model: nn.Module, x: Tensor) -> Call:
    y = torch.randint(10, (len(x),), device=x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bytes_of_outputs(model: nn.Module, x: Tensor) -> int:
    """What a monitor of every layer has to read."""
    total = 0

    def see(_name: str, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * output.element_size()

    with hooked(model, see), torch.no_grad():
        model(x)
    return total


def jobs(setup: Setup, name: str, model: nn.Module, x: Tensor, width: int, steps: int) -> Iterator[Job]:
    """The measured step, and unless `steps` is 0 runs of so many."""
    step, count = training_step(model, x), itertools.count()
    seen, histograms, composer = bytes_of_outputs(model, x), HistogramHooks(), ComposerHooks()
    shape = f"width {width}, batch {len(x)}"

    def by_hooks(see: Callable[..., None]) -> Call:
        def run() -> None:
            with hooked(model, see):
                step()

        return run

    def a_run(every: int, measured: Callable[[int], None]) -> Call:
        def run() -> None:
            for i in range(steps):
                if i % every:
                    step()
                else:
                    measured(i)

        return run

    def floor(measured: int) -> Callable[..., Floor]:
        reading = setup.rates.floor(seen * measured, working=seen).seconds
        return lambda times: Floor(times[PLAIN].median + reading, "plain steps and bytes")

    with Monitor(model, layers="*", every=1, budget=None) as monitor:

        def watched() -> None:
            with monitor.step(next(count)):
                step()

        peers = {HISTOGRAMS: by_hooks(histograms), COMPOSER: by_hooks(composer)}
        for call in (watched, *peers.values()):
            call()
        records = [record for record in monitor.records() if record.layer]
        ours = f"{len(records)} numbers, {sum(r.stderr is not None for r in records)} of them with standard errors"
        logged = {HISTOGRAMS: histograms.numbers, COMPOSER: composer.numbers}
        notes = {peer: f"ours gives {ours}; it gives {n}" for peer, n in logged.items()}
        yield Job(shape, width, {f"Monitor, measured step, {name}": watched}, peers, floor(1), (PLAIN, step), notes)
    for every in (10, STEPS) if steps else ():
        due = -(-steps // every)
        with Monitor(model, layers="*", every=every, budget=None) as monitor:

            def watched_run(monitor: Monitor = monitor) -> None:
                first = next(count) * STEPS
                for i in range(steps):
                    with monitor.step(first + i):
                        step()

            runs = {peer: a_run(every, lambda _, call=call: call()) for peer, call in peers.items()}
            plain = a_run(1, lambda _: step())
            function = f"Monitor, {steps} steps, every={every}, {name}"
            yield Job(shape, width, {function: watched_run}, runs, floor(due), (PLAIN, plain), notes)


def monitors(setup: Setup) -> Iterator[Job]:
    """A perceptron, whose steps are short, and convolutions."""
    for width in setup.sizes(32, 64, 128, 256, quick=(2, 4, 8, 16)):
        x = torch.randn(8 if setup.quick else 128, 64, device=setup.device)
        model = perceptron(width, 1 if setup.quick else 6).to(setup.device)
        yield from jobs(setup, "MLP", model, x, width, 20 if setup.quick else STEPS)
    for width in setup.sizes(8, 16, 32, 64, quick=(2, 4, 6, 8)):
        side, batch = (4, 4) if setup.quick else (16, 64)
        x = torch.randn(batch, 3, side, side, device=setup.device)
        yield from jobs(setup, "convolutions", convolutions(width).to(setup.device), x, width, 0)
