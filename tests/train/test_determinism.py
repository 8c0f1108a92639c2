"""Same seed, same numbers; and a run that ends early, however, and goes on comes to the weights of one that did not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from layershift.monitor import open_store
from layershift.train import Config, train
from layershift.train.callbacks import Saving
from layershift.train.folder import folder_of
from layershift.train.trainer import computing

SMOKE = Config(scale="smoke", epochs=3, every=8)
CONVOLUTIONS = replace(SMOKE, model="small_cnn", method="unitization")
# What a run carries from step to step: running statistics, a penalty's random directions and parameters, momentum, a
# plateau's memory, dropout.
CARRIED = {
    "unitization": replace(SMOKE, method="unitization", weight_decay=1e-3),
    "projections": replace(SMOKE, method="per_projections"),
    "sliced": replace(SMOKE, method="sliced_w2"),
    "vcl": replace(CONVOLUTIONS, method="vcl"),
    "plateau": replace(SMOKE, schedule="plateau", learning_rate=0.3, decay=0.5, epochs=7),
    "augmentation": replace(CONVOLUTIONS, method="batch", data="augmented_digits.AugmentedDigits"),
    "dropout": replace(
        SMOKE,
        model="word_lstm",
        model_options={"hidden": 16, "variational": True},
        data="markov_words",
        data_options={"train_size": 4000},
        method="recurrent_batch",
        layers="*lstm*",
        gradient_clip=0.25,
        batch_size=16,
    ),
}

AUGMENTED = """
from layershift.train.data import DigitsData

class AugmentedDigits(DigitsData):
    augmented = True
"""


def weights(config: Config, out: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder_of(config, out).last, weights_only=True)["state_dict"]


def records(config: Config, out: Path) -> dict[tuple, float]:
    """All but times, and shift: what the first measurement after an interruption would be compared with is gone."""
    with open_store(folder_of(config, out).path) as store:
        found = store.records()
    left_out = ("seconds", "monitor/share", "shift/sliced")
    return {(r.layer, r.measure, r.step, r.unit): r.value for r in found if not r.measure.endswith(left_out)}


def assert_same(config: Config, one: Path, other: Path) -> None:
    first, second = weights(config, one), weights(config, other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
    first, second = records(config, one), records(config, other)
    assert first.keys() == second.keys()
    values = (torch.tensor(list(found.values()), dtype=torch.float64) for found in (first, second))
    torch.testing.assert_close(*values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_same_seed_same_numbers(tmp_path, threads) -> None:
    config = replace(CONVOLUTIONS, threads=threads, epochs=1, every=0 if threads == 2 else 8)
    for name in ("one", "other"):
        train(config, tmp_path / name)
        torch.rand(random.randrange(9))  # whatever else the process draws
    assert_same(config, tmp_path / "one", tmp_path / "other")
    train(replace(config, seed=1), tmp_path / "one")
    first, second = weights(config, tmp_path / "one"), weights(replace(config, seed=1), tmp_path / "one")
    assert not torch.equal(first["model.classifier.weight"], second["model.classifier.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIED)
def test_what_a_run_carries_from_step_to_step_survives_an_interruption(tmp_path, name, monkeypatch) -> None:
    (tmp_path / "augmented_digits.py").write_text(AUGMENTED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Saving.__init__, "__defaults__", (0.0,))  # save every epoch
    config = CARRIED[name]

    def stop(epochs: int, _: float) -> None:
        if epochs == config.epochs - 1:  # this one is trained and not saved
            raise KeyboardInterrupt

    train(config, tmp_path / "whole")
    rates = {key[2]: value for key, value in records(config, tmp_path / "whole").items() if key[1] == "learning_rate"}
    assert name != "plateau" or rates[48] == 0.15 < rates[40], "it falls, by what an epoch before the last has left"
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=stop)
    torch.manual_seed(123)
    assert train(config, tmp_path / "parts", resume=True).state == "interrupted"
    assert_same(config, tmp_path / "whole", tmp_path / "parts")


LONG = replace(SMOKE, method="unitization", epochs=25, every=80)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(LONG, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_run_that_is_ended_at_any_time_goes_on_to_the_same_weights(tmp_path, whole, how) -> None:
    options = [f"--{name}={getattr(LONG, name)}" for name in ("method", "scale", "epochs", "every")]
    command = [sys.executable, "-m", "layershift", "train", *options, "--quiet", f"--out={tmp_path}"]
    folder = folder_of(LONG, tmp_path)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not folder.last.exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.5))
    os.kill(process.pid, how)
    assert process.wait() == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[how]
    assert train(LONG, tmp_path, resume=True).state == "interrupted"
    assert_same(LONG, whole, tmp_path)


def test_switches_are_left_as_they_were() -> None:
    fill = torch.utils.deterministic
    before = torch.get_num_threads(), fill.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    with computing(replace(SMOKE, threads=2)):
        assert torch.are_deterministic_algorithms_enabled()
        assert (torch.get_num_threads(), fill.fill_uninitialized_memory) == (2, False)
    with computing(replace(SMOKE, deterministic=False)):
        assert not torch.are_deterministic_algorithms_enabled()
    after = torch.get_num_threads(), fill.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    assert after == before


def test_a_configuration_can_be_told_to_another_process() -> None:
    import json

    for config in CARRIED.values():
        assert Config(**json.loads(json.dumps(asdict(config.resolved())))) == config.resolved()
