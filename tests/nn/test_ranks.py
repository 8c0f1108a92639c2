"""Two real processes under data parallelism have the penalties and gradients of one process on the union."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import layershift as ls
from layershift.functional.synchronize import gather_samples
from layershift.nn import PER, ActivationPenalty, SlicedWasserstein

X = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PENALTIES = {
    "PER": lambda: PER(),
    "PER, projections": lambda: PER("projections", 16, generator=torch.Generator().manual_seed(3)),
    "L1": lambda: ActivationPenalty(1),
    "L2": lambda: ActivationPenalty(2, reduction="sum"),
    "sliced W1": lambda: SlicedWasserstein(p=1, num_projections=16, generator=torch.Generator().manual_seed(3)),
    "sliced W2": lambda: SlicedWasserstein(p=2, num_projections=16, generator=torch.Generator().manual_seed(3)),
}


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def gradients(model: nn.Module, x: Tensor, name: str) -> tuple[Tensor, dict[str, Tensor]]:
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    with ls.regularize(inner, PENALTIES[name](), layers=nn.Tanh, weight=0.7) as penalty:
        output = model(x)
        value = penalty.loss()
        (output.square().mean() + value).backward()
    return value.detach(), {key: p.grad for key, p in inner.named_parameters()}


def one_of_two(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    share = X[:10] if rank == 0 else X[10:]
    found = {name: gradients(DistributedDataParallel(network()), share, name) for name in PENALTIES}

    ragged = (X[:7] if rank == 0 else X[7:]).clone().requires_grad_()
    union = gather_samples(ragged)
    (union * torch.arange(100.0, dtype=torch.float64).view(20, 5) * (rank + 1)).sum().backward()
    torch.save((found, union.detach(), ragged.grad), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_gradients_are_those_of_the_union(ranks, name) -> None:
    value, expected = gradients(network(), X, name)
    values = [found[name][0] for found, *_ in ranks]
    torch.testing.assert_close(sum(values) / 2, value, rtol=1e-10, atol=0)
    for found, *_ in ranks:
        torch.testing.assert_close(found[name][1], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_penalty_of_the_batch_is_the_same_in_all_processes(ranks) -> None:
    for name in ("sliced W1", "sliced W2"):
        torch.testing.assert_close(ranks[0][0][name][0], ranks[1][0][name][0], rtol=0, atol=0)


@pytest.mark.slow
def test_batches_of_different_size_are_gathered_with_their_gradients(ranks) -> None:
    weight = 3 * torch.arange(100.0, dtype=torch.float64).view(20, 5)
    for rank, rows in enumerate((slice(7), slice(7, 20))):
        _, union, gradient = ranks[rank]
        torch.testing.assert_close(union, X, rtol=0, atol=0)
        torch.testing.assert_close(gradient, weight[rows], rtol=0, atol=0)
