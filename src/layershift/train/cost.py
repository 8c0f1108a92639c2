"""What a training step costs with each method: steps of all take turns, so that ratios are of the same seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from layershift.regularization import regularize
from layershift.train.components import build_data, build_model, build_penalty
from layershift.train.config import Config
from layershift.train.trainer import cpu_threads

ROUNDS, WARMUP = 21, 3


def step_seconds(configs: Mapping[str, Config], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """The seconds of one training step of each configuration, in rounds.

    In each round every method takes one step on the same batch: forward, criterion, penalty, backward, update; from a
    synchronised device to a synchronised device.

    Args:
        configs: by the name of the method; data and batch size of the first serve all.
        rounds: how many steps of each are timed, after three that are not.

    Returns:
        For each method its seconds, round by round.
    """
    first = next(iter(configs.values()))
    with cpu_threads(first.threads):
        data = build_data(first)
        data.prepare_data()
        data.setup("fit")
        device = _device(first.accelerator)
        x, y = (part.to(device) for part in next(iter(data.train_dataloader())))
        steps = {name: training_step(config, data.sizes, x, y) for name, config in configs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(WARMUP + rounds):
            for name, step in steps.items():
                start = _now(device)
                step()
                if turn >= WARMUP:
                    seconds[name].append(_now(device) - start)
    return seconds


def training_step(config: Config, sizes: Mapping[str, int], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step of a configuration's training of a classifier, by plain PyTorch."""
    model, penalty = build_model(config, sizes).to(x.device), build_penalty(config)
    handle = None
    parameters = list(model.parameters())
    if penalty is not None:
        layers = config.definition.layers or config.layers
        handle = regularize(model, penalty, layers=layers, weight=config.penalty_weight or 0.0, example=x)
        penalty.to(x.device)
        parameters += list(penalty.parameters())
    optimizer = torch.optim.SGD(parameters, lr=config.learning_rate or 0.0, momentum=config.momentum or 0.0)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        if handle is not None:
            loss = loss + handle.loss()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def _device(accelerator: str) -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True) if accelerator != "cpu" else None
    return torch.device("cpu") if found is None else found


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
