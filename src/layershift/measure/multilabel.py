"""How well sets of labels are predicted: exact matches, F1 over classes and overall, mean average precision."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from layershift._checks import (
    check,
    check_choice,
    check_count,
    check_floating,
    check_not_empty,
    check_number,
    check_rank,
    check_tensor,
)
from layershift.measure.estimate import Estimate

ClassF1: TypeAlias = Literal["mean_of_f1", "f1_of_means"]


class MultiLabelResult(NamedTuple):
    """Four scores between 0 and 1; `n` of each counts samples, and its `estimator` the classes that it is a mean over.

    Attributes:
        accuracy: the share of samples with every label right and no other.
        cf1: F1 averaged over classes.
        of1: F1 of all decisions together.
        map: average precision, mean over classes.
    """

    accuracy: Estimate
    cf1: Estimate
    of1: Estimate
    map: Estimate


class MultiLabelScores(Metric):
    r"""Accuracy, CF1, OF1 and mAP of multi-label predictions.

    With true positives $t_k$, false positives $p_k$ and false negatives $m_k$ of class $k$:

    | score | |
    | --- | --- |
    | accuracy | the share of samples whose predicted set is the target |
    | CF1, `"mean_of_f1"` | $\frac1K\sum_kF_k$ with $F_k=2t_k/(2t_k+p_k+m_k)$ |
    | CF1, `"f1_of_means"` | $2PR/(P+R)$ with $P=\frac1K\sum_kt_k/(t_k+p_k)$ and $R=\frac1K\sum_kt_k/(t_k+m_k)$ |
    | OF1 | $2\sum_kt_k/\sum_k(2t_k+p_k+m_k)$ |
    | mAP | $\frac1K\sum_k$ of the area below steps of precision over recall, each score a threshold |

    Accuracy is exact match. The paper does not define it, but on COCO prints 27 % beside an mAP of 64; the share of
    single decisions that are right would be above 95 %. Of "average per-class F1" there are two readings: the mean of
    each class's F1, which the words say and which is the default, and F1 of the mean precision and mean recall, common
    in work on multi-label images. The latter is never smaller for the same precisions and recalls.

    A class without a positive among the targets has neither recall nor average precision: it is left out of CF1 and
    mAP, and told in `estimator`. It counts for accuracy and OF1. A class with positives that is never predicted has
    precision and F1 of 0. A sample without a label counts as any other: nothing must be predicted for it. NaN in the
    scores makes every result NaN.

    Counts are kept in float64. Average precision needs all scores: memory grows with the samples, 5 bytes a score.

    Args:
        num_labels: the number K of labels.
        threshold: a label is predicted if its score is above this.
        cf1: which reading of CF1.
        **kwargs: options of `torchmetrics.Metric`.

    Returns:
        `compute()` gives a `MultiLabelResult`. The standard error of accuracy is binomial, that of OF1 that of a ratio
        over samples (delta method); the other two have none.

    Raises:
        TypeError: if scores are not floating point.
        ValueError: if an option is unknown, or shapes do not fit.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section 6 and tables 1 and 4.

    Example:
        >>> scores = MultiLabelScores(3)
        >>> p = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.8, 0.7]])
        >>> scores.update(p, torch.tensor([[1, 0, 1], [0, 1, 0]]))
        >>> result = scores.compute()
        >>> float(result.accuracy.value), round(float(result.of1.value), 3), float(result.accuracy.n)
        (0.5, 0.857, 2.0)
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_labels: int, *, threshold: float = 0.5, cf1: ClassF1 = "mean_of_f1", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("num_labels", num_labels, "a number of labels, 1 or more")
        check_number("threshold", threshold)
        check_choice("cf1", cf1, ("mean_of_f1", "f1_of_means"))
        self.num_labels, self.threshold, self.cf1 = num_labels, threshold, cf1
        # Samples that match, samples, NaN among the scores, and the sums of squares that the error of OF1 needs.
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")
        # Of each class: true positives, false positives, false negatives.
        self.add_state("counts", torch.zeros(3, num_labels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor, predictions: Tensor | None = None) -> None:
        """Take in a batch.

        Args:
            scores: of each label, shape `(N, K)`.
            targets: label sets as truth values or 0 and 1, shape `(N, K)`.
            predictions: label sets that were decided in another way than by the threshold, likewise.
        """
        check_floating("scores", scores)
        check_rank("scores", scores, (2,), "(N, K)")
        check_not_empty("scores", scores)
        check(scores.shape[1] == self.num_labels, "scores", f"{self.num_labels} labels", scores)
        predictions = scores > self.threshold if predictions is None else predictions
        for argument, sets in (("targets", targets), ("predictions", predictions)):
            check_tensor(argument, sets)
            check(not sets.is_complex(), argument, "truth values or 0 and 1", str(sets.dtype))
            right = sets.shape == scores.shape
            check(right, argument, f"shape {tuple(scores.shape)}", sets)
        if self.sums.device != scores.device:
            self.to(scores.device)
        truth, said = targets.detach() != 0, predictions.detach() != 0
        hit = truth & said
        self.counts += torch.stack([hit.sum(0), (said & ~truth).sum(0), (truth & ~said).sum(0)])
        top, bottom = 2 * hit.sum(1).double(), (truth.sum(1) + said.sum(1)).double()
        squares = [(top * top).sum(), (top * bottom).sum(), (bottom * bottom).sum()]
        n = torch.full_like(squares[0], len(scores))
        match = (truth == said).all(1).sum().double()
        self.sums += torch.stack([match, n, scores.isnan().sum().double(), *squares])
        self.scores.append(scores.detach().float())
        self.targets.append(truth)

    def compute(self) -> MultiLabelResult:
        """The scores of everything since the last `reset`."""
        match, n, bad, *squares = self.sums.unbind()
        whole = torch.where(bad > 0, torch.nan, 0.0)
        hits, wrong, missed = self.counts.unbind()
        present = hits + missed > 0
        accuracy = match / n
        of1, of1_error = _ratio(2 * hits.sum(), (2 * hits + wrong + missed).sum(), squares, n)
        words = f"{int(present.sum())} of {len(present)} classes"
        cf1 = _class_f1(hits[present], wrong[present], missed[present], self.cf1)
        said = {"mean_of_f1": "mean of F1 over", "f1_of_means": "F1 of mean precision and mean recall over"}[self.cf1]
        nothing = torch.full_like(n, torch.nan)
        error = (accuracy * (1 - accuracy) / n).sqrt()
        return MultiLabelResult(
            Estimate(accuracy + whole, error + whole, n, estimator="exact match"),
            Estimate(cf1 + whole, nothing, n, estimator=f"{said} {words}"),
            Estimate(of1 + whole, of1_error + whole, n, estimator="F1 of all decisions"),
            Estimate(self._mean_precision(present) + whole, nothing, n, estimator=f"mean over {words}"),
        )

    def _mean_precision(self, present: Tensor) -> Tensor:
        if not present.any():
            return torch.full_like(self.sums[0], torch.nan)
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        scores = scores.nan_to_num()  # told by `compute`
        if bool((scores < 0).any() | (scores > 1).any()):  # torchmetrics would take their sigmoid, and lose their order
            order = [torch.unique(column, return_inverse=True)[1] for column in scores.unbind(1)]
            scores = torch.stack(order, 1).double() / len(scores)
        each = [
            binary_average_precision(scores[:, k], targets[:, k].int(), validate_args=False)
            for k in present.nonzero().flatten().tolist()
        ]
        return torch.stack(each).double().mean()


def _class_f1(hits: Tensor, wrong: Tensor, missed: Tensor, form: ClassF1) -> Tensor:
    if form == "mean_of_f1":
        return (2 * hits / (2 * hits + wrong + missed)).mean()
    precision = (hits / (hits + wrong).clamp(min=1)).mean()
    recall = (hits / (hits + missed)).mean()
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total.clamp(min=torch.finfo(total.dtype).tiny), total)


def _ratio(top: Tensor, bottom: Tensor, squares: list[Tensor], n: Tensor) -> tuple[Tensor, Tensor]:
    """A ratio of sums over samples, and its standard error."""
    value = top / bottom
    both, cross, below = squares
    spread = (both - 2 * value * cross + value * value * below).clamp(min=0)
    return value, torch.where(n > 1, (spread * n / (n - 1)).sqrt() / bottom, torch.nan)
