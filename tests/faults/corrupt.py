"""Damage to every file that is read back: it is refused by name, or read as written, and never overwritten."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.faults import samples
from tests.faults.damage import WAYS, damaged, other_value
from tests.faults.outcome import Counts, Fault, is_ours, judged, same
from tests.faults.samples import Sample, plain, records

from layershift.monitor.store import Store, open_store
from layershift.probe.cache import keep_features


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        make: writes a good one.
        full: how many are damaged in the full form.
        json: whether single values are exchanged as well.
        sums: whether the format has checksums, so that other content must be noticed.
    """

    make: Callable[[Path], Sample]
    full: int
    json: bool = False
    sums: bool = False


KINDS = {
    "store": Kind(samples.store, 2400),
    "store, for the report": Kind(samples.store_report, 500),
    "store, for the live view": Kind(samples.store_watch, 500),
    "log of a killed writer": Kind(samples.store_log, 500),
    "checkpoint": Kind(samples.checkpoint, 1700, sums=True),
    "configuration": Kind(samples.configuration, 900),
    "recipe": Kind(samples.recipe, 300),
    "results of a probe": Kind(samples.probe_page, 500, json=True),
    "results of an experiment": Kind(samples.flow_page, 500, json=True),
    "layer outputs": Kind(samples.outputs, 500, sums=True),
    "classifiers of a probe": Kind(samples.probe_state, 300, sums=True),
    "early exit": Kind(samples.early_exit, 300, sums=True),
}
WRITTEN, FEATURES = 800, 300
"""How many stores are written to after damage, and how many features are used again, in the full form."""
SHORT = 0.03
"""The part of these numbers that the short form tries."""


def size(full: int, *, whole: bool) -> int:
    """How many cases of a kind."""
    return full if whole else max(round(SHORT * full), 5)


def corrupt(kind: str, seed: int, full: bool) -> Counts:
    """Damage a file, read it, and see that it was read aright or refused, and left as it was."""
    made, random, counts = KINDS[kind], Random(f"{kind} {seed}"), Counts()
    ways = {**WAYS, "another value": other_value} if made.json else WAYS
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        sample = made.make(Path(name))
        good = sample.file.read_bytes()
        right = sample.read()
        for case in range(size(made.full, whole=full)):
            way, bad = damaged(good, random, ways=ways)
            _put(sample.file, bad)
            altered = False
            with judged(counts, f"{kind}, case {case}, {way}", _name(sample)), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                altered = not same(sample.read(), right)
            if altered:
                counts.right, counts.altered = counts.right - 1, counts.altered + (not made.sums)
            if altered and made.sums:
                counts.fail(f"{kind}, case {case}, {way}: other content was not noticed")
            if not sample.file.name.endswith("-wal") and sample.file.read_bytes() != bad:
                counts.lost += 1
                counts.notes.append(f"{kind}, case {case}: the damaged file was changed by reading it")
    return counts


def _name(sample: Sample) -> str:
    return sample.names or sample.file.name.removesuffix("-wal")


def _put(file: Path, content: bytes) -> None:
    """Write a file, and take away what readers of the last one left beside it."""
    file.write_bytes(content)
    if file.name.endswith(".db"):
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    elif file.name.endswith("-wal"):
        file.with_name(file.name.removesuffix("-wal") + "-shm").unlink(missing_ok=True)


def written(seed: int, full: bool) -> Counts:
    """Records that are accepted by a damaged store can be read; a store that cannot keep them says so at once."""
    random, counts, new = Random(f"written {seed}"), Counts(), records(range(100, 104))
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        sample = samples.store(Path(name))
        good, right = sample.file.read_bytes(), sample.read()
        for case in range(size(WRITTEN, whole=full)):
            way, bad = damaged(good, random)
            _put(sample.file, bad)
            what, accepted, found = f"written to, case {case}, {way}", False, []
            with judged(counts, what, sample.file.name), Store(sample.file) as store:
                store.write(new)
                accepted = True
            if not accepted:
                continue
            try:
                with open_store(sample.file) as store:
                    found = [tuple(record) for record in store.records()]
            except Exception as error:
                counts.notes.append(f"{what}: accepted, then {'refused' if is_ours(error) else error!r}")
            lost = sum(not any(same(tuple(record), other) for other in found) for record in new)
            counts.lost += lost
            known = {(*record[:3], record.unit) for record in new}
            older = [record for record in found if (*record[:3], record[6]) not in known]
            if lost or not same(older, right[3]):
                counts.right, counts.altered = counts.right - 1, counts.altered + 1
    return counts


def features(seed: int, full: bool) -> Counts:
    """Features whose files are damaged are made anew."""
    random, counts = Random(f"features {seed}"), Counts()
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        folder = Path(name)
        extract, data = samples.extractor()

        def read() -> object:
            kept = keep_features(extract, data, folder=folder)
            assert kept is not None
            return plain(kept.layers), plain(kept.targets)

        right = read()
        for case in range(size(FEATURES, whole=full)):
            file = random.choice(sorted(folder.iterdir()))
            way, bad = damaged(file.read_bytes(), random)
            file.unlink()  # and not written over: the last features may still be mapped
            file.write_bytes(bad)
            with judged(counts, f"features, case {case}, {file.name}, {way}"):
                assert same(read(), right), "other features than the network's"
    return counts


FAULTS: dict[str, Fault] = {
    **{f"damaged {kind}": partial(corrupt, kind) for kind in KINDS},
    "damaged store, written to": written,
    "damaged features, used again": features,
}
