"""What is true of the public names of every other room, with numbers and names that hypothesis draws."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import layershift as ls
from layershift import probe
from layershift.functional import zero_one_cost
from layershift.integrations.sinks import Selection
from layershift.monitor import Alarms, Learned, Monitor, Record, Sink, Store, Threshold, default_rules, open_store
from layershift.probe import LayerOutputs
from layershift.train import METHODS, Config
from layershift.train.methods import method_of

LIGHT = settings(
    deadline=None, max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NET = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()

BY_PROPERTY = {
    "monitor": "Alarms Learned Monitor Record Sink Store Threshold default_rules open_store",
    "probe": "Agreement Confidence EarlyExit Entropy ExitRule Extractor InternalClassifiers LabelCount LayerOutputs "
    "Probe "
    "adjacent_table choose_layers cooccurrence_cost cost_between default_layers depth_table difficulty embedding_cost "
    "epoch_table evaluate_exits exit_costs exit_rule fit label_embeddings label_probabilities overthinking "
    "replace_exits run_exits sample_distances search_exits split write_results FullDepth",
    "train": "Config METHODS summarize",
    "watch": "watch",
    "": "Monitor convert fold open_store record_target regularize",
}
REASONS = {
    "monitor": {
        "Alarm": "plain data, which `Store` keeps",
        "Cost": "plain data",
        "LayerWarning": "a warning",
        "StopTraining": "an error, see tests/monitor/test_alarms.py",
        "StoreError": "an error, see tests/faults",
    },
    "probe": {
        "Difficulty": "what `difficulty` returns",
        "ExitOutput": "what `run_exits` returns",
        "ExitPoint": "what `search_exits` returns",
        "ExitSearch": "what `search_exits` returns",
        "Exits": "what `evaluate_exits` returns",
        "Features": "what `Extractor` returns",
        "Overthinking": "what `overthinking` returns",
    },
    "train": {
        "Classifier": "a step is tested in tests/train/test_module.py",
        "Method": "plain data, see `METHODS`",
        "RestoredRun": "what `load_run` returns",
        "Row": "what `summarize` returns",
        "Run": "what `train` returns",
        "RunError": "an error",
        "data": "a room of data sets, see tests/train/data",
        "demo": "a grid of runs, see tests/train/test_run.py",
        "load_run": "needs a run of seconds, see tests/train/test_restore.py",
        "models": "a room of networks, see tests/train/models",
        "train": "runs of seconds, see tests/train/test_run.py and test_determinism.py",
    },
    "report": {"write_report": "pages are read in a browser by tests/report, hostile names by tests/faults"},
    "integrations": dict.fromkeys(
        ls.integrations.__all__, "what all share, `Selection`, is tested; see tests/integrations"
    ),
    "watch": {},
    "": {
        "__version__": "text",
        **dict.fromkeys(("dynamics", "functional", "measure", "nn"), "a room, whose names have tests beside this one"),
        **dict.fromkeys(("integrations", "monitor", "probe", "report", "train", "watch"), "a room"),
    },
}
"""Names without properties of their own here."""


@pytest.mark.parametrize("room", REASONS)
def test_every_public_name_has_properties_or_a_reason(room: str) -> None:
    public = set((getattr(ls, room) if room else ls).__all__)
    tested = set(BY_PROPERTY.get(room, "").split())
    assert tested | set(REASONS[room]) == public
    assert not tested & set(REASONS[room])
    text = Path(__file__).read_text(encoding="utf-8").split('"""Names without properties', 1)[1]
    assert not {name for name in tested if name not in text}


# Records, stores, monitors and alarms.

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.floats(width=64)
KNOWN = st.none() | st.floats(allow_nan=False, width=64)
WHOLE = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.lists(
    st.builds(
        Record,
        WHOLE,
        TEXT,
        TEXT,
        NUMBER,
        KNOWN,
        st.none() | WHOLE,
        st.none() | st.integers(0, 9),
        KNOWN,
        KNOWN,
        TEXT,
        TEXT,
    ),
    max_size=8,
    unique_by=lambda r: (r.step, r.layer, r.measure, r.unit),
)


