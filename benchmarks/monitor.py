"""What a Monitor costs: training steps with it against the same steps without, all layers measured.

With `every=100` every 100th step is measured, so the cost is (99 skipped + 1 measured) / 100 plain steps. The kinds of
step run one after the other in each round, and the quotient is formed within the round; the budget is off, so that
every due step is measured. What a skipped step costs is the time of a thousand with nothing inside: the noise of whole
steps, which are shown as well, would be counted 99 times. Beside them stand a floor, the rows of one measured step,
already made, written by bare `sqlite3` in one transaction; and what people write by hand, a histogram of every layer.

The budget itself is judged on whole runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from _timing import Case, Times, arguments, interleaved, judged, ratio, report
from layershift.monitor import Monitor, Record, budget
from layershift.train.models import cifar_resnet

STEPS = 2000
EMPTY = 1000


def convolutions(width: int = 64) -> nn.Sequential:
    """Four convolutions at 32 × 32, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(width if i else 3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def perceptron(width: int = 100) -> nn.Sequential:
    """Ten layers of 100 units and one of 8, with ReLU, and a head."""
    layers: list[nn.Module] = []
    for size, following in zip([64, *[width] * 10], [*[width] * 10, 8], strict=True):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 10))


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def bare_write(records: Sequence[Record]) -> Callable[[], None]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (a INTEGER, b INTEGER, v REAL, s REAL, n INTEGER, PRIMARY KEY (a, b))")
    rows = [(i, r.step, r.value, r.stderr, r.n) for i, r in enumerate(records)]

    def run() -> None:
        connection.execute("BEGIN")
        connection.executemany("INSERT OR REPLACE INTO t VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    return run


def histograms(model: nn.Module, step: Callable[[], None]) -> Callable[[], None]:
    """A step with a histogram of every layer that holds no other, as one writes it by hand."""

    def see(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        x = output.detach().float()
        low, high = x.min().item(), x.max().item()
        torch.histc(x, 64, low, high).cpu()

    def run() -> None:
        leaves = [m for m in model.modules() if not list(m.children())]
        handles = [module.register_forward_hook(see) for module in leaves]
        step()
        for handle in handles:
            handle.remove()

    return run


def cases(
    name: str,
    model: nn.Module,
    x: Tensor,
    *,
    layers: str | type[nn.Module],
    repeats: int,
    inner: int,
    targets: dict[int, float | None],
) -> list[Case]:
    """Cost of the skipped and of the measured step, and of both in their proportion for some intervals."""
    step = training_step(model, x, torch.randint(10, (len(x),), device=x.device))
    found: set[int] = set()
    with Monitor(model, layers=layers, every=2, budget=None) as monitor:

        def watched(number: int) -> Callable[[], None]:
            def run() -> None:
                with monitor.step(number):
                    step()
                found.add(hooks_of(model))

            return run

        def empty() -> None:
            for _ in range(EMPTY):
                with monitor.step(1):
                    pass

        candidates = {"plain": step, "skipped": watched(1), "measured": watched(0), "by hand": histograms(model, step)}
        candidates["empty"] = empty
        watched(0)()
        records = [record for record in monitor.records() if record.layer]
        candidates["rows"] = bare_write(records)
        times = interleaved(candidates, repeats=repeats, warmup=2, inner=inner)
    kinds = ("skipped", "measured", "rows", "by hand", "empty")
    skipped, measured, rows, by_hand, empty_steps = (ratio(times[kind], times["plain"]) for kind in kinds)
    idle = empty_steps.median / EMPTY
    detail = f"plain step {1e3 * times['plain'].median:.3g} ms, measured {1e3 * times['measured'].median:.3g} ms"
    bare = _mixed(100, 0.0, Times([1 + r for r in rows.seconds]))
    why = (
        f"at every=100, writing the {len(records)} numbers alone would make it {bare.median:.3g}, "
        f"a histogram of every layer by hand {_mixed(100, 0.0, by_hand).median:.3g}; a budget measures more rarely"
    )
    return [
        *(
            judged(f"{name}: every={every} / without", _mixed(every, idle, measured), target, detail=detail, why=why)
            for every, target in targets.items()
        ),
        judged(
            f"{name}: every=100 that only writes its {len(records)} rows / without",
            bare,
        ),
        judged(f"{name}: skipped step / without", skipped),
        judged(f"{name}: measured step / without", measured),
        judged(f"{name}: step with a histogram of every layer / without", by_hand),
        Case(f"{name}: hooks left between measured steps", max(found), target=0, unit="hooks", n=3 * repeats),
    ]


def _mixed(every: int, idle: float, measured: Times) -> Times:
    """Both kinds of step in proportion, of which the skipped ones cost `idle` of a step each."""
    return Times([((every - 1) * (1 + idle) + m) / every for m in measured.seconds])


def whole_run(model: nn.Module, x: Tensor, repeats: int) -> Case:
    """A run on which measuring every 100th step would cost too much, kept within the budget."""
    step = training_step(model, x, torch.randint(10, (len(x),), device=x.device))
    shares: list[float] = []

    def plain() -> None:
        for _ in range(STEPS):
            step()

    def watched() -> None:
        with Monitor(model, layers=nn.ReLU, every=100, budget=0.02) as monitor:
            for i in range(STEPS):
                with monitor.step(i):
                    step()
            shares.append(monitor.cost.share)

    free, budget._FREE_SECONDS = budget._FREE_SECONDS, 0.0
    times = interleaved({"plain": plain, "watched": watched, "again": plain}, repeats=repeats, warmup=0)
    budget._FREE_SECONDS = free
    said, control = sorted(shares)[len(shares) // 2], ratio(times["again"], times["plain"])
    return judged(
        f"MLP: {STEPS} steps, every=100 within budget=0.02 and no free second / without",
        ratio(times["watched"], times["plain"]),
        1.02,
        detail=f"the monitor's own count: a share of {said:.3f}",
        why=f"two runs without a monitor differ: {control.median:.3g}, "
        f"quartiles {control.quartiles[0]:.3g} and {control.quartiles[1]:.3g}",
    )


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    device = torch.device(options.device)
    images, rows = torch.randn(128, 3, 32, 32, device=device), torch.randn(128, 64, device=device)
    net, resnet, mlp = convolutions().to(device), cifar_resnet(20).to(device), perceptron().to(device)
    few = max(options.repeats // 3, 3)
    hundred: dict[int, float | None] = {100: 1.02}
    report(
        "monitor",
        [
            *cases("4 convolutions", net, images, layers="*", repeats=few, inner=1, targets=hundred),
            *cases(
                "ResNet-20", resnet, images, layers="*", repeats=options.repeats, inner=1, targets={1: None, 50: 1.03}
            ),
            *cases("MLP 10 × 100 + 8", mlp, rows, layers=nn.ReLU, repeats=options.repeats, inner=5, targets=hundred),
            whole_run(mlp, rows, 3),
        ],
        options.out,
    )


if __name__ == "__main__":
    main()
