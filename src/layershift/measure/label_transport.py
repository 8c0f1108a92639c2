"""How far a classifier's label distributions are from their targets, as a stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from layershift._checks import (
    accumulation_dtype,
    check,
    check_count,
    check_floating,
    check_not_empty,
    check_number,
    check_rank,
    check_tensor,
)
from layershift.functional.label_distance import label_distribution
from layershift.functional.label_transport import LabelMethod, label_transport, method_words, resolve_method
from layershift.measure.estimate import Estimate


class LabelTransport(Metric):
    r"""The mean distance between label distributions and targets, with its standard error over samples.

    Of a sample it is `layershift.functional.label_transport`, whose methods these are.

    Distances are summed in float64, so memory is constant. A sample without a label is left out and counted; NaN in
    `p` gives NaN.

    Args:
        cost: costs between labels, shape `(K, K)`; not needed by the last three methods.
        method: "auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev" or "jensen_shannon".
        eps: the regularisation as a share of the largest cost; 0.01 is the paper's.
        max_iter: the most iterations of Sinkhorn.
        tol: the error at which Sinkhorn's iteration is done.
        **kwargs: options of `torchmetrics.Metric`.

    Returns:
        `compute()` gives an `Estimate` of shape `()`; `n` counts the samples with a label. Its `estimator` tells the
        method and the shares that did not converge or had no label; to do so it reads the counts, and waits for a GPU.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if an option is out of range, or shapes do not fit.
        ModuleNotFoundError: if exact transport needs POT and that is not installed.

    Example:
        >>> from layershift.functional import label_cost
        >>> transport = LabelTransport(label_cost(torch.randn(20, 50)))
        >>> for _ in range(3):
        ...     transport.update(torch.rand(16, 20), torch.eye(20)[:16])
        >>> estimate = transport.compute()
        >>> estimate.n, estimate.estimator
        (tensor(48., dtype=torch.float64), 'exact transport')
    """

    full_state_update = False
    cost: Tensor | None
    sums: Tensor

    def __init__(
        self,
        cost: Tensor | None = None,
        *,
        method: LabelMethod = "auto",
        eps: float = 0.01,
        max_iter: int = 2000,
        tol: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._equal = resolve_method(method, cost) == "equal"
        check_number("eps", eps, "a positive number", above=0)
        check_count("max_iter", max_iter, "a number of iterations, 1 or more")
        check_number("tol", tol, "a number, 0 or more", least=0)
        self.method, self.eps, self.max_iter, self.tol = method, eps, max_iter, tol
        self.register_buffer("cost", None if cost is None else cost.detach(), persistent=False)
        # Samples with a label, their distances, the squares of these, samples not converged, samples without a label.
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, p: Tensor, target: Tensor) -> None:
        """Take in the label distributions of a layer's classifier.

        Args:
            p: distributions, or classifier outputs that are not negative, shape `(N, K)`; rows are divided by
                their sum.
            target: label sets as truth values or 0 and 1, or distributions, shape `(N, K)`; likewise.
        """
        check_floating("p", p)
        check_rank("p", p, (2,), "(N, K)")
        check_not_empty("p", p)
        check_tensor("target", target)
        check(not target.is_complex(), "target", "truth values or numbers", str(target.dtype))
        check(target.shape == p.shape, "target", f"shape {tuple(p.shape)}", target)
        if self.cost is not None:
            check(p.shape[1] == len(self.cost), "p", f"{len(self.cost)} labels, as the cost has", p)
        p, target = p.detach().to(accumulation_dtype(p)), target.detach().to(accumulation_dtype(p))
        if self.sums.device != p.device:
            self.to(p.device)
        labelled = target.sum(1) != 0  # NaN is not 0
        # A sample without a label gets one, so that what it gives is finite, and weighs nothing.
        target = torch.where(labelled[:, None], target, 1)
        distance, converged = label_transport(
            label_distribution(p),
            label_distribution(target),
            self.cost,
            method=self.method,
            eps=self.eps,
            max_iter=self.max_iter,
            tol=self.tol,
            equal_costs=self._equal,
        )
        distance = torch.where(labelled, distance.double(), 0)
        missed = labelled & ~converged & ~distance.isnan()
        counts = [labelled.sum(), distance.sum(), distance.square().sum(), missed.sum(), (~labelled).sum()]
        self.sums += torch.stack([count.double() for count in counts])

    def compute(self) -> Estimate:
        """The mean distance of everything since the last `reset`."""
        n, total, squares, missed, unlabelled = self.sums.unbind()
        value = total / n
        variance = ((squares - total * value) / (n - 1)).clamp(min=0)
        stderr = torch.where(n > 1, (variance / n).sqrt(), torch.nan)
        words = [method_words(resolve_method(self.method, self.cost, equal_costs=self._equal), self.eps)]
        told_missed, told_unlabelled, told_n = (float(x) for x in (missed, unlabelled, n))
        if told_missed:
            words.append(f"{told_missed / told_n:.2%} not converged")
        if told_unlabelled:
            words.append(f"{told_unlabelled:.0f} without a label left out")
        return Estimate(value, stderr, n, estimator="; ".join(words), units="1" if self.cost is None else "cost")
