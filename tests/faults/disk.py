"""A disk that is full, and a folder that cannot be written."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from tests.faults import samples
from tests.faults.children import can_mount, inside, limit_files, mount, own_mounts
from tests.faults.kills import CONFIG, recorded, weights
from tests.faults.outcome import Counts, judged, same

from layershift.monitor import Monitor
from layershift.monitor.store import Record, Store, StoreError, open_store
from layershift.probe.cache import keep_features
from layershift.probe.outputs import LayerOutputs
from layershift.report import write_report
from layershift.train import train
from layershift.train.folder import folder_of
from layershift.watch.read import read as watch

can_mount = lru_cache(maxsize=1)(can_mount)


class Disk:
    """A folder whose disk has little room: a file system of its own, or where none can be mounted, limited files."""

    def __init__(self, path: Path) -> None:
        self.path, self.mounted = path, can_mount()
        self.how = "tmpfs" if self.mounted else "RLIMIT_FSIZE"

    def limit(self, size: int) -> None:
        """Begin, in a process of its own."""
        if self.mounted:
            own_mounts()
            mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path))
        else:
            limit_files(size)

    def grow(self) -> None:
        """Make room."""
        if self.mounted:
            mount("-o", "remount,size=64m", str(self.path))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def on_small_disk(
    work: Callable[[Disk, Counts, int], None], size: int, case: int, *, keep: Path | None = None
) -> Counts:
    """Counts of what is done on a disk with room for so many bytes, and first with a copy of what is to be there."""
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        disk = Disk(Path(name))

        def whole() -> Counts:
            counts = Counts(how=disk.how)
            work(disk, counts, case)
            return counts

        def prepare() -> None:
            disk.limit(size)
            if keep is not None:
                shutil.copytree(keep, disk.path, dirs_exist_ok=True)

        found: Counts = inside(whole, prepare)
        return found


def fill_store(disk: Disk, counts: Counts, case: int) -> None:
    """Write until there is no room; all that was accepted is there; with more room writing goes on."""
    path, accepted = disk.path / "run.db", -1

    def step_of(step: int) -> list[Record]:
        return [Record(step, f"layer{i}", "mean", step + i / 10, 0.1, 128) for i in range(50)]

    def missing() -> int:
        with open_store(path) as store:
            steps = [record.step for record in store.records()]
        return sum(50 - steps.count(step) for step in range(accepted + 1))

    with judged(counts, f"store, case {case}", "run.db", must_refuse=True), Store(path) as store:
        for step in range(100_000):
            store.write(step_of(step))
            accepted = step
    if accepted < 0:
        return  # not even the schema had room
    counts.lost += missing()
    disk.grow()
    with judged(counts, f"store, case {case}, with more room"):
        with Store(path) as store:
            store.write(step_of(accepted + 1))
        accepted += 1
        counts.lost += missing()


def fill_open_store(disk: Disk, counts: Counts, case: int) -> None:
    """The same, without closing the store in between."""
    store, accepted = None, -1
    with judged(counts, f"open store, case {case}", "run.db", must_refuse=True):
        store = Store(disk.path / "run.db")
        for step in range(100_000):
            store.write([Record(step, "fc", f"m{i}", step + i / 10, 0.1, 128) for i in range(50)])
            accepted = step
    if store is None:
        return
    disk.grow()
    with judged(counts, f"open store, case {case}, with more room"):
        store.write([Record(accepted + 1, "fc", f"m{i}", 0.0) for i in range(50)])
        steps = [record.step for record in store.records()]
        counts.lost += sum(50 - steps.count(step) for step in range(accepted + 2))
        store.close()


def fill_run(truth: tuple[Any, Any], disk: Disk, counts: Counts, case: int) -> None:
    """Train until there is no room, make room and continue: the end is that of a run with room enough."""
    known: dict[tuple[Any, ...], float] = {}
    done = False
    with judged(counts, f"run, case {case}", str(disk.path)):
        train(CONFIG, disk.path)
        done = True
    if not done and folder_of(CONFIG, disk.path).store.exists():
        try:
            known = recorded(folder_of(CONFIG, disk.path).path)
        except StoreError:  # there was no room for the schema
            known = {}
    disk.grow()
    with judged(counts, f"run, case {case}, with more room"):
        train(CONFIG, disk.path, resume=True)
        found = recorded(folder_of(CONFIG, disk.path).path)
        counts.lost += len((known.keys() | truth[0].keys()) - found.keys())
        assert same(found, truth[0]), "other records than with room enough"
        own = weights(disk.path)
        assert all(torch.equal(value, truth[1][key]) for key, value in own.items()), "other weights"


def fill_page(disk: Disk, counts: Counts, case: int) -> None:
    """Write a page for which there is no room: the one that was there stays."""
    page = disk.path / "report.html"
    page.write_text("the last one")
    before = len(samples.read_store(disk.path / "run.db")[3])
    with judged(counts, f"report, case {case}", "report.html", must_refuse=True):
        write_report(disk.path / "run.db", page)
    with judged(counts, f"report, case {case}, what was there"):
        assert page.read_text() == "the last one", "the last page is gone"
        left = {path.name for path in disk.path.iterdir()} - {"run.db", "run.db-wal", "run.db-shm", "report.html"}
        assert not left, f"{left} is left"
        counts.lost += before - len(samples.read_store(disk.path / "run.db")[3])


def fill_probe(disk: Disk, counts: Counts, case: int) -> None:
    """Write layer outputs and features for which there is no room: nothing of them is left."""
    p = torch.rand(3, 4000, 20)
    names = tuple(map(str, range(4000)))
    outputs = LayerOutputs(
        ("a", "b", "output"), p, torch.ones(4000, 20, dtype=torch.bool), "multi_label", names[:20], names
    )
    with judged(counts, f"outputs, case {case}", "test.npz", must_refuse=True):
        outputs.save(disk.path / "test.npz")
    extract, _ = samples.extractor()
    data = [(torch.randn(8000, 6), torch.zeros(8000, dtype=torch.long))]
    with judged(counts, f"features, case {case}", "features"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = keep_features(extract, data, folder=disk.path / "features")
        assert kept is None, "features were kept where there is no room"
    with judged(counts, f"probe, case {case}, what is left"):
        left = [path for path in disk.path.rglob("*") if path.is_file()]
        assert not left, f"{left} is left"


def full_disk(seed: int, full: bool) -> Counts:
    """Stores, runs, pages and outputs on disks of random sizes that are too small."""
    random, counts = Random(f"disk {seed}"), Counts()
    many = 40 if full else 4
    for case in range(many):
        work = fill_store if case % 2 else fill_open_store
        counts += on_small_disk(work, random.randint(30_000, 600_000), case)
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        whole = Path(name) / "whole"
        inside(lambda: train(CONFIG, whole).state)
        truth = recorded(folder_of(CONFIG, whole).path), weights(whole)
        files = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
        needed = sum(files) if can_mount() else max(files)
        for case in range(12 if full else 2):
            size = int(needed * random.uniform(0.05, 1.0))
            counts += on_small_disk(partial(fill_run, truth), size, case)
        stored = Path(name) / "stored"
        stored.mkdir()
        samples.fill(stored / "run.db").close()
        for case in range(6 if full else 1):
            size = random.randint(300_000, 3_000_000)
            counts += on_small_disk(fill_page, size, case, keep=stored)
            counts += on_small_disk(fill_probe, random.randint(20_000, 150_000), case)
    return counts


def read_only(seed: int, full: bool) -> Counts:
    """A folder that cannot be written is read; whoever wants to write is told so by name; nothing in it changes."""
    random, counts = Random(f"read only {seed}"), Counts()
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        for case in range(5 if full else 1):
            folder = Path(name) / str(case)
            folder.mkdir()
            store = samples.fill(folder / "run.db")
            if random.random() < 0.5:
                store.close()  # otherwise a part of it lies in the log only, as after a crash
            cases = partial(read_only_cases, folder, len(samples.records()))
            counts += inside(cases, partial(forbid_writing, folder))
            store.close()
    return counts


def forbid_writing(folder: Path) -> None:
    """Let this process, and no other, find a folder that it cannot write: mounted so, or by its permissions."""
    if can_mount():
        own_mounts()
        mount("--bind", str(folder), str(folder))
        mount("-o", "remount,bind,ro", str(folder))
        return
    for path in (folder.parent, folder, *folder.iterdir()):
        path.chmod(0o755 if path == folder.parent else 0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:  # to whom permissions say nothing
        with tempfile.TemporaryDirectory() as name:  # import what that takes, as long as it can be read
            write_report(folder / "run.db", name)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def read_only_cases(folder: Path, records: int) -> Counts:
    """What is done with such a folder."""
    counts = Counts(how="read-only mount" if can_mount() else "permissions")
    names = sorted(path.name for path in folder.iterdir())
    for what, read in {
        "open_store": lambda: len(samples.read_store(folder / "run.db")[3]),
        "watch": lambda: records if watch(folder / "run.db").layers else 0,
    }.items():
        with judged(counts, what):
            found = read()
            counts.lost += max(records - found, 0)
            assert found == records, f"{found} of {records} records"
    extract, data = samples.extractor()
    outputs = LayerOutputs(
        ("output",), torch.rand(1, 2, 2), torch.eye(2, dtype=torch.bool), "multi_label", ("a", "b"), ("0", "1")
    )
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    for what, write in {
        "Store": lambda: Store(folder / "run.db"),
        "a new Store": lambda: Store(folder / "new.db"),
        "Store in a new folder": lambda: Store(folder / "new" / "run.db"),
        "Monitor": lambda: Monitor(model, store=folder / "run.db"),
        "train": lambda: train(CONFIG, folder),
        "report": lambda: write_report(folder / "run.db", folder / "report.html"),
        "LayerOutputs.save": lambda: outputs.save(folder / "test.npz"),
        "keep_features": lambda: keep_features(extract, data, folder=folder / "features"),
    }.items():
        with judged(counts, what, str(folder), must_refuse=True):
            write()
    with judged(counts, "the folder"):
        assert sorted(path.name for path in folder.iterdir()) == names, "something new is there"
    return counts
