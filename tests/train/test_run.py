"""A run: same seed, same numbers; interrupted and resumed ends as uninterrupted; its folder says everything."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from layershift.monitor import Store, StoreError, open_store
from layershift.train import demo, train
from layershift.train.config import Config
from layershift.train.fit import check_checkpoint
from layershift.train.folder import RunError, folder_of
from layershift.train.values import load_yaml, save_yaml

CONFIG = Config(method="unitization", scale="smoke", epochs=3)


def weights(out, config=CONFIG) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder_of(config, out).last, weights_only=True)
    return checkpoint["state_dict"]


def layer_records(out):
    """All but times."""
    with open_store(folder_of(CONFIG, out).path) as store:
        records = store.records()
    return [r[:5] for r in records if not r.measure.endswith("seconds") and r.measure != "monitor/share"]


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_and_records_of_an_uninterrupted_one(tmp_path) -> None:
    train(CONFIG, tmp_path / "whole")
    train(CONFIG, tmp_path / "again")

    def interrupt(epochs: int, accuracy: float) -> None:
        if epochs == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "parts", progress=interrupt)
    assert folder_of(CONFIG, tmp_path / "parts").state() == "interrupted"
    assert layer_records(tmp_path / "parts")
    assert train(CONFIG, tmp_path / "parts", resume=True).state == "interrupted"

    whole = weights(tmp_path / "whole")
    for other in ("again", "parts"):
        for name, value in weights(tmp_path / other).items():
            assert torch.equal(value, whole[name]), (other, name)
        torch.testing.assert_close(
            torch.tensor([r[3] for r in layer_records(tmp_path / other)]),
            torch.tensor([r[3] for r in layer_records(tmp_path / "whole")]),
            rtol=0,
            atol=0,
            equal_nan=True,
        )


@pytest.mark.slow
def test_the_folder_says_what_was_run(tmp_path) -> None:
    run = train(CONFIG, tmp_path)
    about = load_yaml(run.path / "config.yaml")
    assert about["config"]["method"] == "unitization"
    assert set(about["versions"]) >= {"python", "torch", "layershift", "lightning", "numpy"}
    with (run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["test/accuracy"]) == run.result.value
    with open_store(run.path) as store:
        frame, meta = store.to_pandas(), store.meta
    assert meta["config"] == about["config"]
    assert {"mean", "quantile_0.5", "normality", "val/accuracy"} <= set(frame.measure)
    assert train(CONFIG, tmp_path, resume=True).state == "finished"
    with pytest.raises(RunError, match="holds a finished run; --resume keeps it, --overwrite starts again"):
        train(CONFIG, tmp_path)
    with pytest.raises(RunError, match=r"a run of another configuration: .*batch_size"):
        train(replace(CONFIG, batch_size=64), tmp_path, resume=True)
    run.store.write_bytes(b"not a database, just text" * 100)
    with pytest.raises(StoreError, match="not a"):
        train(CONFIG, tmp_path, resume=True)


@pytest.mark.slow
def test_a_run_of_before_an_option_existed_is_known_again(tmp_path) -> None:
    run = train(CONFIG, tmp_path)
    about = load_yaml(run.path / "config.yaml")
    del about["config"]["test_scales"]
    save_yaml(run.path / "config.yaml", about)
    assert train(CONFIG, tmp_path, resume=True).state == "finished"
    with pytest.raises(RunError, match=r"another configuration: test_scales \(asked for \[8\], found \[\]\)"):
        train(replace(CONFIG, test_scales=[8]), tmp_path, resume=True)


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_named(tmp_path) -> None:
    folder = folder_of(CONFIG, tmp_path)

    def interrupt(epochs: int, accuracy: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path, progress=interrupt)
    folder.last.parent.mkdir(exist_ok=True)
    folder.last.write_bytes(b"PK not a checkpoint")
    with pytest.raises(RunError, match=r"last\.ckpt: not a readable checkpoint"):
        train(CONFIG, tmp_path, resume=True)


@pytest.mark.slow
def test_demo_runs_every_method_with_every_seed(tmp_path) -> None:
    runs = demo(Config(scale="smoke", epochs=1), tmp_path, methods=["vanilla", "per"], seeds=2)
    names = [run.path.relative_to(tmp_path).as_posix() for run in runs]
    assert names == ["vanilla/seed0", "vanilla/seed1", "per/seed0", "per/seed1"]
    first = []
    for run in (runs[0], runs[2]):
        with open_store(run.path) as store:
            assert len(store.layers()) == 11
            first.append([r.value for r in store.records() if r.step == 0 and r.layer and r.unit is None])
    assert first[0] == first[1], "step 0 is the initial network, which the methods share"
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        demo(Config(), tmp_path, seeds=0)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path) -> None:
    config = replace(CONFIG, epochs=40)
    folder = folder_of(config, tmp_path / "killed")
    arguments = ["train", "--method", config.method, "--scale", config.scale, "--epochs", "40", "--quiet"]
    command = [sys.executable, "-m", "layershift", *arguments, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command)
    while not folder.last.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with open_store(folder.path) as store:
        assert store.records()
    assert train(config, tmp_path / "killed", resume=True).state == "interrupted"
    train(config, tmp_path / "whole")
    whole = weights(tmp_path / "whole", config)
    for name, value in weights(tmp_path / "killed", config).items():
        assert torch.equal(value, whole[name]), name


def test_the_last_step_is_measured_and_threads_are_given_back(tmp_path) -> None:
    before = torch.get_num_threads()
    run = train(replace(CONFIG, epochs=1, every=5), tmp_path)
    with open_store(run.path) as store:
        assert sorted({r.step for r in store.records() if r.measure == "normality"}) == [0, 5, 8]
    assert torch.get_num_threads() == before
    kept = run.path / "notes.txt"
    kept.write_text("mine")
    assert train(replace(CONFIG, epochs=1, every=0), tmp_path, overwrite=True).state == "new"
    with open_store(run.path) as store:
        assert store.layers() == []
    assert kept.read_text() == "mine"


def test_a_store_that_train_did_not_make_is_left_alone(tmp_path) -> None:
    folder = folder_of(CONFIG, tmp_path)
    Store(folder.store).close()
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"a store without config\.yaml beside it, not made by train"):
            folder.claim({}, resume=True, overwrite=overwrite)
    assert folder.store.exists()


def test_a_checkpoint_of_another_configuration_names_what_differs(tmp_path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"config": CONFIG.identity()}, path)
    assert check_checkpoint(path, CONFIG.identity()) == path
    with pytest.raises(RunError, match=r"another configuration: epochs \(asked for 4, found 3\); --overwrite"):
        check_checkpoint(path, replace(CONFIG, epochs=4).identity())
    torch.save({"state_dict": {}}, path)
    with pytest.raises(RunError, match="a checkpoint that layershift did not write"):
        check_checkpoint(path, {})
    torch.save({"config": Config}, path)  # a class: loading it would run code
    with pytest.raises(RunError, match="not a readable checkpoint"):
        check_checkpoint(path, {})


def test_a_wrong_option_does_not_claim_the_folder(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"layers: .*'\*relo'; nearest names"):
        train(replace(CONFIG, layers="*relo"), tmp_path)
    with pytest.raises(ValueError, match="batch_size: expected a number from 2 to 1077"):
        train(replace(CONFIG, batch_size=2000), tmp_path)
    assert folder_of(CONFIG, tmp_path).state() == "new"
