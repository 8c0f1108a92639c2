"""Gradient descent as the recipes set it: which parameters decay, which move slower, how the learning rate falls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from layershift._checks import check, check_choice
from layershift.train.config import SCHEDULES, ScheduleName

Decay: TypeAlias = float | Sequence[float]

_SCALARS = ("bias", "scale")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], *, learning_rate: float, weight_decay: float, bias_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Kernels, which decay; biases and Fixup's scalars, at a learning rate of their own; and all else.

    Args:
        parameters: with their names.
        learning_rate: of all but biases.
        weight_decay: on tensors of two and more dimensions.
        bias_rate: the learning rate of vectors and scalars whose name ends with bias or scale, as a part of the
            others'.

    Returns:
        Groups for an optimiser; empty ones are left out.

    Example:
        >>> named = nn.Linear(2, 2).named_parameters()
        >>> groups = parameter_groups(named, learning_rate=1, weight_decay=0.1, bias_rate=0.5)
        >>> [(len(group["params"]), group["weight_decay"], group["lr"]) for group in groups]
        [(1, 0.1, 1), (1, 0.0, 0.5)]
    """
    kernels: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in parameters:
        small = biases if bias_rate != 1 and name.endswith(_SCALARS) else others
        (kernels if parameter.dim() >= 2 else small).append(parameter)
    groups = [
        {"params": kernels, "weight_decay": weight_decay, "lr": learning_rate},
        {"params": others, "weight_decay": 0.0, "lr": learning_rate},
        {"params": biases, "weight_decay": 0.0, "lr": bias_rate * learning_rate},
    ]
    return [group for group in groups if group["params"]]


def schedule_of(
    optimizer: Optimizer, name: ScheduleName, steps: int, *, milestones: Sequence[float], decay: Decay, warmup: float
) -> dict[str, Any]:
    """How the learning rate falls, as Lightning wants to be told.

    Args:
        optimizer: whose rate it is.
        name: of the schedule, see `Learner`, which lets the rate fall on a plateau itself.
        steps: of the whole training.
        milestones: parts of the training at which "step" falls.
        decay: the factor of "step", or one for each milestone.
        warmup: the part of the training with a tenth of the rate.
    """
    factor = Schedule(name, steps, milestones=milestones, decay=decay, warmup=warmup)
    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


class Schedule:
    """The factor of the learning rate at a step.

    Example:
        >>> [round(Schedule("cosine", 4)(step), 2) for step in range(5)], Schedule("step", 200)(160)
        ([1.0, 0.85, 0.5, 0.15, 0.0], 0.008)
    """

    def __init__(
        self,
        name: ScheduleName,
        steps: int,
        *,
        milestones: Sequence[float] = (0.3, 0.6, 0.8),
        decay: Decay = 0.2,
        warmup: float = 0.0,
    ) -> None:
        check_choice("schedule", name, [schedule for schedule in SCHEDULES if schedule != "plateau"])
        self.name, self.steps = name, steps
        self.milestones, self.warmup = milestones, warmup
        self.decays = [decay] * len(milestones) if isinstance(decay, float | int) else list(decay)
        check(len(self.decays) == len(milestones), "decay", "a factor, or one for each milestone", decay)

    def __call__(self, step: int) -> float:
        """The factor."""
        if step < self.warmup * self.steps:
            return 0.1
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1)))
        if self.name == "step":
            passed = sum(step >= part * self.steps for part in self.milestones)
            return float(round(math.prod(self.decays[:passed]), 12))
        return 1.0
