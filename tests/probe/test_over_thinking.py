"""Over-thinking: both ways to count against loops, and the sum that makes the paper's tables add up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.probe.outputs import LayerOutputs
from layershift.probe.over_thinking import overthinking


def made(right: torch.Tensor, labelled: torch.Tensor | None = None) -> LayerOutputs:
    """Outputs of two labels that are right where a table of shape (L, N) says so."""
    n = right.shape[1]
    targets = torch.stack([torch.ones(n), torch.zeros(n)], 1).bool()
    if labelled is not None:
        targets &= labelled[:, None]
    p = torch.where(right[..., None], torch.tensor([0.9, 0.1]), torch.tensor([0.9, 0.9]))
    names = (*(f"conv{k}" for k in range(len(right) - 1)), "output")
    return LayerOutputs(names, p, targets, "multi_label", ("a", "b"), tuple(map(str, range(n))))


@given(seed=st.integers(0, 2**31), layers=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_both_counts_are_those_of_a_loop(seed, layers) -> None:
    right = torch.rand(layers, 30, generator=torch.Generator().manual_seed(seed)) < 0.3
    found = overthinking(made(right))
    table = right.tolist()
    lost = [i for i in range(30) if not table[-1][i]]
    for k, row in enumerate(found.rows):
        here = [i for i in lost if table[k][i]]
        new = [i for i in here if not any(table[j][i] for j in range(k))]
        assert (row.share, row.first) == pytest.approx((len(here) / 30, len(new) / 30))
    assert found.ideal == pytest.approx(sum(any(row[i] for row in table) for i in range(30)) / 30)
    assert found.accuracy + sum(row.first for row in found.rows) == pytest.approx(found.ideal)
    assert len(found.rows) == layers - 1


def test_the_printed_shares_are_disjoint() -> None:
    """Table 2, ResNet-18 on VOC2007."""
    shares = [1.17, 0.44, 0.69, 0.71, 0.55, 0.50, 0.53, 0.85, 0.53]
    assert sum(shares) + 64.48 == pytest.approx(70.44, abs=0.011)


def test_standard_errors_are_binomial_with_their_n() -> None:
    right = torch.zeros(2, 10, dtype=torch.bool)
    right[0, :3] = True
    right[1, 5:9] = True
    found = overthinking(made(right))
    assert (found.rows[0].first, found.accuracy, found.n) == (0.3, 0.4, 10)
    assert found.rows[0].first_stderr == pytest.approx((0.3 * 0.7 / 10) ** 0.5)
    assert found.ideal_stderr == pytest.approx((0.7 * 0.3 / 10) ** 0.5)


def test_samples_without_a_label_are_left_out_and_counted() -> None:
    right = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.4
    labelled = torch.arange(20) >= 5
    found, without = overthinking(made(right, labelled)), overthinking(made(right[:, 5:]))
    assert (found.n, found.left_out) == (15, 5)
    assert (found.rows, found.ideal, found.accuracy) == (without.rows, without.ideal, without.accuracy)


def test_no_label_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="outputs: expected at least one sample with a label, got 4 without"):
        overthinking(made(torch.ones(2, 4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)))
