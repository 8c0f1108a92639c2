"""What others offer for the same job: where it is installed it is used as its documentation says, in float32.

Written here are three that are no package: the SIGReg penalty, from its paper's description; histogram hooks as one
writes them by hand; and hooks in the manner of Composer's ActivationMonitor, whose package (mosaicml) asks for an older
PyTorch than ours.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

PACKAGES = {"ot": "POT", "geomloss": "geomloss", "scipy": "scipy", "numpy": "numpy", "triton": "triton"}


def find(module: str) -> ModuleType | None:
    """A peer's module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for package in PACKAGES.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def compiled(module: nn.Module, x: Tensor, slope: Tensor) -> nn.Module:
    """The module compiled and run once, forward and backward."""
    made = torch.compile(module, fullgraph=True)
    made(x).backward(slope)
    return made


def kernels_of(module: nn.Module, x: Tensor, slope: Tensor) -> tuple[nn.Module, int]:
    """The module compiled, and of how many kernels, forward and backward."""
    from torch._inductor import metrics

    before = metrics.generated_kernel_count
    return compiled(module, x, slope), metrics.generated_kernel_count - before


def no_compiler(device: str) -> str:
    """Why `torch.compile` cannot be had here; nothing if it can."""
    x = torch.ones(8, device=device, requires_grad=True)
    try:
        compiled(nn.Tanh(), x, torch.ones_like(x))
    except Exception as error:  # no compiler, or one that does not work: whatever it says
        said = str(error).strip().splitlines()
        return f"torch.compile does not work here: {said[0] if said else type(error).__name__}"[:160]
    return ""


class SIGReg(nn.Module):
    r"""The sliced Epps–Pulley penalty of LeJEPA (R. Balestriero, Y. LeCun, 2025).

    Projections on random unit directions, their empirical characteristic function $\tfrac1n\sum_je^{itx_j}$ at fixed
    points, its squared distance to $e^{-t^2/2}$ with that weight, by the trapezoidal rule, times n; a mean over
    directions. By symmetry the points lie on the positive half line, which halves the work.
    """

    def __init__(self, num_projections: int = 256, points: int = 17, t_max: float = 3.0) -> None:
        super().__init__()
        t = torch.linspace(0, t_max, points)
        step = torch.full_like(t, 2 * t_max / (points - 1))
        step[0] = step[-1] = t_max / (points - 1)
        self.num_projections = num_projections
        self.register_buffer("t", t)
        self.register_buffer("normal", torch.exp(-t.square() / 2))
        self.register_buffer("weight", step * torch.exp(-t.square() / 2))

    def forward(self, x: Tensor, directions: Tensor | None = None) -> Tensor:
        """The penalty of samples `(N, d)`; directions are columns `(d, P)`, drawn unless they are given."""
        if directions is None:
            directions = torch.randn(x.shape[1], self.num_projections, device=x.device)
            directions = directions / directions.norm(dim=0)
        angles = (x @ directions).unsqueeze(-1) * self.t
        real, imaginary = angles.cos().mean(0), angles.sin().mean(0)
        distance = (real - self.normal).square() + imaginary.square()
        return len(x) * (distance @ self.weight).mean()


See = Callable[[str, tuple[Any, ...], Tensor], None]


@contextmanager
def hooked(model: nn.Module, see: See) -> Iterator[None]:
    """Forward hooks on each module that holds no other, for as long as the context lasts."""
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _module, inputs, output: see(name, inputs, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in leaves.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class HistogramHooks:
    """A histogram of every layer's output, as one writes it by hand: its range, `torch.histc`, to the CPU, to a log."""

    def __init__(self, bins: int = 64) -> None:
        self.bins = bins
        self.log: dict[str, Tensor] = {}

    def __call__(self, name: str, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG002
        x = output.detach().float()
        self.log[name] = torch.histc(x, self.bins, x.min().item(), x.max().item()).cpu()

    @property
    def numbers(self) -> int:
        """How many numbers one measured step gives."""
        return self.bins * len(self.log)


class ComposerHooks:
    """In the manner of Composer's ActivationMonitor: four numbers of every layer's inputs and outputs, read at once.

    Norm, average, kurtosis and largest value along the last dimension, averaged over the rest. As its documentation
    describes them; the original walks over an output's samples one by one, which is not done here.
    """

    def __init__(self) -> None:
        self.log: dict[str, float] = {}

    def __call__(self, name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensors = {f"input.{i}": x for i, x in enumerate(inputs)} | {"output": output}
        for which, x in tensors.items():
            x = x.detach()
            off = x - x.mean(-1, keepdim=True)
            variance = off.square().mean(-1)
            key = f"{name}/{which}"
            self.log[f"l2_norm/{key}"] = torch.linalg.vector_norm(x, dim=-1).mean().item()
            self.log[f"average/{key}"] = x.mean().item()
            self.log[f"kurtosis/{key}"] = (off.square().square().mean(-1) / variance.square()).mean().item()
            self.log[f"max/{key}"] = x.amax(-1).mean().item()

    @property
    def numbers(self) -> int:
        """How many numbers one measured step gives."""
        return len(self.log)


SIGREG_SCALE = math.sqrt(2 * math.pi)  # its weight is not divided by the integral of the Gaussian, ours is
