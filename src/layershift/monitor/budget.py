"""What measuring costs, counted by the monitor itself, and how often it may measure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from layershift._checks import check_number

_FREE_SECONDS = 1.0


class Cost(NamedTuple):
    """What a monitor has cost.

    Attributes:
        seconds: spent on measuring and writing so far.
        share: that, as a share of the time since the first step began; NaN before it.
        measured: how many steps were measured.
        skipped: how many steps were due and not measured, to stay within the budget.
    """

    seconds: float
    share: float
    measured: int
    skipped: int


class Budget:
    """Counts the time that measuring takes, and says whether the next step that is due may be measured.

    It may if, with another measurement as dear as the last, the time spent stays below `share` of the time since the
    first step, plus one second: short runs are measured whenever it is due.

    On a GPU the queue's time between the begin and the end of measuring is counted where it exceeds the host's; it is
    read when it has passed, without waiting.

    Args:
        share: the part of the run's time that may be spent; None for as much as it takes.

    Example:
        >>> budget = Budget(0.02)
        >>> with budget.spending():
        ...     pass
        >>> budget.allows(), budget.cost.skipped
        (True, 0)
    """

    def __init__(self, share: float | None) -> None:
        if share is not None:
            check_number("budget", share, "a share of time in (0, 1], or None", above=0, most=1)
        self.share = share
        self._begin: float | None = None
        self._seconds = 0.0  # of finished steps
        self._step = 0.0  # of the step that is being measured
        self._last = 0.0
        self._measured = self._skipped = self._depth = 0
        self._queued: list[tuple[torch.Event, torch.Event, float]] = []

    @contextmanager
    def spending(self, device: torch.device | None = None) -> Iterator[None]:
        """Count the time inside; contexts inside contexts count once."""
        start = time.perf_counter()
        self._begin = start if self._begin is None else self._begin
        events = _events(device) if self._depth == 0 else None
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                seconds = time.perf_counter() - start
                self._step += seconds
                if events is not None:
                    events[1].record()
                    self._queued.append((*events, seconds))

    def finish_step(self) -> None:
        """A step has been measured."""
        self._measured += 1
        self._read_events()
        self._seconds, self._last, self._step = self._seconds + self._step, self._step, 0.0

    def allows(self) -> bool:
        """Whether a step that is due may be measured."""
        if self.share is None or self._begin is None:
            return True
        self._read_events()
        spent = self._seconds + self._step + self._last
        return spent <= self.share * (time.perf_counter() - self._begin) + _FREE_SECONDS

    def skip(self) -> None:
        """A step that was due was not measured."""
        self._skipped += 1

    @property
    def last_seconds(self) -> float:
        """What the last measured step cost."""
        return self._last

    @property
    def cost(self) -> Cost:
        """What has been spent so far."""
        seconds = self._seconds + self._step
        elapsed = float("nan") if self._begin is None else time.perf_counter() - self._begin
        return Cost(seconds, seconds / elapsed, self._measured, self._skipped)

    def _read_events(self) -> None:
        """Where the GPU was busy for longer than the host, count that."""
        while self._queued and self._queued[0][1].query():
            begin, end, host = self._queued.pop(0)
            self._seconds += max(begin.elapsed_time(end) / 1e3 - host, 0.0)


def _events(device: torch.device | None) -> tuple[torch.Event, torch.Event] | None:
    if device is None or device.type != "cuda":
        return None
    begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    begin.record()
    return begin, end
