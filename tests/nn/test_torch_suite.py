"""PyTorch's own inputs for its normalisers, run through ours: what the installed PyTorch is tested with.

The cases are PyTorch's (`ModuleInfo` and `OpInfo`); what is checked of each follows its suite for modules: forward,
gradients, second gradients, running statistics, state, factory arguments, memory formats, errors. Ours differ from
PyTorch's in one thing: a batch without a sample is an error.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("expecttest", reason="PyTorch's own cases need expecttest")

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

from layershift.functional import batch_norm, group_norm, instance_norm, unitization
from layershift.nn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    SyncBatchNorm,
    SyncUnitization,
    Unitization1d,
    Unitization2d,
    Unitization3d,
)

# PyTorch's suite forbids whoever imports it to set backends' flags, in the whole process; training sets them.
torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True

OURS = {
    nn.BatchNorm1d: (BatchNorm1d, Unitization1d),
    nn.BatchNorm2d: (BatchNorm2d, Unitization2d),
    nn.BatchNorm3d: (BatchNorm3d, Unitization3d),
}
INFO = {info.module_cls: info for info in module_db if info.module_cls in OURS}
DTYPES = (torch.float32, torch.float64)


def inputs(theirs: type[nn.Module], dtype: torch.dtype = torch.float64, training: bool = True) -> list[Any]:
    torch.manual_seed(0)
    options = {"device": "cpu", "dtype": dtype, "requires_grad": False, "training": training}
    return list(INFO[theirs].module_inputs_func(INFO[theirs], **options))


def synchronised(kind: type[nn.Module]) -> type[nn.Module]:
    return SyncUnitization if kind.__name__.startswith("Unitization") else SyncBatchNorm


CASES = [
    pytest.param(theirs, ours, i, id=f"{ours.__name__}-{theirs.__name__}-{case.desc or i}")
    for theirs, plain in OURS.items()
    for kind in plain
    for ours in (kind, synchronised(kind))
    for i, case in enumerate(inputs(theirs))
    if case.desc != "zero_batch" and not (ours is SyncBatchNorm and "bias" in case.constructor_input.kwargs)
]
each_case = pytest.mark.parametrize(("theirs", "ours", "i"), CASES)


def test_there_are_cases() -> None:
    assert set(INFO) == set(OURS)
    assert all(len(inputs(theirs)) >= 6 for theirs in OURS)


def pair(theirs, ours, i, dtype=torch.float64, training=True):
    """PyTorch's layer and ours in one state, and the case's input."""
    case = inputs(theirs, dtype, training)[i]
    args, kwargs = case.constructor_input.args, case.constructor_input.kwargs
    first, second = theirs(*args, **kwargs, dtype=dtype), ours(*args, **kwargs, dtype=dtype)
    for key, tensor in first.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
        second.state_dict()[key].copy_(tensor)
    (x,) = case.forward_input.args
    return first.train(training), second.train(training), x


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5 if expected.dtype == torch.float32 else 1e-10, atol=1e-5)


@each_case
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_gradients_and_statistics_through_training(theirs, ours, i, training, dtype) -> None:
    reference, layer, x = pair(theirs, ours, i, dtype, training)
    for step in range(3):
        results = []
        for module in (reference, layer):
            leaf = (x * (1 + step) + step).requires_grad_()
            y = module(leaf)
            y.backward(torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y))
            results.append((y, leaf.grad))
        for found, expected in zip(*reversed(results), strict=True):
            close(found, expected)
        assert results[1][0].dtype == dtype
        gradients = {name: p.grad for name, p in layer.named_parameters() if name != "alpha"}
        assert gradients.keys() == dict(reference.named_parameters()).keys()
        for name, p in reference.named_parameters():
            close(gradients[name], p.grad)
        for name, buffer in reference.named_buffers():
            close(dict(layer.named_buffers())[name], buffer)
    assert [key for key in layer.state_dict() if key != "alpha"] == list(reference.state_dict())
    close(layer.eval()(x), reference.eval()(x))


@each_case
def test_state_goes_from_one_to_the_other(theirs, ours, i) -> None:
    reference, layer, x = pair(theirs, ours, i)
    fresh = ours(*inputs(theirs)[i].constructor_input.args, **inputs(theirs)[i].constructor_input.kwargs).double()
    reference(x)
    loaded = fresh.load_state_dict(reference.state_dict(), strict=False)
    assert (set(loaded.missing_keys) <= {"alpha"}, loaded.unexpected_keys) == (True, [])
    close(fresh.eval()(x), reference.eval()(x))
    layer(x)
    loaded = copy.deepcopy(reference).load_state_dict(layer.state_dict(), strict=False)
    assert (loaded.missing_keys, set(loaded.unexpected_keys) <= {"alpha"}) == ([], True)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again.eval()(x), layer.eval()(x))
    assert repr(layer).startswith(f"{ours.__name__}(")


@each_case
def test_gradients_by_finite_differences(theirs, ours, i) -> None:
    _, layer, x = pair(theirs, ours, i)
    layer.momentum = 0.0  # calls that PyTorch's checks repeat must not differ
    x, parameters = x.requires_grad_(), tuple(layer.parameters())

    def call(x, *parameters):
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(copy.deepcopy(layer), dict(zip(names, parameters, strict=True)), (x,))

    torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)
    torch.autograd.gradgradcheck(call, (x, *parameters), fast_mode=True, atol=1e-4)


@each_case
def test_strides_do_not_matter(theirs, ours, i) -> None:
    reference, layer, x = pair(theirs, ours, i)
    expected = reference(x)
    spread = torch.stack([x, x + 1], -1)[..., 0]
    layouts = [spread, x.mT.contiguous().mT] if x.dim() > 2 else [spread]
    if x.dim() in (4, 5):
        layouts.append(x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d))
    for given in layouts:
        assert not given.is_contiguous()
        close(layer(given), expected)
    if x.dim() in (4, 5):
        assert layer(layouts[-1]).stride() == reference(layouts[-1]).stride()


@each_case
def test_factory_arguments_and_modes(theirs, ours, i) -> None:
    reference, layer, x = pair(theirs, ours, i)
    case = inputs(theirs)[i].constructor_input
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        made, as_theirs = (kind(*case.args, **case.kwargs, dtype=dtype, device="meta") for kind in (ours, theirs))
        expected = {key: (t.dtype, t.device.type, t.shape) for key, t in as_theirs.state_dict().items()}
        state = {key: (t.dtype, t.device.type, t.shape) for key, t in made.state_dict().items() if key != "alpha"}
        assert state == expected
        assert all(t.dtype == dtype for key, t in made.named_parameters())
    with torch.device("meta"):
        assert all(t.is_meta for t in ours(*case.args, **case.kwargs).state_dict().values())
    x = x.float()
    changed = [not torch.equal(m.float().train()(x), m.eval()(x)) for m in (reference, layer)]
    assert changed[0] == changed[1]
    assert type(layer.to_empty(device="meta")) is ours


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("theirs", "ours"), [(theirs, kind) for theirs, kinds in OURS.items() for kind in kinds], ids=str
)
def test_errors(theirs, ours, training) -> None:
    info = INFO[theirs]
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": training}
    if info.module_error_inputs_func is None:
        pytest.skip(f"PyTorch {torch.__version__} has no cases of errors")
    for case in info.module_error_inputs_func(info, **options):
        assert case.error_on is ModuleErrorEnum.FORWARD_ERROR
        arguments = case.module_error_input.constructor_input
        raised = []
        for kind in (theirs, ours):
            layer = kind(*arguments.args, **arguments.kwargs).train(training)
            try:
                layer(*case.module_error_input.forward_input.args)
                raised.append("")
            except case.error_type as error:
                raised.append(str(error))
        assert bool(raised[0]) == bool(raised[1]), (arguments.kwargs, raised)
        if raised[1]:
            assert raised[1] == f"eps: expected a positive number, got {arguments.kwargs['eps']}"


@pytest.mark.parametrize("theirs", OURS, ids=str)
def test_a_batch_without_a_sample_is_an_error(theirs) -> None:
    (case,) = (case for case in inputs(theirs) if case.desc == "zero_batch")
    for ours in OURS[theirs]:
        layer = ours(*case.constructor_input.args, **case.constructor_input.kwargs)
        with pytest.raises(ValueError, match="x: expected at least one sample, got an empty tensor of shape"):
            layer(*case.forward_input.args)


def samples(name: str) -> list[Any]:
    torch.manual_seed(0)
    (info,) = (info for info in op_db if info.name == f"nn.functional.{name}" and not info.variant_test_name)
    found = list(info.sample_inputs("cpu", torch.float64))
    return [sample for sample in found if sample.input.numel() > 0]


def check_function(expected, found, *leaves) -> None:
    """Values and gradients with respect to everything that both take."""
    torch.testing.assert_close(found, expected, equal_nan=True)
    leaves = [leaf for leaf in leaves if leaf is not None]
    weight = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).view_as(expected)
    grads = [torch.autograd.grad(y, leaves, weight, allow_unused=True) for y in (found, expected)]
    torch.testing.assert_close(*map(list, grads), equal_nan=True)


def leaf(tensor):
    return None if tensor is None else tensor.detach().clone().requires_grad_()


@pytest.mark.parametrize("sample", samples("batch_norm"), ids=lambda s: str(tuple(s.input.shape)))
@pytest.mark.parametrize("function", [batch_norm, unitization])
def test_functional_batch_norm(sample, function) -> None:
    mean, variance, *affine = (*sample.args, None, None)[:4]
    x, (weight, bias) = leaf(sample.input), map(leaf, affine)
    options = {"eps": sample.kwargs.get("eps", 1e-5)}
    training = sample.kwargs.get("training", False)
    if not training and bool((variance < 0).any()):
        variance = variance.abs()  # PyTorch's case has a variance below 0: NaN on both sides
    statistics = {} if training else {"mean": mean.detach(), "variance": variance.detach()}
    running = (None, None) if training else (mean.detach(), variance.detach())
    expected = nn.functional.batch_norm(x, *running, weight, bias, training=training, **options)
    alpha = (torch.zeros(x.shape[1], dtype=x.dtype),) if function is unitization else ()
    check_function(expected, function(x, *alpha, weight, bias, **options, **statistics), x, weight, bias)


@pytest.mark.parametrize("sample", samples("group_norm"), ids=lambda s: str(tuple(s.input.shape)))
def test_functional_group_norm(sample) -> None:
    x, weight, bias = leaf(sample.input), leaf(sample.kwargs.get("weight")), leaf(sample.kwargs.get("bias"))
    (groups,), eps = sample.args, sample.kwargs.get("eps", 1e-5)
    expected = nn.functional.group_norm(x, groups, weight, bias, eps)
    check_function(expected, group_norm(x, groups, weight, bias, eps=eps), x, weight, bias)


@pytest.mark.parametrize("sample", samples("instance_norm"), ids=lambda s: str(tuple(s.input.shape)))
def test_functional_instance_norm(sample) -> None:
    x, weight, bias = leaf(sample.input), leaf(sample.kwargs.get("weight")), leaf(sample.kwargs.get("bias"))
    eps = sample.kwargs.get("eps", 1e-5)
    expected = nn.functional.instance_norm(x, weight=weight, bias=bias, eps=eps)
    check_function(expected, instance_norm(x, weight, bias, eps=eps), x, weight, bias)
