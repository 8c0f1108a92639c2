"""A run in two processes is the run in one with the doubled batch, whoever starts them; the first one writes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layershift.monitor import open_store
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


def assert_same_run(one: Path, two: Path, method: str, **changes) -> None:
    alone, both = (
        weights(replace(ONE, method=method, **changes), one),
        weights(replace(TWO, method=method, **changes), two),
    )
    assert alone.keys() == both.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            both[name], value, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


def torchrun(*arguments: object) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*command, "-m", "layershift", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["batch", "unitization", "per", "vcl"])
def test_two_processes_are_one_with_the_doubled_batch(tmp_path, method) -> None:
    changes = {"method_options": {"layers": "*linear"}} if method == "vcl" else {}
    told = []
    changes["gradient_clip"] = 1.0
    one = train(replace(ONE, method=method, **changes), tmp_path / "one")
    two = train(replace(TWO, method=method, **changes), tmp_path / "two", progress=lambda *seen: told.append(seen))
    assert (two.state, two.result.n) == ("new", 450)
    assert two.result.value == pytest.approx(one.result.value, abs=1e-9)
    assert two.result.stderr == pytest.approx(one.result.stderr, abs=1e-7)
    assert [epochs for epochs, _ in told] == [1, 2, 3]
    assert_same_run(tmp_path / "one", tmp_path / "two", method, **changes)


@pytest.mark.slow
def test_torchrun_resumes_and_what_is_measured_is_that_of_the_whole_probe(tmp_path) -> None:
    options = ["train", "--scale", "smoke", "--epochs", 3, "--every", 12, "--batch-size", 64, "--devices", 2]
    options += ["--precision", "64-true", "--accelerator", "cpu", "--quiet", "--resume", "--out", tmp_path / "two"]
    config = replace(TWO, every=12)

    def stop(epochs: int, _: float) -> None:
        if epochs == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "two", progress=stop)
    assert folder_of(config, tmp_path / "two").state() == "interrupted"
    done = subprocess.run(torchrun(*options), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    single = train(replace(ONE, every=12), tmp_path / "one")
    assert_same_run(tmp_path / "one", tmp_path / "two", "batch", every=12)
    with open_store(single.path) as one, open_store(folder_of(config, tmp_path / "two").path) as two:
        assert len(two.meta["resumed"]) == 1
        ours = {(*r[:3], r.unit): r for r in two.records() if r.measure in ("mean", "variance", "val/accuracy", "dead")}
        compared = 0
        for record in one.records():
            other = ours.get((*record[:3], record.unit))
            if other is not None:
                compared += 1
                assert (other.n, other.value) == (record.n, pytest.approx(record.value, abs=1e-5)), record
    assert compared == len(ours) > 100


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_told_here(tmp_path, capfd) -> None:
    with pytest.raises(ValueError, match=r"layers: .*'\*relo'; nearest names"):
        train(replace(TWO, method="per", layers="*relo"), tmp_path)
    with pytest.raises(RunError, match="holds a finished run; --resume keeps it"):
        launch(_finished(tmp_path), tmp_path)
    assert capfd.readouterr() == ("", "")
    config, killed = replace(TWO, epochs=500), []

    def kill(epochs: int, _: float) -> None:
        if not killed:
            killed.append(_process(rank=1))
            subprocess.run(["kill", "-9", str(killed[0])], check=True)

    with pytest.raises(RunError, match=r"process 1 of the run ended with signal 9; --resume continues the run"):
        train(config, tmp_path / "killed", progress=kill)
    assert folder_of(config, tmp_path / "killed").state() == "interrupted"


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
    assert (process.returncode, said, errors) == (130, "", "layershift: interrupted\n")
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


def _finished(out: Path) -> Config:
    train(replace(ONE, epochs=1), out)
    folder = folder_of(ONE, out)
    config = replace(TWO, epochs=1)
    text = folder.config.read_text().replace("devices: 1", "devices: 2").replace("batch_size: 128", "batch_size: 64")
    folder.config.write_text(text)
    return config.resolved()


def _process(rank: int) -> int:
    """The number of one of the processes that this one has started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = b"layershift.train.worker" in (process / "cmdline").read_bytes()
            if ours and f"RANK={rank}\0".encode() in b"\0" + (process / "environ").read_bytes().replace(
                b"LOCAL_RANK", b""
            ):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError("no such process")
