"""Gradients of rules by hand are those that autograd finds, and are what normalisers use."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from layershift.functional import batch_norm, rows, unitization, unitize
from layershift.functional.normalize import affine_of, pool_samples, pooled_gradient
from layershift.functional.rows import RowTable
from layershift.functional.table_gradients import batch_norm_gradient, unitization_gradient
from layershift.functional.unitize import _bracket

EPS, FACTOR = 1e-2, 0.7


def batch_norm_rule(table, weight, bias):
    pool = pool_samples(table)
    return affine_of(torch.rsqrt(pool.variance + EPS).expand_as(table.mean), pool, weight, bias, remember=False)


def unitization_rule(form):
    def rule(table, alpha, weight, bias):
        pool = pool_samples(table)
        inverse = torch.rsqrt(pool.variance + EPS)
        s = (table.about(pool.centre) * inverse.square()).sum(1, keepdim=True) * FACTOR
        return affine_of(inverse * _bracket(s, alpha, EPS, form), pool, weight, bias, remember=False)

    return rule


def by_hand(form):
    if form is None:
        return pooled_gradient(batch_norm_gradient, eps=EPS)
    return pooled_gradient(unitization_gradient, eps=EPS, factor=FACTOR, bounded=form == "bounded")


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 5),
    channels=st.integers(1, 4),
    form=st.sampled_from([None, "practical", "bounded"]),
    weighted=st.booleans(),
    biased=st.booleans(),
    pivot=st.sampled_from([(0.0, "rows"), (1e3, "rows"), (1.0, "channels")]),
    seed=st.integers(0, 2**16),
)
def test_they_are_autograds(samples, channels, form, weighted, biased, pivot, seed) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    far, kind = pivot
    mean = 0.1 * draw(samples, channels)
    table = RowTable(6, far + draw(samples if kind == "rows" else 1, channels), mean, mean.square() + draw(1).exp())
    parameters = [draw(channels) if weighted else None, draw(channels) if biased else None]
    if form is not None:
        parameters.insert(0, torch.rand(channels, dtype=torch.float64, generator=generator))
    rule = batch_norm_rule if form is None else unitization_rule(form)
    slopes = draw(samples, channels), draw(samples, channels)
    scale, *expected = rows._by_autograd(rule)(table, *slopes, *parameters)
    found = by_hand(form)(table, *slopes, *parameters)
    torch.testing.assert_close(found.scale.expand_as(mean), scale.expand_as(mean))
    for ours, other in zip(found[1:3], expected[:2], strict=True):
        torch.testing.assert_close(ours.expand_as(mean), other, rtol=1e-8, atol=1e-10)
    for ours, other in zip(found.parameters, expected[2], strict=True):
        assert (ours is None) == (other is None)
        if other is not None:
            torch.testing.assert_close(ours, other, rtol=1e-8, atol=1e-10)


class Counting(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["batch", "unitization"])
def test_normalisers_use_them(name, monkeypatch: pytest.MonkeyPatch) -> None:
    x, alpha = torch.randn(4, 3, 5).requires_grad_(), torch.rand(3).requires_grad_()
    function = (
        batch_norm
        if name == "batch"
        else lambda x, *, mean=None, variance=None: unitization(x, alpha, mean=mean, variance=variance)
    )
    asked = []
    autograd = rows._by_autograd

    def asking(rule):
        known = autograd(rule)
        return lambda *arguments: asked.append(name) or known(*arguments)

    monkeypatch.setattr(rows, "_by_autograd", asking)
    function(x).sum().backward()
    assert asked == []
    function(x, mean=torch.zeros(3), variance=torch.ones(3)).sum().backward()
    assert asked == [name]


def test_they_save_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    x, alpha = torch.randn(4, 3, 5).requires_grad_(), torch.rand(3).requires_grad_()

    def operations() -> int:
        with Counting() as counting:
            unitization(x, alpha, torch.ones(3), torch.zeros(3)).sum().backward()
        return counting.calls

    few = operations()
    monkeypatch.setattr(unitize, "pooled_gradient", lambda *_, **__: None)
    assert few < 0.75 * operations()
