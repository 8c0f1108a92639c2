"""Every layer goes through `torch.export` and ONNX and comes back the same, at other batch sizes than it was traced at.

Every module that `layershift.nn` exports stands in the table or beside it with a reason; a new one without fails.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import layershift as ls
from layershift.nn import (
    PER,
    ActivationPenalty,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    EppsPulley,
    LSTMLayer,
    RecordedTarget,
    ScalarBias,
    ScalarScale,
    SlicedWasserstein,
    SyncBatchNorm,
    SyncUnitization,
    Unitization1d,
    Unitization2d,
    Unitization3d,
    VarianceConstancy,
    VariationalDropout,
)
from layershift.nn.fold import fold

DRAWS = "draws random directions at each call"


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # without the batch
    at: int = 0  # the batch's dimension
    sizes: tuple[int, ...] = (1, 3, 9)
    least: int = 1
    most: int | None = None
    modes: tuple[bool, ...] = (False, True)  # training
    not_onnx: str = ""


class Fixed(NamedTuple):
    """What takes batches of one size only, once exported."""

    case: Case
    reason: str


def recorded() -> SlicedWasserstein:
    generator = torch.Generator().manual_seed(0)
    quantiles = torch.randn(4, 10, generator=generator).sort().values
    return SlicedWasserstein(RecordedTarget({"": (torch.eye(4), quantiles)}))


norm = partial(Case, sizes=(2, 3, 9))
penalty = partial(Case, modes=(False,))
# A table of 1024 samples or more is in float64, so an exported one is for fewer or for more.
sliced = partial(penalty, shape=(4,), most=1024)
CASES: dict[type[nn.Module], dict[str, Case]] = {
    BatchNorm1d: {
        "vectors": norm(partial(BatchNorm1d, 4), (4,)),
        "sequences": norm(partial(BatchNorm1d, 4, momentum=None), (4, 5)),
    },
    BatchNorm2d: {"": norm(partial(BatchNorm2d, 4, affine=False), (4, 5, 3))},
    BatchNorm3d: {"": norm(partial(BatchNorm3d, 4), (4, 2, 3, 2))},
    Unitization1d: {
        "vectors": norm(partial(Unitization1d, 4, alpha_init=0.5), (4,)),
        "sequences": norm(partial(Unitization1d, 4, alpha_init=0.5, alpha_constraint="sigmoid"), (4, 5)),
    },
    Unitization2d: {
        "sample": norm(partial(Unitization2d, 4, alpha_init=0.5), (4, 5, 3)),
        "position": norm(partial(Unitization2d, 4, alpha_init=0.5, over="position", divisor="elements"), (4, 5, 3)),
        "bounded": norm(partial(Unitization2d, 4, alpha_init=0.5, form="bounded"), (4, 5, 3)),
    },
    Unitization3d: {"": norm(partial(Unitization3d, 4, alpha_init=0.5, divisor=2.0), (4, 2, 3, 2))},
    SyncBatchNorm: {"": norm(partial(SyncBatchNorm, 4), (4, 5))},
    SyncUnitization: {"": norm(partial(SyncUnitization, 4, alpha_init=0.5), (4, 5, 3))},
    ScalarBias: {"": Case(ScalarBias, (4,))},
    ScalarScale: {"": Case(ScalarScale, (4,))},
    VariationalDropout: {"": Case(partial(VariationalDropout, 0.5), (7, 4), at=1)},
    LSTMLayer: {
        "plain": Case(partial(LSTMLayer, 4, 3, norm=None), (4, 4), at=1, sizes=(2, 3, 9), modes=(False,)),
        "normalised": Case(partial(LSTMLayer, 4, 3, steps=3), (4, 4), at=1, sizes=(2, 3, 9)),
    },
    PER: {
        "exact": penalty(PER, (4, 5)),
        "sum": penalty(partial(PER, reduction="sum", sample="position"), (4, 5)),
        "projections": penalty(partial(PER, "projections", 8), (4, 5), not_onnx=DRAWS),
    },
    ActivationPenalty: {
        "mean": penalty(partial(ActivationPenalty, 2), (4, 5)),
        "sum": penalty(partial(ActivationPenalty, 1, reduction="sum"), (4, 5)),
        "total": penalty(partial(ActivationPenalty, 3, reduction="total"), (4, 5)),
    },
    SlicedWasserstein: {
        "normal": sliced(partial(SlicedWasserstein, num_projections=8), not_onnx=DRAWS),
        "Laplace": sliced(partial(SlicedWasserstein, "laplace", 1)),
    },
    EppsPulley: {
        "mean": penalty(partial(EppsPulley, 8), (4,), not_onnx=DRAWS),
        "sum": penalty(partial(EppsPulley, 8, reduction="sum"), (4,), not_onnx=DRAWS),
    },
    VarianceConstancy: {"": penalty(partial(VarianceConstancy, 4), (4,), sizes=(11, 20), least=11)},
}
FIXED = {
    "SlicedWasserstein recorded": Fixed(
        Case(recorded, (4,), sizes=(6,)), "samples and quantiles meet at levels that depend on their numbers"
    ),
}
OTHERS = {
    "LayerPenalty": "abstract",
    "RecordedTarget": "holds numbers and computes nothing; exported inside SlicedWasserstein",
}
NAMED = {f"{kind.__name__} {name}".strip(): case for kind, cases in CASES.items() for name, case in cases.items()}
MODES = [(name, training) for name, case in NAMED.items() for training in case.modes]


def test_every_exported_module_has_an_entry() -> None:
    exported = {name: value for name in ls.nn.__all__ if isinstance(value := getattr(ls.nn, name), type)}
    modules = {name for name, value in exported.items() if issubclass(value, nn.Module)}
    assert modules - set(OTHERS) == {kind.__name__ for kind in CASES}


def built(case: Case, training: bool) -> nn.Module:
    """The layer, with running statistics that are not those of the start."""
    torch.manual_seed(0)
    layer = case.make()
    for name, buffer in layer.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    return layer.train(training)


def batch(case: Case, size: int) -> Tensor:
    shape = list(case.shape)
    shape.insert(case.at, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(size))


def exported(layer: nn.Module, case: Case, training: bool) -> torch.export.ExportedProgram:
    # Normalisers in training need two samples or more, and say so.
    normalises = training and isinstance(layer, (nn.modules.batchnorm._NormBase, LSTMLayer))
    dim = torch.export.Dim("batch", min=max(case.least, 2 if normalises else 1), max=case.most)
    example = batch(case, max(case.least, 5) + 1)
    return torch.export.export(layer, (example,), dynamic_shapes=({case.at: dim},))


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize(("name", "training"), MODES)
def test_export_and_back(name: str, training: bool) -> None:
    case = NAMED[name]
    layer = built(case, training)
    file = io.BytesIO()
    torch.export.save(exported(copy.deepcopy(layer), case, training), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for size in case.sizes:  # in training, one after the other: running statistics move
        x = batch(case, size)
        outputs = []
        for module in (program, layer):
            torch.manual_seed(size)  # for what is drawn
            outputs.append(first(module(x)))
        torch.testing.assert_close(*outputs)
    state = layer.state_dict()
    assert program.state_dict().keys() == state.keys()
    for key, value in program.state_dict().items():
        torch.testing.assert_close(value, state[key])


@pytest.mark.parametrize("name", FIXED)
def test_what_takes_one_size_once_exported(name: str) -> None:
    case, _ = FIXED[name]
    layer, x = built(case, False), batch(case, *case.sizes)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize("name", [name for name, case in NAMED.items() if case.modes[-1]])
def test_an_exported_layer_trains(name: str) -> None:
    case = NAMED[name]
    layer, x = built(case, True), batch(case, 6)
    program = exported(copy.deepcopy(layer), case, True).module()
    gradients = []
    for module in (program, layer):
        torch.manual_seed(0)
        leaf = x.clone().requires_grad_()
        y = first(module(leaf))
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        gradients.append([leaf.grad, *(p.grad for _, p in sorted(module.named_parameters()))])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [PER, partial(SlicedWasserstein, "laplace"), SlicedWasserstein, EppsPulley])
def test_export_leaves_what_is_kept_for_others_intact(kind: Callable[[], nn.Module]) -> None:
    layer, x = kind(), torch.randn(17, 23)  # sizes that no other test has
    torch.export.export(layer, (x,))
    value = layer(x.requires_grad_())
    assert type(value) is Tensor
    value.backward()
    assert x.grad is not None


def onnx_session(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    pytest.importorskip("onnx").checker.check_model(path, full_check=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in NAMED.items() if not case.not_onnx])
def test_onnx_and_back(name: str, tmp_path: Path) -> None:
    case = NAMED[name]
    layer = built(case, False)
    run = onnx_session(exported(layer, case, False), tmp_path / "layer.onnx")
    with torch.no_grad():
        for size in case.sizes:
            x = batch(case, size)
            torch.testing.assert_close(run(x), first(layer(x)), rtol=1e-4, atol=1e-5)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), Unitization2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, groups=2), BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4)),
    )
    for _ in range(3):
        model(torch.randn(16, 3, 8, 8))
    return model.eval()


def test_a_folded_network_is_exported_without_a_trace_of_its_normalisers() -> None:
    model = network()
    folded = fold(model)
    assert len(folded.folded) == 3
    x, dim = torch.randn(4, 3, 8, 8), torch.export.Dim("batch", min=1)
    program = torch.export.export(folded.model, (x,), dynamic_shapes=({0: dim},))
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operations <= {
        *("aten.conv2d.default", "aten.relu.default", "aten.adaptive_avg_pool2d.default"),
        *("aten.flatten.using_ints", "aten.linear.default"),
    }
    for size in (1, 7):
        x = torch.randn(size, 3, 8, 8)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_folded_network_in_onnx(tmp_path: Path) -> None:
    model = network()
    dim = torch.export.Dim("batch", min=1)
    program = torch.export.export(fold(model).model, (torch.randn(4, 3, 8, 8),), dynamic_shapes=({0: dim},))
    run = onnx_session(program, tmp_path / "network.onnx")
    graph = pytest.importorskip("onnx").load(tmp_path / "network.onnx").graph
    assert not {"BatchNormalization", "Sub", "Sqrt", "Div"} & {node.op_type for node in graph.node}
    with torch.no_grad():
        for size in (1, 7):
            x = torch.randn(size, 3, 8, 8)
            torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)
