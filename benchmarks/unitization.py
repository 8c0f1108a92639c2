"""Unitization2d in training against PyTorch's BatchNorm2d and against the plain composition, forward and backward.

The plain composition is Algorithm 2 line by line in PyTorch's operations: batch normalisation without affine
transformation, the norm, the bracket `p·α + (1 − α)` times x̂, γ and β.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from _timing import Case, arguments, interleaved, judged, ratio, report
from layershift.nn import Unitization2d

SHAPES = {(64, 64, 56, 56): 1.4, (128, 16, 32, 32): 1.75, (128, 64, 8, 8): 2.5}


class Composition(nn.Module):
    """Algorithm 2 in plain operations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.alpha, self.weight, self.bias = (nn.Parameter(torch.full((channels, 1, 1), a)) for a in (0.5, 1.0, 0.0))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        hat = self.norm(x)
        s = hat.square().sum((1, 2, 3), keepdim=True) / (x.shape[2] * x.shape[3]) ** 2
        p = 1 / torch.sqrt(s + self.norm.eps)
        return self.weight * ((p * self.alpha + (1 - self.alpha)) * hat) + self.bias


def step(module: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> Callable[[], None]:
    def run() -> None:
        x.grad = None
        module(x).backward(dy)

    return run


def speed(shape: tuple[int, ...], target: float, repeats: int, device: str) -> list[Case]:
    torch._dynamo.reset()
    channels = shape[1]
    x, dy = torch.randn(shape, device=device).requires_grad_(), torch.randn(shape, device=device)
    modules: dict[str, nn.Module] = {
        "BatchNorm2d": nn.BatchNorm2d(channels),
        "Unitization2d": Unitization2d(channels, alpha_init=0.5),
        "composition": Composition(channels),
    }
    modules = {name: module.to(device) for name, module in modules.items()}
    eager = interleaved({name: step(module, x, dy) for name, module in modules.items()}, repeats=repeats)
    twice = modules | {"BatchNorm2d again": nn.BatchNorm2d(channels).to(device)}  # what equality looks like here
    names = ("BatchNorm2d", "Unitization2d", "BatchNorm2d again")
    compiled_modules = {name: torch.compile(twice[name], fullgraph=True) for name in names}
    compiled = interleaved({name: step(module, x, dy) for name, module in compiled_modules.items()}, repeats=repeats)

    control = ratio(compiled["BatchNorm2d again"], compiled["BatchNorm2d"])

    def milliseconds(times: dict) -> str:
        return ", ".join(f"{name} {times[name].median * 1e3:.3g} ms" for name in times)

    return [
        judged(
            f"eager, Unitization2d / BatchNorm2d, {shape}",
            ratio(eager["Unitization2d"], eager["BatchNorm2d"]),
            target,
            detail=milliseconds(eager),
        ),
        judged(
            f"compiled, Unitization2d / BatchNorm2d, {shape}",
            ratio(compiled["Unitization2d"], compiled["BatchNorm2d"]),
            1.05,
            detail=milliseconds(compiled),
            why=f"a second BatchNorm2d takes {control.median:.3g} times the first, "
            f"quartiles {control.quartiles[0]:.3g} and {control.quartiles[1]:.3g}",
        ),
        judged(
            f"eager, composition / Unitization2d, {shape}",
            ratio(eager["composition"], eager["Unitization2d"]),
            None if shape == (128, 64, 8, 8) else 3.0,
            sense=">=",
        ),
    ]


def accuracy(device: str) -> Case:
    """Largest error against float64, of outputs and of input gradients; with alpha 0 both layers are the same map."""
    x, dy = (torch.randn(32, 16, 28, 28, device=device) for _ in range(2))
    x = x + 1e3

    def run(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        y = module.to(device, dtype)(leaf)
        y.backward(dy.to(dtype))
        return y.detach(), leaf.grad

    exact = run(nn.BatchNorm2d(16), torch.float64)
    ours, torchs = (
        [float((a - b).abs().max()) for a, b in zip(run(module, torch.float32), exact, strict=True)]
        for module in (Unitization2d(16), nn.BatchNorm2d(16))
    )
    return Case(
        "error at mean 1e3, std 1: Unitization2d / BatchNorm2d",
        max(a / b for a, b in zip(ours, torchs, strict=True)),
        target=1.0,
        detail=f"output {ours[0]:.1e} and {torchs[0]:.1e}, gradient {ours[1]:.1e} and {torchs[1]:.1e}",
    )


def main() -> None:
    options = arguments(__doc__)
    torch.manual_seed(0)
    cases = [accuracy(options.device)]
    for shape, target in SHAPES.items():
        cases += speed(shape, target, options.repeats, options.device)
    report("unitization", cases, options.out)


if __name__ == "__main__":
    main()
