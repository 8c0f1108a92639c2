"""Configurations: what a scale fills in, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from layershift.train.config import (
    CHOICES,
    SCALES,
    SCHEDULES,
    Config,
    DataName,
    ModelName,
    ScaleName,
    ScheduleName,
    differences,
    load_yaml,
    save_yaml,
)
from layershift.train.methods import METHODS, MethodName


def test_names_and_tables_agree() -> None:
    names = {"method": MethodName, "model": ModelName, "data": DataName, "scale": ScaleName}
    assert {key: get_args(value) for key, value in names.items()} == CHOICES
    assert get_args(ScheduleName) == SCHEDULES
    assert tuple(METHODS) == get_args(MethodName)
    assert tuple(SCALES) == get_args(ScaleName)


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_leaves_nothing_open_and_overrides_nothing(scale) -> None:
    config = Config(scale=scale).resolved()
    assert None not in vars(config).values()
    assert config.resolved() == config
    assert Config(scale=scale, epochs=7, momentum=0.5, every=0).resolved().epochs == 7
    assert Config(scale=scale, every=0, momentum=0.0).resolved().every == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "bn"}, "method: expected one of 'vanilla', 'batch', 'unitization', 'per', got 'bn'"),
        ({"model": "vgg"}, "model: expected one of 'moments_mlp', 'small_cnn', got 'vgg'"),
        ({"schedule": "linear"}, "schedule: expected one of 'cosine', 'step', 'constant', got 'linear'"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate: expected a finite number that is not negative, got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number that is not negative, got nan"),
        ({"seed": -1}, "seed: expected a finite number that is not negative, got -1"),
        ({"penalty_weight": 0.1}, "penalty_weight: expected 0 for batch, got 0.1"),
    ],
)
def test_impossible_configurations(change, message) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(Config(), **change).resolved()


def test_yaml_comes_back_and_runs_no_code(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    save_yaml(path, {"config": vars(Config().resolved()), "git_revision": None})
    assert load_yaml(path)["config"] == vars(Config().resolved())
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match=r"config.yaml: not a YAML file"):
        load_yaml(path)
    path.write_text("- 1")
    with pytest.raises(ValueError, match="expected a mapping, got list"):
        load_yaml(path)


def test_differences_are_named() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == [
        "b (asked for 2, found nothing)",
        "c (asked for nothing, found 3)",
    ]