def plain(records: list[Record]) -> list[tuple[str, ...]]:
    """Comparable, also where a number is NaN; SQLite keeps no sign of zero."""
    numbers = [[0.0 if field == 0 and isinstance(field, float) else field for field in record] for record in records]
    return sorted(tuple(map(repr, fields)) for fields in numbers)


@given(RECORDS, st.integers(0, 8))
@LIGHT
def test_a_store_gives_back_what_it_got(tmp_path: Path, records: list[Record], cut: int) -> None:
    path = tmp_path / "run.db"
    path.unlink(missing_ok=True)
    with Store(path) as store:
        store.write(records[:cut])
        store.write(records[cut:])
        store.write(records[:1])  # once more
    with open_store(path) as found:
        assert plain(found.records()) == plain(records)
        assert found.layers() == list(dict.fromkeys(r.layer for r in records if r.layer))
        assert found.steps() == sorted({r.step for r in records if r.layer})


@given(
    st.dictionaries(TEXT, st.recursive(st.none() | st.booleans() | TEXT | WHOLE, st.lists, max_leaves=5), max_size=4)
)
@LIGHT
def test_facts_come_back(facts: dict[str, Any]) -> None:
    with Store(":memory:") as store:
        for key, value in facts.items():
            store.set_meta(key, value)
        assert store.meta == facts


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, records: Any) -> None:
        self.records += records

    def close(self) -> None:
        pass


@given(st.integers(1, 5), st.integers(1, 5))
@settings(LIGHT, max_examples=6)
def test_measurements_do_not_depend_on_how_often_there_are_others(every: int, other: int) -> None:
    def measured(every: int) -> list[Record]:
        model, sink = copy.deepcopy(NET), Kept()
        assert isinstance(sink, Sink)
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
        with Monitor(model, layers="1", measures=["health"], every=every, on="probe", probe=x, sinks=[sink]) as monitor:
            for i in range(9):
                with monitor.step(i), torch.no_grad():
                    model[0].weight.mul_(1.1)
            assert plain(monitor.records()) == plain(sink.records)
        assert not model[1]._forward_hooks
        return [r for r in sink.records if not r.measure.startswith("monitor/")]

    first, second = measured(every), measured(other)
    common = {r.step for r in first} & {r.step for r in second}
    assert 0 in common
    assert plain([r for r in first if r.step in common]) == plain([r for r in second if r.step in common])


SERIES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30)


@given(SERIES, st.integers(1, 3), st.integers(0, 30), st.integers(1, 5))
@LIGHT
def test_alarms_go_on_where_they_were(series: list[float], patience: int, cut: int, learn: int) -> None:
    rules = [
        Threshold(measure="rms", kind="exploding", above=50.0, patience=patience),
        Learned(measure="rms", kind="vanishing", direction="below", least=3.0, patience=patience),
        *default_rules(),
    ]
    records = [Record(step, "fc", "rms", value) for step, value in enumerate(series)]
    whole, resumed = Alarms(rules, learn=learn), Alarms(rules, learn=learn)
    found = whole.observe(records)
    resumed.replay(reversed(records[:cut]))
    assert resumed.observe(records[cut:]) == [alarm for alarm in found if alarm.step >= cut]
    assert not Alarms(rules).observe([record._replace(value=math.nan) for record in records])


@given(SERIES, st.floats(0.1, 100), st.floats(1, 10))
@LIGHT
def test_limits_follow_scale_and_order(series: list[float], scale: float, more: float) -> None:
    rule = Learned(measure="rms", kind="exploding", direction="above", least=2.0)
    limit = rule.limits(rule.normal(series), None)
    scaled = rule.limits(rule.normal([scale * x for x in series]), None)
    assert limit is not None
    assert scaled is not None
    assert scaled.limit == pytest.approx(scale * limit.limit, rel=1e-6)
    assert limit.clear < limit.limit
    assert rule.limits(rule.normal(series[::-1]), None) == limit
    alarms = [
        len(
            Alarms([Threshold(measure="rms", kind="a", above=at)]).observe(
                [Record(i, "fc", "rms", x) for i, x in enumerate(sorted(series))]
            )
        )
        for at in (scale, scale * more)
    ]
    assert alarms[0] >= alarms[1]


