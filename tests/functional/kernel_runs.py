"""Triton's kernels without a GPU: run in its interpreter, in a process of its own, and compiled for GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).parent
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}


def run(name: str, *arguments: str, **environment: str) -> None:
    """Run a file of tests in a process of its own; what failed there fails here, with its output."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:randomly", str(HERE / name), *arguments]
    # Modes of this process are none of that one's.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "TRITON_"))}
    threads = {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=inherited | threads | environment, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-2000:]


def run_everywhere(name: str) -> None:
    """In the interpreter, and on a GPU if there is one."""
    pytest.importorskip("triton", reason="Triton is not made for this machine")
    run(name, TRITON_INTERPRET="1")
    if torch.cuda.is_available():
        run(name, "--device", "cuda")


@contextmanager
def compiled(kernels: ModuleType, target: tuple[str, int | str, int]) -> Iterator[list[tuple[str, str]]]:
    """Inside, what would be started is compiled for a GPU instead; yields names and the assembly of each start."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from triton.runtime.jit import JITFunction

    made: list[tuple[str, str]] = []
    own = [name for name, f in vars(kernels).items() if getattr(f, "__module__", "") == kernels.__name__]
    started = {name: vars(kernels)[name] for name in own if not name.startswith("_")}
    assert all(isinstance(kernel, JITFunction) for kernel in started.values())

    class Started:
        def __init__(self, kernel) -> None:
            self.kernel = kernel

        def __getitem__(self, grid):
            assert all(0 < n < 2**31 for n in grid)
            return self.start

        def start(self, *values, **named):
            """As Triton does: a 1 becomes a constant, multiples of 16 are marked."""
            signature, constants, marks = {}, {}, {}
            parameters = self.kernel.params
            assert len(values) + sum(p.name in named for p in parameters) == len(parameters)
            for i, p in enumerate(parameters):
                value = values[i] if i < len(values) else named[p.name]
                if p.is_constexpr or (type(value) is int and value == 1 and not p.do_not_specialize):
                    signature[p.name], constants[(i,)] = "constexpr", value
                    continue
                if isinstance(value, torch.Tensor):
                    signature[p.name] = POINTERS[value.dtype]
                else:
                    signature[p.name] = "fp32" if type(value) is float else "i64" if value >= 2**31 else "i32"
                if isinstance(value, torch.Tensor) or (
                    type(value) is int and value % 16 == 0 and not p.do_not_specialize
                ):
                    marks[(i,)] = [["tt.divisibility", 16]]
            options = {name: value for name, value in named.items() if name in ("num_warps", "enable_fp_fusion")}
            source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=marks)
            binary = compile(source, target=GPUTarget(*target), options=options)
            assert {"cubin", "hsaco"} & set(binary.asm)
            made.append((self.kernel.__name__, binary.asm.get("ptx", "")))

    try:
        for name, kernel in started.items():
            setattr(kernels, name, Started(kernel))
        yield made
    finally:
        for name, kernel in started.items():
            setattr(kernels, name, kernel)


def accesses(ptx: str) -> set[str]:
    """Widths of a kernel's loads and stores."""
    return set(re.findall(r"(?:ld|st)\.global\.(\S+)", ptx))
