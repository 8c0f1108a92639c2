"""Every method by name trains: it has a network that it fits, and what it adds to the loss is there."""

from __future__ import annotations

import pytest

from layershift.monitor import open_store
from layershift.train import METHODS, train
from layershift.train.config import Config
from layershift.train.methods import method_of

LANGUAGE = {
    "model": "word_lstm",
    "data": "markov_words",
    "layers": "hidden*",
    "model_options": {"hidden": 8},
    "data_options": {"train_size": 2000, "eval_size": 1000},
    "batch_size": 10,
}
RESIDUAL = {"model": "cifar_resnet", "model_options": {"depth": 8, "width": 4}, "layers": "*relu*"}
CONVOLUTIONS = {"model": "small_cnn"}
NETWORKS = {
    "recurrent_batch": LANGUAGE,
    "fixup": RESIDUAL,
    "fixup_per": RESIDUAL,
    **dict.fromkeys(("vcl", "instance", "group", "layer"), CONVOLUTIONS),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method, tmp_path) -> None:
    config = Config(method=method, scale="smoke", epochs=1, every=0, **NETWORKS.get(method, {}))
    run = train(config, tmp_path)
    assert run.result.value > 0
    with open_store(run.store) as store:
        measures = {r.measure: r.value for r in store.records()}
    assert ("train/penalty" in measures) == (METHODS[method].penalty is not None)
    assert measures.get("train/penalty", 1.0) > 0


def test_a_method_is_changed_field_by_field() -> None:
    changed = method_of("per", {"penalty_options": {"mode": "projections"}, "layers": "*conv"})
    assert changed.penalty_options == {"reduction": "sum", "mode": "projections"}
    assert (changed.layers, changed.penalty_weight) == ("*conv", METHODS["per"].penalty_weight)
    assert METHODS["per"].penalty_options["mode"] == "exact"
    with pytest.raises(ValueError, match=r"method: expected one of vanilla, .*, or method_options with it, got mine"):
        method_of("mine", {})
    with pytest.raises(ValueError, match=r"method_options: expected one of 'norm', .*, got 'penalties'"):
        method_of("mine", {"penalties": "PER"})
