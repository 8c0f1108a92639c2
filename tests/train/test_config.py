"""Configurations: what a scale fills in, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from layershift.train.config import (
    SCALES,
    SCHEDULES,
    Config,
    ScaleName,
    ScheduleName,
)


def test_names_and_tables_agree() -> None:
    assert get_args(ScheduleName) == SCHEDULES
    assert tuple(SCALES) == get_args(ScaleName)


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_leaves_nothing_open_and_overrides_nothing(scale) -> None:
    config = Config(scale=scale).resolved()
    assert [name for name, value in vars(config).items() if value is None] == ["data_root", "gradient_clip"]
    assert config.resolved() == config
    assert Config(scale=scale, epochs=7, momentum=0.5, every=0).resolved().epochs == 7
    assert Config(scale=scale, every=0, momentum=0.0).resolved().every == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "bn"}, "method: expected one of vanilla, batch, .*, or method_options with it, got bn"),
        ({"method": "bn", "method_options": {"nrom": 1}}, "method_options: expected one of 'norm', .*, got 'nrom'"),
        ({"schedule": "linear"}, "schedule: expected one of 'cosine', 'step', 'plateau', 'constant', got 'linear'"),
        ({"milestones": [0.5, 1.5]}, r"milestones: expected parts in \(0, 1\), got \[0.5, 1.5\]"),
        ({"measures": ["moment"]}, "measures: expected one of 'moments', .*, got 'moment'"),
        ({"measures": ["health/exact"]}, "measures: expected an estimator for shift only, got 'health/exact'"),
        ({"group": "/etc"}, "group: expected a folder inside the output's, got '/etc'"),
        ({"group": "a/../../b"}, "group: expected a folder inside the output's, got 'a/../../b'"),
        ({"gradient_clip": 0.0}, "gradient_clip: expected a positive number, got 0.0"),
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


def test_changes_reach_into_mappings_and_name_what_is_unknown() -> None:
    config = Config(model_options={"depth": 20, "init": "he"})
    changed = config.changed({"model_options.init": "fixup", "data_options": {"train_size": 5}, "epochs": 3})
    assert changed.model_options == {"depth": 20, "init": "fixup"}
    assert (changed.data_options, changed.epochs) == ({"train_size": 5}, 3)
    assert config.model_options == {"depth": 20, "init": "he"}
    with pytest.raises(ValueError, match=r"configuration: expected one of .*, got 'epoch'"):
        config.changed({"epoch": 3})


def test_where_the_data_lie_is_not_what_a_run_is() -> None:
    assert Config(data_root="/a").identity() == Config(data_root="/b").identity()
    assert Config(seed=1).identity() != Config(seed=2).identity()
