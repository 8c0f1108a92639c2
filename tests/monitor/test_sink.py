"""A sink that fails costs one warning, and nothing else."""

from __future__ import annotations

import warnings

import pytest

from layershift.monitor.sink import Sink, Sinks
from layershift.monitor.store import Record

RECORDS = [Record(0, "relu1", "mean", 0.4)]


class Kept:
    def __init__(self) -> None:
        self.records, self.alarms, self.closed = [], [], 0

    def write(self, records) -> None:
        self.records += records

    def write_alarms(self, alarms) -> None:
        self.alarms += alarms

    def close(self) -> None:
        self.closed += 1


class Broken(Kept):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def write(self, records) -> None:
        raise self.error


class Plain:
    def write(self, records) -> None:
        pass

    def close(self) -> None:
        raise OSError("the file is gone")


def test_every_sink_gets_records_and_alarms() -> None:
    first, second = Kept(), Kept()
    sinks = Sinks([first, Plain(), second])
    sinks.write(RECORDS)
    sinks.write([])
    sinks.write_alarms(["relu1 is dead"])
    assert first.records == second.records == RECORDS
    assert first.alarms == second.alarms == ["relu1 is dead"]
    with pytest.warns(RuntimeWarning, match="Plain: the file is gone"):
        sinks.close()
    assert (first.closed, second.closed, len(sinks)) == (1, 1, 0)


def test_a_broken_sink_is_dropped_with_one_warning_and_closed() -> None:
    broken, kept = Broken(ConnectionError("no route\nto host")), Kept()
    sinks = Sinks([broken, kept])
    with pytest.warns(RuntimeWarning, match="Broken: no route to host; this sink gets no more records") as caught:
        sinks.write(RECORDS)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sinks.write(RECORDS)
        sinks.close()
    assert (kept.records, broken.closed, kept.closed) == (RECORDS * 2, 1, 1)


def test_ctrl_c_inside_a_sink_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        Sinks([Broken(KeyboardInterrupt())]).write(RECORDS)


@pytest.mark.parametrize("wrong", [print, Kept, "run.db", None])
def test_what_is_no_sink_is_an_error(wrong) -> None:
    with pytest.raises(TypeError, match=r"sinks: expected objects with write\(records\) and close\(\), got"):
        Sinks([wrong])
    assert isinstance(Kept(), Sink)
