"""What a Monitor(every=100) costs: training steps with it against the same steps without, all layers measured.

Every 100th step is measured, so the cost is (99 skipped + 1 measured) / 100 plain steps. The three kinds of step run
one after the other in each round, and the quotient is formed within the round.

Beside them stands a floor: the rows of one measured step, already made, written by bare `sqlite3` in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from _timing import Case, Times, arguments, interleaved, judged, ratio, report
from layershift.monitor import Monitor, Record

EVERY = 100


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


def cases(
    name: str, model: nn.Module, x: Tensor, *, layers: str | type[nn.Module], repeats: int, inner: int
) -> list[Case]:
    """Cost of the skipped and of the measured step, and of both in their proportion."""
    step = training_step(model, x, torch.randint(10, (len(x),), device=x.device))
    found: set[int] = set()
    with Monitor(model, layers=layers, every=EVERY) as monitor:

        def watched(number: int) -> Callable[[], None]:
            def run() -> None:
                with monitor.step(number):
                    step()
                found.add(hooks_of(model))

            return run

        candidates = {"plain": step, "skipped": watched(1), "measured": watched(0)}
        watched(0)()
        records = [record for record in monitor.records() if record.layer]
        candidates["rows"] = bare_write(records)
        times = interleaved(candidates, repeats=repeats, warmup=2, inner=inner)
    skipped, measured, rows = (ratio(times[kind], times["plain"]) for kind in ("skipped", "measured", "rows"))
    both = _in_proportion(skipped, measured)
    floor = _in_proportion(Times([1.0] * len(rows.seconds)), Times([1 + r for r in rows.seconds]))
    detail = f"plain step {1e3 * times['plain'].median:.3g} ms, measured {1e3 * times['measured'].median:.3g} ms"
    return [
        judged(f"{name}: every=100 / without", both, 1.02, detail=detail),
        judged(f"{name}: every=100 that only writes its {len(records)} rows / without", floor),
        judged(f"{name}: skipped step / without", skipped),
        judged(f"{name}: measured step / without", measured),
        Case(f"{name}: hooks left between measured steps", max(found), target=0, unit="hooks", n=3 * repeats),
    ]


def _in_proportion(skipped: Times, measured: Times) -> Times:
    pairs = zip(skipped.seconds, measured.seconds, strict=True)
    return Times([((EVERY - 1) * s + m) / EVERY for s, m in pairs])


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    device = torch.device(options.device)
    net, images = convolutions().to(device), torch.randn(128, 3, 32, 32, device=device)
    mlp, rows = perceptron().to(device), torch.randn(128, 64, device=device)
    few = max(options.repeats // 3, 3)
    report(
        "monitor",
        [
            *cases("4 convolutions, 14 layers", net, images, layers="*", repeats=few, inner=1),
            *cases("MLP 10 × 100 + 8, 11 ReLUs", mlp, rows, layers=nn.ReLU, repeats=options.repeats, inner=5),
        ],
        options.out,
    )


if __name__ == "__main__":
    main()
