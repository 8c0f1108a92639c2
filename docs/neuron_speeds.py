"""The two questions of the geometry chapter, asked of a ResNet-20 on digits: `python docs/neuron_speeds.py`.

Do short neurons turn faster, and those that point where the inputs are small? Needs matplotlib; takes two minutes on a
CPU. Writes `docs/images/neuron-speeds.json` and figures beside it.
"""

from __future__ import annotations

import math
import platform
import tempfile
from pathlib import Path

import torch
from _pictures import BLUE, GREEN, GREY, RED, Record, main
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter
from scipy.stats import t
from torch import Tensor, nn

import layershift as ls
from layershift.dynamics import NeuronSpeeds, Speeds, speeds
from layershift.train.data.digits import split_digits
from layershift.train.models import cifar_resnet

SEEDS, STEPS, EVERY, BATCH = 3, 400, 10, 128
RATE, MOMENTUM, DECAYS = 0.1, 0.9, (0.0, 5e-4)
SPREAD = 4.0  # lengths are multiplied by factors from 1/4 to 4
SHOWN = 600  # neurons of a scatter


def data(seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Training images, their labels, and what draws batches."""
    x, y, parts = split_digits()
    index = parts["train"]
    return x[index], y[index], torch.Generator().manual_seed(seed)


def network(seed: int, *, spread: float = 1.0) -> nn.Module:
    """ResNet-20, the lengths of whose normalised neurons are multiplied by random factors: the same function."""
    torch.manual_seed(seed)
    model = cifar_resnet(20, in_channels=1, norm="batch")
    modules = dict(model.named_modules())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in speeds(model):
            weight = modules[name].weight
            factors = spread ** (2 * torch.rand(len(weight), generator=generator) - 1)
            weight *= factors.reshape(-1, *[1] * (weight.dim() - 1))
    return model


def first_gradient(model: nn.Module, seed: int) -> dict[str, NeuronSpeeds]:
    """Speeds for the gradient of the training data, with that batch's variances and not a running average."""
    x, y, _ = data(seed)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    nn.functional.cross_entropy(model(x), y).backward()
    found = speeds(model, lr=RATE)
    model.zero_grad()
    return found


def train(model: nn.Module, seed: int, decay: float, every: int = EVERY) -> list[ls.monitor.Record]:
    """Train, and record speeds."""
    x, y, generator = data(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=decay)
    measures = [Speeds(lr=optimizer, num_units=0)]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "run.db"
        with ls.Monitor(model, measures=measures, store=store, every=every, budget=None) as monitor:
            for i in range(STEPS):
                batch = torch.randint(len(x), (BATCH,), generator=generator)
                with monitor.step(i):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
            return monitor.records()


# What is computed


def slope(x: Tensor, y: Tensor) -> float:
    """Of log y on log x, by least squares."""
    x, y = x.double().log(), y.double().log()
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())


def mean_slope(found: dict[str, NeuronSpeeds], question: str) -> float:
    """Within layers, mean over layers: between layers much else differs."""
    if question == "length":
        slopes = [slope(part.effective_rate, part.speed) for part in found.values()]
    else:
        slopes = [slope(part.variance, part.speed / part.effective_rate) for part in found.values()]
    return sum(slopes) / len(slopes)


def record() -> Record:
    """Everything, for all seeds."""
    torch.set_num_threads(1)
    found: Record = {"slopes": {}, "courses": {}, "lengths": {}}
    for seed in range(SEEDS):
        model = network(seed, spread=SPREAD)
        before = first_gradient(model, seed)
        train(model, seed, DECAYS[1])
        after = first_gradient(model, seed)
        for when, at in (("before", before), ("after", after)):
            for question in ("length", "direction"):
                found["slopes"].setdefault(f"{question} {when}", []).append(round(mean_slope(at, question), 4))
            spread = [float(part.norm.log().std()) for part in at.values()]
            found["lengths"].setdefault(when, []).append(round(math.exp(sum(spread) / len(spread)), 4))
        if seed == 0:
            found["scatter"] = {when: points(at) for when, at in (("before", before), ("after", after))}
        for decay in DECAYS:
            found["courses"].setdefault(str(decay), []).append(course(train(network(seed), seed, decay)))
    settings = {"seeds": SEEDS, "steps": STEPS, "batch": BATCH, "rate": RATE, "momentum": MOMENTUM, "spread": SPREAD}
    return found | {"settings": settings, "versions": {"torch": torch.__version__, "python": platform.python_version()}}


