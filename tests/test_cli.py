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
from layershift.monitor import open_store


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
