"""Tables that are kept: plain tensors whoever asks first, and marks that PyTorch's compiler knows."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from layershift.functional.kept import constant, kept


def test_a_table_is_plain_also_if_export_or_inference_asked_first() -> None:
    for mode in (FakeTensorMode, torch.inference_mode):

        @kept(maxsize=4)
        def steps(n: int) -> torch.Tensor:
            return torch.arange(n)

        with mode():
            steps(3)
        table = steps(3)
        assert not isinstance(table, FakeTensor)
        assert not table.is_inference()
        assert table.tolist() == [0, 1, 2]


def test_the_mark_is_the_one_that_pytorch_sets() -> None:
    def ours() -> int:
        return 1

    def theirs() -> int:
        return 1

    constant(ours)
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs)


@pytest.mark.slow
def test_formulas_and_layers_do_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; known = set(sys.modules); import layershift.functional, layershift.nn; "
        "print([m for m in set(sys.modules) - known if m.startswith(('torch._dynamo', 'torch._inductor', 'sympy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
