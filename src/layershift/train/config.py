"""Everything that decides what a run computes, in one flat record.

Nothing here imports torch, so that the command line's help is there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from layershift.train.hints import check_types
from layershift.train.methods import Method, method_of
from layershift.train.values import merged

ScaleName: TypeAlias = Literal["smoke", "laptop", "paper"]
ScheduleName: TypeAlias = Literal["cosine", "step", "plateau", "constant"]

SCALES: Mapping[ScaleName, Mapping[str, Any]] = {
    "smoke": {"epochs": 2, "learning_rate": 0.007, "schedule": "cosine", "momentum": 0.9, "every": 8},
    "laptop": {"epochs": 60, "learning_rate": 0.007, "schedule": "cosine", "momentum": 0.9, "every": 20},
    "paper": {"epochs": 200, "learning_rate": 0.05, "schedule": "step", "momentum": 0.0, "every": 80},
}
"""What a scale decides where a configuration and its recipe leave it open."""

SCHEDULES = ("cosine", "step", "plateau", "constant")
MEASURES = ("moments", "normality", "health", "shift")


@dataclass(frozen=True)
class Config:
    """What a run computes. None leaves a value to the scale or the method; `resolved` fills it in.

    Args:
        method: What is done to the layers: vanilla, batch, group, unitization, per, vcl, l1, … (`layershift recipes`
            lists all), or a new name with method_options.
        method_options: What defines a new method or changes a known one: norm, norm_options, penalty, penalty_options,
            layers, model_options.
        seed: Of the initial weights, of the order of the batches, and of all else that is random.
        model: The network, by its name in layershift.train.models, or the dotted path of a function.
        model_options: Options of the network, such as its depth.
        data: The data, by its name in layershift.train.data, or the dotted path of a class.
        data_options: Options of the data, such as train_size.
        data_root: The folder of files that are there already; digits need none.
        scale: How much is computed: smoke (seconds, to see that it works), laptop (minutes), or paper (as published).
        epochs: Passes over the training data; by scale 2, 60, 200.
        batch_size: Samples in a training batch, in each process.
        learning_rate: At the start; by scale 0.007, 0.007, 0.05.
        schedule: How the learning rate falls: with a half cosine to 0 at each step, or by steps at milestones, or on a
            plateau of the validation loss, or not at all; by scale cosine, cosine, step.
        milestones: Parts of the training after which the learning rate falls, if it falls by steps.
        decay: The factor by which it falls, by steps or on a plateau; or one for each milestone.
        warmup: The part of the training, at its start, with a tenth of the learning rate.
        momentum: 0 is plain gradient descent; by scale 0.9, 0.9, 0.
        nesterov: Nesterov's momentum, not Polyak's.
        weight_decay: On the weights of linear and convolutional layers only; never on biases and normalisers.
        bias_rate: The learning rate of biases and of Fixup's scalars, as a part of the others'.
        gradient_clip: The norm to which gradients are clipped; not clipped, if None.
        penalty_weight: The weight λ of the method's penalty; by method.
        layers: Layers that are measured, and penalised unless the method says otherwise: a pattern of names, where *
            stands for anything, or several.
        measures: What is measured: moments, normality, health, shift; shift/critic, shift/exact and shift/gaussian name
            an estimator.
        every: Steps between two measurements, or epoch; 0 measures nothing; by scale 8, 20, 80.
        test_scales: Lengths of images' shorter side at which the trained network is tested as well, by crops and in its
            fully-convolutional form.
        threads: CPU threads. The products of small networks are not worth sharing: one is quicker than two, and on a
            machine that does other things as well, where threads wait for each other, many times so.
        accelerator: Where to compute: auto, cpu, gpu.
        devices: Processes on each machine, one a device.
        num_nodes: Machines.
        precision: Of the arithmetic, as Lightning knows it: 32-true, bf16-mixed, 16-mixed.
        deterministic: Refuse operations whose numbers differ from run to run.
        group: A folder between OUT and the method's, for runs of one method that differ in other ways.
    """

    method: str = "batch"
    method_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    model: str = "moments_mlp"
    model_options: dict[str, Any] = field(default_factory=dict)
    data: str = "digits"
    data_options: dict[str, Any] = field(default_factory=dict)
    data_root: str | None = None
    scale: ScaleName = "laptop"
    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float | None = None
    schedule: ScheduleName | None = None
    milestones: list[float] = field(default_factory=lambda: [0.3, 0.6, 0.8])
    decay: float | list[float] = 0.2
    warmup: float = 0.0
    momentum: float | None = None
    nesterov: bool = True
    weight_decay: float = 0.0
    bias_rate: float = 1.0
    gradient_clip: float | None = None
    penalty_weight: float | None = None
    layers: str | list[str] = "*relu"
    measures: list[str] = field(default_factory=lambda: list(MEASURES))
    every: int | Literal["epoch"] | None = None
    test_scales: list[int] = field(default_factory=list)
    threads: int = 1
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    deterministic: bool = True
    group: str = ""

    @property
    def definition(self) -> Method:
        """The method, as this configuration defines it."""
        return method_of(self.method, self.method_options)

    def resolved(self) -> Config:
        """The same with what the method and the scale decide, and every value checked.

        Raises:
            ValueError: for an unknown name or a number out of range.

        Example:
            >>> Config(method="per", scale="smoke").resolved().epochs
            2
        """
        from layershift._checks import check, check_choice, check_type

        check_type("method", self.method, str, "the name of a method")
        check_type("method_options", self.method_options, Mapping, "options by name")
        check_choice("scale", self.scale, tuple(SCALES))
        method = self.definition
        defaults = {"penalty_weight": float(method.penalty_weight), **SCALES[self.scale]}
        config = replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})
        values = asdict(config)
        check_choice("schedule", config.schedule, SCHEDULES)
        check_types(config)
        for name in ("epochs", "batch_size", "threads", "devices", "num_nodes"):
            check(values[name] >= 1, name, "at least 1", values[name])
        for name in ("seed", "learning_rate", "momentum", "weight_decay", "penalty_weight", "bias_rate"):
            check(0 <= values[name] < float("inf"), name, "a finite number that is not negative", values[name])
        check(0 <= config.warmup <= 1, "warmup", "a number in [0, 1]", config.warmup)
        decays = config.decay if isinstance(config.decay, list) else [config.decay] * len(config.milestones)
        check(all(0 < decay <= 1 for decay in decays), "decay", "numbers in (0, 1]", config.decay)
        check(isinstance(config.decay, float) or config.schedule != "plateau", "decay", "one number", config.decay)
        several = len(decays) == len(config.milestones)
        check(several or config.schedule != "step", "decay", "a number, or one for each milestone", config.decay)
        check(all(0 < part < 1 for part in config.milestones), "milestones", "parts in (0, 1)", config.milestones)
        check(
            config.every == "epoch" or int(config.every or 0) >= 0, "every", "a number of steps, or epoch", config.every
        )
        for measure in config.measures:
            name, _, estimator = measure.partition("/")
            check_choice("measures", name, MEASURES)
            check(not estimator or name == "shift", "measures", "an estimator for shift only", repr(measure))
        check(
            config.gradient_clip is None or config.gradient_clip > 0,
            "gradient_clip",
            "a positive number",
            config.gradient_clip,
        )
        inside = not Path(config.group).is_absolute() and ".." not in Path(config.group).parts
        check(inside, "group", "a folder inside the output's", repr(config.group))
        check(config.seed < 2**31, "seed", "less than 2^31", config.seed)
        penalised = method.penalty is not None
        check(penalised or not config.penalty_weight, "penalty_weight", f"0 for {self.method}", config.penalty_weight)
        return config

    def identity(self) -> dict[str, Any]:
        """What decides the run's numbers: all plain values but the place of the data.

        Example:
            >>> Config(data_root="/data").identity() == Config().identity()
            True
        """
        return {name: value for name, value in asdict(self).items() if name != "data_root"}

    def changed(self, changes: Mapping[str, Any]) -> Config:
        """The same with other values; mappings such as `model_options` are merged, not replaced.

        Args:
            changes: values by the name of their field; one entry of a mapping may be named with a dot.

        Returns:
            The changed configuration.

        Raises:
            ValueError: for a name that is no field.

        Example:
            >>> Config(model_options={"depth": 20}).changed({"model_options.seed": 1}).model_options
            {'depth': 20, 'seed': 1}
        """
        from layershift._checks import check_type

        check_type("changes", changes, Mapping, "values by the name of their field")
        config = self
        for key, value in changes.items():
            name, _, entry = key.partition(".")
            check_options("configuration", {name: value})
            if entry:
                value = _nested(entry, value)
            old: Any = getattr(config, name)
            new: Any = merged(old, value) if isinstance(value, Mapping) else value
            config = replace(config, **{name: new})
        return config


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a run said of itself, completed: options that it did not know yet have their defaults.

    Example:
        >>> with_defaults({"seed": 3})["batch_size"]
        128
    """
    return {**Config().identity(), **values}


def check_options(argument: str, options: Mapping[str, Any]) -> None:
    """Raise unless all names are fields of `Config`."""
    from layershift._checks import check_choice

    for name in options:
        check_choice(argument, name, sorted(known_fields()))


def _nested(path: str, value: Any) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    return {name: _nested(rest, value) if rest else value}


def known_fields() -> set[str]:
    """Names of all options of a run."""
    return {field.name for field in fields(Config)}
