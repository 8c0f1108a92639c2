"""Runs to a table: for each method the mean and the standard deviation over seeds of what counts at the end."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layershift._checks import check_items, check_type
from layershift.monitor import open_store


class Spread(NamedTuple):
    """A mean over runs, the standard deviation between them (divided by n − 1; NaN for one run), and their number.

    Example:
        >>> Spread.of([1.0, 3.0])
        Spread(mean=2.0, sd=1.4142135623730951, n=2)
    """

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise one number a run; NaN (not measured) is left out."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan, 0)
        mean = sum(known) / len(known)
        spread = len(known) > 1 and math.isfinite(mean)  # between infinite numbers there is none
        return cls(mean, statistics.stdev(known) if spread else math.nan, len(known))


class Row(NamedTuple):
    """What a method came to.

    Attributes:
        method: its name.
        accuracy: on the test data, between 0 and 1.
        distance: sliced W1 to N(0, I) at the last measurement, mean over the measured layers.
        floor: what `distance` would be on average for samples of N(0, I) itself, at this sample size.
        milliseconds: of a training step: the median over the run's epochs of the median over the epoch's steps in
            which no layer was measured.
    """

    method: str
    accuracy: Spread
    distance: Spread
    floor: Spread
    milliseconds: Spread


def read_numbers(path: str | Path) -> dict[str, Any]:
    """The numbers of one run: method, accuracy, distance, floor, milliseconds; NaN where a run has not got that far."""
    with open_store(path) as store:
        records, method = store.records(), store.meta.get("method")
    network: dict[str, list[float]] = {}
    last: dict[str, dict[str, float]] = {}
    for record in records:  # series by series, each by step: what comes last is the last
        if record.unit is None and record.layer == "":
            network.setdefault(record.measure, []).append(record.value)
        elif record.unit is None:
            last.setdefault(record.measure, {})[record.layer] = record.value
    return {
        "method": str(method or Path(path).parent.name),
        "accuracy": network.get("test/accuracy", [math.nan])[-1],
        "distance": _mean(last.get("normality", {}).values()),
        "floor": _mean(last.get("normality_floor", {}).values()),
        "milliseconds": 1000 * statistics.median(network.get("step_seconds", [math.nan])),
    }


def _mean(values: Iterable[float]) -> float:
    # A layer that is not finite has no distance; it must not vanish from the mean.
    finite = [math.inf if math.isnan(value) else value for value in values]
    return sum(finite) / len(finite) if finite else math.nan


def summarize(paths: Iterable[str | Path]) -> list[Row]:
    """One row a method, in the order in which the methods first appear.

    Args:
        paths: stores (`run.db`) or folders of single runs.

    Returns:
        The rows.
    """
    check_type("paths", paths, () if isinstance(paths, str) else Iterable, "paths of stores")
    paths = list(paths)
    check_items("paths", paths, (str, Path), "paths of stores")
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        numbers = read_numbers(path)
        runs.setdefault(numbers["method"], []).append(numbers)
    columns = Row._fields[1:]
    return [Row(method, *(Spread.of(n[column] for n in found) for column in columns)) for method, found in runs.items()]


def cells(row: Row) -> list[str]:
    """A row as text: method, n, accuracy in %, distance (and its floor), milliseconds."""
    percent = Spread(100 * row.accuracy.mean, 100 * row.accuracy.sd, row.accuracy.n)
    floor = "" if row.floor.n == 0 else f" ({row.floor.mean:.3f})"
    runs = max(spread.n for spread in row[1:])
    return [row.method, str(runs), pm(percent, 2), pm(row.distance, 3) + floor, pm(row.milliseconds, 2)]


HEADINGS = ("method", "n", "test accuracy, %", "sliced W1 to N(0, I)", "ms per step")


def pm(spread: Spread, places: int) -> str:
    """Mean ± standard deviation.

    Example:
        >>> pm(Spread(0.5, 0.01, 3), 2), pm(Spread(0.5, float("nan"), 1), 2), pm(Spread.of([]), 2)
        ('0.50 ± 0.01', '0.50', '–')
    """
    if spread.n == 0:
        return "–"
    return f"{spread.mean:.{places}f}" + ("" if math.isnan(spread.sd) else f" ± {spread.sd:.{places}f}")


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, with a line that says what its numbers are."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", NOTE, ""])


NOTE = (
    "Mean ± standard deviation over n seeds. Sliced W1 to N(0, I): mean over the measured layers at the end "
    "(in brackets what samples of N(0, I) would show)."
)


def as_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table as plain values for JSON; None where a number is not known."""

    def plain(spread: Spread) -> dict[str, float | int | None]:
        return {k: v if math.isfinite(v) else None for k, v in spread._asdict().items()}

    return [{"method": row.method, **{k: plain(getattr(row, k)) for k in Row._fields[1:]}} for row in rows]
