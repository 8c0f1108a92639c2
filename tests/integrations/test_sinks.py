"""What was written to a dashboard is read back with its own reader."""

from __future__ import annotations

import json
import math
import struct
import sys
import time

import pytest

from layershift.integrations.sinks import Selection, tag_of
from layershift.monitor import Monitor, Record
from layershift.monitor.alarm import Alarm
from layershift.monitor.sink import Sink, Sinks

ALARM = Alarm(300, "layer0.0.relu", None, "dead", "dead", 0.9, 0.5, "layer0.0.relu is dead", "lower the rate")
SAID = "layer0.0.relu is dead. To try: lower the rate"
VALUES = [0.25, math.nan, math.inf, -math.inf]


def records(step: int, value: float = 0.5, layers: int = 1) -> list[Record]:
    """A measured step: layers with two measures, one of them also of a unit, and the loss."""
    found = [Record(step, "", "train/loss", 2.0)]
    for k in range(layers):
        name = f"layer{k}.0.relu"
        found += [
            Record(step, name, "mean", value, stderr=0.1, n=8),
            Record(step, name, "mean", 9.0, unit=3),
            Record(step, name, "variance", 1.0),
        ]
    return found


def same(found: list[float], expected: list[float]) -> bool:
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, ["train/loss", "mean/layer0.0.relu", "variance/layer0.0.relu"]),
        ({"units": True, "measures": "mean"}, ["mean/layer0.0.relu", "mean/layer0.0.relu/unit3"]),
        ({"stderr": True, "measures": ["mean"]}, ["mean/layer0.0.relu", "mean_stderr/layer0.0.relu"]),
        ({"layers": "layer1*"}, ["train/loss"]),
        ({"measures": "var*", "prefix": "net/"}, ["net/variance/layer0.0.relu"]),
    ],
)
def test_what_is_chosen_and_how_it_is_called(options, tags) -> None:
    assert [scalar.tag for scalar in Selection(**options).scalars(records(0))] == tags


def test_every_record_has_a_name_of_its_own() -> None:
    given = records(0, layers=3)
    assert len({tag_of(record) for record in given}) == len(given)


# TensorBoard


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboard")
    from layershift.integrations import TensorBoardSink

    return TensorBoardSink


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def test_tensorboard_reads_back_what_was_written(tensorboard, tmp_path) -> None:
    sink = tensorboard(tmp_path)
    assert isinstance(sink, Sink)
    for i, value in enumerate(VALUES):
        sink.write(records(100 * i, value))
    found = events(tmp_path)  # before the sink is closed
    assert found.Tags()["scalars"] == ["train/loss", "mean/layer0.0.relu", "variance/layer0.0.relu"]
    series = found.Scalars("mean/layer0.0.relu")
    assert [event.step for event in series] == [0, 100, 200, 300]
    assert same([event.value for event in series], VALUES)
    sink.write_alarms([ALARM])
    sink.close()
    (text,) = events(tmp_path).Tensors("alarms/dead/text_summary")
    assert (text.step, text.tensor_proto.string_val) == (300, [SAID.encode()])


def test_tensorboard_shows_a_measure_of_all_layers_in_one_panel(tensorboard, tmp_path) -> None:
    import re

    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    sink = tensorboard(tmp_path, prefix="a+b/")
    sink.write(records(0, layers=2))
    sink.write(records(1, layers=2))
    sink.close()
    found = events(tmp_path)
    (written,) = found.Tensors("custom_scalars__config__")
    layout = Layout.FromString(written.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag[0] for chart in layout.category[0].chart}
    assert list(charts) == ["mean", "variance"]
    lines = [tag for tag in found.Tags()["scalars"] if re.match(charts["mean"], tag)]
    assert lines == ["a+b/mean/layer0.0.relu", "a+b/mean/layer1.0.relu"]


