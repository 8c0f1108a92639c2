"""Paired samples: which are kept, their sums as a stream, and the table of bounds that the sums give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._checks import check
from layershift._seeds import derive_seed
from layershift.functional.bounds import Bracket, high_moment_bound, moment_bound, unitization_bound
from layershift.functional.wasserstein1d import Order
from layershift.measure.estimate import Estimate

_POWERS = (2, 3, 4)


def priorities(count: int, seed: int, update: int, device: torch.device) -> Tensor:
    """Random numbers, others for each update and rank; the samples of least priority are a uniform choice of all.

    Example:
        >>> priorities(2, 0, 1, torch.device("cpu")).shape
        torch.Size([2])
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = int(torch.distributed.get_rank()) if distributed else 0
    generator = torch.Generator(device).manual_seed(derive_seed(seed, rank, update))
    return torch.rand(count, dtype=torch.float64, device=device, generator=generator)


def choose(priority: Tensor, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` rows, those of least priority, in the order they came.

    Example:
        >>> choose(torch.tensor([0.3, 0.1, 0.2]), torch.tensor([3, 1, 2]), 2)
        (tensor([0.1000, 0.2000]), tensor([1, 2]))
    """
    if len(priority) <= count:
        return priority, kept
    rows = priority.topk(count, largest=False).indices.sort().values
    return priority[rows], kept[rows]


class PairSums(NamedTuple):
    """What adds up over pairs of samples.

    Attributes:
        sums: in float64: the number of pairs, sums of ‖x − y‖, its square, ‖x‖, ‖y‖, and of the numbers' powers 2 to 4
            for both sides.
        means: the sums of the samples of both sides, shape `(2, d)`.
        largest: the largest absolute number, shape `()`.
    """

    sums: Tensor
    means: Tensor
    largest: Tensor

    @staticmethod
    def size() -> int:
        """How many numbers `sums` holds."""
        return 5 + 2 * len(_POWERS)

    def bracket(self, p: Order = 1) -> Bracket:
        """What the distance lies between."""
        mean = self.means / self.sums[0]
        lower = torch.linalg.vector_norm(mean[0] - mean[1])
        upper = self.sums[1] / self.sums[0] if p == 1 else (self.sums[2] / self.sums[0]).sqrt()
        return Bracket(torch.minimum(lower, upper), upper)


def pair_sums(x: Tensor, y: Tensor) -> PairSums:
    """The sums of one batch of pairs, both `(N, d)`.

    Example:
        >>> pair_sums(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).bracket()
        Bracket(lower=tensor(5., dtype=torch.float64), upper=tensor(5., dtype=torch.float64))
    """
    x, y = x.to(torch.float64), y.to(torch.float64)
    apart = torch.linalg.vector_norm(x - y, dim=1)
    norms = [torch.linalg.vector_norm(side, dim=1).sum() for side in (x, y)]
    powers = [side.pow(k).sum() for side in (x, y) for k in _POWERS]
    count = torch.full_like(norms[0], len(x))
    sums = torch.stack([count, apart.sum(), apart.square().sum(), *norms, *powers])
    return PairSums(sums, torch.stack([x.sum(0), y.sum(0)]), torch.maximum(x.abs().amax(), y.abs().amax()))


@dataclass(frozen=True)
class ShiftBounds:
    """Bounds on W1 between a layer's outputs at two times; `str()` is a table. Tensors of shape `()` or None.

    Attributes:
        lower: the distance of the means.
        theorem2: the lower bound by moments of order p.
        estimate: what was estimated.
        upper: the mean distance of pairs.
        jensen: theorem 1, sharpened by Jensen's inequality.
        theorem1: theorem 1 as printed.
        norms: E‖x‖ + E‖y‖, for any layer; all that can be said of outputs of eq. 10.
        theorem31: for outputs of eq. 6.
        theorem32: for outputs of eq. 8, if α is a number.
        theorem33: for outputs of eq. 9, if α is a vector.
    """

    lower: Tensor
    theorem2: Tensor
    estimate: Estimate
    upper: Tensor
    jensen: Tensor
    theorem1: Tensor
    norms: Tensor
    theorem31: Tensor | None = None
    theorem32: Tensor | None = None
    theorem33: Tensor | None = None

    def __str__(self) -> str:
        e = self.estimate
        rows = [
            ("lower", "‖E x − E y‖", self.lower, "any layer"),
            ("lower", "theorem 2", self.theorem2, "any layer"),
            ("estimate", "", e.value, e.estimator.split(";")[0]),
            ("upper", "E‖x − y‖", self.upper, "any layer, paired samples"),
            ("upper", "theorem 1, Jensen", self.jensen, "any layer"),
            ("upper", "theorem 1", self.theorem1, "any layer, as printed"),
            ("upper", "E‖x‖ + E‖y‖", self.norms, "any layer; all that bounds eq. 10, which is trained"),
            ("upper", "theorem 3.1", self.theorem31, "outputs of eq. 6 only"),
            ("upper", "theorem 3.2", self.theorem32, "outputs of eq. 8 only, not of eq. 10"),
            ("upper", "theorem 3.3", self.theorem33, "outputs of eq. 9 only, not of eq. 10"),
        ]
        lines = [
            f"{kind:<9}{name:<18}{float(value):>12.6g}  {applies}"
            for kind, name, value, applies in rows
            if value is not None
        ]
        return "\n".join(lines)


def shift_bounds(
    seen: PairSums,
    samples: tuple[Tensor, Tensor] | None,
    *,
    alpha: float | Tensor | None,
    p: int,
    C: float | None,
    estimate: Estimate,
) -> ShiftBounds:
    """The bounds that sums of pairs give, and theorem 2 from the samples, if there are any.

    Args:
        seen: the sums.
        samples: the samples, both `(N, d)`, or None.
        alpha: the parameter of a unitized layer, or None.
        p: the order of theorem 2.
        C: where it clips, or None.
        estimate: what to show beside them.

    Returns:
        The bounds.

    Raises:
        ValueError: if theorem 2 needs samples that there are not.
    """
    n, d = seen.sums[0], seen.means.shape[-1]
    mean = seen.means / n
    powers = seen.sums[5:].view(2, len(_POWERS)) / n
    # Only the sum of variances enters; it is put on one coordinate.
    variance = (powers[:, 0] - mean.square().sum(1)).clamp(min=0).unsqueeze(1)
    spread = torch.nn.functional.pad(variance, (0, d - 1))
    if samples is None:
        check(p in _POWERS and C is None, "p", "2, 3 or 4 without C, or an estimator that keeps samples", (p, C))
        gap = (powers[0, p - 2] - powers[1, p - 2]).abs()
        theorem2 = torch.where(gap > 0, gap / (p * seen.largest.pow(p - 1) * d**0.5), 0)
    else:
        theorem2 = high_moment_bound(*samples, p=p, C=C)
    norm_x, norm_y = seen.sums[3] / n, seen.sums[4] / n
    by_alpha = None if alpha is None else unitization_bound(alpha, norm_x, norm_y)
    scalar = not isinstance(alpha, Tensor) or alpha.dim() == 0
    bracket = seen.bracket()
    return ShiftBounds(
        lower=bracket.lower,
        theorem2=theorem2,
        estimate=estimate,
        upper=bracket.upper,
        jensen=moment_bound(mean[0], spread[0], mean[1], spread[1]),
        theorem1=moment_bound(mean[0], spread[0], mean[1], spread[1], form="printed"),
        norms=norm_x + norm_y,
        theorem31=None if alpha is None else unitization_bound(),
        theorem32=by_alpha if scalar else None,
        theorem33=None if scalar else by_alpha,
    )
