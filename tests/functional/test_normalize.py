"""The table-based normalisers against PyTorch's own, and unitization against the paper's algorithm written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from layershift import functional as lf
from layershift.functional.rows import normalize_rows
from layershift.functional.unitize import unitization_rows

SHAPES = [(6, 4), (6, 4, 5), (6, 4, 3, 5), (3, 4, 2, 3, 2)]
OPTIONS = [
    {},
    {"divisor": "elements"},
    {"divisor": 2.5},
    {"over": "position"},
    {"over": "position", "divisor": "elements"},
    {"form": "bounded"},
    {"form": "bounded", "over": "position", "divisor": 3.0},
]


def twin(
    x, alpha, weight, bias, *, mean=None, variance=None, eps=1e-5, divisor="paper", over="sample", form="practical"
):
    """Algorithm 2 of the paper, line by line, for one sample after the other."""
    n, c = x.shape[:2]
    rows = x.reshape(n, c, -1)
    size = rows.shape[2]
    if mean is None:
        mean = rows.mean((0, 2))
        variance = ((rows - mean[:, None]) ** 2).mean((0, 2))
    out = []
    for k in range(n):
        hat = (rows[k] - mean[:, None]) / (variance[:, None] + eps) ** 0.5
        positions = 1 if over == "position" else size
        number = {"paper": positions, "elements": c}.get(divisor, divisor)
        s = (hat**2).sum(0, keepdim=True) if over == "position" else (hat**2).sum()
        s = s / (number * positions)
        if form == "practical":
            p = 1 / (s + eps) ** 0.5
            bar = (p * alpha[:, None] + (1 - alpha[:, None])) * hat
        else:
            bar = hat / (((s + eps) ** 0.5 - 1) * alpha[:, None] + 1)
        out.append(weight[:, None] * bar + bias[:, None])
    return torch.stack(out).reshape(x.shape)


def problem(shape, dtype=torch.float64, mean=0.0):
    c = shape[1]
    x = torch.randn(shape, dtype=dtype) * 1.7 + mean
    alpha, weight, bias = torch.rand(c, dtype=dtype), torch.randn(c, dtype=dtype), torch.randn(c, dtype=dtype)
    return [t.requires_grad_() for t in (x, alpha, weight, bias)]


def assert_same_map(f, g, inputs, **tolerance):
    """Equal values and equal gradients with respect to every input."""
    y, expected = f(*inputs), g(*inputs)
    torch.testing.assert_close(y, expected, **tolerance)
    dy = torch.randn_like(y)
    ours = torch.autograd.grad(y, inputs, dy, allow_unused=True)
    for a, b in zip(ours, torch.autograd.grad(expected, inputs, dy, allow_unused=True), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unitization_is_the_papers_algorithm_in_training(shape, options):
    assert_same_map(lambda *p: lf.unitization(*p, **options), lambda *p: twin(*p, **options), problem(shape, mean=3.0))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unitization_is_the_papers_algorithm_with_given_statistics(shape, options):
    mean, variance = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.1
    given = {"mean": mean.requires_grad_(), "variance": variance.requires_grad_()}
    inputs = [*problem(shape), *given.values()]

    def call(f):
        return lambda *p: f(*p[:4], mean=p[4], variance=p[5], **options)

    assert_same_map(call(lf.unitization), call(twin), inputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_normalisers_are_pytorchs(shape):
    x, _, weight, bias = problem(shape, mean=2.0)
    inputs = [x, weight, bias]
    assert_same_map(lf.batch_norm, lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), inputs)
    assert_same_map(lambda x, w, b: lf.group_norm(x, 2, w, b), lambda x, w, b: F.group_norm(x, 2, w, b), inputs)
    assert_same_map(lf.layer_norm, lambda x, w, b: F.group_norm(x, 1, w, b), inputs)
    if len(shape) > 2:
        assert_same_map(lf.instance_norm, lambda x, w, b: F.instance_norm(x, weight=w, bias=b), inputs)
    else:
        assert_same_map(lf.layer_norm, lambda x, w, b: F.layer_norm(x, (4,), w, b), inputs)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 10**6), st.sampled_from(OPTIONS))
def test_any_shape(shape, seed, options):
    torch.manual_seed(seed)
    inputs = problem([shape[0] + 1, *shape[1:]])
    x = inputs[0]
    assert_same_map(
        lambda *p: lf.unitization(*p, **options), lambda *p: twin(*p, **options), inputs, rtol=1e-5, atol=1e-7
    )
    assert lf.unitization(*inputs, **options).shape == x.shape


@pytest.mark.parametrize("form", ["practical", "bounded"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradcheck_twice(shape, form):
    def f(*p):
        return lf.unitization(*p, form=form)

    inputs = problem((3, 2, *[2] * (len(shape) - 2)))
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (5, 4, 2, 3, 6)], ids=str)
def test_memory_formats_and_strides(shape):
    x, *parameters = problem(shape)
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    expected = twin(x, *parameters)
    dy = torch.randn_like(expected)
    (dx,) = torch.autograd.grad(expected, x, dy)
    plain = x.detach()
    variants = {
        "channels last": plain.to(memory_format=last),
        "every second column": torch.stack([plain, plain], -1).flatten(-2)[..., ::2],
        "transposed": plain.transpose(0, 1).contiguous().transpose(0, 1),
    }
    for name, variant in variants.items():
        leaf = variant.requires_grad_()
        y = lf.unitization(leaf, *parameters)
        torch.testing.assert_close(y, expected, msg=name)
        for g in (dy, dy.to(memory_format=last)):
            torch.testing.assert_close(torch.autograd.grad(y, leaf, g, retain_graph=True)[0], dx, msg=name)
    assert lf.unitization(variants["channels last"], *parameters).is_contiguous(memory_format=last)
    constant = torch.autograd.grad(lf.unitization(x, *parameters).sum(), x)[0]  # an expanded gradient
    torch.testing.assert_close(constant, torch.autograd.grad(twin(x, *parameters).sum(), x)[0])


def test_fused_backward_is_autograds(monkeypatch):
    inputs = problem((8, 4, 6, 6), torch.float32)
    y, dy = lf.unitization(*inputs), torch.randn(8, 4, 6, 6)
    fused = torch.autograd.grad(y, inputs, dy)
    assert type(y.grad_fn).__name__ == "_FusedBackward"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    plain = lf.unitization(*inputs)
    assert type(plain.grad_fn).__name__ != "_FusedBackward"
    for a, b in zip(fused, torch.autograd.grad(plain, inputs, dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("needed", [(0,), (1,), (2, 3), (0, 3)])
def test_only_the_gradients_that_are_needed(needed):
    inputs = problem((4, 3, 5))
    for i, t in enumerate(inputs):
        t.requires_grad_(i in needed)
    wanted = [inputs[i] for i in needed]
    ours = torch.autograd.grad(lf.unitization(*inputs).square().sum(), wanted, create_graph=True)
    for a, b in zip(ours, torch.autograd.grad(twin(*inputs).square().sum(), wanted), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("outlier", [None, 300.0])
def test_a_mean_large_beside_the_spread_costs_no_accuracy(outlier):
    x, dy = torch.randn(16, 8, 20, 20) + 1e3, torch.randn(16, 8, 20, 20)
    if outlier is not None:
        x[:, :, 0, 0] += outlier  # where a shift by the first pixel would be the wrong one
    errors = []
    for f in (lambda x: lf.unitization(x, torch.zeros(8)), lambda x: F.batch_norm(x, None, None, training=True)):
        results = []
        for leaf in (x.clone().requires_grad_(), x.double().requires_grad_()):
            y = f(leaf) if leaf.dtype == torch.float32 else F.batch_norm(leaf, None, None, training=True)
            results.append([y, torch.autograd.grad(y, leaf, dy.to(y.dtype))[0]])
        errors.append([(a - b).abs().max() for a, b in zip(*results, strict=True)])
    ours, torchs = errors
    assert ours[0] < 1e-5  # PyTorch: 5e-5
    assert ours[0] <= torchs[0]
    assert ours[1] <= torchs[1] * 1.1 + 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(8, 4, 6, 6), (8, 4)], ids=str)
def test_half_precision(shape, scale, dtype):
    x, alpha, weight, bias = (t.detach() for t in problem(shape, torch.float32))
    x = (x * scale).to(dtype).requires_grad_()
    y = lf.unitization(x, alpha, weight, bias, eps=1e-5)
    assert y.dtype == dtype
    expected = twin(x.detach().double(), alpha.double(), weight.double(), bias.double())
    torch.testing.assert_close(y.double(), expected, rtol=2e-2, atol=2e-2)
    (dx,) = torch.autograd.grad(y.float().square().sum(), x)
    assert dx.dtype == dtype
    assert dx.isfinite().all()


def test_a_constant_input_has_a_finite_gradient():
    x = torch.full((4, 3, 5), 2.0, requires_grad=True)
    y = lf.unitization(x, torch.ones(3))
    y.sum().backward()
    assert (y == 0).all()
    assert x.grad.isfinite().all()


def test_where_nan_goes():
    x = torch.randn(4, 3, 5, 5)
    x[1, 2, 0, 0] = math.nan
    alpha, one, zero = torch.rand(3), torch.ones(3), torch.zeros(3)
    trained = lf.unitization(x, alpha)
    assert trained[:, 2].isnan().all()  # through the batch's statistics, and the norms
    evaluated = lf.unitization(x, alpha, mean=zero, variance=one)
    assert evaluated[1].isnan().all()
    assert evaluated[[0, 2, 3]].isfinite().all()


def test_norms_of_the_unitized_branch():
    x, one = torch.randn(6, 5, 7, 7, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(lf.unitization(x, one, eps=1e-12).flatten(1).norm(dim=1), 49 * torch.ones(6).double())
    rms = lf.unitization(x, one, eps=1e-12, divisor="elements").square().mean((1, 2, 3))
    torch.testing.assert_close(rms, torch.ones(6).double())
    at_position = lf.unitization(x, one, eps=1e-12, over="position").norm(dim=1)
    torch.testing.assert_close(at_position, torch.ones(6, 7, 7).double())


def test_the_bounded_form_is_bounded_and_the_practical_is_not():
    x = torch.randn(64, 5, dtype=torch.float64)
    x[0] *= 1e4
    alpha = torch.full((5,), 0.5, dtype=torch.float64)
    mean, variance = torch.zeros(5).double(), torch.ones(5).double()
    assert lf.unitization(x, alpha, mean=mean, variance=variance, form="bounded").norm(dim=1).max() <= 1 / 0.5
    assert lf.unitization(x, alpha, mean=mean, variance=variance).norm(dim=1).max() > 1e3


def test_the_vmap_of_a_gradient_works():
    x, alpha = torch.randn(5, 4, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    statistics = {"mean": torch.zeros(4).double(), "variance": torch.ones(4).double()}

    def loss(alpha, x):
        return lf.unitization(x[None], alpha, **statistics).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(alpha, x)
    whole = torch.func.grad(lambda a: lf.unitization(x, a, **statistics).square().sum())(alpha)
    torch.testing.assert_close(each.sum(0), whole)


def test_statistics_are_the_batchs():
    x = torch.randn(6, 3, 4, dtype=torch.float64) + 100
    batch = unitization_rows(x, torch.rand(3).double())
    torch.testing.assert_close(batch.mean, x.mean((0, 2)))
    torch.testing.assert_close(batch.variance, x.var((0, 2), correction=0))
    assert batch.size == 24
    assert not batch.mean.requires_grad


def test_a_rule_that_ignores_the_table():
    from layershift.functional.rows import Affine

    x, scale = (
        torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True),
        torch.tensor(2.0).double().requires_grad_(),
    )

    def rule(table, scale):
        return Affine(scale.expand(3, 2), torch.zeros(3, 2).double())

    y = normalize_rows(x, rule, (scale,)).output
    torch.testing.assert_close(y, 2 * (x - x.mean(-1, keepdim=True)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: lf.unitization(torch.zeros(4), torch.zeros(1)),
            ValueError,
            r"x: expected a tensor of shape \(N, C, …\)",
        ),
        (lambda: lf.unitization(torch.zeros(4, 3), torch.zeros(2)), ValueError, r"alpha: expected shape \(3,\), got"),
        (
            lambda: lf.batch_norm(torch.zeros(4, 3).long()),
            TypeError,
            "x: expected a floating point tensor, got torch.int64",
        ),
        (lambda: lf.batch_norm(torch.zeros(0, 3)), ValueError, "x: expected at least one sample"),
        (lambda: lf.batch_norm(torch.zeros(1, 3)), ValueError, "x: expected more than one number for each channel"),
        (lambda: lf.batch_norm(torch.zeros(4, 3), mean=torch.zeros(3)), ValueError, "mean, variance: expected both"),
        (lambda: lf.group_norm(torch.zeros(4, 6), 4), ValueError, "num_groups: expected a divisor of 6, got 4"),
        (lambda: lf.instance_norm(torch.zeros(4, 6)), ValueError, "x: expected more than one number in each channel"),
        (
            lambda: lf.unitization(torch.zeros(4, 3), torch.zeros(3), divisor=0.0),
            ValueError,
            "divisor: expected 'paper'",
        ),
        (
            lambda: lf.unitization(torch.zeros(4, 3), torch.zeros(3), divisor="n"),
            ValueError,
            "divisor: expected one of",
        ),
        (
            lambda: lf.unitization(torch.zeros(4, 3), torch.zeros(3), over="x"),
            ValueError,
            "over: expected one of 'sample'",
        ),
        (lambda: lf.unitization(torch.zeros(4, 3), torch.zeros(3), form="x"), ValueError, "form: expected one of"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
