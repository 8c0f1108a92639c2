"""What is probed: a trained network and its data, from a run's folder or from options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershift.commands.words import UsageError, parse_changes

if TYPE_CHECKING:
    from torch import nn

    from layershift.probe.outputs import Task
    from layershift.train.components import LabelledData
    from layershift.train.config import Config

TASKS: Mapping[str, Task] = {"classification": "single_label", "multi_label": "multi_label"}

BATCH = 32
"""Samples that go through a network at a time where no run says; a run's batches would be too large for small data."""


@dataclass(frozen=True)
class Subject:
    """What is probed.

    Attributes:
        model: the network, in evaluation mode.
        data: read.
        config: how both are made.
        name: in words.
    """

    model: nn.Module
    data: LabelledData
    config: Config
    name: str

    @property
    def task(self) -> Task:
        """What is learned, as the probe calls it."""
        return TASKS[self.data.task]


def find_subject(run: Path | None, changes: list[str], *, checkpoint: str = "last") -> Subject:
    """The network of a run, or one that options describe; and its data, or others.

    Args:
        run: the folder of a run, or None.
        changes: words such as `data=coco` and `model_options.weights=FILE`.
        checkpoint: "last" or "best".

    Raises:
        UsageError: if the options make no network, or the data have no labels.
        RunError: if there is no finished run in the folder.
    """
    from layershift.train.config import Config
    from layershift.train.restore import load_run

    try:
        values = parse_changes(changes)
        for_data = {key: value for key, value in values.items() if key.partition(".")[0] in _OF_DATA}
        if run is None:
            if "model" not in values or "data" not in values:
                raise UsageError("expected the folder of a run, or model=… and data=…")
            return _of_options(Config(batch_size=BATCH, method="vanilla").changed(values).resolved())
        if other := [key for key in values if key not in for_data]:
            raise UsageError(f"{other[0]}: a run has its own; only data, data_options and data_root can be changed")
        found = load_run(run, checkpoint=checkpoint, data_root=for_data.get("data_root"))  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from error
    config = found.config.changed(_fresh(for_data))
    data = found.data if config.identity() == found.config.identity() else _data(config)
    return Subject(found.model, _labelled(data, config), config, f"{config.model}, {config.method}, of {found.path}")


_OF_DATA = ("data", "data_options", "data_root")


def _fresh(values: Mapping[str, Any]) -> dict[str, Any]:
    """Other data do not take the options of those that the run had."""
    return ({"data_options": {}} if "data" in values else {}) | dict(values)


def _of_options(config: Config) -> Subject:
    from layershift.train.components import build_model

    data = _labelled(_data(config), config)
    return Subject(build_model(config, data.sizes).eval(), data, config, config.model)


def _data(config: Config) -> Any:
    from layershift.train.components import build_data

    data = build_data(config)
    data.setup("test")
    return data


def _labelled(data: Any, config: Config) -> LabelledData:
    if data.task not in TASKS:
        raise UsageError(f"data: expected images with labels, got {config.data} ({data.task})")
    labelled: LabelledData = data
    return labelled