def test_a_tensorboard_writer_that_was_given_stays_open(tensorboard, tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        sink = tensorboard(writer=writer)
        sink.write(records(7))
        sink.close()
        writer.add_scalar("mine", 1.0, 8)
        sink.write(records(9))  # another training
    found = events(tmp_path)
    assert "mine" in found.Tags()["scalars"]
    assert [event.step for event in found.Scalars("mean/layer0.0.relu")] == [7, 9]
    with pytest.raises(ValueError, match="log_dir: expected a folder, or else a writer"):
        tensorboard()


def test_a_monitor_tells_its_sink_what_it_stores(tensorboard, tmp_path) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    options = {"layers": "1", "every": 2, "store": tmp_path / "run.db", "budget": None}
    with Monitor(model, **options, sinks=[tensorboard(tmp_path, stderr=True)]) as monitor:
        for step in range(5):
            with monitor.step(step):
                model(torch.randn(8, 4))
            monitor.record(step, "train/loss", torch.tensor(0.5))
        stored = monitor.records()
    found = events(tmp_path)
    whole = [r for r in stored if r.unit is None and r.layer]
    assert {r.step for r in whole} == {0, 2, 4}
    for record in whole:
        written = {event.step: event.value for event in found.Scalars(tag_of(record))}
        assert same([written[record.step]], [pytest.approx(record.value, rel=1e-6)])
    assert len(found.Scalars("mean_stderr/1")) == 3
    assert [event.step for event in found.Scalars("train/loss")] == [0, 1, 2, 3, 4]


def test_a_sink_opens_nothing_before_the_first_record(tensorboard, tmp_path) -> None:
    tensorboard(tmp_path / "events").close()
    assert not (tmp_path / "events").exists()


# MLflow


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"  # one, because it takes seconds to make


@pytest.fixture
def client(database, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return mlflow.MlflowClient(database)


def test_mlflow_reads_back_what_was_written(client, database) -> None:
    from layershift.integrations import MLflowSink

    sink = MLflowSink(experiment="reads back", run_name="first", tracking_uri=database)
    for i, value in enumerate(VALUES):
        sink.write(records(100 * i, value))
    sink.write_alarms([ALARM, ALARM._replace(advice="")])
    assert client.get_run(sink.run_id).info.status == "RUNNING"
    sink.close()
    run = client.get_run(sink.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert set(run.data.metrics) == {"train/loss", "mean/layer0.0.relu", "variance/layer0.0.relu"}
    assert run.data.tags["layershift.alarm.0"] == SAID
    assert run.data.tags["layershift.alarm.1"] == "layer0.0.relu is dead"
    history = sorted(client.get_metric_history(sink.run_id, "mean/layer0.0.relu"), key=lambda metric: metric.step)
    assert [metric.step for metric in history] == [0, 100, 200, 300]
    largest = sys.float_info.max
    assert same([metric.value for metric in history], [0.25, math.nan, largest, -largest])


def test_mlflow_gets_at_most_a_thousand_metrics_a_call(client, database, monkeypatch) -> None:
    import mlflow

    from layershift.integrations import MLflowSink

    sizes, original = [], mlflow.MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), **options):
        sizes.append(len(metrics))
        return original(self, run_id, metrics=metrics, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    sink = MLflowSink(experiment="large", tracking_uri=database, measures=["mean", "variance"])
    sink.write(records(0, layers=1100))
    sink.close()
    assert sizes == [1000, 1000, 200]
    assert len(client.get_run(sink.run_id).data.metrics) == 2200


def test_mlflow_keys_are_allowed_and_differ(client, database) -> None:
    from layershift.integrations import MLflowSink

    run_id = client.create_run("0").info.run_id
    sink = MLflowSink(run_id, tracking_uri=database)
    layers = ["a+b", "a*b", "é", "a//b", "../a", "a b", "x" * 300, "x" * 301, "*"]
    sink.write([Record(0, layer, "mean", float(i)) for i, layer in enumerate(layers)])
    sink.close()
    run = client.get_run(run_id)
    assert sorted(run.data.metrics.values()) == [float(i) for i in range(len(layers))]
    assert run.data.metrics["mean/a_b"] == 0
    assert run.data.metrics["mean/a_b_2"] == 1
    assert max(map(len, run.data.metrics)) == 250
    assert run.info.status == "RUNNING"  # a run that was given stays open


def test_mlflow_joins_the_active_run(client, database, monkeypatch) -> None:
    import mlflow

    from layershift.integrations import MLflowSink

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database)
    try:
        with mlflow.start_run() as active:
            sink = MLflowSink()
            sink.write(records(3))
            sink.close()
            assert mlflow.active_run() is not None
    finally:
        mlflow.set_tracking_uri(before)
    assert client.get_run(active.info.run_id).data.metrics["mean/layer0.0.relu"] == 0.5
    with pytest.raises(ValueError, match="run_id: expected None, if the experiment or name of a new run is given"):
        MLflowSink("abc", experiment="mine")


def test_what_mlflow_refuses_does_not_stop_anything(database) -> None:
    from layershift.integrations import MLflowSink

    sinks = Sinks([MLflowSink("no-such-run", tracking_uri=database)])
    with pytest.warns(RuntimeWarning, match="MLflowSink: .*no-such-run.*this sink gets no more records"):
        sinks.write(records(0))
    assert len(sinks) == 0


# Weights & Biases


def messages(path) -> list:
    """The protobuf messages of an offline run's file, which is a LevelDB log."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = struct.unpack_from("<HB", data, at + 4) if left >= 7 else (0, 0)
        if kind == 0:  # the rest of the block is empty
            at += left
            continue
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


def history(folder) -> tuple[list[dict], dict]:
    """The rows of an offline run, and its metrics by name."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for _ in range(200):  # another process writes it, and may go on a little after the run is finished
        found = messages(path)
        if found and found[-1].HasField("exit"):
            break
        time.sleep(0.05)
    rows = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    return rows, {record.metric.name: record.metric for record in found if record.HasField("metric")}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return {"mode": "offline", "dir": str(tmp_path), "project": "test", "settings": {"x_disable_stats": True}}


def test_wandb_sends_alarms_as_alerts(offline, tmp_path) -> None:
    from layershift.integrations import WandbSink

    sink = WandbSink(**offline)
    sink.write_alarms([ALARM])
    sink.close()
    history(tmp_path)  # waits for the file
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    (alert,) = [message.alert for message in messages(path) if message.HasField("alert")]
    assert (alert.title, alert.text) == ("dead: layer0.0.relu", SAID)


def series(rows, key) -> list[tuple[float, float]]:
    return [(row["monitor/step"], row[key]) for row in rows if key in row]


def test_wandb_reads_back_what_was_written_to_a_run_of_its_own(offline, tmp_path) -> None:
    import wandb

    from layershift.integrations import WandbSink

    sink = WandbSink(**offline)
    for i, value in enumerate(VALUES):
        sink.write(records(100 * i, value))
    sink.close()
    assert wandb.run is None
    rows, metrics = history(tmp_path)
    found = series(rows, "mean/layer0.0.relu")
    assert [step for step, _ in found] == [0, 100, 200, 300]
    assert same([value for _, value in found], VALUES)
    assert metrics["mean/layer0.0.relu"].step_metric == metrics["train/loss"].step_metric == "monitor/step"
    shown = {key for row in rows for key in row if not key.startswith("_")}
    assert shown == {"monitor/step", "train/loss", "mean/layer0.0.relu", "variance/layer0.0.relu"}


@pytest.mark.parametrize("own", [None, 1, 10], ids=["without a step", "with each step", "with some steps"])
def test_wandb_loses_neither_its_rows_nor_the_users(own, offline, tmp_path) -> None:
    """Users log before or after the records come, with or without a step of theirs; the axis is the training step."""
    import wandb

    from layershift.integrations import WandbSink

    run = wandb.init(**offline)
    sink = WandbSink(run)
    for step in range(40):
        if step % 4 == 0:
            sink.write(records(step, float(step)))
        if own is None or step % own == 0:
            run.log({"mine": step}, step=None if own is None else step)
    sink.close()
    run.finish()
    rows, metrics = history(tmp_path)
    assert metrics["monitor/step"].options.hidden
    assert "mine" not in metrics
    assert series(rows, "mean/layer0.0.relu") == [(step, float(step)) for step in range(0, 40, 4)]
    assert [row["mine"] for row in rows if "mine" in row] == list(range(0, 40, own or 1))


def test_wandb_refuses_options_of_a_new_run_with_a_run() -> None:
    pytest.importorskip("wandb")
    from layershift.integrations import WandbSink

    with pytest.raises(ValueError, match="run: expected None, if options of a new run are given"):
        WandbSink(object(), project="mine")
