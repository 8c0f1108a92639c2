"""Watches what is recorded, and says when a layer is in trouble: which, since when, and what to try."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from layershift._checks import check_count, check_type, fail
from layershift.monitor.alarm import ADVICE, Alarm
from layershift.monitor.rules import Limits, Normal, Rule, default_rules
from layershift.monitor.store import Record, Store

Action: TypeAlias = Literal["warn", "stop"] | Callable[[Alarm], object]
_NAMED = 5


class LayerWarning(UserWarning):
    """A layer is in trouble."""


class StopTraining(RuntimeError):  # noqa: N818 (a request, as StopIteration is)
    """A layer is in trouble, and the run was to stop in that case.

    Attributes:
        alarms: what was found.
    """

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        super().__init__("\n".join(_sentences(alarms)))
        self.alarms = list(alarms)


class Alarms:
    """Judges records by rules, and raises an alarm when a layer gets into trouble.

    An alarm is raised once an episode: when a number has passed its limit for as many measured steps in a row as the
    rule is patient, and again only after it has come clear of the limit for as many. Rules of one kind for one layer
    raise one alarm between them. Numbers that are NaN are not judged.

    Nothing here touches a device: records are numbers on the host.

    To continue a run, `replay` its store: what was learned and which episodes are under way follows from the records.

    Args:
        rules: by default `layershift.monitor.rules.default_rules()`.
        action: what `act` does: `"warn"` gives a `LayerWarning`, `"stop"` raises `StopTraining`, a function is called
            with each alarm.
        learn: from how many measured steps rules learn that say nothing else.

    Raises:
        ValueError: if an option is out of range.
        TypeError: if one of the rules is none.

    Example:
        >>> from layershift.monitor.rules import Threshold
        >>> alarms = Alarms([Threshold(measure="dead", kind="dead", above=0.5, patience=2)])
        >>> found = [alarms.observe([Record(step, "relu1", "dead", 0.75)]) for step in range(4)]
        >>> [len(new) for new in found]
        [0, 1, 0, 0]
        >>> found[1][0].message
        "step 1: layer 'relu1' is dead: dead = 0.75, limit 0.5"
    """

    def __init__(self, rules: Iterable[Rule] | None = None, *, action: Action = "warn", learn: int = 20) -> None:
        if not callable(action) and action not in ("warn", "stop"):
            fail("action", "'warn', 'stop' or a function", repr(action))
        check_count("learn", learn, "a number of measured steps, 1 or more")
        check_type("rules", rules, (Iterable, type(None)), "rules such as Threshold(…) or Learned(…)")
        self.rules = default_rules() if rules is None else list(rules)
        for rule in self.rules:
            if not hasattr(rule, "limits") or isinstance(rule, type):
                raise TypeError(f"rules: expected rules such as Threshold(…) or Learned(…), got {rule!r}")
        self.action, self.learn = action, learn
        self._by_measure: dict[str, list[_Judge]] = {}
        for rule in self.rules:
            judge = _Judge(rule, learn if rule.learn is None else rule.learn)
            self._by_measure.setdefault(rule.measure, []).append(judge)
        self._active: dict[tuple[str, int | None, str], set[int]] = {}  # which rules find this kind of trouble there

    def observe(self, records: Iterable[Record]) -> list[Alarm]:
        """Judge the records of a step.

        Args:
            records: in order of their steps, if of several; a number that is recorded twice at a step counts once.

        Returns:
            The alarms that are new, which `act` acts upon.
        """
        found = []
        for record in records:
            for judge in self._by_measure.get(record.measure, ()):
                limit = judge.see(record)
                episode = (record.layer, record.unit, judge.rule.kind)
                others = self._active.get(episode, set())
                if limit is None:
                    others.discard(id(judge))
                    continue
                if not others:
                    found.append(_alarm(judge, record, limit))
                self._active.setdefault(episode, set()).add(id(judge))
        return found

    def act(self, alarms: Sequence[Alarm]) -> None:
        """Do with alarms what `action` says; a warning tells those of one kind and step together.

        Raises:
            StopTraining: with them, if the action is `"stop"`.
        """
        if not alarms:
            return
        if self.action == "stop":
            raise StopTraining(alarms)
        if self.action == "warn":
            for sentence in _sentences(alarms):
                warnings.warn(sentence, LayerWarning, stacklevel=2)
            return
        for alarm in alarms:
            self.action(alarm)

    def replay(self, records: Store | Iterable[Record]) -> None:
        """Go through what was recorded before, as `observe` did then, and act upon nothing.

        Args:
            records: a store, or records in any order.
        """
        past = records.records() if isinstance(records, Store) else records
        self.observe(sorted((r for r in past if r.measure in self._by_measure), key=lambda record: record.step))


@dataclass
class _Series:
    """What a rule remembers of one series of numbers."""

    step: int | None = None
    seen: list[float] = field(default_factory=list)
    hits: int = 0
    calm: int = 0
    active: bool = False


class _Judge:
    """A rule with what it remembers."""

    def __init__(self, rule: Rule, learn: int) -> None:
        self.rule, self.learn = rule, learn
        self._series: dict[tuple[str, int | None], _Series] = {}
        self._normal: dict[tuple[str, int | None], Normal | None] = {}
        self._typical: float | None = None

    def see(self, record: Record) -> float | None:
        """The limit, if the number is in an episode beyond it."""
        key = (record.layer, record.unit)
        if (record.unit is not None and not self.rule.units) or not self.rule.concerns(record):
            return None
        series = self._series.setdefault(key, _Series())
        if series.step != record.step and not math.isnan(record.value):
            series.step = record.step
            if len(series.seen) < self.learn:
                self._take(key, series, record.value)
            else:
                self._judge(key, series, record.value)
        limits = self._limits(key)
        return limits.limit if series.active and limits is not None else None

    def _limits(self, key: tuple[str, int | None]) -> Limits | None:
        return self.rule.limits(self._normal.get(key), self._typical)

    def _take(self, key: tuple[str, int | None], series: _Series, value: float) -> None:
        series.seen.append(value)
        if len(series.seen) == self.learn:
            self._normal[key] = self.rule.normal(series.seen)
            centres = [normal.centre for normal in self._normal.values() if normal is not None]
            self._typical = statistics.median(centres) if centres else None

    def _judge(self, key: tuple[str, int | None], series: _Series, value: float) -> None:
        limits = self._limits(key)
        if limits is None:
            return
        sign = 1 if self.rule.direction == "above" else -1
        beyond = sign * value > sign * limits.limit
        series.hits = series.hits + 1 if beyond else 0
        series.calm = series.calm + 1 if sign * value <= sign * limits.clear else 0
        if series.hits >= self.rule.patience:
            series.active = True
        elif series.calm >= self.rule.patience:
            series.active = False


_WORDS = {"nonfinite": "not finite", "shift": "shifting"}


def _alarm(judge: _Judge, record: Record, limit: float) -> Alarm:
    rule = judge.rule
    unit = "" if record.unit is None else f", unit {record.unit},"
    learned = f", learned from {judge.learn} measured steps" if judge.learn else ""
    message = (
        f"step {record.step}: layer {record.layer!r}{unit} is {_WORDS.get(rule.kind, rule.kind)}: "
        f"{rule.measure} = {record.value:.7g}, limit {limit:.7g}{learned}"
    )
    advice = ADVICE.get(rule.kind, "")
    return Alarm(record.step, record.layer, record.unit, rule.kind, rule.measure, record.value, limit, message, advice)


def _sentences(alarms: Iterable[Alarm]) -> list[str]:
    """One for each kind and step: the first layer's, and the names of some others."""
    together: dict[tuple[int, str], list[Alarm]] = {}
    for alarm in alarms:
        together.setdefault((alarm.step, alarm.kind), []).append(alarm)
    sentences = []
    for first, *others in together.values():
        names = [repr(alarm.layer) for alarm in others]
        more = f"; so are {', '.join(names[:_NAMED])}" if names else ""
        rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        advice = f". To try: {first.advice}" if first.advice else ""
        sentences.append(f"{first.message}{more}{rest}{advice}")
    return sentences
