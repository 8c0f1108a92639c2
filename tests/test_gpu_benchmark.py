"""The benchmark of a GPU where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path) -> None:
    out = tmp_path / "new" / "gpu.json"
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BENCHMARK), "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=hidden)
    assert done.stdout == "gpu: there is no CUDA device here; nothing measured, nothing written\n"
    assert not out.parent.exists()
