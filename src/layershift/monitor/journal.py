"""Where a monitor's records go: into the store first, then to the alarms, then to the sinks."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import torch

from layershift._checks import check_choice, check_type
from layershift.monitor.alarms import Alarms, StopTraining
from layershift.monitor.metrics import distributed
from layershift.monitor.sink import Sink, Sinks
from layershift.monitor.store import Record, Store


class Journal:
    """A store with alarms and sinks; of several processes, the first alone writes, judges and tells.

    Args:
        store: the path of a store (continued, if it exists), an open `Store`, or None for memory.
        alarms: what judges the records, or what the usual rules shall do; None for no judgement.
        sinks: who is told.

    Attributes:
        stop: with several processes, what an alarm asks for that the others have yet to hear of.
    """

    def __init__(
        self, store: str | Path | Store | None, alarms: Alarms | Literal["warn", "stop"] | None, sinks: Sequence[Sink]
    ) -> None:
        if isinstance(alarms, str):
            check_choice("alarms", alarms, ("warn", "stop"))
            alarms = Alarms(action=alarms)
        check_type("alarms", alarms, (Alarms, type(None)), "'warn', 'stop', Alarms or None")
        self._alarms = Alarms([]) if alarms is None else alarms
        self._owned = not isinstance(store, Store)
        check_type("store", store, (str, PathLike, Store, type(None)), "a path, a Store, or None")
        if not isinstance(store, Store):
            store = Store(":memory:" if store is None or not _first() else store)
            self._alarms.replay(store)
        self.store = store
        if _first() and self._alarms.rules:  # so that a reader knows that silence means something
            store.set_meta("alarms", sorted({rule.kind for rule in self._alarms.rules}))
        self._sinks = Sinks(sinks if _first() else ())
        self.stop: StopTraining | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Write, judge and tell.

        Raises:
            StoreError: if they cannot be written.
            StopTraining: if an alarm asks for it and there is but one process.
        """
        if not records or not _first():
            return
        self.store.write(records)
        alarms = self._alarms.observe(records)
        if alarms:
            self.store.write_alarms(alarms)
        self._sinks.write(records)
        self._sinks.write_alarms(alarms)
        try:
            self._alarms.act(alarms)
        except StopTraining as stop:
            if not distributed():
                raise
            self.stop = stop

    def close(self) -> None:
        """Close the sinks, and the store unless it was given open."""
        self._sinks.close()
        if self._owned:
            self.store.close()


def _first() -> bool:
    return not distributed() or torch.distributed.get_rank() == 0
