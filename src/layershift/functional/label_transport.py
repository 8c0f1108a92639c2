"""Every distance between label distributions by its name, sample by sample."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layershift._checks import accumulated, check, check_choice, check_floating, check_readable
from layershift.functional.emd import emd, is_zero_one
from layershift.functional.label_distance import chebyshev, check_rows_alike, jensen_shannon, total_variation
from layershift.functional.sinkhorn import check_options, converging_divergence, sinkhorn

LabelMethod: TypeAlias = Literal[
    "auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev", "jensen_shannon"
]
LABEL_METHODS = ("auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev", "jensen_shannon")
WITHOUT_COST = {"total_variation": total_variation, "chebyshev": chebyshev, "jensen_shannon": jensen_shannon}


class LabelDistances(NamedTuple):
    """Distances of samples.

    Attributes:
        value: shape `(N,)`.
        converged: whether each is done, shape `(N,)`: only Sinkhorn's iteration may not be.
    """

    value: Tensor
    converged: Tensor


def label_transport(
    p: Tensor,
    target: Tensor,
    cost: Tensor | None = None,
    *,
    method: LabelMethod = "auto",
    eps: float = 0.01,
    max_iter: int = 2000,
    tol: float = 1e-6,
    equal_costs: bool | None = None,
) -> LabelDistances:
    r"""The distance between each label distribution and its target.

    | `method` | a sample's distance |
    | --- | --- |
    | `"emd"` | exact transport, a linear program a sample on the CPU |
    | `"sinkhorn"` | sharp cost $\langle T,C\rangle$ of entropic transport |
    | `"divergence"` | Sinkhorn divergence of the sharp cost, debiased; tends to `"emd"` as `eps` falls |
    | `"printed"` | the paper's eq. 18, twice that |
    | `"total_variation"`, `"chebyshev"`, `"jensen_shannon"` | without a cost |

    `"auto"` is `auto_method`'s choice. `"auto"` and `"emd"` are closed forms on any device where the costs are 0
    on the diagonal and equal elsewhere; `"emd"` is one for samples with a single label, where all mass must go.

    Args:
        p: distributions, shape `(N, K)`.
        target: distributions, shape `(N, K)`.
        cost: costs between labels, shape `(K, K)`; not needed by the last three methods.
        method: see above.
        eps: the regularisation as a share of the largest cost; 0.01 is the paper's.
        max_iter: the most iterations of Sinkhorn.
        tol: the error at which Sinkhorn's iteration is done.
        equal_costs: whether costs are 0 on the diagonal and equal elsewhere, if that is known: else they are read.

    Returns:
        Distances, and whether each converged.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if a cost is needed and not given, shapes do not fit, or the method is unknown.
        ModuleNotFoundError: if exact transport needs POT and that is not installed.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section 4 and eq. 18.

    Example:
        >>> p, target = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> cost = torch.tensor([[0.0, 0.2, 1.0], [0.2, 0.0, 1.0], [1.0, 1.0, 0.0]])
        >>> label_transport(p, target, cost).value
        tensor([0.1000])
    """
    check_rows_alike(p, target, ("p", "target"))
    check_options(eps, max_iter, tol)
    kind = resolve_method(method, cost, equal_costs=equal_costs)
    if cost is not None:
        check_floating("cost", cost, p)
        check(cost.shape == (p.shape[1],) * 2, "cost", f"shape {(p.shape[1],) * 2} beside K = {p.shape[1]}", cost)
    always = torch.ones(len(p), dtype=torch.bool, device=p.device)
    if kind in WITHOUT_COST:
        return LabelDistances(WITHOUT_COST[kind](p, target), always)
    assert cost is not None
    if kind == "equal":
        return LabelDistances(cost[0, -1] * total_variation(p, target), always)
    if kind == "emd":
        return LabelDistances(_exact(p, target, cost), always)
    if kind == "sinkhorn":
        found = sinkhorn(p, target, cost, eps, max_iter, tol)
        return LabelDistances(found.cost, found.converged)
    form: Literal["printed", "debiased"] = "printed" if kind == "printed" else "debiased"
    return LabelDistances(*converging_divergence(p, target, cost, eps, max_iter, tol, form=form, of="cost"))


def resolve_method(method: LabelMethod, cost: Tensor | None, *, equal_costs: bool | None = None) -> str:
    """What a method comes to: its own name, one of its choices for `"auto"`, or "equal", the closed form.

    Args:
        method: as `label_transport` takes it.
        cost: costs between labels.
        equal_costs: as `label_transport` takes it.

    Returns:
        The name.

    Raises:
        TypeError: if the cost is not floating point.
        ValueError: if the method is unknown, or needs a cost of shape `(K, K)`.

    Example:
        >>> resolve_method("auto", 1 - torch.eye(3)), resolve_method("printed", torch.eye(3))
        ('equal', 'printed')
    """
    check_choice("method", method, LABEL_METHODS)
    if method in WITHOUT_COST:
        return method
    check(cost is not None, "cost", f"costs of shape (K, K) for method {method!r}", cost)
    assert cost is not None
    check_floating("cost", cost)
    check_readable("cost", cost)
    check(cost.dim() == 2 and cost.shape[0] == cost.shape[1] > 0, "cost", "costs of shape (K, K)", cost)
    if method in ("auto", "emd") and (is_zero_one(cost) if equal_costs is None else equal_costs):
        return "equal"
    return auto_method(cost.device) if method == "auto" else method


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


def method_words(kind: str, eps: float) -> str:
    """How a distance is computed, in a few words.

    Args:
        kind: what `resolve_method` returned.
        eps: the regularisation.

    Returns:
        The words, for `Estimate.estimator`.

    Example:
        >>> method_words("sinkhorn", 0.01)
        'sharp cost of entropic transport, eps 0.01 of the largest cost'
    """
    entropic = {
        "sinkhorn": "sharp cost of entropic transport",
        "divergence": "Sinkhorn divergence, W(a,b) - W(a,a)/2 - W(b,b)/2, of the sharp cost",
        "printed": "Sinkhorn divergence, 2 W(a,b) - W(a,a) - W(b,b), of the sharp cost",
    }
    if kind in entropic:
        return f"{entropic[kind]}, eps {eps:g} of the largest cost"
    others = {"emd": "exact transport", "equal": "exact transport, in closed form", "chebyshev": "Chebyshev distance"}
    others |= {"jensen_shannon": "Jensen-Shannon divergence"}
    return others.get(kind, kind.replace("_", " "))


def _exact(p: Tensor, target: Tensor, cost: Tensor) -> Tensor:
    p, cost = accumulated(p, cost)
    distance = (p * cost.mT[target.argmax(1)]).sum(1)
    several = (target > 0).sum(1) > 1
    if not bool(several.any()):
        return distance
    return distance.masked_scatter(several, emd(p[several], target[several], cost))
