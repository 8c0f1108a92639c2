"""Nobody waits for the GPU: not a measured step, no normaliser and no penalty, forward and backward.

On a GPU PyTorch itself tells who waits; elsewhere `tests.played_gpu` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from tests.played_gpu import Played, WaitedError, move, nobody_waits, on_gpu, played_gpu
from torch import Tensor, nn

import layershift as ls
from layershift.monitor import Monitor

MEASURES = [
    {"measures": ("moments", "normality")},  # the default
    {"measures": ("moments", "normality", "health", "speeds")},
    {"measures": ("moments", "normality", "health", "shift"), "on": "probe"},
]
LAYERS = {
    "BatchNorm2d": lambda: ls.nn.BatchNorm2d(8),
    "SyncBatchNorm": lambda: ls.nn.SyncBatchNorm(8),
    "Unitization2d": lambda: ls.nn.Unitization2d(8, alpha_init=0.5),
    "Unitization2d, sigmoid": lambda: ls.nn.Unitization2d(8, alpha_constraint="sigmoid", alpha_init=0.5),
    "Unitization2d, bounded": lambda: ls.nn.Unitization2d(8, alpha_init=0.5, form="bounded"),
    "Unitization2d, positions": lambda: ls.nn.Unitization2d(8, alpha_init=0.5, over="position"),
    "Unitization2d, average": lambda: ls.nn.Unitization2d(8, momentum=None),
    "SyncUnitization": lambda: ls.nn.SyncUnitization(8),
    "ScalarScale": lambda: ls.nn.ScalarScale(),
}
PENALTIES = {
    "PER": lambda: ls.nn.PER(),
    "PER, positions": lambda: ls.nn.PER(sample="position"),
    "PER, projections": lambda: ls.nn.PER("projections", 16),
    "L1": lambda: ls.nn.ActivationPenalty(1),
    "L2": lambda: ls.nn.ActivationPenalty(2, reduction="sum"),
    "SlicedWasserstein": lambda: ls.nn.SlicedWasserstein(num_projections=16),
    "EppsPulley": lambda: ls.nn.EppsPulley(num_projections=16),
    "VarianceConstancy": lambda: ls.nn.VarianceConstancy(size=200, group_size=2),
}
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to wait for")


def network(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


@contextmanager
def real_nobody_waits() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def measured_steps(model: nn.Module, x: Tensor, options: dict, watching) -> Monitor:
    """Training with three measured steps, of which the last is watched: the first ones make tables and states."""
    probe = x if options.get("on") == "probe" else None
    monitor = Monitor(model, layers=(nn.ReLU, nn.Linear), every=1, budget=None, probe=probe, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for i in range(3):
        if i == 2:
            monitor.flush()
        with watching() if i == 2 else nullcontext(), monitor.step(i):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    return monitor


@pytest.mark.parametrize("options", MEASURES, ids=str)
def test_a_measured_step_waits_for_nobody(options) -> None:
    x = torch.randn(6, 3, 6, 6)
    with played_gpu():
        monitor = measured_steps(move(network(ls.nn.Unitization2d(8))), on_gpu(x), options, nobody_waits)
        assert not monitor._pending.ready()
        records = monitor.records()
    assert {r.step for r in records} == {0, 1, 2}
    assert all(r.value is not None for r in records if r.measure in ("mean", "variance", "normality"))


@pytest.mark.parametrize("options", MEASURES, ids=str)
@on_a_gpu
def test_a_measured_step_waits_for_no_real_gpu(options) -> None:
    x = torch.randn(6, 3, 6, 6, device="cuda").to(memory_format=torch.channels_last)
    model = network(ls.nn.Unitization2d(8)).to("cuda", memory_format=torch.channels_last)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        monitor = measured_steps(model, x, options, real_nobody_waits)
    assert {r.step for r in monitor.records()} == {0, 1, 2}


def one_pass(layer: nn.Module, x: Tensor) -> None:
    x.grad = None
    y = layer(x)
    (y if y.dim() == 0 else y.float().square().mean()).backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", [*LAYERS, *PENALTIES])
def test_a_layer_waits_for_nobody(name) -> None:
    layer = {**LAYERS, **PENALTIES}[name]()
    with played_gpu():
        x = on_gpu(torch.randn(6, 8, 5, 5)).requires_grad_()
        layer = move(layer)
        one_pass(layer, x)
        with nobody_waits():
            one_pass(layer, x)
            if name in LAYERS:
                one_pass(layer.eval(), x)


@pytest.mark.parametrize("name", [*LAYERS, *PENALTIES])
@on_a_gpu
def test_a_layer_waits_for_no_real_gpu(name) -> None:
    layer = {**LAYERS, **PENALTIES}[name]().cuda()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(6, 8, 5, 5, device="cuda", dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        one_pass(layer, x)
        with real_nobody_waits():
            one_pass(layer, x)


WAITING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "float": lambda x: float(x.sum()),
    "index": lambda x: range(x.long()[0, 0]),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy_ to the host": lambda x: torch.zeros(4, 3).copy_(x),
    "copy_ from the host": lambda x: x.copy_(torch.zeros(4, 3)),
    "tensor": lambda x: torch.tensor([1.0], device=x.device),
    "to the GPU": lambda x: torch.zeros(3).to(x.device),
    "mask": lambda x: x[x > 0],
    "writing to a mask": lambda x: x.index_put_((x > 0,), torch.zeros((), device=x.device)),
    "nonzero": lambda x: x.nonzero(),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "a length": lambda x: torch.arange(4, device=x.device).repeat_interleave(torch.arange(4, device=x.device)),
}
NOT_WAITING = {
    "to, asynchronous": lambda x: x.to("cpu", non_blocking=True),
    "to the GPU, asynchronous": lambda x: torch.zeros(3).to(x.device, non_blocking=True),
    "where": lambda x: torch.where(x > 0, x, 0),
    "index": lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
    "dtype": lambda x: x.to(torch.float64) + torch.ones(4, 3, device=x.device).to(x),
    "on the host": lambda _: (torch.ones(3).tolist(), bool(torch.ones(3).any())),
}


@pytest.mark.parametrize("how", WAITING)
def test_the_played_gpu_notices_who_waits(how) -> None:
    with played_gpu():
        x = on_gpu(torch.randn(4, 3))
        with nobody_waits(), pytest.raises(WaitedError):
            WAITING[how](x)


@pytest.mark.parametrize("how", NOT_WAITING)
def test_the_played_gpu_lets_others_pass(how) -> None:
    with played_gpu(), nobody_waits():
        NOT_WAITING[how](on_gpu(torch.randn(4, 3)))


@pytest.mark.parametrize("how", [how for how in WAITING if how != "a length"])
@on_a_gpu
def test_a_real_gpu_notices_the_same(how) -> None:
    x = torch.randn(4, 3, device="cuda")
    with real_nobody_waits(), pytest.raises(RuntimeError, match="synchronizing"):
        WAITING[how](x)


def test_the_played_gpu_computes() -> None:
    x, model = torch.randn(6, 3, 6, 6), network(ls.nn.Unitization2d(8, alpha_init=0.5))
    model(x).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with played_gpu():
        moved = move(model)
        moved(on_gpu(x)).square().mean().backward()
        for parameter, gradient in zip(moved.parameters(), expected, strict=True):
            assert isinstance(parameter.grad, Played)
            assert parameter.grad.is_cuda
            torch.testing.assert_close(parameter.grad.numbers, gradient, rtol=1e-4, atol=1e-6)
