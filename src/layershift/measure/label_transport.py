"""How far a classifier's label distributions are from their targets, as a stream."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from layershift._checks import accumulation_dtype, check, check_choice, check_floating, check_not_empty, check_rank
from layershift.functional.emd import emd, is_zero_one
from layershift.functional.label_distance import chebyshev, jensen_shannon, label_distribution, total_variation
from layershift.functional.sinkhorn import converging_divergence, sinkhorn
from layershift.measure.estimate import Estimate

LabelMethod: TypeAlias = Literal[
    "auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev", "jensen_shannon"
]
_METHODS = ("auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev", "jensen_shannon")
_WITHOUT_COST = {"total_variation": total_variation, "chebyshev": chebyshev, "jensen_shannon": jensen_shannon}


class LabelTransport(Metric):
    r"""The mean distance between label distributions and targets, with its standard error over samples.

    | `method` | a sample's distance |
    | --- | --- |
    | `"emd"` | exact transport, a linear program a sample on the CPU |
    | `"sinkhorn"` | sharp cost $\langle T,C\rangle$ of entropic transport |
    | `"divergence"` | Sinkhorn divergence of the sharp cost, debiased; tends to `"emd"` as `eps` falls |
    | `"printed"` | the paper's eq. 18, twice that |
    | `"total_variation"`, `"chebyshev"`, `"jensen_shannon"` | without a cost |

    `"auto"` is exact transport on a CPU and the sharp cost on other devices, see `auto_method`. Costs that are 0 on the
    diagonal and equal elsewhere make both of `"auto"` and `"emd"` a closed form on any device.

    Distances are summed in float64, so memory is constant. A sample without a label is left out and counted; NaN in
    `p` gives NaN.

    Args:
        cost: costs between labels, shape `(K, K)`; not needed by the last three methods.
        method: see above.
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
        check_choice("method", method, _METHODS)
        check(eps > 0, "eps", "a positive number", eps)
        check(max_iter >= 1, "max_iter", "a number of iterations, 1 or more", max_iter)
        check(tol >= 0, "tol", "a number, 0 or more", tol)
        if cost is None:
            check(method in _WITHOUT_COST, "cost", f"costs of shape (K, K) for method {method!r}", None)
        else:
            check_floating("cost", cost)
            check(cost.dim() == 2 and cost.shape[0] == cost.shape[1] > 0, "cost", "costs of shape (K, K)", cost)
            cost = cost.detach()
        self.method, self.eps, self.max_iter, self.tol = method, eps, max_iter, tol
        self.register_buffer("cost", cost, persistent=False)
        self._equal = cost is not None and method in ("auto", "emd") and is_zero_one(cost)
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
        check(isinstance(target, Tensor) and target.shape == p.shape, "target", f"shape {tuple(p.shape)}", target)
        if self.cost is not None:
            check(p.shape[1] == len(self.cost), "p", f"{len(self.cost)} labels, as the cost has", p)
        p, target = p.detach().to(accumulation_dtype(p)), target.detach().to(accumulation_dtype(p))
        if self.sums.device != p.device:
            self.to(p.device)
        labelled = target.sum(1) != 0  # NaN is not 0
        # A sample without a label gets one, so that what it gives is finite, and weighs nothing.
        target = torch.where(labelled[:, None], target, 1)
        distance, converged = self._distances(label_distribution(p), label_distribution(target))
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
        words = [self._words()]
        told_missed, told_unlabelled, told_n = (float(x) for x in (missed, unlabelled, n))
        if told_missed:
            words.append(f"{told_missed / told_n:.2%} not converged")
        if told_unlabelled:
            words.append(f"{told_unlabelled:.0f} without a label left out")
        return Estimate(value, stderr, n, estimator="; ".join(words), units="1" if self.cost is None else "cost")

    def _chosen(self) -> str:
        if self.method != "auto":
            return self.method
        assert self.cost is not None
        return "emd" if self._equal else auto_method(self.cost.device)

    def _distances(self, p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and whether each converged."""
        method, always = self._chosen(), torch.ones(len(p), dtype=torch.bool, device=p.device)
        if method in _WITHOUT_COST:
            return _WITHOUT_COST[method](p, target), always
        assert self.cost is not None
        if method == "emd":
            if self._equal:  # known since the start, so that nothing need be read
                return self.cost[0, -1] * total_variation(p, target), always
            return emd(p, target, self.cost), always
        options = (self.eps, self.max_iter, self.tol)
        if method == "sinkhorn":
            found = sinkhorn(p, target, self.cost, *options)
            return found.cost, found.converged
        form = "printed" if method == "printed" else "debiased"
        return converging_divergence(p, target, self.cost, *options, form=form, of="cost")

    def _words(self) -> str:
        method = self._chosen()
        if method == "emd":
            return "exact transport" + (", in closed form" if self._equal else "")
        names = {
            "sinkhorn": "sharp cost of entropic transport",
            "divergence": "Sinkhorn divergence, W(a,b) - W(a,a)/2 - W(b,b)/2, of the sharp cost",
            "printed": "Sinkhorn divergence, 2 W(a,b) - W(a,a) - W(b,b), of the sharp cost",
        }
        return f"{names[method]}, eps {self.eps:g} of the largest cost" if method in names else method.replace("_", " ")


def auto_method(device: torch.device) -> Literal["emd", "sinkhorn"]:
    """What `method="auto"` chooses for costs between which it can see no equality.

    Exact transport on a CPU, if POT is installed: of 5 to 200 labels it takes 0.1 to 0.4 ms a sample, less than
    Sinkhorn's iteration does for batches of up to 64 to 128 (`benchmarks/sinkhorn.py`). For larger ones the latter is
    faster, about twice at 512; exact transport stays the choice all the same, so that a stream gives one quantity
    whatever its batches. Entropic transport elsewhere, where a linear program would have to leave the device.

    Args:
        device: where the costs lie.

    Returns:
        "emd" or "sinkhorn".

    Example:
        >>> auto_method(torch.device("cuda"))
        'sinkhorn'
    """
    return "emd" if device.type == "cpu" and find_spec("ot") is not None else "sinkhorn"
