"""Tables that are kept: plain tensors whoever asks first, and marks that PyTorch's compiler knows."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from layershift.functional import health, laplace, quantiles, wasserstein1d
from layershift.functional.kept import constant, kept
from layershift.measure import health as health_of_layers
from layershift.measure import normality, shift

CPU = torch.device("cpu")
TABLES = [
    (quantiles, "_edges", (CPU,)),
    (health, "_signs", (5, torch.float32, CPU)),
    (laplace, "_tables", (5, torch.float32, CPU)),
    (wasserstein1d, "_normal_tables", (5, torch.float32, CPU)),
    (shift, "_directions", (5, 3, 0, CPU, torch.float32)),
    (normality, "_directions", (5, 3, 0, CPU, torch.float32)),
    (health_of_layers, "_projection", (5, 3, 0, torch.float32, CPU)),
]


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


@pytest.mark.parametrize("mode", [FakeTensorMode, torch.inference_mode], ids=["export", "inference"])
@pytest.mark.parametrize(("module", "name", "sizes"), TABLES, ids=[f"{m.__name__}.{name}" for m, name, _ in TABLES])
def test_tables_that_are_kept_are_plain(module, name, sizes, mode) -> None:
    make = runpy.run_path(module.__file__)[name]  # which keeps nothing yet
    with mode():
        make(*sizes)
    found = make(*sizes)
    for table in found if isinstance(found, tuple) else (found,):
        assert not isinstance(table, FakeTensor)
        assert not table.is_inference()
    assert make(*sizes) is found


@pytest.mark.slow
def test_a_compiled_graph_holds_them() -> None:
    def quantile(x: torch.Tensor) -> torch.Tensor:
        return quantiles.sketch_quantile(quantiles.quantile_sketch(x), torch.tensor([0.5]))

    for formula in (quantile, health.effective_rank):
        x = torch.randn(16, 8)
        compiled = torch.compile(formula, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), formula(x))


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
