"""Records to TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershift._checks import check, check_path, import_extra
from layershift.integrations.sinks import ScalarSink, Selection, sentence_of
from layershift.monitor import Record
from layershift.monitor.alarm import Alarm

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardSink(ScalarSink):
    """Log records as TensorBoard scalars, `measure/layer`, at their training step.

    The tab "Scalars" has one panel a series, grouped by measure; the tab "Custom scalars" one panel a measure, with a
    line for each layer. NaN and infinities are written as they are, and TensorBoard marks them.

    Args:
        log_dir: the folder; not together with `writer`.
        writer: a `SummaryWriter` of yours, which stays open.
        layers: shell patterns of layers; the network as a whole is always logged.
        measures: shell patterns of measures.
        units: log single units too; one more panel for each.
        stderr: log standard errors too, as `measure_stderr/layer`.
        prefix: begins every name.

    Raises:
        ModuleNotFoundError: without tensorboard; the message names the extra to install.
        ValueError: if not exactly one of `log_dir` and `writer` is given.

    Example:
        >>> import tempfile
        >>> sink = TensorBoardSink(tempfile.mkdtemp())
        >>> sink.write([Record(step=100, layer="relu1", measure="mean", value=0.4)])
        >>> sink.close()
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        *,
        writer: SummaryWriter | None = None,
        layers: str | Sequence[str] = "*",
        measures: str | Sequence[str] = "*",
        units: bool = False,
        stderr: bool = False,
        prefix: str = "",
    ) -> None:
        check((log_dir is None) != (writer is None), "log_dir", "a folder, or else a writer", log_dir)
        if log_dir is not None:
            check_path("log_dir", log_dir)
        super().__init__(Selection(layers=layers, measures=measures, units=units, stderr=stderr, prefix=prefix))
        import_extra("tensorboard", extra="tensorboard")
        self._log_dir, self._writer, self._owns_writer = log_dir, writer, writer is None
        self._laid_out = False

    def write(self, records: Sequence[Record]) -> None:
        """Log the records of a measured step; they are in the file afterwards."""
        if not self._laid_out and (measures := self._measures(records)):
            self._laid_out = True  # TensorBoard shows the first layout of a run and no other
            self.writer.add_custom_scalars({"layershift": measures})
        super().write(records)
        if self._writer is not None:
            self._writer.flush()

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Log the scalars of a step."""
        for tag, value in row.items():
            self.writer.add_scalar(tag, value, step)

    def write_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Log alarms as text."""
        for alarm in alarms:
            self.writer.add_text(f"{self.selection.prefix}alarms/{alarm.kind}", sentence_of(alarm), alarm.step)
        self.writer.flush()

    def close(self) -> None:
        """Close the file, if it is not a writer of yours."""
        if self._owns_writer and self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def writer(self) -> SummaryWriter:
        """What is logged to; opened when it is first needed."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._log_dir))
        return self._writer

    def _measures(self, records: Sequence[Record]) -> dict[str, list[Any]]:
        """A panel for each measure, which takes the series of all its layers."""
        names = dict.fromkeys(r.measure for r in self.selection.chosen(records) if r.layer)
        start = re.escape(self.selection.prefix)
        return {name: ["Multiline", [rf"^{start}{re.escape(name)}/[^/]+$"]] for name in names}
