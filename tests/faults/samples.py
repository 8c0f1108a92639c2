"""Small real files of every kind that the library reads back, each with the way in which it is read."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.report.test_flow_page import content as flow_content
from tests.report.test_probe_page import content as probe_content
from torch import nn

from layershift.monitor.alarm import Alarm
from layershift.monitor.store import Record, Store, open_store
from layershift.probe.early_exit import EarlyExit
from layershift.probe.features import Extractor
from layershift.probe.heads import InternalClassifiers
from layershift.probe.outputs import LayerOutputs
from layershift.probe.probe import Probe
from layershift.probe.rules import Confidence
from layershift.report.data import read_run
from layershift.report.flow import write_flow_page
from layershift.report.probe import write_probe_report
from layershift.train.config import Config
from layershift.train.fit import read_checkpoint
from layershift.train.folder import RunFolder
from layershift.train.recipe import load_recipe, recipes
from layershift.train.restore import _config
from layershift.watch.read import read as watch

CONFIG = Config(scale="smoke").resolved()
LAYERS = ("conv1.relu", "conv2.relu", "head")


@dataclass(frozen=True)
class Sample:
    """A file, and how it is read: `read()` gives plain values that tell whether the content is the same.

    An error must contain `names`: the file's name, if None.
    """

    file: Path
    read: Callable[[], Any]
    names: str | None = None


def records(steps: range = range(40)) -> list[Record]:
    """A few layers and measures, a NaN and an infinity among them."""
    found = [Record(s, "", "train/loss", 2.3 / (1 + s), n=128, units="nat") for s in steps]
    for i, layer in enumerate(LAYERS):
        for s in steps:
            found.append(Record(s, layer, "mean", 0.1 * i - 0.01 * s, 0.02, 128, estimator="plug-in", units="x"))
            found.append(Record(s, layer, "normality", 1 / (1 + s + i), 0.01, 128, estimator="sliced W1"))
            found.append(Record(s, layer, "mean", 0.5 * s, unit=i, units="x"))
    return [*found, Record(steps[-1], "head", "rms", float("nan")), Record(steps[-1], "head", "largest", float("inf"))]


ALARM = Alarm(3, "head", None, "dead", "dead", 0.9, 0.5, "step 3: layer 'head' is dead", "lower the learning rate")


def fill(path: Path) -> Store:
    """An open store with records, facts and an alarm."""
    store = Store(path)
    for key, value in {"method": "batch", "seed": 0, "config": CONFIG.identity(), "alarms": ["dead"]}.items():
        store.set_meta(key, value)
    rows = records()
    for step in sorted({row.step for row in rows}):
        store.write([row for row in rows if row.step == step])
    store.write_alarms([ALARM])
    return store


def read_store(path: Path) -> list[Any]:
    """All that a store holds."""
    with open_store(path) as store:
        return [store.meta, store.layers(), store.steps(), [tuple(r) for r in store.records()], list(store.alarms())]


def store(folder: Path) -> Sample:
    """A store, read as a whole."""
    path = folder / "run.db"
    fill(path).close()
    return Sample(path, partial(read_store, path))


def store_log(folder: Path) -> Sample:
    """What a killed writer leaves: a store whose last records lie in the log beside it; the log is damaged."""
    path, living = folder / "run.db", folder / "living.db"
    writing = fill(living)
    shutil.copy(living, path)
    shutil.copy(living.with_name("living.db-wal"), path.with_name("run.db-wal"))
    writing.close()
    before = {suffix: path.with_name(f"run.db{suffix}").read_bytes() for suffix in ("", "-wal")}
    log, whole = path.with_name("run.db-wal"), Counter(record.step for record in records())

    def read() -> list[Any]:
        path.write_bytes(before[""])  # the last reader may have moved the log into it
        found = read_store(path)
        steps = Counter(record[0] for record in found[3])
        assert all(number == whole[step] for step, number in steps.items()), "a part of a write"
        return found

    log.write_bytes(before["-wal"])
    return Sample(log, read)


def store_report(folder: Path) -> Sample:
    """A store, read for the report."""
    path = folder / "run.db"
    fill(path).close()

    def read() -> Any:
        run = read_run(path, "run")
        tables = {**run.levels, **run.errors, **run.units, **run.network}
        shown = {name: table.to_json() for name, table in tables.items()}
        return [run.name, run.layers, run.steps, shown, run.final.to_json(), list(run.alarms), dict(run.meta)]

    return Sample(path, read)


def store_watch(folder: Path) -> Sample:
    """A store, read for the live view."""
    path = folder / "run.db"
    fill(path).close()

    def read() -> Any:
        seen = watch(path)
        return {field.name: getattr(seen, field.name) for field in fields(seen) if field.name not in ("age", "path")}

    return Sample(path, read)


def checkpoint(folder: Path) -> Sample:
    """What a run continues from: weights, momenta, counters, configuration."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    states = {"optimizer_states": [optimizer.state_dict()], "callbacks": {"Saving": {"best": 0.9}}}
    path = folder / "last.ckpt"
    torch.save({"epoch": 1, "global_step": 16, "state_dict": weights, "config": CONFIG.identity(), **states}, path)
    return Sample(path, lambda: plain(read_checkpoint(path, CONFIG.identity())))


