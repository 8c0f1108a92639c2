"""Everything that decides what a run computes, in one flat record.

Nothing here imports torch, so that the command line's help is there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from layershift.train.methods import METHODS, MethodName

ModelName: TypeAlias = Literal["moments_mlp", "small_cnn"]
DataName: TypeAlias = Literal["digits"]
ScaleName: TypeAlias = Literal["smoke", "laptop", "paper"]
ScheduleName: TypeAlias = Literal["cosine", "step", "constant"]

SCALES: Mapping[ScaleName, Mapping[str, Any]] = {
    "smoke": {"epochs": 2, "learning_rate": 0.007, "schedule": "cosine", "momentum": 0.9, "every": 8},
    "laptop": {"epochs": 60, "learning_rate": 0.007, "schedule": "cosine", "momentum": 0.9, "every": 20},
    "paper": {"epochs": 200, "learning_rate": 0.05, "schedule": "step", "momentum": 0.0, "every": 80},
}
"""What a scale decides where a configuration leaves it open."""


@dataclass(frozen=True)
class Config:
    """What a run computes. None leaves a value to the scale or the method; `resolved` fills it in.

    Args:
        method: What is done to the layers: nothing (vanilla), a normaliser before each activation (batch, unitization),
            or exact PER on each activation (per).
        seed: Of the initial weights and of the order of the batches.
        model: The network: ten layers of 100 units and one of 8 (moments_mlp), or four convolutions (small_cnn).
        data: The data: scikit-learn's handwritten digits, which need no download.
        scale: How much is computed: smoke (seconds, to see that it works), laptop (the demo), or paper (200 epochs
            without momentum, learning rate divided by 5 at 30, 60 and 80% of the epochs).
        epochs: Passes over the training data; by scale 2, 60, 200.
        batch_size: Samples in a training batch.
        learning_rate: At the start; by scale 0.007, 0.007, 0.05.
        schedule: How the learning rate falls: with a half cosine to 0 at each step, or divided by 5 at 30, 60 and 80%
            of the epochs, or not at all; by scale cosine, cosine, step.
        momentum: Nesterov's; 0 is plain gradient descent; by scale 0.9, 0.9, 0.
        weight_decay: On the weights of linear and convolutional layers only; never on biases and normalisers.
        penalty_weight: The weight λ of the method's penalty, which is summed over the batch; by method.
        layers: Layers that are penalised and measured: a pattern of names, where * stands for anything.
        every: Steps between two measurements; 0 measures nothing; by scale 8, 20, 80.
        threads: CPU threads. The products of these networks are too small to be worth sharing: one is quicker than
            two, and on a machine that does other things as well, where threads wait for each other, many times so.
    """

    method: MethodName = "batch"
    seed: int = 0
    model: ModelName = "moments_mlp"
    data: DataName = "digits"
    scale: ScaleName = "laptop"
    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float | None = None
    schedule: ScheduleName | None = None
    momentum: float | None = None
    weight_decay: float = 0.0
    penalty_weight: float | None = None
    layers: str = "*relu"
    every: int | None = None
    threads: int = 1

    def resolved(self) -> Config:
        """The same with every None replaced, and every value checked.

        Raises:
            ValueError: for an unknown name or a number out of range.

        Example:
            >>> Config(method="per", scale="smoke").resolved().epochs
            2
        """
        from layershift._checks import check, check_choice

        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        defaults = {"penalty_weight": METHODS[self.method].penalty_weight, **SCALES[self.scale]}
        config = replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})
        values = asdict(config)
        check_choice("schedule", config.schedule, SCHEDULES)
        for name in ("epochs", "batch_size", "threads"):
            check(values[name] >= 1, name, "at least 1", values[name])
        for name in ("seed", "learning_rate", "momentum", "weight_decay", "penalty_weight", "every"):
            check(0 <= values[name] < float("inf"), name, "a finite number that is not negative", values[name])
        check(config.seed < 2**31, "seed", "less than 2^31", config.seed)
        penalised = METHODS[self.method].penalty is not None
        check(penalised or not config.penalty_weight, "penalty_weight", f"0 for {self.method}", config.penalty_weight)
        return config


SCHEDULES = ("cosine", "step", "constant")
CHOICES = {"method": tuple(METHODS), "model": ("moments_mlp", "small_cnn"), "data": ("digits",), "scale": tuple(SCALES)}


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations, in words.

    Example:
        >>> differences({"seed": 0, "epochs": 3}, {"seed": 1, "epochs": 3})
        ['seed (asked for 0, found 1)']
    """
    keys = dict.fromkeys((*wanted, *found))
    missing = "nothing"
    pairs = {key: (wanted.get(key, missing), found.get(key, missing)) for key in keys}
    return [f"{key} (asked for {a}, found {b})" for key, (a, b) in pairs.items() if a != b]


def save_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping of plain values, in its order."""
    import yaml

    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping of plain values, safely.

    Raises:
        ValueError: if the file holds something else.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping, got {type(values).__name__}")
    return values


def known_fields() -> set[str]:
    """Names of all options of a run."""
    return {field.name for field in fields(Config)}
