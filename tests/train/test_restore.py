"""A trained network from its folder: it computes what it computed, and every way in which a folder can be wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from tests.train.data.photographs import write_coco

from layershift.monitor import open_store
from layershift.train import train
from layershift.train.config import Config
from layershift.train.data import DataError
from layershift.train.folder import RunError
from layershift.train.models import squeezenet1_1
from layershift.train.restore import find_run, load_run
from layershift.train.values import load_yaml, save_yaml

CONFIG = Config(data="digits", model="small_cnn", method="unitization", scale="smoke", epochs=2, every=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return train(CONFIG, out)


@pytest.fixture
def run(finished, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(finished.path, tmp_path / "runs" / "unitization" / "seed0")


def accuracy(restored) -> float:
    with torch.no_grad():
        right = [restored.model(x).argmax(1).eq(y) for x, y in restored.data.in_order("test")]
    return torch.cat(right).float().mean().item()


def test_the_network_is_as_good_as_it_was(finished) -> None:
    restored = load_run(finished.path)
    assert accuracy(restored) == pytest.approx(finished.result.value)
    assert restored.config == CONFIG.resolved()
    assert (restored.path, restored.model.training) == (finished.path, False)
    assert {p.device.type for p in restored.model.parameters()} == {"cpu"}


def test_the_best_weights(finished) -> None:
    weights = torch.load(finished.path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    state = load_run(finished.path, checkpoint="best").model.state_dict()
    assert all(torch.equal(value, weights[f"model.{key}"]) for key, value in state.items())
    with pytest.raises(ValueError, match="checkpoint: expected one of 'last', 'best', got 'first'"):
        load_run(finished.path, checkpoint="first")


def test_a_folder_above_that_holds_one_run(run, tmp_path) -> None:
    for folder in (run, run.parent, tmp_path / "runs", tmp_path):
        assert find_run(folder) == run
    shutil.copytree(run, run.parent / "seed1")
    with pytest.raises(RunError, match=r"2 runs \(unitization/seed0, unitization/seed1\); name the folder of one"):
        load_run(tmp_path / "runs")


def test_no_run_and_one_that_was_interrupted(run, tmp_path) -> None:
    with pytest.raises(RunError, match="no run here; expected the folder of one"):
        load_run(tmp_path / "elsewhere")

    def interrupt(epochs: int, accuracy: float) -> None:
        raise KeyboardInterrupt

    config = replace(CONFIG, seed=1)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "half", progress=interrupt)
    with pytest.raises(RunError, match=r"seed1: the run is not finished; .* --resume"):
        load_run(tmp_path / "half")
    train(config, tmp_path / "half", resume=True)
    assert load_run(tmp_path / "half").config.seed == 1


def test_checkpoints_that_do_not_fit(run, tmp_path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    torch.save(content | {"config": content["config"] | {"seed": 7}}, last)
    with pytest.raises(RunError, match=r"a checkpoint of another configuration: seed \(asked for 0, found 7\)"):
        load_run(run)
    state = dict(content["state_dict"])
    state.pop("model.classifier.bias")
    torch.save(content | {"state_dict": state}, last)
    with pytest.raises(RunError, match=r"last.ckpt: its weights are not those of the run's network .*classifier.bias"):
        load_run(run)
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(RunError, match=r"last\.ckpt: not a readable checkpoint"):
        load_run(run)
    last.unlink()
    with pytest.raises(RunError, match=r"last\.ckpt: not there$"):
        load_run(run)
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(RunError, match=r"best\.ckpt: not there, as in a run without validation data"):
        load_run(run, checkpoint="best")


def test_configurations_that_are_none(run) -> None:
    about = load_yaml(run / "config.yaml")
    save_yaml(run / "config.yaml", about | {"config": about["config"] | {"colour": "red"}})
    with pytest.raises(RunError, match=r"config.yaml: options that this version does not know: colour"):
        load_run(run)
    save_yaml(run / "config.yaml", {"config": 3})
    with pytest.raises(RunError, match=r"config.yaml: not the configuration of a run"):
        load_run(run)
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"config.yaml: not the configuration of a run \("):
        load_run(run)


def test_fine_tuned_photographs_without_the_first_weights(tmp_path) -> None:
    root = write_coco(tmp_path / "photographs", [[1], [2], [17, 1], [90]] * 2, [[1], [2, 90]])
    weights = tmp_path / "weights.pth"
    torch.save(squeezenet1_1(seed=0).state_dict(), weights)
    config = Config(
        data="coco",
        data_root=str(root),
        data_options={"image_size": 32, "pixels": "caffe", "workers": 0},
        model="squeezenet1_1",
        model_options={"weights": str(weights)},
        method="vanilla",
        batch_size=4,
        scale="smoke",
        epochs=1,
        learning_rate=1e-4,
        every=0,
    )
    run = train(config, tmp_path / "runs")
    weights.unlink()
    restored = load_run(run.path, data_root=root)
    with torch.no_grad():
        (x, y), *_ = restored.data.in_order("test")
        loss = (
            torch.nn.functional.binary_cross_entropy_with_logits(restored.model(x), y, reduction="none").sum(1).mean()
        )
    with open_store(run.store) as store:
        measured = next(r.value for r in store.records() if r.measure == "test/loss")
    assert loss.item() == pytest.approx(measured, rel=1e-5)
    with pytest.raises(DataError, match=r"coco: not found in .*nowhere"):
        load_run(run.path, data_root=tmp_path / "nowhere")
