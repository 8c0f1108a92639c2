"""Triton's kernels for exact PER: their tests in the interpreter, and their code for GPUs."""

from __future__ import annotations

import pytest
import torch
from tests.functional import kernel_runs
from tests.functional.test_triton_rows import TARGETS

from layershift.functional import triton_per


@pytest.mark.slow
def test_kernels_of_per() -> None:
    kernel_runs.run_everywhere("kernels_of_per.py")


def started(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.empty(shape, dtype=dtype, device="meta")
    values, factors = triton_per.per_rows(x, torch.float64 if dtype == torch.float64 else torch.float32)
    triton_per.per_gradient(x, values, factors)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_they_compile_for_gpus(target, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not made for this machine")
    from layershift.functional import per_kernels

    monkeypatch.setattr(triton_per, "_coefficients", lambda _size, dtype, device: torch.empty(6, 2, dtype=dtype))
    with kernel_runs.compiled(per_kernels, target) as made:
        started((4, 100_000), torch.bfloat16)
        started((128, 33), torch.float64)
        started((2**16, 2**16), torch.float16)
    assert {name for name, _ in made} == {"radial", "squares", "radial_of_parts", "scaled"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_read_16_bytes_at_a_time_and_once(dtype, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not made for this machine")
    from layershift.functional import per_kernels

    monkeypatch.setattr(triton_per, "_coefficients", lambda _size, dtype, device: torch.empty(6, 2, dtype=dtype))
    with kernel_runs.compiled(per_kernels, ("cuda", 90, 32)) as made:
        started((2048, 4096), dtype)
    ((forward, radial), (backward, scaled)) = made
    assert (forward, backward) == ("radial", "scaled")
    tile = 4096 * dtype.itemsize
    assert radial.count("ld.global.v4.b32") * 16 * 256 == tile  # 256 threads: each number once
    assert scaled.count("ld.global.v4.b32") * 16 * 256 == scaled.count("st.global.v4.b32") * 16 * 256 == tile