@given(RECORDS, TEXT, st.booleans(), st.booleans())
@LIGHT
def test_dashboards_show_every_number_once(records: list[Record], prefix: str, units: bool, stderr: bool) -> None:
    scalars = list(Selection(units=units, stderr=stderr, prefix=prefix).scalars(records))
    shown = [r for r in records if units or r.unit is None]
    assert len(scalars) == len(shown) + (sum(r.stderr is not None for r in shown) if stderr else 0)
    assert all(scalar.tag.startswith(prefix) for scalar in scalars)


def test_a_look_changes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, "fc", "mean", 0.5)])
    before = (tmp_path / "run.db").read_bytes()
    for patterns in ("*", "no such layer"):
        ls.watch.watch(tmp_path, once=True, layers=patterns, console=Console(quiet=True))
    assert (tmp_path / "run.db").read_bytes() == before


# Penalties and targets of named layers.


@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(0, 99))
@LIGHT
def test_penalties_are_linear_in_their_weights(a: float, b: float, seed: int) -> None:
    model, x = copy.deepcopy(NET).train(), torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))

    def loss(weight: Any, layers: Any) -> float:
        with ls.regularize(model, ls.nn.PER(), layers=layers, weight=weight) as penalty:
            model(x)
            return float(penalty.loss().detach())

    apart = a * loss(1.0, "1") + b * loss(1.0, "3")
    assert loss({"1": a, "3": b}, ["1", "3"]) == pytest.approx(apart, rel=1e-4, abs=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


@given(st.permutations(range(4)), st.integers(0, 99))
@LIGHT
def test_a_target_does_not_depend_on_the_order_of_batches(order: list[int], seed: int) -> None:
    batches = list(torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(seed)))
    found, other = (
        ls.record_target(NET, given, layers="1", num_projections=3, num_quantiles=5)
        for given in (batches, [batches[i] for i in order])
    )
    for key, value in found.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value)
    assert bool((found.layer("1")[1].diff(dim=1) >= 0).all())
    assert ls.fold(ls.convert(copy.deepcopy(NET), to="synchronized")).folded == {}


# What layers know.


