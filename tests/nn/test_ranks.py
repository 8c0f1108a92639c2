"""Two real processes under data parallelism have the penalties, normalisers and gradients of one on the union.

Every module that `layershift.nn` exports stands in one of the tables below; a new one without an entry fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import layershift as ls
from layershift.functional.synchronize import gather_samples, sum_of_ranks
from layershift.nn import (
    PER,
    ActivationPenalty,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    EppsPulley,
    LayerPenalty,
    RecordedTarget,
    SlicedWasserstein,
    SyncBatchNorm,
    SyncUnitization,
    Unitization1d,
    Unitization2d,
    Unitization3d,
    VarianceConstancy,
)

X = torch.randn(24, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
HALVES, RAGGED = (slice(0, 12), slice(12, 24)), (slice(0, 7), slice(7, 24))


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recorded() -> RecordedTarget:
    x = torch.randn(30, 5, dtype=torch.float64, generator=seeded(9))
    return ls.record_target(network(), [1.5 * x], layers=nn.Tanh, num_projections=16)


class Case(NamedTuple):
    make: Callable[[], LayerPenalty]
    of_union: bool = False  # the same number in every process, whatever the sizes of their batches


PENALTIES: dict[type[LayerPenalty], dict[str, Case]] = {
    PER: {
        "mean": Case(PER),
        "sum": Case(lambda: PER(reduction="sum")),
        "projections": Case(lambda: PER("projections", 16, generator=seeded())),
        "projections, sum": Case(lambda: PER("projections", 16, "sum", generator=seeded())),
    },
    ActivationPenalty: {
        "L1": Case(lambda: ActivationPenalty(1)),
        "L2": Case(lambda: ActivationPenalty(2)),
        "L1, norms": Case(lambda: ActivationPenalty(1, reduction="sum")),
        "L3, norms": Case(lambda: ActivationPenalty(3, reduction="sum")),
        "L2, total": Case(lambda: ActivationPenalty(2, reduction="total")),
    },
    SlicedWasserstein: {
        "W1": Case(lambda: SlicedWasserstein(p=1, num_projections=16, generator=seeded()), of_union=True),
        "W2": Case(lambda: SlicedWasserstein(p=2, num_projections=16, generator=seeded()), of_union=True),
        "Laplace": Case(lambda: SlicedWasserstein("laplace"), of_union=True),
        "Laplace, some": Case(
            lambda: SlicedWasserstein("laplace", 1, num_projections=3, generator=seeded()), of_union=True
        ),
        "recorded": Case(lambda: SlicedWasserstein(recorded()), of_union=True),
    },
    EppsPulley: {
        "mean": Case(lambda: EppsPulley(16, generator=seeded()), of_union=True),
        "sum": Case(lambda: EppsPulley(16, reduction="sum", generator=seeded()), of_union=True),
    },
    VarianceConstancy: {
        "few": Case(lambda: VarianceConstancy(group_size=4), of_union=True),
        "all": Case(lambda: VarianceConstancy(group_size=12), of_union=True),
    },
}
CASES = {f"{kind.__name__} {name}": case for kind, cases in PENALTIES.items() for name, case in cases.items()}
OF_UNION = [name for name, case in CASES.items() if case.of_union]

SYNCHRONISED: dict[type[nn.Module], tuple[type[nn.Module], tuple[int, ...]]] = {
    BatchNorm1d: (SyncBatchNorm, (24, 5)),
    BatchNorm2d: (SyncBatchNorm, (24, 5, 2, 3)),
    BatchNorm3d: (SyncBatchNorm, (24, 5, 2, 1, 2)),
    Unitization1d: (SyncUnitization, (24, 5, 4)),
    Unitization2d: (SyncUnitization, (24, 5, 2, 3)),
    Unitization3d: (SyncUnitization, (24, 5, 2, 1, 2)),
    SyncBatchNorm: (SyncBatchNorm, (24, 5)),
    SyncUnitization: (SyncUnitization, (24, 5)),
}
OTHERS = {
    "LayerPenalty": "abstract",
    "LSTMLayer": "its batch normalisation takes each process's batch, as torch.nn.BatchNorm1d does",
    "RecordedTarget": "numbers that do not change; recording is tested here",
    "ScalarBias": "acts on each number alone",
    "ScalarScale": "acts on each number alone",
    "VariationalDropout": "draws for each process's batch, as torch.nn.Dropout does",
}


def test_every_exported_module_has_an_entry() -> None:
    exported = {name: value for name in ls.nn.__all__ if isinstance(value := getattr(ls.nn, name), type)}
    modules = {name for name, value in exported.items() if issubclass(value, nn.Module)}
    known = {kind.__name__ for kind in (*PENALTIES, *SYNCHRONISED)} | set(OTHERS)
    assert not modules - known, "say how these behave in several processes"
    assert {name for name, value in exported.items() if issubclass(value, LayerPenalty)} == (
        {kind.__name__ for kind in PENALTIES} | {"LayerPenalty"}
    )


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()


class Found(NamedTuple):
    value: Tensor
    model: dict[str, Tensor]
    penalty: dict[str, Tensor]


def gradients(model: nn.Module, x: Tensor, name: str, *, task: bool = True) -> Found:
    """Of task and penalty together, or of the penalty alone."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    module = CASES[name].make()
    with ls.regularize(inner, module, layers=nn.Tanh, weight=0.7, example=X[:1]) as penalty:
        output = model(x)
        value = penalty.loss()
        ((output.square().mean() if task else 0 * output.sum()) + value).backward()
    of_model, of_penalty = ({key: p.grad for key, p in part.named_parameters()} for part in (inner, module))
    return Found(value.detach(), of_model, of_penalty)


