"""How far each layer's label distributions are from the targets: through depth, through epochs, between epochs."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import check, check_count, check_floating, check_items, check_number, check_type
from layershift.functional.label_distance import label_distribution
from layershift.functional.label_transport import LabelMethod, label_transport, method_words, resolve_method
from layershift.probe.outputs import LayerOutputs

EPS = 0.01
_BLOCK = 4096


class DepthRow(NamedTuple):
    """The distance of a layer's label distributions from the targets.

    Attributes:
        layer: its name.
        mean: over samples.
        stderr: of the mean; NaN for fewer than two samples.
        n: how many samples have a label and a finite distance.
        left_out: how many have none.
        estimator: how a distance was computed.
    """

    layer: str
    mean: float
    stderr: float
    n: int
    left_out: int
    estimator: str


class EpochRow(NamedTuple):
    """A `DepthRow` at an epoch; between epochs, from `epoch` to `other`."""

    epoch: int
    other: int | None
    layer: str
    mean: float
    stderr: float
    n: int
    left_out: int
    estimator: str


def sample_distances(
    outputs: LayerOutputs, cost: Tensor | None, *, method: LabelMethod = "auto", eps: float = EPS, max_iter: int = 2000
) -> Tensor:
    """The distance of each sample's label distribution from its target, at every layer.

    The distances are those that `layershift.measure.LabelTransport` averages. `"auto"` is exact transport on a CPU with
    POT installed, the sharp cost of entropic transport otherwise. Where the target is a single label, all mass goes
    there: exact transport is then the expected cost, and no linear program is solved.

    Args:
        outputs: what the layers' classifiers say.
        cost: costs between labels, shape `(K, K)`; None for the last three methods.
        method: "auto", "emd", "sinkhorn", "divergence", "printed", "total_variation", "chebyshev" or "jensen_shannon".
        eps: the regularisation of Sinkhorn's iteration, as a share of the largest cost.
        max_iter: the most iterations.

    Returns:
        Shape `(L, N)`, float32. NaN for samples without a label, and where a classifier gives no distribution.

    Raises:
        ValueError: if the cost does not fit the labels or the method is unknown.
        ModuleNotFoundError: if exact transport needs POT and that is not installed.

    Warns:
        RuntimeWarning: if Sinkhorn's iteration did not converge for some samples.

    Example:
        >>> p = torch.tensor([[[0.5, 0.5, 0.0]], [[1.0, 0.0, 0.0]]])
        >>> target = torch.tensor([[True, False, False]])
        >>> names = ("cat", "dog", "truck")
        >>> outputs = LayerOutputs(("conv", "output"), p, target, "single_label", names, ("a.jpg",))
        >>> cost = torch.tensor([[0.0, 0.2, 1.0], [0.2, 0.0, 1.0], [1.0, 1.0, 0.0]])
        >>> sample_distances(outputs, cost)
        tensor([[0.1000],
                [0.0000]])
    """
    check_type("outputs", outputs, LayerOutputs, "LayerOutputs")
    a = outputs.distributions()
    targets = label_distribution(outputs.targets).expand(a.shape)
    return _distances(a, targets, cost, method, eps, max_iter)


def depth_table(
    outputs: LayerOutputs,
    cost: Tensor | None,
    *,
    method: LabelMethod = "auto",
    eps: float = EPS,
    max_iter: int = 2000,
    distances: Tensor | None = None,
) -> list[DepthRow]:
    """The mean distance to the target of every layer, with its standard error over samples.

    Args:
        outputs: what the layers' classifiers say.
        cost: costs between labels, shape `(K, K)`; None for methods without.
        method: see `sample_distances`.
        eps: see `sample_distances`.
        max_iter: see `sample_distances`.
        distances: what `sample_distances` returned for the same arguments, if it is known; shape `(L, N)`.

    Returns:
        A row a layer, in order of depth.

    Raises:
        ValueError: as `sample_distances`.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", figures 3 and 9 to 14.

    Example:
        >>> p = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.2, 0.8]]])
        >>> targets = torch.tensor([[True, False], [False, True]])
        >>> outputs = LayerOutputs(("conv", "output"), p, targets, "single_label", ("0", "1"), ("0", "1"))
        >>> for row in depth_table(outputs, 1 - torch.eye(2)):
        ...     print(f"{row.layer}: {row.mean:.2f} ± {row.stderr:.2f}, n = {row.n}")
        conv: 0.50 ± 0.00, n = 2
        output: 0.10 ± 0.10, n = 2
    """
    check_type("outputs", outputs, LayerOutputs, "LayerOutputs")
    _check_options(cost, len(outputs.labels), eps, max_iter)
    if distances is None:
        distances = sample_distances(outputs, cost, method=method, eps=eps, max_iter=max_iter)
    expected = (len(outputs.layers), len(outputs.targets))
    check_floating("distances", distances)
    check(tuple(distances.shape) == expected, "distances", f"shape {expected}", distances)
    words = method_words(resolve_method(method, cost), eps)
    return [DepthRow(name, *mean_of(row), words) for name, row in zip(outputs.layers, distances, strict=True)]


def epoch_table(
    history: Mapping[int, LayerOutputs],
    cost: Tensor | None,
    *,
    method: LabelMethod = "auto",
    eps: float = EPS,
    max_iter: int = 2000,
) -> list[EpochRow]:
    """The mean distance to the target of every layer, at each recorded epoch of its classifier's training.

    Args:
        history: outputs by epoch, as `Probe.history` has them.
        cost: costs between labels, shape `(K, K)`; None for methods without.
        method: see `sample_distances`.
        eps: see `sample_distances`.
        max_iter: see `sample_distances`.

    Returns:
        Rows by epoch, and within an epoch by depth; `other` is None.

    Raises:
        ValueError: as `sample_distances`.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", figure 6.
    """
    _check_history(history)
    options = {"method": method, "eps": eps, "max_iter": max_iter}
    return [
        EpochRow(epoch, None, *row)
        for epoch in sorted(history)
        for row in depth_table(history[epoch], cost, **options)  # type: ignore[arg-type]
    ]


def adjacent_table(
    history: Mapping[int, LayerOutputs],
    cost: Tensor | None,
    *,
    method: LabelMethod = "auto",
    eps: float = EPS,
    max_iter: int = 2000,
) -> list[EpochRow]:
    """How far a layer's label distributions move from one recorded epoch to the next: the same samples, no target.

    Both sides have mass on all labels, so that an exact distance takes a few times longer than one to a target.

    Args:
        history: outputs by epoch, of the same samples and layers.
        cost: costs between labels, shape `(K, K)`; None for methods without.
        method: see `sample_distances`.
        eps: see `sample_distances`.
        max_iter: see `sample_distances`.

    Returns:
        Rows by epoch, from `epoch` to `other`, and within an epoch by depth.

    Raises:
        ValueError: if the epochs' layers or samples differ, or as `sample_distances`.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", figure 15.
    """
    rows = []
    _check_history(history)
    words = method_words(resolve_method(method, cost), eps)
    for epoch, other in itertools.pairwise(sorted(history)):
        before, after = history[epoch], history[other]
        same = (before.layers, before.ids) == (after.layers, after.ids)
        check(same, "history", "the same layers and samples at each epoch", f"others at {epoch} and {other}")
        found = _distances(before.distributions(), after.distributions(), cost, method, eps, max_iter)
        rows += [
            EpochRow(epoch, other, name, *mean_of(row), words) for name, row in zip(before.layers, found, strict=True)
        ]
    return rows


def mean_of(distances: Tensor) -> tuple[float, float, int, int]:
    """Mean and standard error of the finite ones, how many these are and how many not.

    Example:
        >>> mean_of(torch.tensor([1.0, 3.0, float("nan")]))
        (2.0, 1.0, 2, 1)
    """
    known = distances[distances.isfinite()].double()
    n = len(known)
    stderr = float(known.std() / n**0.5) if n > 1 else float("nan")
    return float(known.mean()) if n else float("nan"), stderr, n, len(distances) - n


def _distances(a: Tensor, b: Tensor, cost: Tensor | None, method: LabelMethod, eps: float, max_iter: int) -> Tensor:
    """Distances between tables of shape `(L, N, K)`, all rows in blocks; NaN where a row is no distribution."""
    _check_options(cost, a.shape[2], eps, max_iter)
    equal = resolve_method(method, cost) == "equal"
    shape = a.shape[:2]
    found = a.new_full((shape[0] * shape[1],), torch.nan)
    known = (a.isfinite().all(-1) & b.isfinite().all(-1)).flatten().nonzero().flatten()
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    missed = 0
    for block in torch.split(known, _BLOCK) if len(known) else ():
        distance, converged = label_transport(
            a[block].double(),
            b[block].double(),
            None if cost is None else cost.to(a.device, torch.float64),
            method=method,
            eps=eps,
            max_iter=max_iter,
            equal_costs=equal,
        )
        found[block] = distance.float()
        missed += int((~converged).sum())
    if missed:
        text = f"{missed} of {len(known)} distances did not converge in {max_iter} iterations at eps={eps:g}"
        warnings.warn(f"{text}; raise max_iter or eps", RuntimeWarning, stacklevel=3)
    return found.view(shape)


def _check_options(cost: Tensor | None, labels: int, eps: float, max_iter: int) -> None:
    if cost is not None:
        check_floating("cost", cost)
        check(tuple(cost.shape) == (labels, labels), "cost", f"shape {(labels, labels)}, as there are labels", cost)
    check_number("eps", eps, "a positive number", above=0)
    check_count("max_iter", max_iter, "a number of iterations, 1 or more")


def _check_history(history: Mapping[int, LayerOutputs]) -> None:
    check_type("history", history, Mapping, "LayerOutputs by epoch")
    check_items("history", history, LayerOutputs, "LayerOutputs by epoch")
