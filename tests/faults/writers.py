"""Two processes that write to one store at once, and two that train in one folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

from tests.faults.children import finish, inside, start
from tests.faults.kills import CONFIG
from tests.faults.outcome import Counts, judged

from layershift.monitor.store import Record, Store, open_store
from layershift.train import train
from layershift.train.folder import folder_of
from layershift.train.lock import locked

STEPS = 60


def write(path: Path, own: int, go: float, announce: int) -> None:
    """Open a store at a moment, the same for all, and write; some series are this process's, some are everybody's."""
    while time.time() < go:
        pass
    with Store(path) as store:
        for step in range(STEPS):
            rows = [Record(step, f"layer{own}", m, own + step / 100, estimator=f"by {own}") for m in ("mean", "rms")]
            store.write([*rows, Record(STEPS * own + step, "", "shared", float(own))])
            store.set_meta(f"step{own}", step)
    os.write(announce, b"done")


def two_writers(seed: int, full: bool) -> Counts:
    """All that each process was told to be written is there, once; the second to train in a folder is refused."""
    random, counts = Random(f"writers {seed}"), Counts()
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        for case in range(40 if full else 4):
            path, many = Path(name) / f"{case}.db", random.choice((2, 2, 3))
            with judged(counts, f"store, case {case}"):
                if random.random() < 0.5:
                    Store(path).close()  # otherwise both make it
                go = time.time() + 0.05
                running = [start(partial(write, path, own, go)) for own in range(many)]
                for child, reading in running:
                    said = finish(child, reading)
                    assert said == b"done", said.decode()[-500:]
                with open_store(path) as store:
                    rows, meta = store.records(), store.meta
                found = Counter((r.layer, r.measure, r.step) for r in rows)
                counts.lost += max(0, 3 * STEPS * many - len(found))
                assert len(found) == len(rows) == 3 * STEPS * many, f"{len(rows)} records of {3 * STEPS * many}"
                wrong = [r for r in rows if r.layer and int(r.value) != int(r.layer.removeprefix("layer"))]
                assert not wrong, f"{len(wrong)} numbers in another one's series"
                assert meta == {f"step{own}": STEPS - 1 for own in range(many)}, "facts are missing"
        with locked(folder_of(CONFIG, name).lock, what="a run"):
            kind, message = inside(partial(refusal, Path(name)))
        if kind == "RunError" and "a run is at work here" in message:
            counts.refused += 1
        else:
            counts.fail(f"two trainings: {kind}: {message}")
    return counts


def refusal(out: Path) -> tuple[str, str]:
    """How a training in this process is refused."""
    try:
        return "trained", str(train(CONFIG, out))
    except Exception as error:
        return type(error).__name__, str(error)
