"""Calls of the other rooms that work, and what may be wrong with an argument without harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tests.properties.calls_of_modules import NET, SETS, P, X
from tests.properties.spoils import LATER, NAME, NONE, SIZES, TRUTH, ZERO, Call, Legal, for_all
from torch import nn

import layershift as ls
from layershift.functional import zero_one_cost
from layershift.monitor import Record
from layershift.probe import Confidence, InternalClassifiers, LayerOutputs
from layershift.train.recipe import load_recipe

NAMES = {"labels": ("a", "b", "c"), "ids": tuple(map(str, range(12)))}
OUTPUTS = LayerOutputs(("2", "output"), torch.stack([P, 1 - P]), SETS, "multi_label", **NAMES)
CLASSIFIERS = InternalClassifiers({"2": 4}, 3)
PROBE = ls.probe.Probe(NET, CLASSIFIERS, task="multi_label", labels=["a", "b", "c"])
DATA = [(X, SETS)]
DISTANCES = ls.probe.sample_distances(OUTPUTS, zero_one_cost(3))
RECORD = Record(3, "fc", "mean", 0.5, 0.1, 12)
QUIET = Console(quiet=True)
RULE = Confidence(0.7)
TINY = ls.train.Config(scale="smoke", epochs=1, every=0)
RUN = Path("runs/batch/seed0")
MADE = "it is made"


def _stepped(step: Any) -> None:
    with ls.Monitor(NET, measures=["health"], every=1) as monitor, monitor.step(step):
        NET(X)


# fmt: off
LABELLED = {"outputs": OUTPUTS, "cost": zero_one_cost(3), "method": "total_variation", "eps": 0.1, "max_iter": 5}
HISTORY = {0: OUTPUTS, 3: OUTPUTS}
OF_HISTORY = {"history": HISTORY} | {key: value for key, value in LABELLED.items() if key != "outputs"}
FIT = {
    "model": NET, "data": DATA, "layers": ["2"], "val_data": DATA, "task": "multi_label", "labels": ["a", "b", "c"],
    "pool": "average", "epochs": 1, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "milestones": (1,),
    "decay": 0.1, "batch_size": 4, "loss": "bce", "output": "network", "cache_limit": 10**6, "record": (0, 1),
    "seed": 0,
}

TOP = {
    "Monitor": Call(
        lambda **options: ls.Monitor(**options).close(),
        {
            "model": NET,
            "layers": "2",
            "measures": ["health"],
            "store": Path(":memory:"),
            "every": 3,
            "on": "batch",
            "budget": 0.5,
            "alarms": "warn",
            "sinks": [],
        },
    ),
    "Monitor.probe": Call(
        lambda probe: ls.Monitor(NET, measures=["health"], on="probe", probe=probe).close(), {"probe": X}
    ),
    "Monitor.step": Call(lambda step: _stepped(step), {"step": 3}),
    "record_target": Call(
        ls.record_target,
        {
            "model": NET,
            "batches": [X],
            "layers": "2",
            "num_projections": 3,
            "num_quantiles": 4,
            "max_samples": 8,
            "sample": "image",
            "seed": 0,
        },
    ),
    "regularize": Call(
        lambda **options: ls.regularize(**options).remove(),
        {"model": NET, "penalty": ls.nn.PER(), "layers": "2", "weight": 0.5, "example": X},
    ),
    "open_store": Call(lambda path: ls.open_store(path).close(), {"path": Path("run.db")}),
    "Store": Call(lambda path: ls.monitor.Store(path).close(), {"path": Path("new.db")}),
    "Store.write": Call(lambda records: ls.monitor.Store(":memory:").write(records), {"records": [RECORD]}),
    "Alarms": Call(ls.monitor.Alarms, {"rules": ls.monitor.default_rules(), "action": "warn", "learn": 20}),
    "Threshold": Call(ls.monitor.Threshold, {"measure": "dead", "kind": "dead", "above": 0.5, "patience": 2}),
    "Learned": Call(
        ls.monitor.Learned,
        {
            "measure": "rms",
            "kind": "exploding",
            "direction": "above",
            "least": 100.0,
            "sigmas": 6.0,
            "scale": "log",
            "patience": 2,
            "learn": 3,
        },
    ),
}

PROBES = {
    "LabelCount": Call(ls.probe.LabelCount, {"q": 0.8, "gamma": 0.6, "p": 0.5}),
    "Confidence": Call(ls.probe.Confidence, {"threshold": 0.5}),
    "Entropy": Call(ls.probe.Entropy, {"threshold": 0.5}),
    "Agreement": Call(ls.probe.Agreement, {"patience": 2, "task": "single_label"}),
    "ExitRule.exits": Call(RULE.exits, {"probabilities": OUTPUTS.probabilities}),
    "exit_rule": Call(ls.probe.exit_rule, {"kind": "confidence"}, fixed={"threshold": 0.5}),
    "LayerOutputs": Call(
        LayerOutputs,
        {
            "layers": ("2", "output"),
            "probabilities": torch.stack([P, P]),
            "targets": SETS,
            "task": "multi_label",
            **NAMES,
        },
    ),
    "LayerOutputs.load": Call(LayerOutputs.load, {"path": Path("outputs.npz")}),
    "InternalClassifiers": Call(
        ls.probe.InternalClassifiers, {"features": {"2": 4}, "num_labels": 3, "pool": "average", "seed": 0}
    ),
    "InternalClassifiers.logits": Call(CLASSIFIERS.logits, {"layer": "2", "output": torch.zeros(5, 4)}),
    "InternalClassifiers.forward": Call(lambda features: CLASSIFIERS(features), {"features": {"2": torch.zeros(5, 4)}}),
    "Extractor": Call(
        ls.probe.Extractor,
        {"model": NET, "layers": {"2": NET[2]}, "num_labels": 3, "task": "multi_label", "pool": "average"},
    ),
    "Probe": Call(
        ls.probe.Probe,
        {
            "model": NET,
            "classifiers": CLASSIFIERS,
            "task": "multi_label",
            "labels": ["a", "b", "c"],
            "loss": "bce",
            "history": HISTORY,
        },
    ),
    "Probe.predict": Call(PROBE.predict, {"data": DATA, "ids": NAMES["ids"]}),
    "Probe.load": Call(
        lambda folder, model=NET: ls.probe.Probe.load(folder, model), {"folder": Path("probe"), "model": NET}
    ),
    "label_probabilities": Call(ls.probe.label_probabilities, {"logits": X, "task": "single_label", "loss": "bce"}),
    "fit": Call(ls.probe.fit, FIT, called={"labels": "y"}),
    "default_layers": Call(ls.probe.default_layers, {"model": NET}),
    "choose_layers": Call(ls.probe.choose_layers, {"model": NET, "layers": ["2"]}),
    "split": Call(ls.probe.split, {"model": NET, "layers": ["2"]}),
    "exit_costs": Call(ls.probe.exit_costs, {"probe": PROBE, "x": X, "layers": ["2"]}),
    "EarlyExit": Call(
        ls.probe.EarlyExit,
        {
            "model": NET,
            "classifiers": CLASSIFIERS,
            "rule": ls.probe.LabelCount(0.8, 0.6),
            "task": "multi_label",
            "loss": "bce",
            "head": nn.Linear(4, 3),
            "layers": ["2"],
            "compact": 0.5,
        },
    ),
    "EarlyExit.forward": Call(
        lambda x: ls.probe.EarlyExit.from_probe(PROBE, ls.probe.LabelCount(0.8, 0.6))(x), {"x": X}
    ),
    "EarlyExit.load": Call(lambda path: ls.probe.EarlyExit.load(path, NET), {"path": Path("early.pt")}),
    "FullDepth": Call(ls.probe.FullDepth, {"stages": [nn.Identity()], "rule": RULE}),
    "run_exits": Call(ls.probe.run_exits, {"steps": [lambda x: (x, x + 0)] * 2, "rule": RULE, "x": P, "compact": 0.0}),
    "evaluate_exits": Call(
        ls.probe.evaluate_exits,
        {
            "outputs": OUTPUTS,
            "rule": ls.probe.LabelCount(0.8, 0.6),
            "layers": ["2"],
            "costs": {"2": 0.5, "output": 1.0},
        },
    ),
    "search_exits": Call(
        ls.probe.search_exits,
        {
            "validation": OUTPUTS,
            "kind": "label_count",
            "objective": "accuracy",
            "within": 0.1,
            "grid": [0.5, 1.0],
            "layers": ["2"],
            "costs": {"2": 0.5, "output": 1.0},
        },
    ),
    "sample_distances": Call(ls.probe.sample_distances, LABELLED),
    "depth_table": Call(ls.probe.depth_table, LABELLED | {"distances": DISTANCES}),
    "epoch_table": Call(ls.probe.epoch_table, OF_HISTORY),
    "adjacent_table": Call(ls.probe.adjacent_table, OF_HISTORY),
    "difficulty": Call(
        ls.probe.difficulty,
        {"distances": DISTANCES, "quantiles": (0.25, 0.75), "early": [0], "late": [-1], "of": "layers"},
    ),
    "Difficulty.typical": Call(ls.probe.difficulty(DISTANCES).typical, {"kind": "easy", "limit": 3}),
    "overthinking": Call(ls.probe.overthinking, {"outputs": OUTPUTS}),
    "label_embeddings": Call(ls.probe.label_embeddings, {"name": "voc2007"}),
    "embedding_cost": Call(ls.probe.embedding_cost, {"embeddings": X}),
    "cost_between by embeddings": Call(
        ls.probe.cost_between, {"labels": ["a", "b", "c"], "embeddings": X[:3]}, fixed={"kind": "embeddings"}
    ),
    "cooccurrence_cost": Call(ls.probe.cooccurrence_cost, {"targets": SETS.float()}),
    "cost_between": Call(
        ls.probe.cost_between,
        {"labels": ["cat", "dog", "car"], "kind": "cooccurrence", "embeddings": X[:3], "targets": SETS.float()},
    ),
    "write_results": Call(
        lambda folder, outputs, cost, **options: ls.probe.write_results(folder, outputs, cost, **options),
        {
            "folder": Path("results"),
            "outputs": {"test": OUTPUTS},
            "cost": zero_one_cost(3),
            "history": HISTORY,
            "exits": [{}],
            "about": {"a": 1},
            "methods": ("chebyshev",),
            "main": "test",
            "each": 2,
            "history_samples": 4,
            "quantiles": (0.25, 0.75),
            "early": [0],
            "late": [-1],
        },
    ),
    "replace_exits": Call(ls.probe.replace_exits, {"folder": Path("results"), "exits": [{}]}),
}

OTHERS = {
    "Config": Call(
        lambda **options: ls.train.Config(**options).resolved(),
        {
            "method": "batch",
            "method_options": {"norm": "batch"},
            "seed": 1,
            "scale": "smoke",
            "epochs": 2,
            "batch_size": 4,
            "learning_rate": 0.1,
            "schedule": "step",
            "milestones": [0.5],
            "decay": 0.5,
            "warmup": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-3,
            "bias_rate": 1.0,
            "gradient_clip": 1.0,
            "penalty_weight": 0.0,
            "measures": ["health"],
            "every": 3,
            "test_scales": [8],
            "threads": 1,
            "devices": 1,
            "num_nodes": 1,
            "group": "mine",
        },
    ),
    "Config.changed": Call(TINY.changed, {"changes": {"epochs": 3}}, called={"changes": "configuration"}),
    "load_recipe": Call(load_recipe, {"name": "1/table1"}, called={"name": "recipe"}),
    "load_recipe of one's own": Call(load_recipe, {"name": Path("mine.yaml")}, called={"name": "recipe"}),
    "train": Call(ls.train.train, {"config": TINY, "out": Path("runs")}, fixed={"resume": True}),
    "demo": Call(ls.train.demo, {"config": TINY, "methods": ["batch"], "seeds": 1}, fixed={"out": "runs"}),
    "load_run": Call(ls.train.load_run, {"folder": RUN, "checkpoint": "last"}),
    "summarize": Call(ls.train.summarize, {"paths": [RUN / "run.db"]}),
    "Classifier": Call(
        ls.train.Classifier,
        {
            "model": NET,
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.1,
            "bias_rate": 1.0,
            "schedule": "cosine",
            "milestones": (0.5,),
            "decay": 0.1,
            "warmup": 0.1,
            "seed": 1,
        },
    ),
    "write_report": Call(ls.report.write_report, {"paths": Path("run.db"), "out": Path("report.html")}),
    "write_report of several": Call(
        lambda paths: ls.report.write_report(paths, "report.html"), {"paths": [Path("run.db")]}
    ),
    "watch": Call(
        lambda **options: ls.watch.watch(**options, once=True, console=QUIET),
        {"path": Path("run.db"), "every": 1.0, "layers": "*", "measures": "*"},
    ),
    "TensorBoardSink": Call(
        ls.integrations.TensorBoardSink, {"log_dir": Path("logs"), "layers": "*", "measures": "*", "prefix": "a"}
    ),
    "LightningMonitor": Call(ls.integrations.LightningMonitor, {"module": "model"}),
}

LEGAL: Legal = {
    "Monitor": {
        "store: None, missing, empty": MADE,
        "budget: None": "no limit",
        "alarms: None": NONE,
        "sinks: empty": NONE,
    },
    "Monitor.probe": {"probe: integers, complex, a scalar, empty, six dimensions, twice as wide": LATER},
    "Monitor.step": {"step: negative, zero": "any whole number is a step"},
    "record_target": {"seed: zero": "a seed"},
    "regularize": {"weight: negative, zero": "weights may have any sign", "example: None, empty": NONE},
    "Store": {"path: missing, empty": MADE},
    "Store.write": {"records: empty": NONE},
    "Alarms": {"rules: empty": NONE},
    "Threshold": {"measure, kind: a string": NAME, "above: negative, zero, infinite": "any limit"},
    "Learned": {"measure, kind: a string": NAME, "sigmas: zero": ZERO},
    "LabelCount": {"p: zero": ZERO},
    **for_all(("Confidence", "Entropy"), {"threshold: zero": "all samples leave at once"}),
    "ExitRule.exits": {"probabilities: twice as wide": "any number of labels"},
    "InternalClassifiers": {"seed: zero": "a seed"},
    "Extractor": {"layers: empty": "the output alone"},
    "Probe": {"history: empty": NONE},
    "label_probabilities": {"logits: empty, six dimensions, twice as wide": SIZES},
    "fit": {"momentum, weight_decay, cache_limit, seed: zero": ZERO, "milestones, record: empty": NONE},
    "split": {"layers: empty": "one stage"},
    "EarlyExit": {"compact: zero": ZERO},
    "EarlyExit.forward": {"x: empty": NONE},
    "run_exits": {"compact: zero": ZERO, "x: empty, twice as wide": SIZES},
    "evaluate_exits": {"layers: empty": "the output alone"},
    "search_exits": {"within: zero": ZERO, "layers: empty": "the output alone"},
    **for_all(("epoch_table", "adjacent_table"), {"history: empty": NONE}),
    "difficulty": {"distances: twice as wide": "any number of samples"},
    "Difficulty.typical": {"limit: zero": NONE},
    "embedding_cost": {"embeddings: twice as wide": SIZES},
    "cooccurrence_cost": {"targets: integers": TRUTH, "targets: twice as wide": "any number of labels"},
    "cost_between": {
        "targets: integers": TRUTH,
        "embeddings: empty, twice as wide": "not of this kind",
    },
    "write_results": {
        "folder: missing": MADE,
        "history, exits, about: None, empty": NONE,
        "about: nothing inside": "any fact",
        "each: zero": NONE,
        "main, history_samples, early, late: None": "as is usual",
    },
    "replace_exits": {"exits: empty": NONE},
    "cost_between by embeddings": {"embeddings: twice as wide": SIZES},
    "Config.changed": {"changes: empty": NONE},
    "train": {"out: missing": MADE},
    "summarize": {"paths: empty": NONE},
    "Classifier": {
        "learning_rate, momentum, weight_decay, bias_rate, warmup, seed: zero": ZERO,
        "milestones: empty": NONE,
    },
    "write_report": {"out: missing": MADE},
    "watch": {"layers, measures: a string, a list": "nothing is shown", "measures: None": "those that have room"},
    "TensorBoardSink": {
        "log_dir: missing, junk, empty": LATER,
        "layers, measures: a string, a list": NAME,
        "prefix: a string": NAME,
    },
    "LightningMonitor": {"module: a string": LATER},
    "Config": {
        "method, group: a string": NAME,
        "method_options, milestones, measures, test_scales: empty": NONE,
        "epochs, learning_rate, schedule, momentum, penalty_weight, every, gradient_clip: None": "as the scale says",
        "gradient_clip: infinite": "nothing is clipped",
        "seed, learning_rate, warmup, momentum, weight_decay, bias_rate, penalty_weight, every: zero": ZERO,
    },
}
# fmt: on
"""What looks bad and is good, and why."""
