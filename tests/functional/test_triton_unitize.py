"""Triton's kernels for unitization: their tests in the interpreter, and their code for GPUs."""

from __future__ import annotations

import pytest
import torch
from tests.functional import kernel_runs
from tests.functional.test_triton_rows import TARGETS

from layershift.functional import triton_unitize


@pytest.mark.slow
def test_kernels_of_unitization() -> None:
    kernel_runs.run_everywhere("kernels_of_unitization.py")


class Context:
    """What autograd gives a function."""

    needs_input_grad = (True, *(False,) * 4, *(True,) * 3)

    def save_for_backward(self, *tensors) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *_) -> None:
        pass

    def set_materialize_grads(self, _) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("bounded", [False, True])
def test_they_compile_for_gpus(target, bounded, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not made for this machine")
    from layershift.functional import row_kernels, unitization_kernels

    context, x, parameter = Context(), torch.empty(8, 64, 14, 14, device="meta"), torch.empty(64, device="meta")
    affine = (None, None) if bounded else (parameter, parameter)
    with kernel_runs.compiled(row_kernels, target), kernel_runs.compiled(unitization_kernels, target) as made:
        forward, backward = triton_unitize._Unitize.forward, triton_unitize._Unitize.backward
        y, *_ = forward(context, x, None, 1e-5, 0.1, bounded, parameter, *affine)
        with torch.no_grad():
            dx, *_ = backward(context, y)
    assert dx.shape == x.shape
    assert [name for name, _ in made] == ["pool", "scales", "norm_gradients", "table_gradients"]
