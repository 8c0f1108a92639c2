"""Where records go besides the store: dashboards, told of each measured step, which must never stop the training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from layershift._checks import check_type
from layershift.monitor.store import Record


@runtime_checkable
class Sink(Protocol):
    """Something that takes records; `layershift.integrations` has some for well-known dashboards.

    A sink may also have `write_alarms(alarms)`, called with the alarms that a step raised.

    Example:
        >>> class Printer:
        ...     def write(self, records):
        ...         print(*(f"{r.step} {r.layer} {r.measure} {r.value}" for r in records))
        ...     def close(self):
        ...         pass
        >>> isinstance(Printer(), Sink)
        True
    """

    def write(self, records: Sequence[Record]) -> None:
        """Take the records of a measured step; called by one process alone."""
        ...

    def close(self) -> None:
        """The monitor is closed; nothing comes any more."""
        ...


class Sinks:
    """Several sinks as one. A sink that fails is dropped with one warning; the others, and the training, go on.

    Args:
        sinks: in the order in which they are told.

    Raises:
        TypeError: if one of them is no sink.

    Example:
        >>> class Broken:
        ...     def write(self, records):
        ...         raise OSError("no route to host")
        ...     def close(self):
        ...         pass
        >>> sinks = Sinks([Broken()])
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     sinks.write([Record(0, "relu1", "mean", 0.4)])
        >>> len(sinks), str(caught[0].message)
        (0, 'Broken: no route to host; this sink gets no more records, the store and the training go on')
    """

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        check_type("sinks", sinks, (list, tuple), "a sequence of sinks")
        for sink in sinks:
            if not isinstance(sink, Sink) or isinstance(sink, type):
                raise TypeError(f"sinks: expected objects with write(records) and close(), got {_name(sink)}")
        self._sinks = list(sinks)

    def write(self, records: Sequence[Record]) -> None:
        """Hand records on, if there are any."""
        if records:
            self._tell(lambda sink: sink.write(records))

    def write_alarms(self, alarms: Sequence[Any]) -> None:
        """Hand alarms on to those sinks that take them."""
        if alarms:
            self._tell(lambda sink: getattr(sink, "write_alarms", _nothing)(alarms))

    def close(self) -> None:
        """Close them all; those that were dropped were closed then."""
        self._tell(lambda sink: sink.close())
        self._sinks = []

    def __len__(self) -> int:
        return len(self._sinks)

    def _tell(self, action: Callable[[Sink], object]) -> None:
        for sink in list(self._sinks):
            try:
                action(sink)
            except Exception as error:
                self._sinks.remove(sink)
                reason = " ".join(str(error).split()) or type(error).__name__
                warnings.warn(
                    f"{_name(sink)}: {reason}; this sink gets no more records, the store and the training go on",
                    RuntimeWarning,
                    stacklevel=3,
                )
                _close_quietly(sink)


def _close_quietly(sink: Sink) -> None:
    """Let go of what a broken sink still holds; that this fails too is nothing new."""
    try:
        sink.close()
    except Exception:
        return


def _nothing(_alarms: Sequence[Any]) -> None:
    """What a sink without alarms does with them."""


def _name(sink: object) -> str:
    return sink.__name__ if isinstance(sink, type) else type(sink).__name__
