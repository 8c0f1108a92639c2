"""Records to MLflow."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layershift._checks import check, import_extra
from layershift.integrations.sinks import ScalarSink, Selection, sentence_of
from layershift.monitor.alarm import Alarm

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000  # MLflow takes no more metrics in one call
_LENGTH = 250  # of a metric's key


class MLflowSink(ScalarSink):
    """Log records as MLflow metrics, `measure/layer`, at their training step, in as few calls as MLflow allows.

    They go to the run `run_id`; without it, to the run that is active when the first records come; without that, to
    a new run, which is ended by `close`. Characters that MLflow does not allow in keys become `_`.

    NaN comes back as NaN; MLflow's databases keep infinities as ±1.797e308, the largest number that they know.

    Args:
        run_id: a run that exists and stays open.
        experiment: the name of the experiment that a new run belongs to; made, if there is none.
        tracking_uri: the server or the database, such as `"sqlite:///mlflow.db"`; what MLflow is configured with, if
            None. Folders (`./mlruns`) are refused by newer versions of MLflow.
        run_name: what a new run is called.
        layers: shell patterns of layers; the network as a whole is always logged.
        measures: shell patterns of measures.
        units: log single units too.
        stderr: log standard errors too, as `measure_stderr/layer`.
        prefix: begins every key.

    Raises:
        ModuleNotFoundError: without mlflow; the message names the extra to install.
        ValueError: if options of a new run are given together with `run_id`.
    """

    def __init__(
        self,
        run_id: str | None = None,
        *,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        layers: str | Sequence[str] = "*",
        measures: str | Sequence[str] = "*",
        units: bool = False,
        stderr: bool = False,
        prefix: str = "",
    ) -> None:
        own = experiment is None and run_name is None
        check(run_id is None or own, "run_id", "None, if the experiment or name of a new run is given", run_id)
        super().__init__(Selection(layers=layers, measures=measures, units=units, stderr=stderr, prefix=prefix))
        import_extra("mlflow", extra="mlflow")
        self.run_id = run_id
        self._experiment, self._uri, self._name = experiment, tracking_uri, run_name
        self._new = run_id is None and not own
        self._owns_run = False
        self._client: MlflowClient | None = None
        self._keys: dict[str, str] = {}
        self._alarms = 0

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Log the scalars of a step."""
        from mlflow.entities import Metric

        client, now = self.client, int(time.time() * 1000)
        metrics = [Metric(self.key_of(tag), value, now, step) for tag, value in row.items()]
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(str(self.run_id), metrics=metrics[start : start + _BATCH])

    def write_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Log alarms as tags of the run."""
        for alarm in alarms:
            self.client.set_tag(str(self.run_id), f"layershift.alarm.{self._alarms}", sentence_of(alarm))
            self._alarms += 1

    def close(self) -> None:
        """End the run, if this sink began it."""
        client, self._client = self._client, None
        if client is not None and self._owns_run:
            client.set_terminated(str(self.run_id))

    @property
    def client(self) -> MlflowClient:
        """What is logged to; the run is found or begun when it is first needed."""
        if self._client is None:
            import mlflow

            self._client = mlflow.MlflowClient(self._uri)
            if self.run_id is None and not self._new and (active := mlflow.active_run()) is not None:
                self.run_id = active.info.run_id
            if self.run_id is None:
                self.run_id, self._owns_run = self._begin(self._client), True
        return self._client

    def key_of(self, tag: str) -> str:
        """The key of a name: its own for each, and one that MLflow allows."""
        if tag not in self._keys:
            clean = posixpath.normpath(re.sub(r"[^\w\-. :/]", "_", tag, flags=re.ASCII)).lstrip("./")[:_LENGTH] or "_"
            key, number, taken = clean, 2, set(self._keys.values())
            while key in taken:  # two names that differ only in what is not allowed
                ending = f"_{number}"
                key, number = clean[: _LENGTH - len(ending)] + ending, number + 1
            self._keys[tag] = key
        return self._keys[tag]

    def _begin(self, client: MlflowClient) -> str:
        name = self._experiment or "Default"
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        return str(client.create_run(experiment, run_name=self._name).info.run_id)
