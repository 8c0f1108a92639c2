"""Modules: state like BatchNorm's, alpha, recomputed forwards, compilation, and statistics across processes."""

from __future__ import annotations

import copy
import pickle
import socket
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.checkpoint import checkpoint

from layershift.nn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    SyncUnitization,
    Unitization1d,
    Unitization2d,
    Unitization3d,
)

SHAPES = [(6, 4), (6, 4, 5), (6, 4, 3, 5), (3, 4, 2, 3, 2)]
UNITIZATION = {2: Unitization1d, 3: Unitization1d, 4: Unitization2d, 5: Unitization3d}
OURS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
TORCHS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
STATE = ["running_mean", "running_var", "num_batches_tracked"]


def assert_same_state(ours, theirs, **tolerance):
    for name in STATE:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **tolerance)


@pytest.mark.parametrize(
    "kind", [UNITIZATION, OURS, dict.fromkeys(range(2, 6), SyncUnitization)], ids=["u", "bn", "sync"]
)
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"momentum": 0.7, "eps": 0.1}, {"affine": False}], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_with_alpha_zero_it_is_batch_norm_in_every_respect(shape, options, kind):
    for track in (True, False):
        ours = kind[len(shape)](4, **options, track_running_stats=track).double()
        theirs = TORCHS[len(shape)](4, **options, track_running_stats=track).double()
        for step in range(4):
            for module in (ours, theirs):
                module.train(step < 3)
            x = torch.randn(shape, dtype=torch.float64) + 5
            a, b = (x.clone().requires_grad_() for _ in range(2))
            y, expected = ours(a), theirs(b)
            torch.testing.assert_close(y, expected)
            dy = torch.randn_like(y)
            torch.testing.assert_close(torch.autograd.grad(y, a, dy)[0], torch.autograd.grad(expected, b, dy)[0])
            assert_same_state(ours, theirs)


@pytest.mark.parametrize("over", ["sample", "position"])
@pytest.mark.parametrize("form", ["practical", "bounded"])
def test_evaluation_uses_running_statistics_and_each_samples_own_norm(form, over):
    layer = Unitization2d(4, alpha_init=0.6, form=form, over=over, divisor="elements")
    for _ in range(3):
        layer(torch.randn(8, 4, 5, 5) * 2 + 1)
    layer.eval()
    x = torch.randn(3, 4, 5, 5)
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]))  # a batch of one, too
    hat = (x - layer.running_mean.view(4, 1, 1)) / (layer.running_var.view(4, 1, 1) + layer.eps).sqrt()
    s = hat.square().mean(1 if over == "position" else (1, 2, 3), keepdim=True)
    norm = (s + layer.eps).sqrt()
    expected = (0.6 / norm + 0.4) * hat if form == "practical" else hat / (0.6 * norm + 0.4)
    torch.testing.assert_close(layer(x), expected)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_alpha_is_trained():
    layer = Unitization1d(4)
    layer(torch.randn(6, 4)).square().sum().backward()
    assert (layer.alpha.grad != 0).all()
    assert dict(layer.named_parameters()).keys() == {"alpha", "weight", "bias"}
    assert dict(Unitization1d(4, affine=False).named_parameters()).keys() == {"alpha"}


def test_clamped_alpha_is_never_stuck():
    layer = Unitization1d(3, alpha_constraint="clamp")
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([-0.5, 0.3, 1.5]))
    torch.testing.assert_close(layer.effective_alpha, torch.tensor([0.0, 0.3, 1.0]))
    for sign, passes in ((1.0, [False, True, True]), (-1.0, [True, True, False])):
        (gradient,) = torch.autograd.grad((layer.effective_alpha * sign).sum(), layer.alpha)
        assert gradient.ne(0).tolist() == passes


def test_alpha_under_a_sigmoid():
    assert Unitization1d(2, alpha_init=0.3, alpha_constraint="sigmoid").effective_alpha.allclose(torch.tensor(0.3))
    layer = Unitization1d(2, alpha_constraint="sigmoid")
    assert layer.effective_alpha.allclose(torch.tensor(0.01))
    with torch.no_grad():
        layer.alpha.fill_(50.0)
    x = torch.randn(5, 2)
    torch.testing.assert_close(layer(x).norm(dim=1), torch.ones(5), rtol=1e-3, atol=1e-3)