def plain(value: Any) -> Any:
    """Tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def configuration(folder: Path) -> Sample:
    """A run's `config.yaml`, compared with what is asked for, and read to build the network again."""
    run = RunFolder(folder)
    run.describe(CONFIG.identity(), "layershift train")

    def read() -> Any:
        run.check(CONFIG.identity())
        return _config(run).identity()

    return Sample(run.config, read, str(run.path))


def recipe(folder: Path) -> Sample:
    """A recipe of one's own."""
    path = folder / "mine.yaml"
    shutil.copy(recipes()["1/table1"], path)

    def read() -> Any:
        found = load_recipe(path)
        return str(found), found.configure(next(iter(found.methods)), scale="smoke").resolved().identity()

    return Sample(path, read)


def probe_page(folder: Path) -> Sample:
    """The results of a probe, from file to page."""
    path = folder / "probe.json"
    path.write_text(json.dumps(probe_content()))
    return Sample(path, lambda: write_probe_report(folder).read_bytes())


def flow_page(folder: Path) -> Sample:
    """The results of an experiment on batch normalisation's geometry, from file to page."""
    path = folder / "flow.json"
    path.write_text(json.dumps(flow_content()))
    return Sample(path, lambda: write_flow_page(folder).read_bytes())


def outputs(folder: Path) -> Sample:
    """What each layer's classifier says of each sample."""
    path, random = folder / "test.npz", torch.Generator().manual_seed(0)
    targets = torch.eye(4, dtype=torch.bool).repeat(5, 1)
    names = (("conv", "output"), tuple("abcd"), tuple(map(str, range(20))))
    p = torch.rand(2, 20, 4, generator=random)
    LayerOutputs(names[0], p, targets, "multi_label", names[1], names[2]).save(path)

    def read() -> Any:
        found = LayerOutputs.load(path)
        return found.layers, found.probabilities.tolist(), found.targets.tolist(), found.labels, found.ids, found.task

    return Sample(path, read)


def network() -> tuple[nn.Sequential, InternalClassifiers]:
    """A small network and classifiers of its inner layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    return model, InternalClassifiers({"1": 5, "3": 4}, 3)


def probe_state(folder: Path) -> Sample:
    """The classifiers of a probe."""
    model, classifiers = network()
    Probe(model, classifiers, task="single_label", labels=("a", "b", "c")).save(folder)

    def read() -> Any:
        found = Probe.load(folder, model)
        return found.layers, found.labels, plain(found.classifiers.state_dict())

    return Sample(folder / "probe.pt", read)


def early_exit(folder: Path) -> Sample:
    """A network that stops early."""
    model, classifiers = network()
    path = folder / "exit.pt"
    EarlyExit(model, classifiers, Confidence(0.7), task="single_label").save(path)
    return Sample(path, lambda: plain(dict(EarlyExit.load(path, network()[0]).state_dict())))


def extractor() -> tuple[Extractor, list[Any]]:
    """What makes features, and data for it."""
    model, _ = network()
    random = torch.Generator().manual_seed(1)
    data = [(torch.randn(4, 6, generator=random), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
    modules = {"1": model[1], "3": model[3]}
    return Extractor(model, modules, num_labels=3, task="single_label"), data
