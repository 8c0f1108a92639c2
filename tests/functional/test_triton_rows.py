"""Triton's kernels for rows: their tests in the interpreter, their code for GPUs, and that nobody waits for Triton."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tests.functional import kernel_runs

from layershift.functional import triton_rows
from layershift.functional.triton_support import available, works

TARGETS = [("cuda", 90, 32), ("cuda", 80, 32), ("hip", "gfx942", 64)]


@pytest.mark.slow
def test_kernels_of_rows() -> None:
    kernel_runs.run_everywhere("kernels_of_rows.py")


def started(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.empty(shape, dtype=dtype, device="meta", memory_format=memory_format)
    pivot, mean, square = triton_rows.row_moments(x)
    triton_rows.row_moments(x, pivot[:1])
    triton_rows.apply_rows(x, pivot, mean, square)
    triton_rows.row_sums(x, x, pivot)
    triton_rows.combine_rows(x, x, pivot, mean, square, mean)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_they_compile_for_gpus(target) -> None:
    pytest.importorskip("triton", reason="Triton is not made for this machine")
    from layershift.functional import row_kernels

    with kernel_runs.compiled(row_kernels, target) as made:
        started((8, 64, 56, 56), torch.bfloat16, torch.channels_last)
        if target == TARGETS[0]:
            started((8, 3, 7, 7), torch.float64, torch.contiguous_format)
            started((16, 256, 800, 800), torch.float16, torch.contiguous_format)  # more than 2³¹ numbers
            started((2, 2048, 1000, 1100), torch.float32, torch.channels_last)  # so many in a sample
    assert {name for name, _ in made} == {"moments", "merge", "sums", "affine", "combine"}


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_are_read_and_written_16_bytes_at_a_time(dtype, memory_format) -> None:
    """Tables are read by single numbers; a map of an odd number of positions can be."""
    pytest.importorskip("triton", reason="Triton is not made for this machine")
    from layershift.functional import row_kernels

    with kernel_runs.compiled(row_kernels, ("cuda", 90, 32)) as made:
        started((8, 64, 56, 56), dtype, memory_format)
    for name, ptx in made:
        if name != "merge":
            widths = kernel_runs.accesses(ptx)
            assert "v4.b32" in widths, (name, widths)
            assert not widths - {"v4.b32", "b32", "v4.f32", "f32"}, (name, widths)
            assert ptx.count("ld.global.b32") <= 5, name  # pivot, a, b, c and no part of a map


def test_importing_does_not_import_triton() -> None:
    code = (
        "import sys, torch, layershift as ls; from layershift.functional import batch_norm, per; import layershift.nn;"
        "from layershift.functional import triton_rows, triton_per;"
        "ls.nn.Unitization2d(3)(torch.randn(2, 3, 4, 4)).sum().backward(); per(torch.randn(2, 3));"
        "assert not triton_rows.available(torch.ones(3)); sys.exit('triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_without_triton_nothing_is_available_and_nothing_said(monkeypatch, recwarn) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert not works.__wrapped__(torch.device("cpu"))
    assert not recwarn


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the kernels run")
def test_a_cpu_has_its_own_path() -> None:
    assert not available(torch.zeros(2, 3, 4))
