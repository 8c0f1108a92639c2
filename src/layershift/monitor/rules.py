"""When a number is alarming: past a fixed limit, or outside of what the run itself has shown in its beginning."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, NamedTuple, Protocol, TypeAlias

from layershift._checks import check, check_choice, check_count, check_number, check_type
from layershift.monitor.store import Record

Direction: TypeAlias = Literal["above", "below"]
_CALM = 0.2
_ESTIMATORS = ("sliced", "exact", "gaussian", "critic")
_SIGMA = 1.4826  # standard deviations of a normal in one median absolute deviation


class Limits(NamedTuple):
    """Where an episode begins, and where it ends: between the two nothing changes, so that noise cannot ring twice.

    Attributes:
        limit: passing it raises an alarm.
        clear: an alarm that was raised is over on the other side of it.
    """

    limit: float
    clear: float


class Normal(NamedTuple):
    """What is normal for a series.

    Attributes:
        centre: the median of what was learned; on a log scale its logarithm.
        spread: a robust standard deviation on the same scale.
    """

    centre: float
    spread: float


class Rule(Protocol):
    """What `layershift.monitor.Alarms` asks of a rule; `Threshold` and `Learned` are two.

    Attributes:
        measure: which records it judges, by their measure.
        kind: what it finds, such as `"dead"`; the advice goes by it.
        direction: on which side of the limit the trouble is.
        patience: how many measured steps in a row must pass the limit before an alarm is raised, or be clear of it
            before it is over.
        learn: how many measured steps it learns from, 0 for none, None for as many as the alarms say.
        units: whether it judges single units too, or only whole layers.
    """

    @property
    def measure(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def direction(self) -> Direction: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102
    @property
    def learn(self) -> int | None: ...  # noqa: D102
    @property
    def units(self) -> bool: ...  # noqa: D102

    def concerns(self, record: Record) -> bool:
        """Whether it judges this record, which is of its measure."""
        ...

    def normal(self, seen: Sequence[float]) -> Normal | None:
        """What a series has shown while learning; None if that tells nothing."""
        ...

    def limits(self, own: Normal | None, typical: float | None) -> Limits | None:
        """Its limits for a series that is `own`, in a network where `typical` is the median centre; None for none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A fixed limit.

    Args:
        measure: which records it judges.
        kind: what it finds.
        above: numbers above it are alarming.
        below: numbers below it are; give one of the two.
        patience: for so many measured steps in a row.
        units: judge single units too.
        applies: which records it judges, if not all of its measure.

    Raises:
        ValueError: unless exactly one limit is given, and `patience` is at least 1.

    Example:
        >>> Threshold(measure="dead", kind="dead", above=0.5).limits(None, None)
        Limits(limit=0.5, clear=0.4)
    """

    measure: str
    kind: str
    above: float | None = None
    below: float | None = None
    patience: int = 1
    units: bool = False
    applies: Callable[[Record], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("measure", "kind"):
            check_type(name, getattr(self, name), str, "a name")
        for name in ("above", "below"):
            check_type(name, getattr(self, name), (Real, type(None)), "a number, or None")
        given = [limit for limit in (self.above, self.below) if limit is not None and not math.isnan(limit)]
        check(len(given) == 1, "above, below", "a number for one of them", (self.above, self.below))
        check_count("patience", self.patience, "a number of steps, 1 or more")

    @property
    def direction(self) -> Direction:
        """On which side of the limit the trouble is."""
        return "below" if self.above is None else "above"

    @property
    def learn(self) -> int:
        """There is nothing to learn."""
        return 0

    def concerns(self, record: Record) -> bool:
        """Whether `applies` says so."""
        return self.applies is None or self.applies(record)

    def normal(self, seen: Sequence[float]) -> Normal | None:  # noqa: ARG002
        """Nothing."""
        return None

    def limits(self, own: Normal | None, typical: float | None) -> Limits:  # noqa: ARG002
        """The limit; a fifth of it away an episode is over."""
        if self.above is not None:
            return Limits(self.above, self.above - _CALM * abs(self.above))
        assert self.below is not None
        return Limits(self.below, self.below + _CALM * abs(self.below))


@dataclass(frozen=True, kw_only=True)
class Learned:
    r"""A limit that is learned from the first measured steps of a run, for each layer by itself.

    With the median $m$ and the robust standard deviation $s$ (1.4826 times the median absolute deviation) of the first
    `learn` numbers of a series, on a log scale by default, the limit lies `sigmas` times $s$ beyond $m$, and at least
    by `least`: a factor on a log scale, a difference on a linear one. The limit is put as far beyond the median of all
    layers' $m$, if that is further: a layer that starts at 0 is not in trouble because it grows to be like the others.
    An episode is over half way back to $m$.

    Args:
        measure: which records it judges.
        kind: what it finds.
        direction: on which side the trouble is.
        least: how far away the limit is at least.
        sigmas: how many standard deviations away it is.
        scale: `"log"` for positive numbers that vary by factors; numbers that are not positive are not learned from.
        patience: for so many measured steps in a row.
        learn: from how many measured steps; None for as many as `Alarms` says.
        units: judge single units too.
        applies: which records it judges, if not all of its measure.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> rule = Learned(measure="rms", kind="exploding", direction="above", least=100)
        >>> limit = rule.limits(rule.normal([1.0, 2.0, 1.9, 2.1, 2.0]), None).limit
        >>> round(limit)
        200
    """

    measure: str
    kind: str
    direction: Direction
    least: float
    sigmas: float = 6.0
    scale: Literal["log", "linear"] = "log"
    patience: int = 1
    learn: int | None = None
    units: bool = False
    applies: Callable[[Record], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("measure", "kind"):
            check_type(name, getattr(self, name), str, "a name")
        check_choice("direction", self.direction, ("above", "below"))
        check_choice("scale", self.scale, ("log", "linear"))
        smallest, word = (1, "a factor above 1") if self.scale == "log" else (0, "a positive difference")
        check_number("least", self.least, word, above=smallest)
        check_number("sigmas", self.sigmas, "a number, 0 or more", least=0)
        check_count("patience", self.patience, "a number of steps, 1 or more")
        if self.learn is not None:
            check_count("learn", self.learn, "a number of steps, 1 or more, or None")

    def concerns(self, record: Record) -> bool:
        """Whether `applies` says so."""
        return self.applies is None or self.applies(record)

    def normal(self, seen: Sequence[float]) -> Normal | None:
        """Median and robust standard deviation of those numbers that are on the scale."""
        log = self.scale == "log"
        known = [math.log(x) if log else x for x in seen if math.isfinite(x) and (x > 0 or not log)]
        if not known:
            return None
        centre = statistics.median(known)
        return Normal(centre, _SIGMA * statistics.median(abs(x - centre) for x in known))

    def limits(self, own: Normal | None, typical: float | None) -> Limits | None:
        """The limits of a series; None as long as nothing is known of any."""
        sign = 1 if self.direction == "above" else -1
        centres = [sign * x for x in (None if own is None else own.centre, typical) if x is not None]
        if not centres:
            return None
        centre = sign * max(centres)
        least = math.log(self.least) if self.scale == "log" else self.least
        away = sign * max(least, self.sigmas * (0 if own is None else own.spread))
        found = Limits(centre + away, centre + away / 2)
        return Limits(*map(_exp, found)) if self.scale == "log" else found


def default_rules() -> list[Rule]:
    """The rules of `layershift.monitor.Alarms`, for the measures health, moments and shift; they can be added to."""

    def several(record: Record) -> bool:
        """Of one to three units, one direction is not suspicious; the upper bound of a rank is their number."""
        return record.upper is None or record.upper >= 4

    def not_zero(record: Record) -> bool:
        """A layer all of whose outputs are 0 is dead."""
        return record.value > 0

    return [
        Threshold(measure="nonfinite", kind="nonfinite", above=0),
        Threshold(measure="rms", kind="exploding", above=1e6),
        Learned(measure="rms", kind="exploding", direction="above", least=1e3),
        Learned(measure="variance", kind="exploding", direction="above", least=1e6),
        Threshold(measure="rms", kind="vanishing", below=1e-10, patience=3, applies=not_zero),
        Learned(measure="rms", kind="vanishing", direction="below", least=1e2, patience=3, applies=not_zero),
        Threshold(measure="dead", kind="dead", above=0.75, patience=3),
        Threshold(measure="saturated", kind="saturated", above=0.5, patience=3),
        Threshold(measure="collapsed", kind="collapsed", above=1 - 1e-6, patience=3),
        # Networks that learn one direction after another pass through rank one; staying there is another matter.
        Threshold(measure="effective_rank", kind="collapsed", below=1.001, patience=5, applies=several),
        Threshold(measure="effective_rank", kind="collapsed", below=1.02, patience=25, applies=several),
        Learned(measure="effective_rank", kind="collapsed", direction="below", least=10, patience=10, applies=several),
        *(Learned(measure=f"shift/{name}", kind="shift", direction="above", least=10) for name in _ESTIMATORS),
    ]


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf
