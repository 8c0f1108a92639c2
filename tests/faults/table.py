"""All faults that are tried: name, what is done and must hold, and the function that tries it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.faults import clock, corrupt, disk, hostile, kills, nonfinite, pickles, workers, writers
from tests.faults.outcome import Fault


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        what: is done, and must hold, in a sentence.
        run: tries it.
    """

    what: str
    run: Fault


_DAMAGED = {
    "store": "`open_store` and everything it reads",
    "store, for the report": "what the report makes tables of",
    "store, for the live view": "what `layershift watch` shows",
    "log of a killed writer": "`run.db-wal` is damaged; whole writes are read, or none",
    "checkpoint": "`last.ckpt`, before a run continues from it",
    "configuration": "`config.yaml`, before a run continues or is loaded",
    "recipe": "a recipe of one's own",
    "results of a probe": "`probe.json`, from file to page; values of other types too",
    "results of an experiment": "`flow.json`, from file to page; values of other types too",
    "layer outputs": "`LayerOutputs.load`",
    "classifiers of a probe": "`Probe.load`",
    "early exit": "`EarlyExit.load`",
}

FAULTS: Mapping[str, Entry] = {
    "killed training": Entry(
        "`layershift train`, killed up to three times and resumed: weights and records as without", kills.training
    ),
    "killed grid": Entry(
        "the worker of `layershift reproduce`: finished trials are kept, the table is the same",
        kills.grid,
    ),
    "killed worker": Entry(
        "of a sweep, once or twice in each run: Ray starts it again, weights and records as without", workers.workers
    ),
    "killed writer": Entry("of a store: each accepted step is there and whole; another goes on", kills.writer),
    "full disk": Entry("stores, runs, pages and probes; with more room they go on", disk.full_disk),
    "read-only folder": Entry("is read; whoever wants to write is told", disk.read_only),
    "two writers": Entry("on one store, new or not; two trainings in one folder", writers.two_writers),
    "clock set back": Entry("by a minute to ten years: monitor, store, live view, run and report", clock.clock),
    "NaN or infinity": Entry("in a random layer at a random step: the first alarm names both", nonfinite.nonfinite),
    "pickle in a file": Entry("wherever a file is loaded: refused, and nothing of it is called", pickles.pickles),
    "hostile names": Entry("on pages of runs, probes and experiments: text stays text", hostile.hostile),
    **{f"damaged {kind}": Entry(_DAMAGED[kind], corrupt.FAULTS[f"damaged {kind}"]) for kind in corrupt.KINDS},
    "damaged store, written to": Entry("what is accepted can be read", corrupt.FAULTS["damaged store, written to"]),
    "damaged features": Entry("are made anew", corrupt.FAULTS["damaged features, used again"]),
}