@st.composite
def outputs(draw: st.DrawFn, task: Any = None) -> LayerOutputs:
    layers, n, k = draw(st.integers(2, 4)), draw(st.integers(2, 7)), draw(st.integers(2, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    task = draw(st.sampled_from(["single_label", "multi_label"])) if task is None else task
    p = torch.rand(layers, n, k, generator=generator)
    targets = torch.rand(n, k, generator=generator) < 0.5
    if task == "single_label":
        p, targets = p / p.sum(-1, keepdim=True), nn.functional.one_hot(p[-1].argmax(-1), k).bool()
    targets[0, 0] = True
    names = draw(st.lists(TEXT, min_size=k, max_size=k)), draw(st.lists(TEXT, min_size=n, max_size=n))
    return LayerOutputs((*map(str, range(layers - 1)), "output"), p, targets, task, *map(tuple, names))


def relabelled(own: LayerOutputs, data: st.DataObject) -> tuple[LayerOutputs, list[int], list[int]]:
    """The same with samples and labels in another order."""
    labels = data.draw(st.permutations(range(len(own.labels))))
    samples = data.draw(st.permutations(range(len(own.ids))))
    p, targets = own.probabilities[:, samples][:, :, labels], own.targets[samples][:, labels]
    names = tuple(own.labels[i] for i in labels), tuple(own.ids[i] for i in samples)
    return replace(own, probabilities=p, targets=targets, labels=names[0], ids=names[1]), labels, samples


@given(outputs())
@LIGHT
def test_outputs_come_back_from_a_file(tmp_path: Path, own: LayerOutputs) -> None:
    own.save(tmp_path / "outputs.npz")
    found = LayerOutputs.load(tmp_path / "outputs.npz")
    assert (found.layers, found.labels, found.ids, found.task) == (own.layers, own.labels, own.ids, own.task)
    assert torch.equal(found.probabilities, own.probabilities)
    assert torch.equal(found.targets, own.targets)


@given(outputs(), st.data())
@LIGHT
def test_results_do_not_depend_on_the_order_of_labels_and_samples(own: LayerOutputs, data: st.DataObject) -> None:
    other, labels, samples = relabelled(own, data)
    cost = probe.cooccurrence_cost(own.targets)
    distances = probe.sample_distances(own, cost)
    found = probe.sample_distances(other, cost[labels][:, labels])
    torch.testing.assert_close(found, distances[:, samples], equal_nan=True)
    for row, found in zip(probe.depth_table(own, cost), probe.depth_table(other, cost[labels][:, labels]), strict=True):
        assert found[1:3] == pytest.approx(row[1:3], rel=1e-5, abs=1e-6, nan_ok=True)
    assert probe.overthinking(other) == probe.overthinking(own)
    kinds = probe.difficulty(distances).kinds
    assert probe.difficulty(distances[:, samples]).kinds == tuple(kinds[i] for i in samples)
    rule = probe.LabelCount(0.6, 0.5)
    found, expected = probe.evaluate_exits(other, rule), probe.evaluate_exits(own, rule)
    assert torch.equal(found.layer, expected.layer[samples])
    for mine, theirs in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(mine.value, theirs.value, equal_nan=True)
    searched = [probe.search_exits(given, grid=[0.5, 0.8]) for given in (other, own)]
    assert all(search.best in search.curve for search in searched)
    for mine, theirs in zip(*(search.curve for search in searched), strict=True):
        assert mine.rule == theirs.rule
        assert (mine.value, mine.cost) == pytest.approx((theirs.value, theirs.cost))


@given(outputs(), st.sampled_from(["total_variation", "chebyshev", "jensen_shannon"]))
@LIGHT
def test_tables_of_epochs_are_those_of_each(own: LayerOutputs, method: Any) -> None:
    history = {3: own, 0: own, 7: own}
    rows = probe.epoch_table(history, None, method=method)
    once = probe.depth_table(own, None, method=method)
    assert [row[2:] for row in rows] == [tuple(row) for _ in history for row in once] or any(
        math.isnan(row.stderr) for row in once
    )
    assert all(row.mean == 0 for row in probe.adjacent_table(history, None, method=method))
    assert probe.adjacent_table(history, None, method=method)[0][:2] == (0, 3)


RULES = {
    "label_count": (lambda t: probe.LabelCount(0.5 + t / 2, 0.5), lambda t: probe.LabelCount(0.6, 0.1 + 0.9 * t)),
    "confidence": (probe.Confidence,),
    "entropy": (probe.Entropy,),
    "agreement": (lambda t: probe.Agreement(2 + int(3 * t)),),
}


@pytest.mark.parametrize("kind", RULES)
@given(outputs("single_label"), st.floats(0, 1), st.floats(0, 1))
@LIGHT
def test_a_higher_threshold_lets_no_sample_leave_earlier(kind: str, own: LayerOutputs, a: float, b: float) -> None:
    for rule_at in RULES[kind]:
        low, high = (rule_at(t) for t in sorted((a, b)))
        assert isinstance(low, probe.ExitRule)
        assert bool((low.exits(own.probabilities) <= high.exits(own.probabilities)).all())
        assert probe.exit_rule(**low.to_dict()) == low
        state, leaving = (), []
        for layer in own.probabilities:
            left, state = low.step(layer, state)
            leaving.append(left)
        leaving[-1] = torch.ones_like(leaving[-1])
        assert torch.equal(torch.stack(leaving).int().argmax(0), low.exits(own.probabilities))


CLASSIFIERS = probe.InternalClassifiers({"1": 4, "3": 4}, 3, seed=1)


def probed() -> probe.Probe:
    return probe.Probe(NET, CLASSIFIERS, task="single_label", labels=["a", "b", "c"])


@given(st.integers(1, 9), st.floats(0, 1), st.floats(0.3, 1), st.integers(0, 99))
@LIGHT
def test_stopping_early_decides_as_the_whole_does(n: int, compact: float, threshold: float, seed: int) -> None:
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
    early = probe.EarlyExit.from_probe(probed(), probe.Confidence(threshold), compact=compact)
    found, full = early(x), early.full_depth()
    assert isinstance(full, probe.FullDepth)
    with torch.no_grad():
        p, layer = full(x)
        again = probe.run_exits(early.stages, early.rule, x, compact=1 - compact)
    torch.testing.assert_close(found.probabilities, p)
    assert torch.equal(found.layer, layer)
    assert torch.equal(again.layer, layer)
    costs = list(probe.exit_costs(probed(), x).values())
    assert costs == sorted(costs)


@given(st.sets(st.sampled_from(["0", "1", "2", "3"])), st.integers(1, 5))
@LIGHT
def test_stages_together_are_the_network(cuts: set[str], n: int) -> None:
    x, layers = torch.randn(n, 5), sorted(cuts)
    stages = probe.split(NET, layers)
    assert len(stages) == len(layers) + 1
    with torch.no_grad():
        assert torch.equal(stages(x), NET(x))
    if layers:
        assert list(probe.choose_layers(NET, layers[::-1])) == layers
    assert list(probe.choose_layers(NET)) == list(probe.default_layers(NET)) == ["1", "3"]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 99))
