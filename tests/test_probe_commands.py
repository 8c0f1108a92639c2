"""From a trained network to its page by depth, and to a network that stops early, by the commands alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from layershift.cli import main
from layershift.probe import EarlyExit, LayerOutputs, evaluate_exits, exit_rule
from layershift.train import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    options = ["--data", "digit_pairs", "--model", "small_cnn", "--method", "batch", "--scale", "smoke"]
    options += ["--epochs", "2", "--learning_rate", "0.05", "--every", "0"]
    assert main(["train", *options, "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def probed(run):
    """The real command line, in a process of its own."""
    out = run / "probe"
    command = [sys.executable, "-m", "layershift", "probe", str(run), "--out", str(out), "--scale", "smoke", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_a_probe_writes_tables_outputs_gallery_and_page(probed, run) -> None:
    out, said = probed
    content = json.loads((out / "probe.json").read_text())
    assert content["layers"] == ["block1.relu", "block2.relu", "block3.relu", "block4.relu", "output"]
    assert content["splits"] == {"train": 4000, "val": 1000, "test": 2000}
    assert content["about"]["command"].startswith("layershift probe")
    assert {row["method"] for row in content["depth"]} == {"auto", "chebyshev", "jensen_shannon"}
    assert [row["epoch"] for row in content["epochs"] if row["layer"] == "output"] == [0, 1, 2, 3, 4]
    assert {row["rule"]["kind"] for row in content["exits"]} == {"label_count", "agreement"}
    assert all((out / sample["image"]).is_file() for sample in content["gallery"])
    assert (out / "report.html").stat().st_size > 1e6
    test = LayerOutputs.load(out / "outputs" / "test.npz")
    restored = load_run(run)
    with torch.no_grad():
        own = torch.cat([restored.model(x) for x, _ in restored.data.in_order("test")])
    torch.testing.assert_close(test.probabilities[-1], own.sigmoid())
    accuracy = 100 * float(test.correct()[-1].double().mean())
    assert re.search(rf"output .* {accuracy:.2f} ± ", said)


def test_a_finished_probe_is_kept_and_another_is_refused(probed, run, capsys) -> None:
    out, _ = probed
    before = (out / "outputs" / "test.npz").read_bytes()
    arguments = ["probe", str(run), "--out", str(out), "--scale", "smoke", "--quiet"]
    assert main([*arguments, "--seed", "1"]) == 1
    assert "holds another probe: seed (asked for 1, found 0)" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "finished already" in capsys.readouterr().out
    assert (out / "outputs" / "test.npz").read_bytes() == before


def test_exits_are_chosen_on_validation_data_and_saved(probed, tmp_path, capsys) -> None:
    out, _ = probed
    file = tmp_path / "early.pt"
    options = ["--rules", "label_count", "--objective", "of1", "--within", "0.05", "--save", str(file)]
    assert main(["exits", str(out), *options]) == 0
    said = capsys.readouterr().out
    found = json.loads((out / "exits.json").read_text())["validation"][0]
    rule = exit_rule(**found["best"]["rule"])
    assert found["best"]["value"] >= found["full"]["value"] - 0.05
    assert found["best"]["cost"] <= found["full"]["cost"]
    test = LayerOutputs.load(out / "outputs" / "test.npz")
    offline = evaluate_exits(test, rule)
    assert f"{100 * float(offline.scores.accuracy.value):.2f} ± " in said
    (row,) = json.loads((out / "probe.json").read_text())["exits"]
    assert row["shares"] == offline.shares.tolist()

    restored = load_run(out.parent)
    early = EarlyExit.load(file, restored.model)
    layers = torch.cat([early(x).layer for x, _ in restored.data.in_order("test")])
    assert (layers != offline.layer).double().mean() < 1e-3  # but for rounding at the threshold


def test_costs_may_come_from_vectors_of_the_users_own(run, tmp_path) -> None:
    vectors = tmp_path / "labels.npy"
    np.save(vectors, np.arange(10.0)[:, None])
    out = tmp_path / "probe"
    options = ["--scale", "smoke", "--epochs", "1", "--layers", "block4.relu", "--cost", "embeddings", "--quiet"]
    assert main(["probe", str(run), "--out", str(out), *options, "--embeddings", str(vectors)]) == 0
    content = json.loads((out / "probe.json").read_text())
    assert content["layers"] == ["block4.relu", "output"]
    assert content["cost"] == {
        "largest": 1.0,
        "mean": pytest.approx(np.mean([(i - j) ** 2 / 81 for i in range(10) for j in range(10) if i != j])),
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["probe", "nowhere"], 1, "nowhere: no run here"),
        (["probe"], 2, "expected the folder of a run, or model=… and data=…"),
        (["probe", "a", "b"], 2, "expected one folder of a run, got a, b"),
        (["probe", "model=word_lstm", "data=markov_words"], 2, "data: expected images with labels, got markov_words"),
        (["exits", "nowhere"], 2, "nowhere: expected the folder of a finished layershift probe"),
    ],
)
def test_errors_tell_what_was_expected(arguments, code, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert message in capsys.readouterr().err


def test_a_run_keeps_its_network(run, capsys, tmp_path) -> None:
    assert main(["probe", str(run), "model=small_cnn", "--out", str(tmp_path)]) == 2
    assert "model: a run has its own; only data, data_options and data_root" in capsys.readouterr().err
