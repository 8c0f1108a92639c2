"""Numbers on their way to the store arrive where they belong."""

from __future__ import annotations

import math

import torch

from layershift.measure import Estimate
from layershift.monitor import Record
from layershift.monitor.pending import Pending


def test_each_number_arrives_at_its_record_whatever_shares_a_tensor() -> None:
    n, sizes = torch.tensor(7.0), torch.tensor([5, 6])
    whole = Estimate(torch.tensor(1.5), torch.tensor(math.nan), n, torch.tensor(1.0), torch.tensor(2.0), floor=n)
    units = Estimate(torch.tensor([2.5, math.nan]).double(), torch.tensor([0.5, 0.25]), sizes, units="x")
    pending, record = Pending(), Record(3, "relu", "mean", 0.0)
    pending.add_estimate(record, whole, [])
    pending.add_estimate(record, units, [0, 9])
    pending.add_estimate(record._replace(layer="conv"), units._replace(value=sizes), [0, 9])
    pending.add(record._replace(layer="", measure="loss"), torch.tensor(4.0))
    pending.send()
    assert pending.ready()
    found = [(r.layer, r.measure, r.unit, r.value, r.stderr, r.n, r.lower, r.upper) for r in pending.collect()]
    assert str(found[3][3]) == "nan"  # which equals nothing
    found[3] = (*found[3][:3], None, *found[3][4:])
    assert found == [
        ("relu", "mean", None, 1.5, None, 7, 1.0, 2.0),
        ("relu", "mean_floor", None, 7.0, None, 7, None, None),
        ("relu", "mean", 0, 2.5, 0.5, 5, None, None),
        ("relu", "mean", 9, None, 0.25, 6, None, None),
        ("conv", "mean", 0, 5.0, 0.5, 5, None, None),
        ("conv", "mean", 9, 6.0, 0.25, 6, None, None),
        ("", "loss", None, 4.0, None, None, None, None),
    ]
    assert pending.collect() == []


def test_large_sample_sizes_are_exact() -> None:
    n = torch.tensor(2**24 + 1)
    pending = Pending()
    pending.add_estimate(Record(0, "relu", "mean", 0.0), Estimate(torch.tensor(1.0), torch.tensor(1.0), n), [])
    assert [r.n for r in pending.collect()] == [2**24 + 1]