@LIGHT
def test_a_pass_over_data_does_not_depend_on_its_batches(sizes: list[int], seed: int) -> None:
    generator, n = torch.Generator().manual_seed(seed), sum(sizes)
    x, y = torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator)
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    found, whole = probed().predict(batches), probed().predict([(x, y)])
    torch.testing.assert_close(found.probabilities, whole.probabilities)
    assert torch.equal(found.targets, whole.targets)
    torch.testing.assert_close(found.probabilities.sum(-1), torch.ones(3, n))
    extract = probe.Extractor(NET, {"1": NET[1]}, num_labels=3, task="single_label")
    assert extract(x, y).layers["1"].shape == (n, 4)


@given(st.integers(0, 5), st.integers(0, 99), st.sampled_from(["single_label", "multi_label"]))
@LIGHT
def test_classifiers_do_not_depend_on_each_other(seed: int, at: int, task: Any) -> None:
    alone = probe.InternalClassifiers({"3": 4}, 3, seed=seed)
    both = probe.InternalClassifiers({"1": 4, "3": 4}, 3, seed=seed)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(at))
    assert torch.equal(alone.logits("3", x), both.logits("3", x))
    assert torch.equal(both({"1": x, "3": x})[1], alone({"3": x})[0])
    p = probe.label_probabilities(both.logits("1", x), task, "bce")
    assert bool(((p >= 0) & (p <= 1)).all())
    assert task == "multi_label" or torch.allclose(p.sum(-1), torch.ones(5))


