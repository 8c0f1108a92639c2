"""What it costs to take one label for another: from word vectors, from labels that occur together, or 0 and 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import check, check_choice, check_floating, check_items, check_not_empty, check_rank
from layershift.functional.label_distance import label_cost, zero_one_cost

LabelSet: TypeAlias = Literal["voc2007", "coco"]
LabelCost: TypeAlias = Literal["embeddings", "cooccurrence", "zero_one"]
LABEL_SETS: tuple[LabelSet, ...] = ("voc2007", "coco")
LABEL_COSTS = ("embeddings", "cooccurrence", "zero_one")


def label_embeddings(name: LabelSet) -> tuple[tuple[str, ...], Tensor]:
    """Word vectors of the labels of a data set, shipped with the package.

    They are GloVe's of 50 dimensions, in the public domain; the README beside the files tells how they were made.

    Args:
        name: "voc2007", 20 labels, or "coco", 80.

    Returns:
        The labels in the order of the data set, and a float32 vector for each, shape `(K, 50)`.

    Raises:
        ValueError: if there is no such set.

    References:
        J. Pennington, R. Socher, C. D. Manning, 2014, "GloVe: global vectors for word representation".

    Example:
        >>> names, vectors = label_embeddings("voc2007")
        >>> names[:3], vectors.shape
        (('aeroplane', 'bicycle', 'bird'), torch.Size([20, 50]))
    """
    check_choice("name", name, LABEL_SETS)
    file = files("layershift.probe") / "embeddings" / f"{name}.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    return tuple(table), torch.tensor(list(table.values()))


def embedding_cost(embeddings: Tensor, *, scale: bool = True) -> Tensor:
    r"""Squared distances of labels' vectors, $\lVert e_i-e_j\rVert^2$, as a share of the largest.

    Args:
        embeddings: a vector for each label, shape `(K, d)`.
        scale: whether to divide by the largest cost; not done where all are 0.

    Returns:
        Costs of shape `(K, K)`, symmetric, with a diagonal of 0.

    Raises:
        TypeError: if `embeddings` is not floating point.
        ValueError: if it has another shape or no row.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section 4: the distance of two
        labels is that of their word vectors, p = 2.

    Example:
        >>> embedding_cost(torch.tensor([[0.0], [1.0], [2.0]]))
        tensor([[0.0000, 0.2500, 1.0000],
                [0.2500, 0.0000, 0.2500],
                [1.0000, 0.2500, 0.0000]])
    """
    cost = label_cost(embeddings)
    if not scale:
        return cost
    largest = cost.amax()
    return cost / torch.where(largest > 0, largest, 1)


def cooccurrence_cost(targets: Tensor) -> Tensor:
    r"""Labels that occur together are near: one less the Jaccard index of the sets of samples that have them.

    $$C_{ij}=1-\frac{|S_i\cap S_j|}{|S_i\cup S_j|} .$$

    It obeys the triangle inequality. Two labels that are always together cost 0, two that never are cost 1. A label
    that no sample has is at cost 1 from every other, and 0 from itself.

    Args:
        targets: the label sets of the training samples, as truth values or 0 and 1, shape `(N, K)`.

    Returns:
        Costs of shape `(K, K)`, symmetric, in [0, 1], with a diagonal of 0; float32.

    Raises:
        ValueError: if `targets` has another shape.

    References:
        P. Jaccard, 1912, "The distribution of the flora in the alpine zone".

    Example:
        >>> cooccurrence_cost(torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0]]))
        tensor([[0.0000, 0.3333, 1.0000],
                [0.3333, 0.0000, 1.0000],
                [1.0000, 1.0000, 0.0000]])
    """
    check_rank("targets", targets, (2,), "(N, K)")
    check(not targets.is_complex(), "targets", "truth values, or 0 and 1", str(targets.dtype))
    check_not_empty("targets", targets)
    has = (targets != 0).double()
    both = has.T @ has
    each = both.diagonal()
    either = each[:, None] + each - both
    cost = 1 - both / either.clamp(min=1)
    return cost.fill_diagonal_(0).float()


def cost_between(
    labels: Sequence[str],
    kind: LabelCost = "embeddings",
    *,
    embeddings: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Costs between named labels, between 0 and 1.

    Args:
        labels: names of the K labels.
        kind: "embeddings" for squared distances of word vectors, "cooccurrence" for labels of training samples,
            "zero_one" for labels that are equal or different.
        embeddings: a vector for each label, shape `(K, d)`; if None, those that the package ships, looked up by name.
        targets: label sets of the training samples, shape `(N, K)`, for "cooccurrence".

    Returns:
        Costs of shape `(K, K)`, float32 or, for float64 embeddings, float64.

    Raises:
        ValueError: if a label has no vector, an argument is missing, or shapes do not fit.

    Example:
        >>> cost = cost_between(["cat", "dog", "truck"])
        >>> bool(cost[0, 1] < cost[0, 2])
        True
    """
    check_choice("kind", kind, LABEL_COSTS)
    check_items("labels", labels, str, "names of labels")
    check(len(labels) > 0, "labels", "at least one name", labels)
    if embeddings is not None:
        check_floating("embeddings", embeddings)
        check_rank("embeddings", embeddings, (2,), "(K, d)")
    if kind == "zero_one":
        return zero_one_cost(len(labels))
    if kind == "cooccurrence":
        expected = f"label sets of shape (N, {len(labels)}) for the costs {kind!r}"
        check(isinstance(targets, Tensor) and targets.shape[-1:] == (len(labels),), "targets", expected, targets)
        assert targets is not None
        return cooccurrence_cost(targets)
    if embeddings is None:
        known = {name: vector for key in LABEL_SETS for name, vector in zip(*label_embeddings(key), strict=True)}
        unknown = [name for name in labels if name not in known]
        expected = "vectors of the labels, since the package has some for those of VOC2007 and COCO only"
        check(not unknown, "embeddings", expected, f"None; unknown: {', '.join(unknown[:5])}")
        embeddings = torch.stack([known[name] for name in labels])
    check(len(embeddings) == len(labels), "embeddings", f"{len(labels)} rows, one a label", embeddings)
    return embedding_cost(embeddings)
