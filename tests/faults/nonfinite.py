"""NaN and infinity put into a random layer at a random step: the first alarm names that layer and that step."""

from __future__ import annotations

import math
import re
from random import Random

import torch
from tests.faults.outcome import Counts, judged
from torch import Tensor, nn

from layershift.monitor import Monitor
from layershift.monitor.alarms import Alarms, StopTraining
from layershift.monitor.rules import default_rules

STEPS = 8


class Network(nn.Module):
    """Layers that run in another order than that in which they are registered."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        width, depth = random.randint(4, 12), random.randint(2, 6)
        made: list[tuple[str, nn.Module]] = []
        for i in range(depth):
            made.append((f"linear{i}", nn.Linear(width, width)))
            kind = random.choice(
                (nn.ReLU, nn.Tanh, nn.GELU, lambda: nn.BatchNorm1d(width), lambda: nn.LayerNorm(width))
            )
            made.append((f"other{i}", kind()))
        self.order = [name for name, _ in made]
        random.shuffle(made)
        self.layers = nn.ModuleDict(dict(made))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = self.layers[name](x)
        return x


def inject(layer: nn.Module, random: Random) -> str:
    """Make a layer's weights or its output not finite; in words how."""
    value = random.choice((math.nan, math.inf, -math.inf))
    held = [parameter for name, parameter in layer.named_parameters() if name == "weight"]
    if held and random.random() < 0.5:
        with torch.no_grad():
            held[0].view(-1)[random.randrange(held[0].numel())] = value
        return f"{value} in its weight"
    share = random.choice((0.0, 0.3, 1.0))

    def spoil(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The output with some numbers, one at least, that are not finite."""
        spoilt = output.clone()
        where = torch.rand_like(spoilt) < share
        where.view(-1)[random.randrange(spoilt.numel())] = True
        return spoilt.masked_fill(where, value)

    layer.register_forward_hook(spoil)
    return f"{value} in its output"


def nonfinite(seed: int, full: bool) -> Counts:
    """Train with a monitor, spoil a layer, and read the alarms from the store; every second case stops the training."""
    random, counts = Random(f"nonfinite {seed}"), Counts()
    for case in range(300 if full else 20):
        torch.manual_seed(case)
        model = Network(random)
        step, name = random.randrange(STEPS), random.choice(model.order)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        stop, how = case % 2 == 0, ""
        # A small network may well be dead or collapsed too, and stop before it is spoilt.
        rules = [rule for rule in default_rules() if not stop or rule.kind == "nonfinite"]
        alarms = Alarms(rules, action="stop" if stop else lambda alarm: None)
        measures = random.choice((("health",), ("moments", "health")))
        with judged(counts, f"case {case}: {name}, step {step}"):
            told = None
            with Monitor(model, layers="layers.*", measures=measures, every=1, alarms=alarms, budget=None) as monitor:
                try:
                    for i in range(step + 1):
                        if i == step:
                            how = inject(model.layers[name], random)
                        with monitor.step(i):
                            loss = model(torch.randn(16, model.layers["linear0"].in_features)).square().mean()
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                except StopTraining as error:
                    told = error
                found = [alarm for alarm in monitor._journal.store.alarms() if alarm.kind == "nonfinite"]
            assert found, f"{how}: no alarm"
            assert (found[0].step, found[0].layer) == (step, f"layers.{name}"), f"{how}: alarm of {found[0][:2]}"
            assert (told is not None) == stop, "stopped" if told else "not stopped"
            assert told is None or re.search(rf"step {step}: layer 'layers\.{name}'", str(told)), str(told)
    return counts