def test_reset_parameters():
    layer = Unitization1d(3, alpha_init=0.25)
    with torch.no_grad():
        layer.alpha.fill_(7.0)
    layer(torch.randn(5, 3))
    layer.reset_parameters()
    assert layer.alpha.tolist() == [0.25] * 3
    assert layer.num_batches_tracked == 0


def test_state_survives_copies():
    layer = Unitization2d(3, alpha_init=0.4, divisor="elements", alpha_constraint="clamp")
    layer(torch.randn(4, 3, 5, 5))
    layer.eval()
    x = torch.randn(2, 3, 5, 5)
    expected = layer(x)
    loaded = Unitization2d(3, divisor="elements", alpha_constraint="clamp").eval()
    loaded.load_state_dict(layer.state_dict())
    for twin in (loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), expected)
    assert layer.state_dict().keys() == nn.BatchNorm2d(3).state_dict().keys() | {"alpha"}


def test_torchs_sync_conversion_leaves_it_alone():
    model = nn.Sequential(nn.Linear(3, 3), Unitization1d(3))
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(model)[1]) is Unitization1d


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_modules(dtype):
    layer = Unitization2d(4, alpha_init=0.5)
    x = torch.randn(6, 4, 5, 5)
    expected = layer(x)
    half = Unitization2d(4, alpha_init=0.5, dtype=dtype)
    torch.testing.assert_close(half(x.to(dtype)).float(), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(half.running_var.float(), layer.running_var, rtol=1e-2, atol=1e-2)
    mixed = Unitization2d(4, alpha_init=0.5)  # half activations, float32 state: what autocast gives
    assert mixed(x.to(dtype)).dtype == dtype
    assert_same_state(mixed, layer, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("layer", [Unitization2d(3), Unitization2d(3, over="position"), BatchNorm2d(3)], ids=str)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_recomputed_forward_updates_running_statistics_once(use_reentrant, layer):
    layer = copy.deepcopy(layer)
    once = copy.deepcopy(layer)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    y = checkpoint(lambda t: layer(t).square(), x, use_reentrant=use_reentrant)
    (dx,) = torch.autograd.grad(y.sum(), x) if not use_reentrant else (None,)
    if use_reentrant:
        y.sum().backward()
        dx = x.grad
    expected = once(x)
    torch.testing.assert_close(dx, torch.autograd.grad(expected.square().sum(), x)[0])
    assert layer.num_batches_tracked == 1
    assert_same_state(layer, once)


def test_training_without_gradients_updates_running_statistics():
    layer, theirs = Unitization1d(3), nn.BatchNorm1d(3)
    x = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), theirs(x))
    assert_same_state(layer, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer", [Unitization2d(3, alpha_init=0.5), Unitization2d(3, alpha_constraint="clamp")], ids=["free", "clamp"]
)
def test_compiled_whole(layer):
    compiled_layer = copy.deepcopy(layer)
    compiled = torch.compile(compiled_layer, fullgraph=True)
    for training in (True, True, False):
        layer.train(training)
        compiled_layer.train(training)
        x = torch.randn(4, 3, 6, 6) + 10
        a, b = (x.clone().requires_grad_() for _ in range(2))
        y, expected = compiled(a), layer(b)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        dy = torch.randn_like(y)
        ours = torch.autograd.grad(y, [a, *compiled_layer.parameters()], dy)
        theirs = torch.autograd.grad(expected, [b, *layer.parameters()], dy)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
        assert_same_state(compiled_layer, layer)


SIZES = (5, 2)  # samples on each process


def union(shape):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(sum(SIZES), *shape, generator=generator) * 2 + 1000
    return x.double(), torch.randn(sum(SIZES), *shape, generator=generator).double()