def points(found: dict[str, NeuronSpeeds]) -> dict[str, list[float]]:
    """Some neurons of all layers, each number over the geometric mean of its layer."""
    columns: dict[str, list[Tensor]] = {"rate": [], "speed": [], "variance": [], "rest": []}
    for part in found.values():
        numbers = part.effective_rate, part.speed, part.variance, part.speed / part.effective_rate
        for column, number in zip(columns.values(), numbers, strict=True):
            column.append(number / number.log().mean().exp())
    joined = {name: torch.cat(column) for name, column in columns.items()}
    chosen = torch.linspace(0, len(joined["rate"]) - 1, SHOWN).long()
    return {name: [float(f"{number:.3g}") for number in column[chosen].tolist()] for name, column in joined.items()}


def course(records: list[ls.monitor.Record]) -> dict[str, list[float]]:
    """Means over layers, by step."""
    found: dict[str, list[float]] = {}
    for measure in ("effective_rate", "turn"):
        by_step: dict[int, list[float]] = {}
        for r in records:
            if r.measure == measure and r.unit is None:
                by_step.setdefault(r.step, []).append(r.value)
        found[measure] = [float(f"{sum(values) / len(values):.4g}") for _, values in sorted(by_step.items())]
        found[f"{measure} at"] = sorted(by_step)
    return found


def claims(found: Record) -> list[tuple[str, str, list[float]]]:
    """What is asked, what theory expects, and what each seed says."""
    courses = found["courses"]
    fell = {
        decay: [run["effective_rate"][-1] / run["effective_rate"][0] for run in courses[decay]] for decay in courses
    }
    return [
        ("Exponent of speed by effective rate, first gradient", "1", found["slopes"]["length before"]),
        (f"The same after {STEPS} steps", "near 1", found["slopes"]["length after"]),
        ("Exponent of speed / rate by the inputs' variance along the neuron, first gradient", "-0.5",
         found["slopes"]["direction before"]),
        (f"The same after {STEPS} steps", "-0.5", found["slopes"]["direction after"]),
        ("Spread of lengths in a layer, as a factor, before", "–", found["lengths"]["before"]),
        (f"The same after {STEPS} steps", "less than before", found["lengths"]["after"]),
        ("Effective rate at the end over that at the start, no weight decay", "less than 1", fell["0.0"]),
        ("The same with weight decay 0.0005", "more than without", fell["0.0005"]),
    ]  # fmt: skip


def table(found: Record) -> str:
    """Means over seeds with 95 % intervals (Student's t), as Markdown."""
    lines = ["| question | expected | found | n |", "| --- | --- | --- | --- |"]
    for question, expected, values in claims(found):
        n = len(values)
        mean = sum(values) / n
        sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
        half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
        lines.append(f"| {question} | {expected} | {mean:.2f} ± {half:.2f} | {n} |")
    return "\n".join(lines) + "\n"


# What is drawn


def draw_questions(found: Record) -> plt.Figure:
    """Speed by length and by direction, and rates through training."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.2))
    for axes, (x, y), power in ((left, ("rate", "speed"), 1.0), (middle, ("variance", "rest"), -0.5)):
        for when, colour in (("before", BLUE), ("after", RED)):
            at = found["scatter"][when]
            label = "first gradient" if when == "before" else f"after {STEPS} steps"
            axes.plot(at[x], at[y], ".", ms=2.5, color=colour, alpha=0.6, label=label, mew=0, rasterized=True)
        both = found["scatter"]["before"][x] + found["scatter"]["after"][x]
        ends = [min(both), max(both)]
        axes.plot(ends, [end**power for end in ends], color=GREY, lw=1.2, label=f"power {power:g}")
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(markerscale=3)
    left.set(title="By length", xlabel="effective rate lr/‖w‖²", ylabel="speed of the direction")
    middle.set(title="By direction", xlabel="variance of inputs along w", ylabel="speed / effective rate")
    middle.set_ylim(0.05, 20)
    for decay, colour in zip(found["courses"], (GREEN, BLUE), strict=True):
        runs = found["courses"][decay]
        mean = torch.tensor([run["effective_rate"] for run in runs]).mean(0)
        right.plot(runs[0]["effective_rate at"], mean, color=colour, label=f"weight decay {float(decay):g}")
    right.set(title="Through training", xlabel="step", ylabel="mean effective rate", ylim=(0, None))
    right.legend()
    return figure


FIGURES = {"questions": draw_questions}

if __name__ == "__main__":
    main("neuron-speeds", record=record, table=table, figures=FIGURES)
