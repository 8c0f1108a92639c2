"""Training on all of the training data, with nothing held out to choose by."""

from __future__ import annotations

import pytest

from layershift.monitor import open_store
from layershift.train import train
from layershift.train.config import Config
from layershift.train.recipe import parse_recipe
from layershift.train.reproduce import reproduce

OPTIONS = {"verify": False, "validation": "none", "val_size": 20}


def test_a_run_without_validation_data_trains_on_everything_and_is_tested(write_idx, tmp_path) -> None:
    config = Config(data="mnist", data_root=str(write_idx()), data_options=OPTIONS, scale="smoke", batch_size=20)
    run = train(config, tmp_path / "runs")
    assert run.result.n == 20
    with open_store(run.store) as store:
        records = store.records()
    measures = {r.measure for r in records}
    assert {"train/loss", "test/accuracy", "learning_rate", "normality"} <= measures
    assert not {m for m in measures if m.startswith("val/")}
    assert [r.n for r in records if r.measure == "train/loss"] == [60, 60]


def test_nothing_is_chosen_without_validation_data(write_idx, tmp_path) -> None:
    recipe = parse_recipe(
        "mine",
        {
            "title": "a search",
            "config": {"data": "mnist", "data_options": OPTIONS, "batch_size": 20, "epochs": 1, "every": 0},
            "methods": {"per": {"penalty": "PER", "penalty_weight": [1e-3, 1e-5]}},
            "columns": [{"title": "error", "statistic": "error"}],
        },
    )
    with pytest.raises(ValueError, match="data_options: expected validation data, to choose λ by, got none"):
        reproduce(recipe, tmp_path / "runs", scale="smoke", changes={"data_root": str(write_idx())})