def one_process(rank, port, shape, options, queue):
    torch.set_num_threads(1)  # OpenMP's pool of threads does not survive the fork
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(SIZES))
    layer = SyncUnitization(3, alpha_init=0.5, **options).double()
    whole, gradient = union(shape)
    x = whole.split(SIZES)[rank].clone().requires_grad_()
    for _ in range(2):
        y = layer(x)
    y.backward(gradient.split(SIZES)[rank])
    buffers = [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    tensors = [y, x.grad, *(p.grad for p in layer.parameters()), *buffers, layer.eval()(x)]
    queue.put((rank, [t.detach().numpy().copy() for t in tensors]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"over": "position", "momentum": None}], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 2), (3,)], ids=str)
def test_processes_with_uneven_batches_do_what_one_does_with_their_union(shape, options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=one_process, args=(r, port, shape, options, queue)) for r in range(len(SIZES))]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0

    layer = UNITIZATION[1 + len(shape)](3, alpha_init=0.5, **options).double()
    x, gradient = union(shape)
    x.requires_grad_()
    for _ in range(2):
        y = layer(x)
    y.backward(gradient)
    ys, dxs, *rest = zip(*(results[rank] for rank in range(len(SIZES))), strict=True)

    def together(parts):
        return torch.cat([torch.from_numpy(part) for part in parts])

    torch.testing.assert_close(together(ys), y)
    torch.testing.assert_close(together(dxs), x.grad)
    for parameter, parts in zip(layer.parameters(), rest[:3], strict=True):
        torch.testing.assert_close(sum(torch.from_numpy(part) for part in parts), parameter.grad)
    for buffer, parts in zip(STATE, rest[3:6], strict=True):
        for part in parts:
            torch.testing.assert_close(torch.from_numpy(part), getattr(layer, buffer))
    torch.testing.assert_close(together(rest[6]), layer.eval()(x).detach())


@pytest.mark.parametrize(
    ("layer", "x", "error", "message"),
    [
        (
            Unitization2d(3),
            torch.zeros(4, 3),
            ValueError,
            r"x: expected a tensor of shape \(N, C, H, W\), got shape \(4, 3\)",
        ),
        (Unitization1d(3), torch.zeros(4, 3, 2, 2), ValueError, r"\(N, C\) or \(N, C, L\)"),
        (Unitization3d(3), torch.zeros(4, 3, 2, 2), ValueError, r"\(N, C, D, H, W\)"),
        (Unitization2d(3), torch.zeros(4, 5, 2, 2), ValueError, r"x: expected 3 channels, got shape \(4, 5, 2, 2\)"),
        (Unitization1d(3), torch.zeros(4, 3).long(), TypeError, "x: expected a floating point tensor, got torch.int64"),
        (Unitization1d(3), torch.zeros(0, 3), ValueError, "x: expected at least one sample"),
        (Unitization1d(3), torch.zeros(1, 3), ValueError, "x: expected more than one number for each channel"),
        (SyncUnitization(3), torch.zeros(1, 3), ValueError, "x: expected more than one number for each channel"),
        (BatchNorm2d(3), torch.zeros(1, 3, 1, 1), ValueError, "x: expected more than one number for each channel"),
    ],
)
def test_errors(layer, x, error, message):
    with pytest.raises(error, match=message):
        layer(x)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha_constraint": "x"}, "alpha_constraint: expected one of None, 'clamp', 'sigmoid', got 'x'"),
        ({"divisor": -1.0}, "divisor: expected 'paper', 'elements' or a positive number, got -1.0"),
        ({"divisor": "n"}, "divisor: expected 'paper', 'elements' or a positive number, got 'n'"),
        ({"over": "x"}, "over: expected one of 'sample', 'position'"),
        ({"form": "x"}, "form: expected one of 'practical', 'bounded'"),
        ({"form": "bounded", "alpha_init": 2.0}, r"alpha_init: expected a number in \[0, 1\], got 2.0"),
    ],
)
def test_option_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Unitization2d(3, **options)


def test_description():
    assert "divisor=elements" in repr(Unitization2d(3, divisor="elements"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repr(Unitization2d(3))
