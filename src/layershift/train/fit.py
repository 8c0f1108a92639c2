"""One run through Lightning's Trainer: from a configuration to a trained, measured, tested network."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn

from layershift.monitor import Monitor, Store
from layershift.regularization import regularize
from layershift.train.callbacks import EpochProgress, Measuring, Recording, Saving
from layershift.train.config import Config, differences
from layershift.train.data import DigitsData
from layershift.train.folder import RunError, RunFolder
from layershift.train.methods import METHODS
from layershift.train.models import moments_mlp, small_cnn
from layershift.train.module import Classifier
from layershift.train.trainer import cpu_threads, interruptible, make_trainer, quiet


def build_model(config: Config, data: DigitsData) -> nn.Module:
    """The network of a configuration, initialised from its seed."""
    norm = METHODS[config.method].norm
    if config.model == "small_cnn":
        return small_cnn(data.in_channels, data.num_classes, norm=norm, seed=config.seed)
    return moments_mlp(data.in_features, data.num_classes, norm=norm, seed=config.seed)


def build_classifier(config: Config, model: nn.Module, penalty: nn.Module | None) -> Classifier:
    """The Lightning module of a configuration."""
    assert config.learning_rate is not None
    assert config.schedule is not None
    assert config.learning_rate is not None
    assert config.momentum is not None
    module = Classifier(
        model,
        penalty=penalty,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        seed=config.seed,
    )
    module.config = asdict(config)
    return module


def fit(
    config: Config,
    folder: RunFolder,
    store: Store,
    *,
    continued: bool = False,
    progress: bool | Callable[[int, float], None] = False,
) -> None:
    """Train, measure and test; everything lands in the run's folder and its store.

    Args:
        config: resolved.
        folder: of the run.
        store: its store, open for writing.
        continued: start from the folder's last checkpoint.
        progress: True shows Lightning's progress bar; a function receives the number of finished epochs and the
            validation accuracy.

    Raises:
        KeyboardInterrupt: when interrupted; everything up to the last checkpoint is kept.
        RunError: if the checkpoint cannot be used.
    """
    checkpoint = check_checkpoint(folder.last, asdict(config)) if continued else None
    method, every = METHODS[config.method], config.every or 0
    data = DigitsData(config.batch_size, config.seed)
    model = build_model(config, data)
    penalty = method.penalty() if method.penalty is not None else None
    module = build_classifier(config, model, penalty)
    callbacks: list[Callback] = [Recording(store, every), Saving(folder.checkpoints)]
    if progress is True:
        callbacks.append(RichProgressBar())
    elif progress:
        callbacks.append(EpochProgress(progress))
    with quiet(), cpu_threads(config.threads), ExitStack() as stack:
        if penalty is not None:
            weight = config.penalty_weight or 0.0
            module.penalty_loss = stack.enter_context(regularize(model, penalty, layers=config.layers, weight=weight))
        monitor = None
        if every:
            monitor = Monitor(
                model,
                layers=config.layers,
                measures=("moments", "normality", "health", "shift"),
                store=store,
                every=every,
                on="probe",
                probe=data.probe(),
                budget=None,
            )
            callbacks.append(Measuring(stack.enter_context(monitor)))
        trainer = make_trainer(config, callbacks, bar=progress is True)
        with interruptible(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            if monitor is not None:
                monitor.measure(trainer.global_step)  # the trained network, whatever the number of the last step
            if isinstance(trainer.progress_bar_callback, RichProgressBar):
                trainer.progress_bar_callback.disable()  # the test is one batch
            trainer.test(module, datamodule=data, verbose=False)


def check_checkpoint(path: Path, config: Mapping[str, Any]) -> Path:
    """Read a checkpoint, tensors and plain values only, and see that it belongs to a configuration.

    Args:
        path: the checkpoint.
        config: what it must have been made with.

    Returns:
        The path.

    Raises:
        RunError: if it cannot be read, or belongs to another configuration.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise RunError(f"{path}: not a readable checkpoint ({reason}); --overwrite starts the run again") from error
    if not isinstance(found, dict) or "config" not in found:
        raise RunError(f"{path}: a checkpoint that layershift did not write; --overwrite starts the run again")
    if different := differences(config, found["config"]):
        raise RunError(f"{path}: a checkpoint of another configuration: {', '.join(different)}; --overwrite removes it")
    return path
