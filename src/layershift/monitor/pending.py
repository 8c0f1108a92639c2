"""Numbers that a device may still be computing, on their way to the store: one copy a step, waited for by nobody."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from layershift.monitor.store import Record

if TYPE_CHECKING:
    from layershift.measure import Estimate


class _Rows(NamedTuple):
    """Records that differ in their unit and numbers: what they share, their units, and a tensor for each field."""

    shared: Record
    units: Sequence[int | None]
    numbers: dict[str, Tensor]


class _Flight(NamedTuple):
    """Records of which the host has some tensors' numbers, and others, with their places in a copy, are under way.

    `arrived` is None where copying waits by itself.
    """

    rows: list[_Rows]
    numbers: dict[int, list[float]]
    places: dict[int, slice]
    buffer: Tensor | None
    arrived: torch.Event | None


class Pending:
    """Collects numbers as tensors, copies them to the host together, and hands them back as records."""

    def __init__(self) -> None:
        self._rows: list[_Rows] = []
        self._known: list[Record] = []  # numbers that were on the host from the start
        self._flights: list[_Flight] = []

    def add(self, record: Record, value: Tensor) -> None:
        """Add a record whose value is a tensor of one element."""
        self._rows.append(_Rows(record, [None], {"value": value.detach().clone()}))

    def add_estimate(self, record: Record, estimate: Estimate, units: Sequence[int]) -> None:
        """Add an estimate: of a whole layer, if it is a scalar, else of these units."""
        known: Sequence[int | None] = units if estimate.value.dim() else [None]
        shared = record._replace(estimator=estimate.estimator, units=estimate.units)
        bracket = {"lower": estimate.lower, "upper": estimate.upper}
        numbers = {"value": estimate.value, "stderr": estimate.stderr, "n": estimate.n}
        numbers |= {field: bound for field, bound in bracket.items() if bound is not None}
        self._rows.append(_Rows(shared, known, numbers))
        if estimate.floor is not None:
            floor = shared._replace(measure=f"{shared.measure}_floor", estimator="its average at N(0, I) and this n")
            self._rows.append(_Rows(floor, known, {"value": estimate.floor, "n": estimate.n}))
        if estimate.seconds is not None:
            seconds = Record(shared.step, shared.layer, f"{shared.measure}_seconds", estimate.seconds, units="s")
            self._known.append(seconds)

    def send(self) -> None:
        """Start copying what was added."""
        if not self._rows:
            return
        # Each once, though many estimates share one tensor of sample sizes.
        tensors = list({id(tensor): tensor for rows in self._rows for tensor in rows.numbers.values()}.values())
        numbers = {id(tensor): _listed(tensor) for tensor in tensors if tensor.device.type == "cpu"}
        rows, self._rows = self._rows, []
        self._flights.append(_Flight(rows, numbers, *_copy_to_host([t for t in tensors if t.device.type != "cpu"])))

    def ready(self) -> bool:
        """Whether something has been sent, and all of it has arrived."""
        return bool(self._flights) and all(f.arrived is None or f.arrived.query() for f in self._flights)

    def collect(self) -> list[Record]:
        """Everything added since the last call, as records; waits for what has not arrived."""
        self.send()
        flights, self._flights = self._flights, []
        known, self._known = self._known, []
        return [record for flight in flights for record in _records(flight)] + known


def _listed(tensor: Tensor) -> list[float]:
    numbers = (tensor if tensor.is_floating_point() else tensor.double()).tolist()
    return numbers if isinstance(numbers, list) else [numbers]


def _copy_to_host(tensors: Sequence[Tensor]) -> tuple[dict[int, slice], Tensor | None, torch.Event | None]:
    """All of them in one copy, each one's place in it, and what tells when it is there."""
    if not tensors:
        return {}, None, None
    device = tensors[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    flat = torch.cat([tensor.reshape(-1).to(device, wide, non_blocking=True) for tensor in tensors])
    ends = list(itertools.accumulate(tensor.numel() for tensor in tensors))
    places = {id(tensor): slice(end - tensor.numel(), end) for tensor, end in zip(tensors, ends, strict=True)}
    if not flat.is_cuda:
        return places, flat.cpu(), None
    buffer = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True).copy_(flat, non_blocking=True)
    arrived = torch.Event(flat.device)
    arrived.record(torch.cuda.current_stream(flat.device))
    return places, buffer, arrived


def _records(flight: _Flight) -> Iterator[Record]:
    if flight.arrived is not None:
        flight.arrived.synchronize()
    numbers = flight.numbers
    if flight.buffer is not None:
        copied = flight.buffer.tolist()
        numbers = numbers | {tensor: copied[place] for tensor, place in flight.places.items()}
    known: dict[tuple[str, int], Sequence[Any]] = {}  # many records share one tensor of sample sizes
    for shared, units, tensors in flight.rows:
        columns: dict[str, Sequence[Any]] = {"unit": units}
        for field, tensor in tensors.items():
            key = (field, id(tensor))
            if key not in known:
                known[key] = _known(field, numbers[id(tensor)])
            columns[field] = known[key]
        # A field's number for each unit, or what all share: built by position, since there may be a thousand a step.
        alike = zip(Record._fields, shared, strict=True)
        fields = [columns.get(field) or itertools.repeat(common, len(units)) for field, common in alike]
        yield from map(Record._make, zip(*fields, strict=True))


def _known(field: str, numbers: list[float]) -> Sequence[float | None]:
    """The value alone may be NaN: of others, NaN says that they are not known."""
    if field == "value":
        return numbers
    if field == "n":
        return [None if number != number else int(number) for number in numbers]
    return [None if number != number else number for number in numbers]
