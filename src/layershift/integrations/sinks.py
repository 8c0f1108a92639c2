"""What the dashboards have in common: which records they show, and under which names."""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from layershift._checks import check_patterns, check_type
from layershift.monitor import Record
from layershift.monitor.alarm import Alarm


class Scalar(NamedTuple):
    """One number of a dashboard.

    Attributes:
        tag: its name there.
        step: the training step.
        value: the number; NaN and infinities are kept.
    """

    tag: str
    step: int
    value: float


def tag_of(record: Record) -> str:
    """The name of a record: `measure/layer`, `measure/layer/unit3` for a unit, `measure` for the network as a whole.

    Example:
        >>> tag_of(Record(0, "layer1.0.relu", "mean", 0.4)), tag_of(Record(0, "", "train/loss", 2.3))
        ('mean/layer1.0.relu', 'train/loss')
    """
    parts = (record.measure, record.layer, "" if record.unit is None else f"unit{record.unit}")
    return "/".join(part for part in parts if part)


def sentence_of(alarm: Alarm) -> str:
    """What an alarm says, and what to try.

    Example:
        >>> sentence_of(Alarm(40, "relu3", None, "dead", "dead", 0.9, 0.5, "0.9 of relu3 is dead", "a lower rate"))
        '0.9 of relu3 is dead. To try: a lower rate'
    """
    return f"{alarm.message}. To try: {alarm.advice}" if alarm.advice else alarm.message


class Selection:
    """Which numbers become scalars, and their names.

    Args:
        layers: shell patterns of names; the network as a whole is always shown.
        measures: shell patterns.
        units: single units too.
        stderr: standard errors too, as `measure_stderr/layer`.
        prefix: begins every name.

    Example:
        >>> records = [Record(0, "relu1", "mean", 0.4, stderr=0.1), Record(0, "relu1", "mean", 0.5, unit=3)]
        >>> list(Selection(stderr=True).scalars(records))
        [Scalar(tag='mean/relu1', step=0, value=0.4), Scalar(tag='mean_stderr/relu1', step=0, value=0.1)]
    """

    def __init__(
        self,
        *,
        layers: str | Sequence[str] = "*",
        measures: str | Sequence[str] = "*",
        units: bool = False,
        stderr: bool = False,
        prefix: str = "",
    ) -> None:
        check_patterns("layers", layers)
        check_patterns("measures", measures)
        check_type("prefix", prefix, str, "text")
        self.layers, self.measures = _patterns(layers), _patterns(measures)
        self.units, self.stderr, self.prefix = units, stderr, prefix

    def chosen(self, records: Sequence[Record]) -> Iterator[Record]:
        """Those records that are shown."""
        for record in records:
            shown = self.units or record.unit is None
            if shown and _matches(record.measure, self.measures):
                if record.layer and not _matches(record.layer, self.layers):
                    continue
                yield record

    def scalars(self, records: Sequence[Record]) -> Iterator[Scalar]:
        """Their numbers."""
        for record in self.chosen(records):
            yield Scalar(self.prefix + tag_of(record), record.step, record.value)
            if self.stderr and record.stderr is not None:
                error = record._replace(measure=f"{record.measure}_stderr")
                yield Scalar(self.prefix + tag_of(error), record.step, record.stderr)

    def by_step(self, records: Sequence[Record]) -> dict[int, dict[str, float]]:
        """Their numbers, step by step."""
        rows: dict[int, dict[str, float]] = {}
        for tag, step, value in self.scalars(records):
            rows.setdefault(step, {})[tag] = value
        return rows


class ScalarSink(ABC):
    """A sink that logs scalars step by step, and opens what it logs to when the first ones come.

    So a sink can be built on every rank of a distributed training: only the rank that writes opens anything.

    Args:
        selection: what it logs.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    def write(self, records: Sequence[Record]) -> None:
        """Log the records of a measured step."""
        for step, row in sorted(self.selection.by_step(records).items()):
            self.log(step, row)

    @abstractmethod
    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Log the scalars of a step, by name."""

    @abstractmethod
    def close(self) -> None:
        """Log what is left, and close what this sink opened."""


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
