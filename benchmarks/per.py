"""Exact PER against the paper's 256 projections: time, memory, and what it adds to a training step.

Beside the judged figures stand the floors of eager PyTorch: `x.mean().backward()`, the least that any penalty's own
forward and backward can be, and a training step with the plainest penalty of activations, `h.square().sum()`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import layershift as ls
from _timing import Case, arguments, interleaved, judged, ratio, report
from layershift.functional import per
from layershift.train.models import moments_mlp, small_cnn

SHAPES = [(128, 650), (128, 4096), (128, 16384)]


class PeakMemory(TorchDispatchMode):
    """The most bytes that were alive at once among what operations allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[object, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.live[storage.data_ptr()] = (
                    torch.multiprocessing.reductions.StorageWeakRef(storage),
                    storage.nbytes(),
                )
        self.live = {key: (ref, n) for key, (ref, n) in self.live.items() if not ref.expired()}
        self.peak = max(self.peak, sum(n for _, n in self.live.values()))
        return result


def backward(x: Tensor, mode: str) -> Callable[[], None]:
    def run() -> None:
        x.grad = None
        per(x, mode=mode).mean().backward()

    return run


def mean_backward(x: Tensor) -> Callable[[], None]:
    def run() -> None:
        x.grad = None
        x.mean().backward()

    return run


def formula(shape: tuple[int, int], repeats: int, device: str) -> list[Case]:
    x = torch.randn(shape, device=device).requires_grad_()
    calls = {mode: backward(x, mode) for mode in ("exact", "projections")} | {"x.mean()": mean_backward(x)}
    times = interleaved(calls, repeats=repeats, inner=3)
    detail = ", ".join(f"{mode} {t.median * 1e3:.3g} ms" for mode, t in times.items())
    x.grad = None
    with PeakMemory() as memory:
        values = per(x)
        (gradient,) = torch.autograd.grad(values.sum(), x)
    peak = memory.peak / (x.numel() * x.element_size())
    return [
        judged(
            f"projections / exact, {shape}",
            ratio(times["projections"], times["exact"]),
            20.0,
            sense=">=",
            detail=detail,
        ),
        judged(f"projections / x.mean(), {shape}", ratio(times["projections"], times["x.mean()"]), sense=">="),
        Case(
            f"peak memory of exact beyond the input, in inputs, {shape}",
            peak,
            target=1.0,
            detail=f"the gradient, {gradient.numel() * 4} bytes, and a few numbers a sample",
        ),
    ]


def four_convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (3, 64, 64, 64):
        layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def training_step(model: nn.Module, x: Tensor, y: Tensor, penalty=None) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        if penalty is not None:
            loss = loss + penalty.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


class SumOfSquares:
    """The plainest penalty of activations, as one writes it by hand."""

    def __init__(self, model: nn.Module, layers: list[type[nn.Module]], weight: float) -> None:
        self.weight, self.outputs = weight, []
        for module in model.modules():
            if isinstance(module, tuple(layers)):
                module.register_forward_hook(lambda _module, _inputs, output: self.outputs.append(output))

    def loss(self) -> Tensor:
        """The penalty of the last forward."""
        outputs, self.outputs = self.outputs, []
        return self.weight * sum(output.square().sum() for output in outputs)


def step(name: str, make: Callable[[], nn.Module], x: Tensor, target: float, repeats: int, inner: int) -> list[Case]:
    y = torch.randint(10, (len(x),), device=x.device)
    plain, penalised, squares = (make().to(x.device) for _ in range(3))
    penalised.load_state_dict(plain.state_dict())
    squares.load_state_dict(plain.state_dict())
    activations = [m for m in (nn.ReLU, nn.Tanh) if any(isinstance(k, m) for k in plain.modules())]
    with ls.regularize(penalised, ls.nn.PER(), layers=activations, weight=1e-4) as penalty:
        calls = {
            "without": training_step(plain, x, y),
            "with": training_step(penalised, x, y, penalty),
            "squares": training_step(squares, x, y, SumOfSquares(squares, activations, 1e-9)),
        }
        times = interleaved(calls, repeats=repeats, inner=inner)
    detail = ", ".join(f"{key} {t.median * 1e3:.3g} ms" for key, t in times.items()) + f", {len(penalty.layers)} layers"
    return [
        judged(f"step with exact PER / without, {name}", ratio(times["with"], times["without"]), target, detail=detail),
        judged(f"step with Σ h² by hand / without, {name}", ratio(times["squares"], times["without"])),
    ]


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    device, n = options.device, options.repeats
    cases = [case for shape in SHAPES for case in formula(shape, n, device)]
    mlp, digit = torch.randn(128, 64, device=device), torch.randn(128, 1, 8, 8, device=device)
    image = torch.randn(128, 3, 32, 32, device=device)
    cases += step("demo's MLP, digits, batch 128", moments_mlp, mlp, 1.15, 3 * n, 10)
    cases += step("small_cnn, digits, batch 128", small_cnn, digit, 1.15, n, 3)
    cases += step("4 convolutions, 32 × 32, width 64, batch 128", four_convolutions, image, 1.10, max(n // 3, 5), 1)
    report("per", cases, options.out)


if __name__ == "__main__":
    main()
