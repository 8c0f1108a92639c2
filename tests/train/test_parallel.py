"""A run in two processes is the run in one with the doubled batch, whoever starts them; the first one writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layershift.monitor import Record, open_store
from layershift.train import Config, train
from layershift.train.folder import RunError, folder_of
from layershift.train.launch import launch
from layershift.train.lock import locked
from layershift.train.processes import environment_of, is_started, on_first, together

# In float64, because float32's rounding, which any other order of summation changes, grows tenfold in a few steps.
ONE = Config(scale="smoke", epochs=3, every=0, batch_size=128, precision="64-true", accelerator="cpu")
TWO = replace(ONE, batch_size=64, devices=2)


def weights(config: Config, out: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder_of(config, out).last, weights_only=True)["state_dict"]


def assert_same_run(out: Path, **changes) -> None:
    alone, both = weights(replace(ONE, **changes), out / "one"), weights(replace(TWO, **changes), out / "two")
    assert alone.keys() == both.keys()
    for name, value in alone.items():
        assert torch.allclose(both[name], value, rtol=1e-9, atol=1e-11, equal_nan=True), name


SCRIPT = """
import sys
from dataclasses import replace
from layershift.train import Config, train

base = Config(scale="smoke", epochs=3, every=0, batch_size=64, devices=2, precision="64-true", accelerator="cpu")
for method in ("unitization", "per", "vcl"):
    layers = {"layers": "*linear"} if method == "vcl" else {}
    train(replace(base, method=method, method_options=layers, gradient_clip=1.0), sys.argv[1])
train(replace(base, epochs=2, every=8), sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_are_one_with_the_doubled_batch(tmp_path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, str(tmp_path / "script.py"), str(tmp_path / "two")], check=True, timeout=300)
    for method in ("unitization", "per", "vcl"):
        layers = {"layers": "*linear"} if method == "vcl" else {}
        train(replace(ONE, method=method, method_options=layers, gradient_clip=1.0), tmp_path / "one")
        assert_same_run(tmp_path, method=method)
    train(replace(ONE, epochs=2, every=8), tmp_path / "one")
    assert_same_run(tmp_path, epochs=2, every=8)
    one, two = (records(out) for out in (tmp_path / "one", tmp_path / "two"))
    assert {key[1] for key in one} >= {"mean", "variance", "dead", "shift/sliced", "val/accuracy", "test/accuracy"}
    for key, record in one.items():
        if "normality" not in key[1]:  # which keeps a random part of the samples on each process
            assert two[key].n == record.n, key
            assert two[key].value == pytest.approx(record.value, rel=1e-3, abs=1e-4, nan_ok=True), key


def records(out: Path) -> dict[tuple, Record]:
    """All but times and rates of a batch's own."""
    with open_store(folder_of(ONE, out).path) as store:
        found = store.records()
    kept = [r for r in found if "seconds" not in r.measure and r.measure not in ("monitor/share", "train/loss")]
    return {(r.layer, r.measure, r.step, r.unit): r for r in kept}


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_told_here_and_the_run_resumes(tmp_path, capfd) -> None:
    with pytest.raises(ValueError, match=r"layers: .*'\*relo'; nearest names"):
        train(replace(TWO, method="per", layers="*relo"), tmp_path / "two")
    changes = {"epochs": 30, "method": "vanilla", "learning_rate": 0.0005}  # at which rounding does not grow
    told, killed = [], []

    def tell(epochs: int, _: float) -> None:
        told.append(epochs)
        if epochs >= 2 and not killed:
            killed.append(process_of(rank=1))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RunError, match=r"process 1 of the run ended with signal 9; --resume continues the run"):
        train(replace(TWO, **changes), tmp_path / "two", progress=tell)
    assert folder_of(replace(TWO, **changes), tmp_path / "two").state() == "interrupted"
    run = train(replace(TWO, **changes), tmp_path / "two", progress=tell, resume=True)
    assert (run.state, told[:2], told[-1]) == ("interrupted", [1, 2], 30)
    train(replace(ONE, **changes), tmp_path / "one")
    assert_same_run(tmp_path, **changes)
    assert capfd.readouterr() == ("", "")


def process_of(rank: int) -> int:
    """The number of one of the processes that this one has started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"layershift.train.worker" in words and f"RANK={rank}".encode() in variables and int(parent) == os.getpid():
            return int(process.name)
    raise AssertionError("no such process")


@pytest.mark.slow
def test_the_command_line_ends_all_processes_on_control_c(tmp_path) -> None:
    options = ["train", "--scale", "smoke", "--epochs", "500", "--every", "0", "--devices", "2", "--accelerator", "cpu"]
    command = [sys.executable, "-m", "layershift", *options, "--quiet", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = folder_of(Config(), tmp_path)
    while not folder.last.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert errors.splitlines()[-1] == "layershift: interrupted"
    assert "Traceback" not in errors
    assert folder.state() == "interrupted"
    with locked(folder.lock, what="a run", wait=0):  # nobody is left
        pass


def test_who_started_a_process_is_known_and_counted(monkeypatch) -> None:
    assert is_started(ONE)
    assert not is_started(TWO)
    with pytest.raises(
        ValueError, match=r"num_nodes: expected 1 without a launcher on each machine; .* torchrun or srun"
    ):
        launch(replace(TWO, num_nodes=2), "nowhere")
    variables = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "there"}
    for name, value in {**variables, "MASTER_PORT": 1234}.items():
        monkeypatch.setenv(name, str(value))
    assert is_started(TWO)
    assert (environment_of(TWO).global_rank(), environment_of(TWO).world_size()) == (1, 2)
    with pytest.raises(ValueError, match="devices and num_nodes: expected 2 processes, as many as were started, got 1"):
        environment_of(ONE)
    for name in (*variables, "MASTER_PORT"):
        monkeypatch.delenv(name)
    slurm = {
        "NTASKS": 2,
        "PROCID": 1,
        "LOCALID": 1,
        "NODEID": 0,
        "JOB_NAME": "train",
        "NODELIST": "n1",
        "NTASKS_PER_NODE": 2,
    }
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert is_started(TWO)
    assert (environment_of(TWO).global_rank(), environment_of(TWO).world_size()) == (1, 2)
    assert environment_of(ONE).world_size() == 1, "a run of one process does not care where it is"


def test_alone_there_is_nobody_to_wait_for() -> None:
    with together(ONE) as rank:
        assert (rank, on_first(lambda: "done")) == (0, "done")
    with pytest.raises(ZeroDivisionError):
        on_first(lambda: 1 // 0)
