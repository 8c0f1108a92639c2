"""Lightning's Trainer as every run here uses it, and what it needs around it: signals, arithmetic, silence."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from layershift.train.config import Config
from layershift.train.processes import environment_of, number_of_processes

TERMINATED = 143
"""Exit code after SIGTERM: 128 + 15."""


def make_trainer(config: Config, callbacks: list[Callback], *, bar: bool) -> Trainer:
    """A Trainer that runs as long and where the configuration says, and leaves no files of its own.

    Several processes train by data parallelism: each has its part of every batch, as the data modules cut it, and
    gradients are averaged.

    Args:
        config: of the run.
        callbacks: of the Trainer.
        bar: show a progress bar.
    """
    return Trainer(
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy="ddp" if number_of_processes(config) > 1 else "auto",
        plugins=[environment_of(config)],
        precision=config.precision,  # type: ignore[arg-type]
        gradient_clip_val=config.gradient_clip,
        use_distributed_sampler=False,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Turn what Lightning makes of Ctrl-C and SIGTERM back into what Python and the shell expect of them."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as error:
        raise SystemExit(TERMINATED) from error
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


@contextmanager
def computing(config: Config) -> Iterator[None]:
    """Compute with the configuration's number of CPU threads and, if it says so, in the same order every time."""
    with cpu_threads(config.threads), deterministic(config.deterministic):
        yield


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Refuse operations whose result differs from one time to the next; leave PyTorch's switches as they were.

    Memory is not filled before it is written, which PyTorch would do in this mode: it costs a pass over each output,
    and numbers do not depend on it.
    """
    fill: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, tuned = fill.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        fill.fill_uninitialized_memory, torch.backends.cudnn.benchmark = False, False
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        fill.fill_uninitialized_memory, torch.backends.cudnn.benchmark = filled, tuned
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's remarks on devices and loaders from the screen; its errors pass."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
