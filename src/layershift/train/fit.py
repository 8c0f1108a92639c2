"""One run through Lightning's Trainer: from a configuration to a trained, measured, tested network."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn
from torchmetrics import Metric

from layershift._checks import check
from layershift.monitor import Monitor, Record, Store
from layershift.nn import convert
from layershift.regularization import regularize
from layershift.train.callbacks import EpochProgress, Measuring, Recording, Saving
from layershift.train.components import build_data, build_model, build_penalty
from layershift.train.config import Config, with_defaults
from layershift.train.evaluation import multi_scale_records, side_of
from layershift.train.folder import RunError, RunFolder
from layershift.train.learner import Learner
from layershift.train.processes import on_first
from layershift.train.trainer import computing, interruptible, make_trainer, quiet
from layershift.train.values import differences

_OPTIONS = (
    "learning_rate",
    "momentum",
    "nesterov",
    "weight_decay",
    "bias_rate",
    "schedule",
    "decay",
    "warmup",
    "seed",
)


def build_learner(config: Config, task: str, model: nn.Module, penalty: nn.Module | None) -> Learner:
    """The Lightning module of a configuration."""
    options = {name: getattr(config, name) for name in _OPTIONS}
    learner = _learner_class(task)(model, penalty=penalty, milestones=tuple(config.milestones), **options)
    learner.config = config.identity()
    return learner


def _learner_class(task: str) -> Callable[..., Learner]:
    if task == "language":
        from layershift.train.language import LanguageModel

        return LanguageModel
    if task == "multi_label":
        from layershift.train.multilabel import MultiLabelClassifier

        return MultiLabelClassifier
    from layershift.train.module import Classifier

    return Classifier


def make_measures(names: Sequence[str]) -> list[str | Callable[[], Metric]]:
    """What a monitor is to measure; an estimator of shift may be named behind a slash.

    Example:
        >>> make_measures(["moments", "shift/gaussian"])[0]
        'moments'
    """
    from layershift.measure import Shift
    from layershift.measure.shift import Estimator

    pairs = [name.partition("/") for name in names]
    return [partial(Shift, estimator=cast("Estimator", chosen)) if chosen else name for name, _, chosen in pairs]


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
    checkpoint = check_checkpoint(folder.last, config.identity()) if continued else None
    with quiet(), computing(config), ExitStack() as stack:
        trainer = make_trainer(config, [*_shown(progress), Saving(folder.checkpoints)], bar=progress is True)
        data = build_data(config)
        scalable = data.task == "classification" or not config.test_scales
        check(scalable, "test_scales", "none for data whose samples are not of one class each", config.test_scales)
        data.trainer = trainer  # it knows the device, and which part of a batch is this process's
        on_first(data.prepare_data)
        probe = data.probe().cpu()
        model = build_model(config, data.sizes)
        if trainer.world_size > 1:
            model = convert(model, to="synchronized")
        penalty = build_penalty(config)
        learner = build_learner(config, data.task, model, penalty)
        if penalty is not None:
            layers, weight = config.definition.layers or config.layers, config.penalty_weight or 0.0
            handle = regularize(model, penalty, layers=layers, weight=weight, example=probe)
            learner.penalty_loss = stack.enter_context(handle)
        trainer.strategy.precision_plugin.convert_module(learner)  # before a checkpoint is read into it, not after
        every, monitor = _interval(config, data), None
        callbacks: list[Callback] = [Recording(store, every)]
        if every:
            monitor = stack.enter_context(_monitor(config, model, store, every, _own_part(probe, data.task, trainer)))
            callbacks.append(Measuring(monitor))
        trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined] # before the one that saves
        with interruptible(trainer):
            trainer.fit(learner, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            if monitor is not None:
                monitor.measure(trainer.global_step)  # the trained network, whatever the number of the last step
            if isinstance(trainer.progress_bar_callback, RichProgressBar):
                trainer.progress_bar_callback.disable()  # the test is one batch
            trainer.test(learner, datamodule=data, verbose=False)
        if config.test_scales:
            store.write(_multi_scale(config, model, data, trainer.global_step))


def _shown(progress: bool | Callable[[int, float], None]) -> list[Callback]:
    if progress is True:
        return [RichProgressBar()]
    return [EpochProgress(progress)] if progress else []


def _own_part(probe: Tensor, task: str, trainer: Trainer) -> Tensor:
    """What this process measures of a probe, in the network's dtype: measures are reduced over all processes."""
    part = slice(trainer.global_rank, None, trainer.world_size)
    own = probe[:, part] if task == "language" else probe[part]
    return cast("Tensor", trainer.strategy.precision_plugin.convert_input(own))


def _multi_scale(config: Config, model: nn.Module, data: Any, step: int) -> list[Record]:
    check(
        isinstance(model, nn.Sequential), "test_scales", "a network that ends with a classifier", type(model).__name__
    )
    data.trainer = None  # of several processes, each looks at all of the data
    if hasattr(data, "whole"):  # photographs in their own size, and not the middle that is tested otherwise
        data.whole = True
    records = multi_scale_records(
        cast("nn.Sequential", model),
        data.test_dataloader(),
        scales=config.test_scales,
        side=side_of(data.sizes),
        step=step,
    )
    return list(records)


def _interval(config: Config, data: Any) -> int:
    """Steps between two measurements."""
    if config.every != "epoch":
        return int(config.every or 0)
    data.setup("fit")
    return len(data.train_dataloader())


def _monitor(config: Config, model: nn.Module, store: Store, every: int, probe: Any) -> Monitor:
    return Monitor(
        model,
        layers=config.layers,
        measures=make_measures(config.measures),
        store=store,
        every=every,
        on="probe",
        probe=probe,
        budget=None,
    )


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
    read_checkpoint(path, config)
    return path


def read_checkpoint(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `check_checkpoint` has looked at."""
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:  # whose checksums torch.load does not read
                check(archive.testzip() is None, "path", "an archive without damage", path)
            file.seek(0)
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, for the many ways in which a file can be damaged
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise RunError(f"{path}: not a readable checkpoint ({reason}); --overwrite starts the run again") from error
    if not isinstance(found, dict) or "config" not in found:
        raise RunError(f"{path}: a checkpoint that layershift did not write; --overwrite starts the run again")
    about = found["config"]
    if different := differences(config, with_defaults(about) if isinstance(about, dict) else {}):
        raise RunError(f"{path}: a checkpoint of another configuration: {', '.join(different)}; --overwrite removes it")
    return found
