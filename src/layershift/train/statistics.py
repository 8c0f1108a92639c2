"""What a table reads off a finished run: one number from its store, by the name of a statistic.

A statistic takes the records of a run, in the order of `Store.records` (series by series, each by step), and its
options; NaN says that the run has not got that far. A new one is one entry of `STATISTICS`.
"""

from __future__ import annotations

import fnmatch
import inspect
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from layershift.monitor import Record


def last(records: Sequence[Record], *, measure: str, factor: float = 1.0) -> float:
    """The last number of the network as a whole, such as `"test/perplexity"`, times a factor.

    Example:
        >>> last([Record(0, "", "val/loss", 3.0), Record(9, "", "val/loss", 1.5)], measure="val/loss")
        1.5
    """
    found = [record.value for record in records if record.layer == "" and record.measure == measure]
    return factor * found[-1] if found else math.nan


def error(records: Sequence[Record], *, measure: str = "test/accuracy") -> float:
    """What is wrong, in percent: 100 (1 − accuracy).

    Example:
        >>> error([Record(9, "", "test/accuracy", 0.75)])
        25.0
    """
    return 100 * (1 - last(records, measure=measure))


def accuracy(records: Sequence[Record], *, measure: str = "test/accuracy") -> float:
    """What is right, in percent.

    Example:
        >>> accuracy([Record(9, "", "test/accuracy", 0.75)])
        75.0
    """
    return last(records, measure=measure, factor=100)


def best(records: Sequence[Record], *, measure: str, higher: bool = False) -> float:
    """The best number of the network as a whole over the run, such as the lowest `"val/perplexity"`.

    Example:
        >>> best([Record(0, "", "val/loss", 1.0), Record(9, "", "val/loss", 1.5)], measure="val/loss")
        1.0
    """
    found = [record.value for record in records if record.layer == "" and record.measure == measure]
    known = [value for value in found if not math.isnan(value)]  # which min and max let pass or not by where they stand
    return (max if higher else min)(known, default=math.nan)


def layer_mean(
    records: Sequence[Record],
    *,
    measure: str,
    layers: str = "*",
    at: str = "end",
    skip: float = 0.0,
    absolute: bool = False,
) -> float:
    """The mean of a measure over layers: at the run's last measurement, or over all measurements after a part of them.

    A layer whose number is not finite makes the mean infinite: it must not vanish from it.

    Args:
        records: of a run.
        measure: such as `"normality"`.
        layers: a pattern of names.
        at: "end", or "run" for the mean through time.
        skip: for "run": the part of the run, at its start, that is left out.
        absolute: of the numbers' absolute values.

    Example:
        >>> numbers = [Record(0, "relu1", "normality", 4.0), Record(9, "relu1", "normality", 2.0)]
        >>> layer_mean(numbers, measure="normality"), layer_mean(numbers, measure="normality", at="run")
        (2.0, 3.0)
    """
    found = series(records, measure, layers).values()
    end = max((steps[-1][0] for steps in found), default=0)
    kept = [
        abs(value) if absolute else value
        for steps in found
        for step, value in (steps[-1:] if at == "end" else steps)
        if at == "end" or step >= skip * end
    ]
    return _mean(kept)


def fluctuation(records: Sequence[Record], *, measure: str, layers: str = "*", skip: float = 0.0) -> float:
    """How much units' numbers move between one measurement and the next: the mean of |difference|.

    Units whose number is not defined (the skewness of a dead unit) are left out where it is not.

    Args:
        records: of a run.
        measure: such as `"skewness"`.
        layers: a pattern of names.
        skip: the part of the run, at its start, that is left out.

    Example:
        >>> steps = [Record(i, "relu1", "mean", value, unit=0) for i, value in enumerate([1.0, 3.0, 2.0])]
        >>> fluctuation(steps, measure="mean")
        1.5
    """
    found = series(records, measure, layers, units=True).values()
    end = max((steps[-1][0] for steps in found), default=0)
    moves = [
        abs(after - before)
        for steps in found
        for (step, before), (_, after) in pairwise(steps)
        if step >= skip * end and math.isfinite(before) and math.isfinite(after)
    ]
    return sum(moves) / len(moves) if moves else math.nan


def change_at_decay(records: Sequence[Record], *, measure: str, layers: str = "*") -> float:
    """By which factor a measure changes when the learning rate first falls: the mean after over the mean before.

    Two thirds of the measurements before the fall and all up to the next fall count; NaN if the rate never fell.

    Args:
        records: of a run.
        measure: such as `"shift/sliced"`.
        layers: a pattern of names.
    """
    rates = [(r.step, r.value) for r in records if r.layer == "" and r.measure == "learning_rate"]
    falls = [step for (step, before), (_, after) in pairwise(rates) if after < 0.9 * before]
    if not falls:
        return math.nan
    until = falls[1] if len(falls) > 1 else math.inf
    found = [pair for steps in series(records, measure, layers).values() for pair in steps]
    before = _mean(value for step, value in found if falls[0] / 3 <= step <= falls[0])
    after = _mean(value for step, value in found if falls[0] < step <= until)
    return after / before if before else math.nan


def step_milliseconds(records: Sequence[Record]) -> float:
    """The median over epochs of the time of a training step, in milliseconds.

    Example:
        >>> step_milliseconds([Record(9, "", "step_seconds", 0.25)])
        250.0
    """
    return 1000 * statistics.median([r.value for r in records if r.measure == "step_seconds"] or [math.nan])


def series(
    records: Iterable[Record], measure: str, layers: str, *, units: bool = False
) -> dict[tuple[str, int | None], list[tuple[int, float]]]:
    """The steps and values of a measure by layer and unit: of whole layers, or of single units."""
    found: dict[tuple[str, int | None], list[tuple[int, float]]] = {}
    for r in records:
        if r.measure == measure and r.layer and (r.unit is not None) == units and fnmatch.fnmatchcase(r.layer, layers):
            found.setdefault((r.layer, r.unit), []).append((r.step, r.value))
    return found


def _mean(values: Iterable[float]) -> float:
    finite = [math.inf if math.isnan(value) else value for value in values]
    return sum(finite) / len(finite) if finite else math.nan


STATISTICS: Mapping[str, Callable[..., float]] = {
    function.__name__: function
    for function in (last, best, error, accuracy, layer_mean, fluctuation, change_at_decay, step_milliseconds)
}


def check_statistic(name: str, options: Mapping[str, Any]) -> None:
    """See that there is such a statistic and that it takes these options, before anything is trained.

    Raises:
        ValueError: if not.
    """
    from layershift._checks import check, check_choice

    check_choice("statistic", name, tuple(STATISTICS))
    try:
        inspect.signature(STATISTICS[name]).bind([], **options)
    except TypeError as error:
        check(False, f"statistic {name}", f"its options ({error})", dict(options))


def read_statistic(records: Sequence[Record], name: str, options: Mapping[str, Any]) -> float:
    """A statistic of a run by its name.

    Raises:
        ValueError: for an unknown name or option.
    """
    check_statistic(name, options)
    return STATISTICS[name](records, **options)