@given(st.integers(2, 6), st.integers(0, 99))
@LIGHT
def test_costs_are_distances_between_labels(k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors, sets = torch.randn(k, 3, generator=generator), torch.rand(9, k, generator=generator) < 0.4
    names = [str(i) for i in range(k)]
    given = {"embeddings": vectors, "targets": sets}
    for cost in (
        probe.embedding_cost(vectors),
        probe.cooccurrence_cost(sets),
        *(probe.cost_between(names, kind, **given) for kind in ("embeddings", "cooccurrence", "zero_one")),
    ):
        assert torch.equal(cost, cost.mT)
        assert not cost.diagonal().any()
        assert bool(((cost >= 0) & (cost <= 1)).all())
    moved = probe.embedding_cost(7 - 3 * vectors)
    torch.testing.assert_close(moved, probe.embedding_cost(vectors), rtol=1e-3, atol=1e-4)
    labels, table = probe.label_embeddings("voc2007")
    assert torch.equal(probe.cost_between(labels), probe.embedding_cost(table))
    assert torch.equal(probe.cost_between(names, "zero_one"), zero_one_cost(k))


@given(st.integers(0, 3), st.integers(2, 5))
@settings(LIGHT, max_examples=4)
def test_a_fit_depends_on_its_seed_alone_and_comes_back(tmp_path: Path, seed: int, batch_size: int) -> None:
    x = torch.randn(10, 5, generator=torch.Generator().manual_seed(9))
    data = [(x, torch.arange(10) % 3)]
    before = copy.deepcopy(NET.state_dict())
    first = probe.fit(NET, data, epochs=2, seed=seed, batch_size=batch_size)
    torch.manual_seed(seed + 1)
    second = probe.fit(NET, data, epochs=2, seed=seed, batch_size=batch_size)
    first.save(tmp_path / "probe")
    for other in (second, probe.Probe.load(tmp_path / "probe", NET)):
        assert torch.equal(other.predict(data).probabilities, first.predict(data).probabilities)
    assert all(torch.equal(value, before[key]) for key, value in NET.state_dict().items())


@given(outputs(), st.lists(st.dictionaries(TEXT, KNOWN, max_size=3), max_size=3))
@settings(LIGHT, max_examples=8)
def test_other_exits_leave_the_rest_of_the_results(tmp_path: Path, own: LayerOutputs, rows: list[Any]) -> None:
    path = probe.write_results(tmp_path, {"test": own}, zero_one_cost(len(own.labels)), methods=("chebyshev",))
    before = json.loads(path.read_text(encoding="utf-8"))
    after = json.loads(probe.replace_exits(tmp_path, rows).read_text(encoding="utf-8"))
    assert len(after.pop("exits")) == len(rows)
    before.pop("exits")
    assert after == before


# Configurations and tables.

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(sorted(METHODS)),
        "seed": st.integers(0, 2**31 - 1),
        "scale": st.sampled_from(["smoke", "laptop", "paper"]),
        "epochs": st.integers(1, 99),
        "learning_rate": st.floats(0, 9),
        "milestones": st.lists(st.floats(0.01, 0.99), max_size=3),
        "group": st.sampled_from(["", "mine", "a/b"]),
        "model_options": st.dictionaries(st.sampled_from(["depth", "width"]), st.integers(1, 9)),
    },
)


@given(CHANGES, CHANGES)
@LIGHT
def test_configurations_are_resolved_once_and_for_all(first: dict[str, Any], second: dict[str, Any]) -> None:
    config = Config().changed(first)
    assert config.resolved().resolved() == config.resolved()
    assert Config(**config.identity()) == config
    assert config.changed({}) == config
    both = config.changed(second)
    assert both.changed(second) == both
    assert all(getattr(both, name) == value for name, value in second.items() if name != "model_options")
    assert method_of(config.method, {}) == METHODS[config.method]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1)), min_size=1, max_size=5), st.randoms())
@settings(LIGHT, max_examples=10)
def test_a_table_does_not_depend_on_the_order_of_runs(tmp_path: Path, runs: list[Any], random: Any) -> None:
    paths = []
    for i, (method, accuracy) in enumerate(runs):
        paths.append(tmp_path / f"{i}.db")
        paths[-1].unlink(missing_ok=True)
        with Store(paths[-1]) as store:
            store.set_meta("method", method)
            store.write([Record(9, "", "test/accuracy", accuracy), Record(9, "fc", "normality", 2 * accuracy)])
    shuffled = random.sample(paths, len(paths))
    found, expected = ({row.method: row for row in ls.train.summarize(given)} for given in (shuffled, paths))
    assert found.keys() == expected.keys()
    for method, row in expected.items():
        assert found[method].accuracy == pytest.approx(row.accuracy, nan_ok=True)
        assert row.distance.mean == pytest.approx(2 * row.accuracy.mean)
