"""The real command line, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from layershift import __version__
from layershift.cli import main
from layershift.monitor import open_store
from layershift.train.recipe import recipes
from layershift.train.values import load_yaml


def layershift(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "layershift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_version() -> None:
    done = layershift("--version")
    assert (done.returncode, done.stdout) == (0, f"layershift {__version__}\n")


def test_help_explains_every_option() -> None:
    done = layershift("train", "--help")
    assert done.returncode == 0
    options = re.findall(r"^  (--\w+)", done.stdout, flags=re.MULTILINE)
    assert {"--method", "--epochs", "--out", "--resume", "--scale"} <= set(options)
    assert "Literal" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--method", "nothing"], 2, "method: expected one of vanilla"),
        (["train", "--epochs", "0"], 2, "epochs: expected at least 1, got 0"),
        (["dance"], 2, "invalid choice: 'dance'"),
        (["report", "nowhere"], 1, "nowhere"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(arguments, code, message, tmp_path) -> None:
    done = layershift(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("layershift: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" in layershift("--debug", *arguments, cwd=tmp_path).stderr


@pytest.mark.slow
def test_demo_writes_a_table_and_a_report(tmp_path) -> None:
    done = layershift("demo", "--scale", "smoke", "--out", tmp_path, "--quiet")
    assert done.returncode == 0, done.stderr
    for method in ("vanilla", "batch", "unitization", "per"):
        assert re.search(rf"{method}\s*│\s*3\s*│\s*[\d.]+ ± [\d.]+", done.stdout), done.stdout
    assert (tmp_path / "report.html").stat().st_size > 1e6
    assert (tmp_path / "table.json").exists()
    assert len(list(tmp_path.rglob("run.db"))) == 12


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_resume_goes_on(tmp_path) -> None:
    arguments = ["train", "--scale", "smoke", "--epochs", 400, "--out", tmp_path, "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "layershift", *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    store = tmp_path / "batch" / "seed0" / "run.db"
    checkpoint = tmp_path / "batch" / "seed0" / "checkpoints" / "last.ckpt"
    for _ in range(600):
        if checkpoint.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume continues" in errors
    assert "Traceback" not in errors
    with open_store(store) as opened:
        assert {"mean", "normality"} <= {record.measure for record in opened.records()}
    refused = layershift("train", "--scale", "smoke", "--epochs", 4, "--out", tmp_path, "--resume")
    assert refused.returncode == 1
    assert "another configuration: epochs" in refused.stderr


RECIPE = ["--recipe", "1/table1", "--scale", "smoke"]


def test_recipes_are_listed_and_shown(capsys) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()[:-1]] == list(recipes())
    assert main(["recipes", "1/table1", "2/figure2"]) == 0
    shown = capsys.readouterr().out
    for text in ("1/table1: Test error", "settings: ResNet-56, ResNet-110", "methods:  vanilla, batch, per", "paper 5"):
        assert text in shown
    assert "2/figure2: Moments" in shown
    assert "settings: one" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["recipes", "1/table9"], 2, "recipe: expected one of 1/cost, .*, or a file, got '1/table9'"),
        (["reproduce", "1/table9"], 2, "recipe: expected one of .*, or a file, got '1/table9'"),
        (["reproduce", "1/table1", "epochs"], 2, "expected key=value, got 'epochs'"),
        (["reproduce", "1/table1", "epochs=[1"], 2, "epochs: not YAML: .*"),
        (["reproduce", "1/table1", "--scale", "huge"], 2, "--scale: expected one of .*"),
        (["reproduce", "1/table1", "seed=3"], 1, "changes: expected values .* can share, .*, got 'seed'"),
        (["reproduce", "1/table1", "--methods", "group"], 1, "methods: expected one of 'vanilla', .*, got 'group'"),
        (["reproduce", "1/table1", "--settings", "A"], 1, "settings: expected one of 'ResNet-56', .*, got 'A'"),
        (["reproduce", "1/table1", "--seeds", "0"], 1, "seeds: expected at least 1, got 0"),
        (["reproduce", "1/table1", "--data-root", "nowhere"], 1, "cifar10: not found in nowhere. Put there .*"),
        (["train", "--setting", "ResNet-56"], 2, "--setting: expected --recipe with it, got 'ResNet-56' alone"),
        (["train", *RECIPE, "--setting", "A"], 2, "setting: expected one of 'ResNet-56', 'ResNet-110', got 'A'"),
        (["train", *RECIPE, "method=group"], 2, "method: expected one of 'vanilla', 'batch', 'per', got 'group'"),
        (["train", *RECIPE, "epochs=many"], 2, r"epochs: expected int \| None, got 'many'"),
        (["train", *RECIPE, "depth=8"], 2, "configuration: expected one of .*, got 'depth'"),
        (["train", "layers=*relu*", "epochs=0"], 2, "epochs: expected at least 1, got 0"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told_in_one_line(
    arguments, code, message, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    output = capsys.readouterr()
    assert re.fullmatch(f"layershift: error: {message}\n", output.err), output.err
    assert output.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "place", "expected"),
    [
        # the first method of the recipe is vanilla, the first of `Config` is batch
        ([], "resnet-56/vanilla/seed0", {"method": "vanilla", "weight_decay": 5e-4, "bias_rate": 0.1}),
        (["--method", "batch"], "resnet-56/batch/seed0", {"method": "batch", "weight_decay": 1e-4}),
        # defaults of `Config`, which the recipe overrides unless they are given
        (["--weight-decay", "0.0"], "resnet-56/vanilla/seed0", {"weight_decay": 0.0}),
        (["--nesterov", "true"], "resnet-56/vanilla/seed0", {"nesterov": True}),
        (
            ["method=per", "seed=1", "penalty_weight=1e-5", "--setting", "ResNet-110"],
            "resnet-110/weight1e-05/per/seed1",
            {"seed": 1, "penalty_weight": 1e-5, "model_options": {"width": 2, "depth": 14}},
        ),
        (
            ["model_options.width=3", "layers=*relu*"],
            "resnet-56/vanilla/seed0",
            {"model_options": {"width": 3, "depth": 8}},
        ),
    ],
)
def test_what_is_given_goes_before_the_recipe_even_if_it_is_the_default(arguments, place, expected, tmp_path) -> None:
    assert main(["train", *RECIPE, "--out", str(tmp_path), "--quiet", "every=0", *arguments]) == 0
    config = load_yaml(tmp_path / place / "config.yaml")["config"]
    assert {name: config[name] for name in expected} == expected
    assert config["data"] == "digits"


@pytest.mark.slow
def test_reproduce_writes_a_table_and_pages_and_goes_on(tmp_path) -> None:
    arguments = ["reproduce", "1/table1", "--scale", "smoke", "--methods", "batch", "per", "--seeds", 1, "--quiet"]
    done = layershift(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "1-table1-smoke"
    text = (out / "table.md").read_text()
    assert text in done.stdout
    assert "$ layershift reproduce 1/table1 --scale smoke --methods batch per --seeds 1\n" in text
    assert "No claim was judged. The table is in runs/1-table1-smoke/table.md." in done.stdout
    for place in ("resnet-56", "resnet-110"):
        assert (out / place / "report.html").stat().st_size > 1e5
        assert f"Open runs/1-table1-smoke/{place}/report.html in a browser." in done.stdout
    before = {path: path.stat().st_mtime_ns for path in out.rglob("last.ckpt")}
    assert len(before) == 2 * (1 + 2)
    again = layershift(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("last.ckpt")} == before
    assert (out / "table.md").read_text() == text
    refused = layershift(*arguments[:2], "epochs=2", *arguments[2:], cwd=tmp_path)
    assert refused.returncode == 1
    assert "another configuration: epochs (asked for 2, found 1)" in refused.stderr
    assert refused.stderr.count("\n") == 1
