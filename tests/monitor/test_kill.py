"""Training that is killed with SIGKILL at any moment leaves a store that opens and holds all that was flushed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from layershift.monitor import open_store

# One process imports everything and forks twenty that train; it kills each at a random moment.
SCRIPT = """
import json, os, random, signal, sys, time
import torch
from torch import nn
import layershift.measure  # imported once, before forking
from layershift.monitor import Monitor

torch.set_num_threads(1)

def train(folder, announce):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    with Monitor(model, store=f"{folder}/run.db", every=1, budget=None) as monitor:
        for i in range(10_000):
            with monitor.step(i):
                model(torch.randn(8, 6))
            monitor.flush()
            os.write(announce, b"x")

random.seed(int(sys.argv[2]))
flushed = {}
for run in range(20):
    folder = f"{sys.argv[1]}/{run}"
    os.mkdir(folder)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        train(folder, write)
        os._exit(1)
    os.close(write)
    wanted, count = random.randrange(1, 40), 0
    while count < wanted:
        count += len(os.read(read, 1))
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    while more := os.read(read, 4096):
        count += len(more)
    os.close(read)
    flushed[run] = count
print(json.dumps(flushed))
"""


@pytest.mark.slow
def test_twenty_killed_runs_keep_every_flushed_record(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    flushed = {int(run): count for run, count in json.loads(done.stdout).items()}
    assert len(flushed) == 20
    assert len(set(flushed.values())) > 5  # killed at different steps
    for run, count in flushed.items():
        with open_store(tmp_path / str(run) / "run.db") as store:
            rows = Counter(r.step for r in store.records() if r.layer)
        assert set(range(count)) <= set(rows), f"run {run}: flushed {count}, found {sorted(rows)}"
        assert set(rows) <= set(range(count + 1))  # and at most the one that was being announced
        assert len(set(rows.values())) == 1  # whole steps only
