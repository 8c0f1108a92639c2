"""Records to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layershift._checks import check, import_extra
from layershift.integrations.sinks import ScalarSink, Selection, sentence_of
from layershift.monitor.alarm import Alarm

if TYPE_CHECKING:
    from wandb import Run

STEP = "monitor/step"
"""The training step, which panels of measures have on their horizontal axis."""


class WandbSink(ScalarSink):
    """Log records to a Weights & Biases run, as `measure/layer`, over their training step.

    A row of W&B has a number that only grows, its "step", which need not be the training step. So the training step is
    logged beside the records, as `monitor/step`, and the panels of measures have it on their axis, whatever you log
    with. Rows are shared with yours where that is possible: your own `run.log(…, step=i)` is not refused, as long as
    its numbers grow at least as fast as the number of measured steps.

    Records go to `run`; without it, to the run that is active when the first ones come; without that, to a new run,
    which is finished by `close`. NaN and infinities are logged as they are.

    Args:
        run: a run of yours, which stays open.
        layers: shell patterns of layers; the network as a whole is always logged.
        measures: shell patterns of measures.
        units: log single units too; one more panel for each.
        stderr: log standard errors too, as `measure_stderr/layer`.
        prefix: begins every name.
        **init: options of `wandb.init` for a new run, such as `project` or `mode="offline"`.

    Raises:
        ModuleNotFoundError: without wandb; the message names the extra to install.
        ValueError: if options of a new run are given together with `run`.
    """

    def __init__(
        self,
        run: Run | None = None,
        *,
        layers: str | Sequence[str] = "*",
        measures: str | Sequence[str] = "*",
        units: bool = False,
        stderr: bool = False,
        prefix: str = "",
        **init: Any,
    ) -> None:
        check(run is None or not init, "run", "None, if options of a new run are given", run)
        super().__init__(Selection(layers=layers, measures=measures, units=units, stderr=stderr, prefix=prefix))
        import_extra("wandb", extra="wandb")
        self._given = self._run = run
        self._init, self._owns_run = init, False
        self._defined: set[str] = set()
        self._row: int | None = None  # the row of W&B that our last numbers are in

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Log the scalars of a step."""
        run = self.run
        self._define(row)
        if run.step == self._row:
            run.log({}, commit=True)  # else these numbers would replace the last ones
        self._row = run.step
        # Not committed: a commit here would make a row number the user's next `log(…, step=…)` may be behind.
        run.log({STEP: step, **row}, commit=False)

    def write_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Send alarms as W&B alerts, which reach you as you have set up there."""
        for alarm in alarms:
            self.run.alert(title=f"{alarm.kind}: {alarm.layer}", text=sentence_of(alarm))

    def close(self) -> None:
        """Commit the last row; finish the run, if this sink began it."""
        run, self._run = self._run, self._given
        self._defined = set()
        if run is None:
            return
        if self._row is not None and run.step == self._row:
            run.log({}, commit=True)
        if self._owns_run:
            run.finish()

    @property
    def run(self) -> Run:
        """What is logged to; found or begun when it is first needed."""
        if self._run is None:
            import wandb

            self._owns_run = bool(self._init) or wandb.run is None
            self._run = wandb.init(**self._init) if self._owns_run else wandb.run
            assert self._run is not None
        return self._run

    def _define(self, row: Mapping[str, float]) -> None:
        """Put the training step on the axis of names that are new."""
        if not self._defined:
            self.run.define_metric(STEP, hidden=True)
        for tag in row:
            if tag not in self._defined:
                self._defined.add(tag)
                self.run.define_metric(tag, step_metric=STEP)
