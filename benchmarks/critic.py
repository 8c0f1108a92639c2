"""Critics of six layers trained side by side against one after another: time, and that the estimates agree.

Vectors: each update is a handful of small operations, whose overhead is paid once for all layers. Maps: the
convolutions themselves are the cost, and the CPU does those of six layers in six times the time. Bare layers are the
forward and backward pass of the layers of six critics and nothing else: no way of training together is faster, so one
after another over bare is the most that could be gained. For maps the six are also computed by grouped convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from _timing import Case, arguments, interleaved, judged, ratio, report
from layershift.measure import Critic, critic_distances

LAYERS = 6
Pairs = list[tuple[Tensor, Tensor]]


def layers(shape: Sequence[int], n: int, device: str) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(n, *shape, generator=generator) for _ in range(LAYERS)]
    return [((x + 0.1 * (i + 1)).to(device), x.to(device)) for i, x in enumerate(before)]


def bare(shape: Sequence[int], critic: Critic, device: str, *, together: bool = False) -> Callable[[], None]:
    """Forward and backward of the critics' layers, for as many updates and layers, without anything else."""
    groups, c = LAYERS if together else 1, shape[0]
    parts: list[nn.Module] = []
    for i, width in enumerate(critic.widths):
        if len(shape) == 3:
            parts += [nn.Conv2d(groups * c, groups * width, 3, 2 - i % 2, 1, groups=groups), nn.ReLU()]
        else:
            parts += [nn.Linear(c, width), nn.ReLU()]
        c = width
    model = nn.Sequential(*parts).to(device)
    x = torch.randn(2 * critic.batch_size, groups * shape[0], *shape[1:], device=device)

    def run() -> None:
        for _ in range(critic.steps * LAYERS // groups):
            model(x).sum().backward()

    return run


def compare(
    name: str, shape: Sequence[int], critic: Critic, target: float | None, repeats: int, device: str
) -> list[Case]:
    pairs = layers(shape, 512, device)
    together, alone = critic_distances(pairs, critic), [critic_distances([pair], critic)[0] for pair in pairs]
    gap = max(abs(float((a.value - b.value) / a.stderr)) for a, b in zip(together, alone, strict=True))
    calls = {
        "together": lambda: critic_distances(pairs, critic),
        "one after another": lambda: [critic_distances([pair], critic) for pair in pairs],
        "bare": bare(shape, critic, device),
    }
    if len(shape) == 3:
        calls["bare, grouped"] = bare(shape, critic, device, together=True)
    times = interleaved(calls, repeats=repeats, warmup=1)
    each = ", ".join(f"{key} {t.median / critic.steps * 1e3:.3g} ms" for key, t in times.items())
    quotients = [("together", "bare"), ("one after another", "bare"), ("bare", "bare, grouped")]
    return [
        judged(
            f"one after another / together, {LAYERS} × {name}",
            ratio(times["one after another"], times["together"]),
            target,
            sense=">=",
            detail=f"per update of all: {each}",
        ),
        *(judged(f"{a} / {b}, {LAYERS} × {name}", ratio(times[a], times[b])) for a, b in quotients if b in times),
        Case(f"largest difference of estimates, {LAYERS} × {name}", gap, target=1.0, unit="error bars"),
    ]


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    n, device = max(options.repeats // 6, 3), options.device
    cases = []
    for kind in ("clip", "spectral"):
        critic = Critic(lipschitz=kind, activation="sigmoid" if kind == "clip" else "linear", steps=40)
        cases += compare(f"100 units, {kind}, batch 128", (100,), critic, 2.0, n, device)
    small = Critic(steps=40, batch_size=16, widths=(16, 16))
    cases += compare("16 units, clip, batch 16, two layers of 16", (16,), small, 2.0, n, device)
    cases += compare("(16, 8, 8) maps, clip, batch 16, two layers of 16", (16, 8, 8), small, 2.0, n, device)
    cases += compare("(16, 8, 8) maps, clip, batch 128", (16, 8, 8), Critic(steps=8), 2.0, 3, device)
    report("critic", cases, options.out)


if __name__ == "__main__":
    main()
