"""What a GPU does: normalisers against cuDNN's, exact PER against reading its input, a monitor that nobody waits for.

Times are those of CUDA's events around whole passes, so they hold what starting kernels costs where that is longer than
running them; "replayed" passes are CUDA graphs, which leave that out. Rounds are interleaved. Without a GPU there is
nothing to measure, and no record is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

import layershift as ls
from _floors import stream_rate
from _timing import Case, Times, arguments, judged, ratio, report
from layershift.functional import per, triton_support
from layershift.nn import BatchNorm2d, Unitization2d
from unitization import Composition, step

# Layers of a ResNet-50 with 256 images of 224 × 224.
SHAPES = [(256, 64, 112, 112), (256, 256, 56, 56), (256, 512, 28, 28), (256, 1024, 14, 14), (256, 2048, 7, 7)]
SAMPLES = [(65_536, 2048), (4096, 32_768), (256, 524_288), (16, 8_388_608)]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NORMALISERS: dict[str, Callable[[int], nn.Module]] = {
    "BatchNorm2d": nn.BatchNorm2d,
    "ours": BatchNorm2d,
    "Unitization2d": lambda channels: Unitization2d(channels, alpha_init=0.5),
    "composition": Composition,
}


def timed(calls: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 5) -> dict[str, Times]:
    """Seconds between CUDA's events around each call, round by round, in turns."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    torch.cuda.synchronize()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for i in range(repeats):
        for name in calls if i % 2 == 0 else reversed(list(calls)):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            calls[name]()
            end.record()
            events[name].append((begin, end))
        torch.cuda.synchronize()
    return {name: Times([a.elapsed_time(b) / 1e3 for a, b in pairs]) for name, pairs in events.items()}


def replayed(call: Callable[[], object]) -> Callable[[], object]:
    """The same work as a CUDA graph, without what starting its kernels costs."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@contextmanager
def torchs_operations() -> Iterator[None]:
    """Inside, Triton counts as absent."""
    works, triton_support.works = triton_support.works, lambda _device: False
    try:
        yield
    finally:
        triton_support.works = works


def without_triton(call: Callable[[], None]) -> Callable[[], None]:
    """The same call in PyTorch's operations."""

    def run() -> None:
        with torchs_operations():
            call()

    return run


def milliseconds(times: Mapping[str, Times]) -> str:
    return ", ".join(f"{name} {t.median * 1e3:.3g} ms" for name, t in times.items())


def normalisers(shape: tuple[int, ...], dtype: torch.dtype, how: str, repeats: int, rate: float) -> list[Case]:
    """Forward and backward of each, in training; of the eight passes over a map, three are forward."""
    torch._dynamo.reset()
    x, dy = (torch.randn(shape, device="cuda").to(dtype, memory_format=FORMATS[how]) for _ in range(2))
    x.requires_grad_()
    calls = {name: step(make(shape[1]).cuda(), x, dy) for name, make in NORMALISERS.items()}
    calls["Unitization2d without Triton"] = without_triton(calls["Unitization2d"])
    for name in ("BatchNorm2d", "Unitization2d"):
        calls[f"{name} compiled"] = step(torch.compile(NORMALISERS[name](shape[1]).cuda(), fullgraph=True), x, dy)
    times = timed(calls, repeats)
    graphs = timed({name: replayed(calls[name]) for name in ("BatchNorm2d", "ours", "Unitization2d")}, repeats)
    of = f"{shape}, {str(dtype).removeprefix('torch.')}, {how}"
    floor = 8 * x.numel() * x.element_size() / rate
    why = f"eight passes over the map take {floor * 1e3:.3g} ms at the rate of this GPU's memory"

    def against(a: str, b: str, target: float | None = None, *, found: dict[str, Times] = times) -> Case:
        name = f"{a} / {b}{', replayed' if found is graphs else ''}, {of}"
        detail = milliseconds({a: found[a], b: found[b]})
        return judged(name, ratio(found[a], found[b]), target, detail=detail, why=why)

    return [
        against("Unitization2d", "BatchNorm2d", 1.1),
        against("Unitization2d", "BatchNorm2d", 1.1, found=graphs),
        against("ours", "BatchNorm2d"),
        against("ours", "BatchNorm2d", found=graphs),
        against("composition", "Unitization2d"),
        against("Unitization2d without Triton", "Unitization2d"),
        against("Unitization2d compiled", "BatchNorm2d compiled"),
        against("Unitization2d compiled", "Unitization2d"),
        Case(f"Unitization2d / floor, replayed, {of}", graphs["Unitization2d"].median / floor, detail=why),
    ]


def penalty(shape: tuple[int, int], dtype: torch.dtype, repeats: int, rate: float) -> list[Case]:
    """Values alone, which read the input once, and with the gradient, which reads it again and writes as much."""
    x = torch.randn(shape, device="cuda", dtype=dtype)
    leaf = x.clone().requires_grad_()

    def both() -> None:
        leaf.grad = None
        per(leaf).sum().backward()

    def values() -> None:
        with torch.no_grad():
            per(x)

    calls = {"PER": values, "reading": lambda: torch.sum(x), "without Triton": without_triton(values)}
    times = timed(calls | {"PER, backward too": both}, repeats)
    of, read = f"{shape}, {str(dtype).removeprefix('torch.')}", x.numel() * x.element_size() / rate
    floor = Times([seconds / (3 * read) for seconds in times["PER, backward too"].seconds])
    detail = milliseconds(times) + f", one read at the rate of memory {read * 1e3:.3g} ms"
    return [
        judged(f"exact PER / a sum of its input, {of}", ratio(times["PER"], times["reading"]), 1.2, detail=detail),
        judged(f"exact PER, backward too / two reads and a write, {of}", floor),
        judged(f"exact PER without Triton / with, {of}", ratio(times["without Triton"], times["PER"])),
    ]


def monitor() -> Case:
    """Measured steps in which PyTorch raises where anybody waits; the first two make tables and states."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), Unitization2d(64), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    model = model.to("cuda", memory_format=torch.channels_last)
    x = torch.randn(64, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)
    waits = 0
    measures = ("moments", "normality", "health")
    with ls.Monitor(model, layers=nn.ReLU, measures=measures, every=1, budget=None) as watched:
        model(x)
        for i in range(12):
            torch.cuda.set_sync_debug_mode("error" if i >= 2 else "default")
            try:
                with watched.step(i), torch.autocast("cuda", dtype=torch.bfloat16):
                    model(x).square().mean().backward()
            except RuntimeError as error:
                if "synchronizing" not in str(error):
                    raise
                waits += 1
            finally:
                torch.cuda.set_sync_debug_mode("default")
    name = "steps that wait for the GPU, of 10 measured"
    return Case(name, waits, target=0, unit="steps", detail=", ".join(measures))


def main() -> None:
    options = arguments(__doc__ or "")
    if not torch.cuda.is_available():
        print("gpu: there is no CUDA device here; nothing measured, nothing written")
        return
    torch.manual_seed(0)
    rate = stream_rate(2**31, "cuda", 1.0)
    cases = [monitor()]
    for dtype in (torch.float32, torch.bfloat16):
        for how in FORMATS:
            for shape in SHAPES:
                cases += normalisers(shape, dtype, how, options.repeats, rate)
        for samples in SAMPLES:
            cases += penalty(samples, dtype, options.repeats, rate)
    extra = {"memory, GB/s": rate / 1e9, "triton": __import__("triton").__version__}
    report("gpu", cases, options.out, extra=extra)


if __name__ == "__main__":
    main()
