"""A network that stops early against the full network, in time, and against what the skipped operations promise.

ResNet-18 of torchvision at 64 × 64 with random weights and a random classifier after each block and the stem. Where
samples leave is made up: each layer has its own threshold of confidence, set on other images so that a given share of
all samples leaves there. So the figures tell what stopping costs and saves, and nothing about accuracy. The images are
noise of different contrast, so that samples differ.

One timing is 64 images, in batches of the size that is named. Operations are those of convolutions and products as
PyTorch counts them, the classifiers' among them. "Of what is promised" is the speed-up over the one that the operations
promise, `network / mean over samples`; "time saved" is compared with the share of operations that is skipped. Time is
not proportional to operations: what share of both the last two blocks take, which most samples do not reach, is told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from _timing import Case, Times, arguments, interleaved, judged, ratio, report
from layershift.probe.early_exit import EarlyExit, ExitOutput
from layershift.probe.heads import InternalClassifiers
from layershift.probe.layers import default_layers
from layershift.probe.outputs import LayerOutputs
from layershift.probe.probe import Probe
from layershift.probe.rules import ExitRule, State
from layershift.probe.stages import count_flops, exit_costs

N, LABELS, SIZE = 64, 20, 64
SPREADS = {"a tenth at each layer": (0.1, (1, 8, 64)), "2 % at each layer": (0.02, (64,))}
COMPACT = (0.25, 1.0)


@dataclass(frozen=True)
class Staggered(ExitRule):
    """Leave where the largest probability is above a threshold that differs from layer to layer."""

    thresholds: tuple[float, ...]

    def score(self, probabilities: Tensor, state: State = ()) -> tuple[Tensor, State]:  # noqa: D102
        depth = state[0] if state else torch.zeros(len(probabilities), dtype=torch.long, device=probabilities.device)
        thresholds = probabilities.new_tensor([*self.thresholds, 2.0])
        return probabilities.amax(1) - thresholds[depth], (depth + 1,)

    def leaves(self, scores: Tensor) -> Tensor:  # noqa: D102
        return scores > 0


def staggered(outputs: LayerOutputs, share: float) -> Staggered:
    """The rule by which a share of all samples leaves at each layer, the rest at the output."""
    n, thresholds = len(outputs.ids), []
    here = torch.ones(n, dtype=torch.bool)
    for row in outputs.probabilities[:-1].amax(-1):
        thresholds.append(float(row[here].sort(descending=True).values[round(share * n)]))
        leaves = here & (row > thresholds[-1])
        assert int(leaves.sum()) == round(share * n), "equal probabilities, among which no threshold can choose"
        here &= ~leaves
    return Staggered(tuple(thresholds))


def images(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    contrast = torch.exp(torch.randn(n, 1, 1, 1, generator=generator))
    return contrast * torch.randn(n, 3, SIZE, SIZE, generator=generator)


def in_batches(call: Callable[[Tensor], object], x: Tensor, size: int) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for batch in x.split(size):
                call(batch)

    return run


def offline(probe: Probe, x: Tensor, rule: ExitRule) -> Tensor:
    return rule.exits(outputs_of(probe, x).probabilities)


def outputs_of(probe: Probe, x: Tensor) -> LayerOutputs:
    return probe.predict([(batch, torch.zeros(len(batch), dtype=torch.long)) for batch in x.split(N)])


def stages_alone(early: EarlyExit, layer: Tensor) -> Callable[[Tensor], object]:
    """The network's parts, each on as many images as come there, without classifiers and rule."""
    left = [int((layer >= depth).sum()) for depth in range(len(early.stages))]

    def run(x: Tensor) -> Tensor:
        for stage, n in zip(early.stages, left, strict=True):
            x = stage.body(x[:n])
        return x

    return run


def same_decisions(early: EarlyExit, expected: Tensor, x: Tensor, size: int) -> int:
    found: list[ExitOutput] = [early(batch) for batch in x.split(size)]
    return int((torch.cat([part.layer for part in found]).cpu() != expected).sum())