def normalised(kind: type[nn.Module], shape: tuple[int, ...], rows: slice) -> tuple[dict[str, Tensor], ...]:
    """What belongs to samples (output, gradient of the input); what to the layer (statistics, parameters' gradients).

    The loss is a sum over samples that weighs each one differently.
    """
    x = torch.randn(shape, dtype=torch.float64, generator=seeded())[rows].requires_grad_()
    layer = kind(shape[1]).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.rand(p.shape, dtype=p.dtype, generator=seeded(len(p))))
    y = layer(x)
    weight = torch.arange(float(shape[0]), dtype=y.dtype)[rows].view(-1, *[1] * (y.dim() - 1))
    (y.square() * weight).sum().backward()
    of_layer = {key: p.grad for key, p in layer.named_parameters()}
    return {"output": y.detach(), "input": x.grad}, dict(layer.named_buffers()), of_layer


def one_of_two(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x = X[RAGGED[rank]].clone().requires_grad_()
    union, total = gather_samples(x), sum_of_ranks(x.sum(0))
    ((union * WEIGHT).sum() * (rank + 1) + (total.square() * (rank + 1)).sum()).backward()
    found = {
        "halves": {name: gradients(DistributedDataParallel(network()), X[HALVES[rank]], name) for name in CASES},
        "ragged": {
            name: gradients(DistributedDataParallel(network()), X[RAGGED[rank]], name, task=False) for name in OF_UNION
        },
        "norms": {kind.__name__: normalised(sync, shape, RAGGED[rank]) for kind, (sync, shape) in SYNCHRONISED.items()},
        "record": ls.record_target(network(), [X[RAGGED[rank]]], layers=nn.Tanh, num_quantiles=9).state_dict(),
        "gather": (union.detach(), total.detach(), x.grad),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


WEIGHT = torch.arange(120.0, dtype=torch.float64).view(24, 5)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_of_two, args=(str(folder),), nprocs=2)
    with torch.serialization.safe_globals([Found]):
        return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def mean(*tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.stack([each[key] for each in tensors]).mean(0) for key in tensors[0]}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_penalties_and_gradients_are_those_of_the_union(ranks, name) -> None:
    expected = gradients(network(), X, name)
    first, second = (found["halves"][name] for found in ranks)
    torch.testing.assert_close((first.value + second.value) / 2, expected.value, rtol=1e-10, atol=0)
    for found in (first, second):
        torch.testing.assert_close(found.model, expected.model, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean(first.penalty, second.penalty), expected.penalty, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_UNION)
def test_a_penalty_of_the_union_does_not_mind_which_process_holds_what(ranks, name) -> None:
    expected = gradients(network(), X, name, task=False)
    for kind in ("halves", "ragged"):
        torch.testing.assert_close(ranks[0][kind][name].value, ranks[1][kind][name].value, rtol=0, atol=0)
    for rank in range(2):
        found = ranks[rank]["ragged"][name]
        torch.testing.assert_close(found.value, expected.value, rtol=1e-10, atol=0)
        torch.testing.assert_close(found.model, expected.model, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.penalty, expected.penalty, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SYNCHRONISED, ids=lambda kind: kind.__name__)
def test_synchronised_normalisers_are_the_plain_ones_on_the_union(ranks, kind) -> None:
    shape = SYNCHRONISED[kind][1]
    samples, statistics, parameters = normalised(kind, shape, slice(None))
    for rank in range(2):
        of_rank, buffers, _ = ranks[rank]["norms"][kind.__name__]
        torch.testing.assert_close(of_rank, {key: value[RAGGED[rank]] for key, value in samples.items()})
        torch.testing.assert_close(buffers, statistics)
    parts = [found["norms"][kind.__name__][2] for found in ranks]
    torch.testing.assert_close({key: parts[0][key] + parts[1][key] for key in parameters}, parameters)


@pytest.mark.slow
def test_a_record_is_that_of_the_union(ranks) -> None:
    expected = dict(ls.record_target(network(), [X], layers=nn.Tanh, num_quantiles=9).state_dict())
    for found in ranks:
        torch.testing.assert_close(dict(found["record"]), expected)


@pytest.mark.slow
def test_batches_of_different_size_are_gathered_and_added_with_their_gradients(ranks) -> None:
    for rank, rows in enumerate(RAGGED):
        union, total, gradient = ranks[rank]["gather"]
        torch.testing.assert_close(union, X, rtol=0, atol=0)
        torch.testing.assert_close(total, X.sum(0))
        torch.testing.assert_close(gradient, 3 * WEIGHT[rows] + 3 * 2 * X.sum(0))
