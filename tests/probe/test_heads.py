"""The classifiers inside a network: their features, their independence, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layershift.probe.heads import InternalClassifiers, pooled


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5))
@settings(deadline=None)
def test_the_average_is_adaptive_pooling(shape) -> None:
    output = torch.randn(*shape, dtype=torch.float64)
    positions = len(shape) - 2
    if positions == 0:
        expected = output
    elif positions == 1:  # tokens: (N, T, C)
        expected = nn.functional.adaptive_avg_pool1d(output.mT, 1).flatten(1)
    else:
        pool = nn.functional.adaptive_avg_pool2d if positions == 2 else nn.functional.adaptive_avg_pool3d
        expected = pool(output, 1).flatten(1)
    torch.testing.assert_close(pooled("x", output, "average"), expected.float())
    torch.testing.assert_close(pooled("x", output, "flatten"), output.reshape(shape[0], -1).float())


def test_halves_are_averaged_in_float32() -> None:
    output = torch.full((1, 1, 300, 300), 1000.0, dtype=torch.float16)  # the sum exceeds 65504 by far
    assert pooled("x", output, "average").tolist() == [[1000.0]]


@pytest.mark.parametrize("shape", [(3,), (1, 1, 1, 1, 1, 1)])
def test_other_shapes_are_refused(shape) -> None:
    with pytest.raises(ValueError, match=r"layer 'x': expected an output of shape \(N, C\), .* got shape"):
        pooled("x", torch.zeros(shape), "average")


def test_forward_is_each_layers_logits() -> None:
    heads = InternalClassifiers({"b": 6, "a.0": 4}, 3)
    outputs = {"a.0": torch.randn(5, 4, 2, 2), "b": torch.randn(5, 7, 6)}
    features = {name: heads.feature(name, output) for name, output in outputs.items()}
    together = heads(features)
    assert heads.layers == ("b", "a.0")
    for i, name in enumerate(heads.layers):
        weight, bias = heads.classifiers[i].weight, heads.classifiers[i].bias
        torch.testing.assert_close(together[i], features[name] @ weight.mT + bias)
        torch.testing.assert_close(heads.logits(name, outputs[name]), together[i])


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    both, one, other = (InternalClassifiers(f, 3, seed=1) for f in ({"a": 4, "b": 4}, {"b": 4}, {"b": 4, "c": 4}))
    before = torch.get_rng_state()
    again, reseeded = InternalClassifiers({"b": 4}, 3, seed=1), InternalClassifiers({"b": 4}, 3, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    weights = [heads.classifiers[i].weight for heads, i in ((both, 1), (one, 0), (other, 0), (again, 0))]
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert not torch.equal(weights[0], both.classifiers[0].weight)
    assert not torch.equal(weights[0], reseeded.classifiers[0].weight)
    assert weights[0].abs().max() <= 0.5


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (({}, 3), {}, "features: expected the size of at least one layer's feature"),
        (({"a": 0}, 3), {}, "features: expected positive sizes"),
        (({"output": 1}, 3), {}, "features: expected layers of other names than 'output'"),
        (({"a": 1}, 0), {}, "num_labels: expected at least one label, got 0"),
        (({"a": 1}, 3), {"pool": "max"}, "pool: expected one of 'average', 'flatten', got 'max'"),
    ],
)
def test_options_are_checked(arguments, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        InternalClassifiers(*arguments, **options)


def test_an_unknown_layer_and_another_size_are_refused() -> None:
    heads = InternalClassifiers({"a": 4, "b": 2}, 3)
    with pytest.raises(ValueError, match="layer: expected one of a, b, got 'c'"):
        heads.logits("c", torch.zeros(5, 4))
    with pytest.raises(ValueError, match="output: expected 4 features a sample of layer 'a', got shape"):
        heads.feature("a", torch.zeros(5, 3))
