"""A trained network from the folder of its run, with its data and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from layershift._checks import check_choice, check_path
from layershift.train.components import Data, build_data, build_model
from layershift.train.config import Config, known_fields, with_defaults
from layershift.train.fit import read_checkpoint
from layershift.train.folder import RunError, RunFolder
from layershift.train.values import load_yaml

_PREFIX = "model."
"""Of the network's tensors in a checkpoint; the others are the learner's."""


@dataclass(frozen=True)
class RestoredRun:
    """What a run trained, and on what.

    Attributes:
        path: the run's folder.
        config: its configuration.
        data: its data, read.
        model: its network with the trained weights, in evaluation mode, on the CPU.
    """

    path: Path
    config: Config
    data: Data
    model: nn.Module


def load_run(
    folder: str | Path, *, checkpoint: Literal["last", "best"] = "last", data_root: str | Path | None = None
) -> RestoredRun:
    """Build the network and the data of a finished run again, from its folder alone.

    Args:
        folder: of the run, ``OUT/METHOD/seedK``; or a folder above it that holds no other run.
        checkpoint: "last" has the weights after the last epoch, those that were tested; "best" the ones of the best
            validation.
        data_root: the folder of the data's files, which a run does not keep; as for a new run, if None.

    Returns:
        The run, with a network that computes what it did when it was tested.

    Raises:
        RunError: if there is no run, or several; if it is not finished, or its files do not fit together.
        DataError: if the files of its data are absent or damaged.

    Example:
        >>> import tempfile
        >>> from layershift.train import train
        >>> out = tempfile.mkdtemp()
        >>> run = train(Config(method="batch", scale="smoke", epochs=1, every=0), out)
        >>> restored = load_run(out)
        >>> restored.path == run.path, restored.model.training, restored.data.sizes["num_classes"]
        (True, False, 10)
    """
    check_path("folder", folder)
    check_choice("checkpoint", checkpoint, ("last", "best"))
    if data_root is not None:
        check_path("data_root", data_root)
    run = RunFolder(find_run(Path(folder)))
    config = _config(run)
    if run.state() != "finished":
        raise RunError(f"{run.path}: the run is not finished; layershift train with its options and --resume goes on")
    path = getattr(run, checkpoint)
    if not path.is_file():
        raise RunError(f"{path}: not there{'' if checkpoint == 'last' else ', as in a run without validation data'}")
    found = read_checkpoint(path, config.identity())
    if data_root is not None:
        config = config.changed({"data_root": str(data_root)})
    data = build_data(config)
    data.setup("test")
    # The checkpoint has all weights: the file of those that training started from need not be here any more.
    model = build_model(config.changed({"model_options": {"weights": None}}), data.sizes)
    state = {key.removeprefix(_PREFIX): value for key, value in found["state_dict"].items() if key.startswith(_PREFIX)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path}: its weights are not those of the run's network ({reason})") from error
    return RestoredRun(run.path, config, data, model.eval())


def find_run(folder: Path) -> Path:
    """The folder of a run: this one, or the only one below it.

    Raises:
        RunError: if there is none, or there are several.
    """
    if (folder / "config.yaml").is_file():
        return folder
    depths = ("*", "*/*", "*/*/*")
    found = sorted(path.parent for depth in depths for path in folder.glob(f"{depth}/config.yaml"))
    if not found:
        raise RunError(
            f"{folder}: no run here; expected the folder of one, OUT/METHOD/seedK, which layershift train makes"
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
        raise RunError(
            f"{folder}: {len(found)} runs ({names}{', …' if len(found) > 5 else ''}); name the folder of one"
        )
    return found[0]


def _config(run: RunFolder) -> Config:
    try:
        values = load_yaml(run.config).get("config")
    except (OSError, ValueError) as error:
        raise RunError(f"{run.config}: not the configuration of a run ({error})") from error
    if not isinstance(values, dict):
        raise RunError(f"{run.config}: not the configuration of a run")
    if unknown := sorted(set(values) - known_fields()):
        raise RunError(f"{run.config}: options that this version does not know: {', '.join(unknown)}")
    return Config(**with_defaults(values))
