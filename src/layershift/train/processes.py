"""A run in several processes: how they find each other, and what the first of them does for all."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from layershift._checks import check
from layershift.train.config import Config

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells a process that it starts."""

T = TypeVar("T")


def number_of_processes(config: Config) -> int:
    """How many processes train a run together.

    Example:
        >>> number_of_processes(Config(devices=4, num_nodes=2))
        8
    """
    return config.devices * config.num_nodes


def environment_of(config: Config) -> ClusterEnvironment:
    """Who started this process, as Lightning wants to know it: torchrun (or `launch`), SLURM, or nobody in particular.

    A run of one process asks nobody, so that it works inside of any allocation.

    Raises:
        ValueError: if torchrun has started another number of processes than the run wants.
    """
    if all(name in os.environ for name in VARIABLES):
        started, wanted = int(os.environ["WORLD_SIZE"]), number_of_processes(config)
        check(started == wanted, "devices and num_nodes", f"{started} processes, as many as were started", wanted)
        if wanted > 1:
            return TorchElasticEnvironment()
    if number_of_processes(config) > 1 and SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)  # the run's folder says what to continue from, and where
    return LightningEnvironment()


def is_started(config: Config) -> bool:
    """Whether this process is one of those that train the run, and not one that has yet to start them."""
    return number_of_processes(config) == 1 or not isinstance(environment_of(config), LightningEnvironment)


@contextmanager
def together(config: Config) -> Iterator[int]:
    """Join the run's other processes; leave the context when all have come to its end.

    The process group stays for the next run of the same processes. One that is there already is used.

    Args:
        config: of the run, the same in each process.

    Yields:
        The number of this process; 0 is the first, which alone writes.
    """
    environment = environment_of(config)
    if number_of_processes(config) == 1:
        yield 0
        return
    if not dist.is_initialized():
        _join(environment, on_gpu=config.accelerator != "cpu" and torch.cuda.is_available())
    yield dist.get_rank()
    dist.barrier()


def _join(environment: ClusterEnvironment, *, on_gpu: bool) -> None:
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    if on_gpu:
        torch.cuda.set_device(environment.local_rank())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        rank=environment.global_rank(),
        world_size=environment.world_size(),
    )
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def on_first(function: Callable[[], T]) -> T:
    """Let the first process call a function, and give its result, or its error, to all.

    Example:
        >>> on_first(lambda: 3)
        3
    """
    if not dist.is_initialized():
        return function()
    answers: list[tuple[T | None, Exception | None]] = [(None, None)]
    if dist.get_rank() == 0:
        answers = [_attempt(function)]
    dist.broadcast_object_list(answers)
    result, failure = answers[0]
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]


def _attempt(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error
