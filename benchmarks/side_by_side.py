"""Each function beside its peers, size by size, in one process: seconds, their ratio, and the distance to the floor.

In a round every candidate runs once; ratios are formed within a round. The floor of a row is the least time that its
bytes or its operations take at the rates that are measured when this starts, see `_floors.py`; the exponent is that of
the growth of our seconds over all sizes. A peer that is not installed, or that cannot run here, has a row that says so.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from _floors import exponent, measure_rates, operations_called
from _labels import label_distributions
from _peers import versions
from _sweeps import (
    Call,
    Job,
    Setup,
    compiled_normalisers,
    distances_on_the_line,
    normalisers,
    per_penalty,
    sliced_distances,
    sliced_penalties,
)
from _timing import Case, Times, interleaved, judged, ratio, report, synchronize
from _watching import monitors

SWEEPS: dict[str, Callable[[Setup], Iterable[Job]]] = {
    "normalisers": normalisers,
    "compiled": compiled_normalisers,
    "per": per_penalty,
    "penalties": sliced_penalties,
    "sliced": sliced_distances,
    "line": distances_on_the_line,
    "labels": label_distributions,
    "monitor": monitors,
}
NEAR_FLOOR = {"Unitization2d", "BatchNorm2d", "PER", "EppsPulley", "SlicedWasserstein"}
NEAR_FLOOR |= {"Unitization2d, compiled", "BatchNorm2d, compiled"}
NEAR_FLOOR |= {"sliced_wasserstein_normal", "sliced_wasserstein", "wasserstein"}
TARGET = 1.5  # of the floor, at the largest size, on a CPU
CALLS = 0.05  # from what share of our time on a row tells what calling operations costs


@dataclass(frozen=True)
class Row:
    """One function at one size beside one peer; seconds are medians over rounds."""

    function: str
    shape: str
    size: int
    device: str
    ours: float
    peer: str
    theirs: float | None
    ratio: float | None
    quartiles: tuple[float, float] | None
    n: int
    floor: float
    floor_of: str
    distance: float
    operations: int | None = None
    peer_operations: int | None = None
    exponent: float | None = None
    peer_exponent: float | None = None
    absent: str = ""
    note: str = ""
    why: str = ""


def timed(job: Job, *, seconds: float, repeats: int) -> dict[str, Times]:
    """Every candidate of a job in rounds, of which as many are made as fit into the time, 5 at least."""
    calls: dict[str, Call] = dict(job.ours) | {name: call for name, call in job.peers.items() if callable(call)}
    if job.part:
        calls[job.part[0]] = job.part[1]
    for call in calls.values():
        call()
    synchronize()
    start = time.perf_counter()
    for call in calls.values():
        call()
    synchronize()
    a_round = time.perf_counter() - start
    inner = max(1, min(10, int(0.003 * len(calls) / a_round)))  # a clock's reading costs as much as the shortest calls
    rounds = max(min(5, repeats), min(repeats, int(seconds / (inner * a_round))))
    return interleaved(calls, repeats=rounds, warmup=0, inner=inner)


def rows_of(job: Job, times: Mapping[str, Times], setup: Setup) -> Iterator[Row]:
    """One row for each of our functions and each peer; growth is not known yet."""
    floor = job.floor(times)
    calls = dict(job.ours) | {name: call for name, call in job.peers.items() if callable(call)}
    counts = {name: operations_called(call) for name, call in calls.items() if not name.endswith("compiled")}
    for function, peer in ((function, peer) for function in job.ours for peer in job.peers):
        ours, call = times[function], job.peers[peer]
        own, its = counts.get(function), counts.get(peer) or None
        said = [told(job, function, times), called(own, its, ours.median, setup.rates.call)]
        row = Row(
            function=function,
            shape=job.shape,
            size=job.size,
            device=setup.device,
            ours=ours.median,
            peer=peer,
            theirs=None,
            ratio=None,
            quartiles=None,
            n=len(ours.seconds),
            floor=floor.seconds,
            floor_of=floor.of,
            distance=ours.median / floor.seconds,
            operations=own,
            peer_operations=its,
            note=job.notes.get(peer, ""),
            why="; ".join(filter(None, said)),
        )
        if callable(call):
            quotient = ratio(ours, times[peer])
            yield replace(row, theirs=times[peer].median, ratio=quotient.median, quartiles=quotient.quartiles)
        else:
            yield replace(row, absent=call, note="")


def told(job: Job, function: str, times: Mapping[str, Times]) -> str:
    """Where our time goes: the share of the bare part, as it was timed in the same rounds."""
    if job.part is None:
        return ""
    name, _ = job.part
    share = ratio(times[name], times[function]).median
    return f"{name} takes {share:.0%} of ours" if share >= 0.01 else ""


def called(own: int | None, its: int | None, seconds: float, call: float) -> str:
    """What calling operations costs us, where that is a good part; and how many the peer calls, if any."""
    if own is None or own * call < CALLS * seconds:
        return ""
    peers = "" if its is None else f"; the peer's are {its}"
    return f"calling its {own} operations takes {own * call / seconds:.0%} of ours or more{peers}"


def grown(rows: Sequence[Row]) -> list[Row]:
    """The same rows, each with the exponents of its function's and of its peer's growth over all sizes."""
    found = []
    for row in rows:
        sweep = [other for other in rows if (other.function, other.peer) == (row.function, row.peer)]
        sizes, theirs = [other.size for other in sweep], [other.theirs for other in sweep]
        if len(set(sizes)) < 2:
            found.append(row)
            continue
        peer_exponent = None if None in theirs else exponent(sizes, [t for t in theirs if t is not None])
        found.append(replace(row, exponent=exponent(sizes, [o.ours for o in sweep]), peer_exponent=peer_exponent))
    return found


def near_floor(job: Job, times: Mapping[str, Times], device: str) -> Iterator[Case]:
    """What is promised of normalisers, penalties and measures at the largest size."""
    floor = job.floor(times)
    for function in job.ours:
        if function in NEAR_FLOOR:
            quotient = Times([s / floor.seconds for s in times[function].seconds])
            made = f"{times[function].median * 1e3:.3g} ms, floor {floor.seconds * 1e3:.3g} ms by {floor.of}"
            target = TARGET if device == "cpu" else None
            name = f"{function} / floor, {job.shape}"
            yield judged(name, quotient, target, detail=made, why=told(job, function, times))


def run(setup: Setup, names: Iterable[str], *, seconds: float, repeats: int) -> tuple[list[Row], list[Case]]:
    """Time all jobs of some sweeps, and judge those at the largest sizes."""
    rows: list[Row] = []
    cases: dict[str, list[Case]] = {}
    for name in names:
        for job in SWEEPS[name](setup):
            times = timed(job, seconds=seconds, repeats=repeats)
            rows += rows_of(job, times, setup)
            for function in job.ours:
                print(f"  {function}, {job.shape}: {times[function].median * 1e3:.4g} ms", flush=True)
            cases["+".join(job.ours)] = list(near_floor(job, times, setup.device))  # sizes ascend: the last stays
    return grown(rows), [case for judgements in cases.values() for case in judgements]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="write the figures to this JSON file")
    parser.add_argument("--repeats", type=int, default=30, help="most rounds of a size (default: 30)")
    parser.add_argument("--seconds", type=float, default=1.5, help="time for a size's rounds (default: 1.5)")
    parser.add_argument("--device", default="cpu", help="device (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, 3 rounds, nothing compiled: for a test")
    parser.add_argument("--only", nargs="+", choices=list(SWEEPS), default=None, help="some sweeps (default: all)")
    options = parser.parse_args()
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")  # peers and alarms have much to say about random data
    rates = measure_rates(options.device, quick=options.quick)
    setup = Setup(options.device, rates, options.quick)
    names = options.only or [name for name in SWEEPS if not (options.quick and name == "compiled")]
    repeats = 3 if options.quick else options.repeats
    rows, cases = run(setup, names, seconds=options.seconds, repeats=repeats)
    extra = {"versions": versions(), "rates": rates.record(), "rows": [asdict(row) for row in rows]}
    report("side_by_side", cases, options.out, extra=extra)


if __name__ == "__main__":
    main()
