"""What this machine can do at best: bytes and operations a second, measured in the process that is to be judged.

Bytes are counted as STREAM does, each read and each write of a kernel once, and results are written in place. Caches
make small buffers fast, so the rate is measured for buffers of several sizes and read off at the size that a function
works on. The rate of a size is that of the fastest of three kernels and of all rounds: a floor must not be flattered by
a slow moment of the machine. Operations are those of a product of two square matrices in float32.
"""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from _timing import synchronize

BUFFERS = (2**18, 2**21, 2**24, 2**27, 2**29)  # bytes that a kernel works on: from a core's cache to far beyond all
WIDTH = 2048


@dataclass(frozen=True)
class Floor:
    """The least time that something can take, and what of: "bytes" or "operations"."""

    seconds: float
    of: str


@dataclass(frozen=True)
class Rates:
    """Bytes a second for buffers of several sizes, ascending; floating-point operations a second; seconds of a call."""

    stream: Mapping[int, float]
    products: float
    call: float

    def bytes_a_second(self, working: float) -> float:
        """The rate for so many bytes in all, between measured sizes along a line in logarithms."""
        sizes = list(self.stream)
        i = bisect_left(sizes, working)
        if i == 0 or i == len(sizes):
            return self.stream[sizes[min(i, len(sizes) - 1)]]
        low, high = sizes[i - 1], sizes[i]
        part = math.log(working / low) / math.log(high / low)
        return self.stream[low] ** (1 - part) * self.stream[high] ** part

    def floor(self, traffic: float, *, working: float | None = None, operations: float = 0.0) -> Floor:
        """The longer of moving bytes and doing operations, which at best overlap.

        Args:
            traffic: bytes that must be read and written.
            working: bytes of the different tensors among them, which caches may hold; as many as `traffic` by default.
            operations: floating-point operations of matrix products.
        """
        moving = traffic / self.bytes_a_second(traffic if working is None else working)
        computing = operations / self.products
        return Floor(moving, "bytes") if moving >= computing else Floor(computing, "operations")

    def record(self) -> dict[str, object]:
        """For JSON: GB/s by MiB of buffer, GFLOP/s, and the seconds of a call."""
        stream = {f"{size / 2**20:g}": rate / 1e9 for size, rate in self.stream.items()}
        return {"GB/s by MiB": stream, "GFLOP/s": self.products / 1e9, "seconds of a call": self.call}


def least(call: Callable[[], object], seconds: float) -> float:
    """The shortest of the calls that fit into so many seconds, of three at least."""
    call()
    best, end, calls = math.inf, time.perf_counter() + seconds, 0
    while calls < 3 or time.perf_counter() < end:
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def stream_rate(size: int, device: str, seconds: float) -> float:
    """Bytes a second of the fastest of copying, a triad and a sum, each on buffers of `size` bytes in all."""

    def numbers(buffers: int) -> list[torch.Tensor]:
        return [torch.ones(size // (4 * buffers), device=device) for _ in range(buffers)]

    (alone,), (a, b), (p, q, r) = numbers(1), numbers(2), numbers(3)
    total = torch.empty((), device=device)
    kernels: dict[str, Callable[[], object]] = {
        "copy": lambda: b.copy_(a),
        "triad": lambda: torch.add(p, q, alpha=2.0, out=r),
        "sum": lambda: torch.sum(alone, dim=0, out=total),
    }
    return size / min(least(call, seconds / len(kernels)) for call in kernels.values())


def product_rate(width: int, device: str, seconds: float) -> float:
    """Floating-point operations a second of a square matrix product, the result in place."""
    a, b, c = (torch.ones(width, width, device=device) for _ in range(3))
    return 2 * width**3 / least(lambda: torch.mm(a, b, out=c), seconds)


def call_seconds(device: str, seconds: float, calls: int = 100) -> float:
    """Seconds that one operation on one number takes, its result in place: what a call costs whatever it does."""
    x = torch.ones((), device=device)

    def run() -> None:
        for _ in range(calls):
            torch.neg(x, out=x)

    return least(run, seconds) / calls


def measure_rates(device: str, *, quick: bool = False) -> Rates:
    """The rates of this machine, now."""
    sizes, width, seconds = (BUFFERS[:3], 256, 0.03) if quick else (BUFFERS, WIDTH, 1.0)
    stream = {size: stream_rate(size, device, seconds) for size in sizes}
    return Rates(stream, product_rate(width, device, seconds), call_seconds(device, seconds / 10))


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func is not torch.ops.aten.detach.default  # the keeping of a result for the backward pass
        return func(*args, **(kwargs or {}))


def operations_called(call: Callable[[], object]) -> int:
    """How many of PyTorch's operations a call runs, forward and backward, each of which costs a call at least."""
    with _Counting() as counting:
        call()
    return counting.calls


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size, by least squares: seconds grow as size to that power."""
    slope, _ = statistics.linear_regression([math.log(s) for s in sizes], [math.log(t) for t in seconds])
    return slope
