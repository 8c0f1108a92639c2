"""Interleaved timing: every candidate runs once a round, so that a slow moment of the machine hits all of them.

A ratio is the median over rounds of the ratio within a round, never a quotient of two separate runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of each round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return low, high


def synchronize() -> None:
    """Wait for the accelerator, if there is one, so that a clock reads finished work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(
    candidates: Mapping[str, Callable[[], object]], *, repeats: int = 30, warmup: int = 5, inner: int = 1
) -> dict[str, Times]:
    """Time each candidate ``repeats`` times, round by round; ``inner`` calls make one timing."""
    for call in candidates.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for i in range(repeats):
        for name in names if i % 2 == 0 else reversed(names):  # no candidate always runs on the other's warm cache
            synchronize()
            start = time.perf_counter()
            for _ in range(inner):
                candidates[name]()
            synchronize()
            seconds[name].append((time.perf_counter() - start) / inner)
    return {name: Times(values) for name, values in seconds.items()}


def ratio(numerator: Times, denominator: Times) -> Times:
    """Round by round quotients; their median is the figure that is judged."""
    return Times([a / b for a, b in zip(numerator.seconds, denominator.seconds, strict=True)])


@dataclass(frozen=True)
class Case:
    """One judged figure: ``value`` must be at most (``"<="``) or at least (``">="``) ``target``, if there is one."""

    name: str
    value: float
    quartiles: tuple[float, float] | None = None
    target: float | None = None
    sense: str = "<="
    unit: str = "ratio"
    n: int | None = None
    detail: str = ""
    why: str = ""  # what stands in the way if it is missed: figures of this run, such as those of a floor

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.sense == "<=" else self.value >= self.target


def judged(
    name: str, times: Times, target: float | None = None, *, sense: str = "<=", detail: str = "", why: str = ""
) -> Case:
    """The case of a ratio (or any repeated figure): median, quartiles, number of rounds."""
    return Case(name, times.median, times.quartiles, target, sense, n=len(times.seconds), detail=detail, why=why)


def machine() -> dict[str, object]:
    """What the figures depend on besides the code."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = f"{models[0]}, {len(models)} cores" if models else cpu
    return {
        "cpu": cpu,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def report(name: str, cases: list[Case], out: str | Path | None, *, extra: Mapping[str, object] | None = None) -> None:
    """Print the cases as a table; write them, and what else belongs to the record, as JSON to ``out`` if given."""
    print(f"\n{name}")
    for case in cases:
        spread = f" [{case.quartiles[0]:.3g}, {case.quartiles[1]:.3g}]" if case.quartiles else ""
        verdict = (
            "" if case.met is None else f"  target {case.sense} {case.target:g}: {'met' if case.met else 'MISSED'}"
        )
        print(f"  {case.name:<58} {case.value:>9.4g} {case.unit}{spread}{verdict}  {case.detail}".rstrip())
    if out is not None:
        record = {
            "benchmark": name,
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            **(extra or {}),
            "cases": [{**asdict(case), "met": case.met} for case in cases],
        }
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(record, indent=2) + "\n")


def arguments(description: str) -> argparse.Namespace:
    """The command line that every benchmark shares."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", help="write the figures to this JSON file")
    parser.add_argument("--repeats", type=int, default=30, help="rounds (default: 30)")
    parser.add_argument("--device", default="cpu", help="device (default: cpu)")
    return parser.parse_args()