def times_of(times: dict[str, Times]) -> str:
    return ", ".join(f"{name} {t.median * 1e3 / N:.3g} ms an image" for name, t in times.items())


def spread_cases(
    probe: Probe, name: str, share: float, batches: tuple[int, ...], repeats: int, device: str
) -> list[Case]:
    rule = staggered(outputs_of(probe, images(10 * N, seed=1)), share)
    x = images(N, seed=2)
    layer = offline(probe, x, rule)
    x = x.to(device)
    costs = exit_costs(probe, x[:1])
    cost = float(torch.tensor([costs[name] for name in probe.layers])[layer].mean())
    leave = ", ".join(map(str, torch.bincount(layer, minlength=len(probe.layers)).tolist()))
    early, network = EarlyExit.from_probe(probe, rule), copy.deepcopy(probe.model).eval()
    cases = []
    for size in batches:
        before = nn.Sequential(*(stage.body for stage in early.stages[: probe.layers.index("layer4.0")]))
        calls = {"full": in_batches(network, x, size), "exits": in_batches(early, x, size)}
        calls |= {"before": in_batches(before, x, size)}
        if size == N:
            calls["stages alone"] = in_batches(stages_alone(early, layer), x, N)
        times = interleaved(calls, repeats=repeats, warmup=1)
        speedup = ratio(times["full"], times["exits"])
        of_promised = Times([s * cost for s in speedup.seconds])
        saved = Times([(1 - 1 / s) / (1 - cost) for s in speedup.seconds])
        target = 0.6 if size == 64 and share == 0.1 else None
        detail = f"{times_of(times)}; promised {1 / cost:.3g}; leave at each layer: {leave}"
        where = f"{name}, batch {size}"
        low, high = min(speedup.seconds), max(speedup.seconds)
        cases.append(judged(f"speed-up, {where}", speedup, detail=f"{detail}; rounds from {low:.3g} to {high:.3g}"))
        cases.append(judged(f"speed-up of what is promised, {where}", of_promised, target, sense=">="))
        why = ""
        if size == N:
            best = Times([(1 - 1 / s) / (1 - cost) for s in ratio(times["full"], times["stages alone"]).seconds])
            why = (
                f"the stages alone, each on the images that come there, without classifiers and rule: {best.median:.3g}"
            )
        cases.append(judged(f"time saved / operations skipped, {where}", saved, target, sense=">=", why=why))
        last = Times([1 - part for part in ratio(times["before"], times["full"]).seconds])
        operations = 1 - count_flops(before, x) / count_flops(network, x)
        detail = f"of the operations: {operations:.3g}"
        cases.append(judged(f"last two blocks of the full network, share of time, {where}", last, detail=detail))
        differ = same_decisions(early, layer, x, size)
        cases.append(Case(f"images decided otherwise than offline, {where}", differ, None, 0, unit="images", n=N))
    others = {compact: EarlyExit.from_probe(probe, rule, compact=compact) for compact in COMPACT}
    calls = {"0": in_batches(early, x, N)} | {f"{c:g}": in_batches(other, x, N) for c, other in others.items()}
    times = interleaved(calls, repeats=repeats, warmup=1)
    for compact in COMPACT:
        title = f"rows dropped once {compact:.0%} have left / at once, in time, {name}, batch {N}"
        cases.append(judged(title, ratio(times[f"{compact:g}"], times["0"])))
    return cases


def random_probe(device: str) -> Probe:
    model = torchvision.models.resnet18(num_classes=LABELS).eval()
    widths = {"maxpool": 64} | {f"layer{i}.{j}": 32 * 2**i for i in range(1, 5) for j in range(2)}
    assert list(widths) == list(default_layers(model))
    classifiers = InternalClassifiers(widths, LABELS)
    labels = list(map(str, range(LABELS)))
    return Probe(model.to(device), classifiers, task="single_label", labels=labels, loss="cross_entropy")


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    probe = random_probe(options.device)
    cases = []
    for name, (share, batches) in SPREADS.items():
        cases += spread_cases(probe, name, share, batches, options.repeats, options.device)
    report("early_exit", cases, options.out)


if __name__ == "__main__":
    main()
