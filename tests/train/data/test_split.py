"""The stratified order: a permutation of which every beginning holds each class in its share."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from layershift.train.data import stratified_order


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 99))
def test_every_beginning_is_stratified(labels, seed) -> None:
    y = torch.tensor(labels)
    order = stratified_order(y, seed)
    assert sorted(order.tolist()) == list(range(len(y)))
    counts = torch.bincount(y).double()
    classes = int((counts > 0).sum())
    for m in range(1, len(y) + 1):
        found = torch.bincount(y[order[:m]], minlength=len(counts))
        off = (found - m * counts / len(y)).abs()
        assert bool((off <= 1 + classes * counts / (2 * len(y)) + 1e-9).all())


@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 99))
def test_equal_classes_take_turns(classes, each, seed) -> None:
    y = torch.arange(classes).repeat(each)
    ordered = y[stratified_order(y, seed)].view(each, classes)
    assert torch.equal(ordered.sort(1).values, torch.arange(classes).expand(each, classes))


def test_the_order_follows_its_seed() -> None:
    y = torch.arange(40) % 4
    assert torch.equal(stratified_order(y, 1), stratified_order(y, 1))
    assert not torch.equal(stratified_order(y, 1), stratified_order(y, 2))
