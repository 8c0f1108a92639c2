"""Easy, hard and confused samples, told apart by how far they are from their targets early and late in the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import check, check_choice, check_count, check_floating, check_items, check_rank

Kind: TypeAlias = Literal["easy", "hard", "confused", "other", "unknown"]
KINDS: tuple[Kind, ...] = ("easy", "hard", "confused", "other", "unknown")


@dataclass(frozen=True, eq=False)
class Difficulty:
    """Which samples are easy, hard or confused, and by which thresholds.

    Attributes:
        kinds: for each sample "easy", "hard", "confused", "other", or "unknown" where a distance is not known.
        early: each sample's mean distance over the early layers, shape `(N,)`.
        late: its mean distance over the late layers, shape `(N,)`.
        thresholds: the distances that `small_early`, `large_early`, `small_late` and `large_late` stand for.
        quantiles: the two quantiles that gave them.
        early_layers: places of the early layers.
        late_layers: places of the late layers.
        of: the samples' distances whose quantiles they are, "layers" or "pooled".
    """

    kinds: tuple[Kind, ...]
    early: Tensor
    late: Tensor
    thresholds: dict[str, float]
    quantiles: tuple[float, float]
    early_layers: tuple[int, ...]
    late_layers: tuple[int, ...]
    of: Literal["layers", "pooled"]

    def counts(self) -> dict[Kind, int]:
        """How many samples are of each kind."""
        return {kind: self.kinds.count(kind) for kind in KINDS}

    def typical(self, kind: Kind, limit: int | None = None) -> list[int]:
        """The samples of a kind, the most typical first.

        Easy ones by small distances, early and late together, hard ones by large ones, confused ones by how much the
        distance grows; others and unknown ones as they come.

        Args:
            kind: "easy", "hard", "confused", "other" or "unknown".
            limit: the most that are returned; all if None.

        Returns:
            Places of samples.
        """
        check_choice("kind", kind, KINDS)
        if limit is not None:
            check_count("limit", limit, "a number of samples, 0 or more, or None", least=0)
        key = {
            "easy": self.early + self.late,
            "hard": -(self.early + self.late),
            "confused": self.early - self.late,
        }.get(kind)
        found = [i for i, own in enumerate(self.kinds) if own == kind]
        if key is not None:
            order = key.tolist()
            found.sort(key=lambda i: (order[i], i))
        return found[:limit]


def difficulty(
    distances: Tensor,
    *,
    quantiles: tuple[float, float] = (0.25, 0.75),
    early: Sequence[int] | None = None,
    late: Sequence[int] | None = None,
    of: Literal["layers", "pooled"] = "layers",
) -> Difficulty:
    r"""Sort samples by their distances to the target early and late in the network.

    With $E_i$ and $T_i$ the means of a sample's distances over the early and the late layers, a mean is *small* if it
    is at most the lower and *large* if it is at least the upper quantile:

    | kind | $E_i$ | $T_i$ | |
    | --- | --- | --- | --- |
    | easy | small | not large | right from the first layers on |
    | confused | small | large, and $T_i>E_i$ | right early, lost later |
    | hard | not small | large | not resolved, or near the last layer only |
    | other | | | everything else |

    A distance depends on how many labels a sample has, too: what knows nothing and spreads its mass over all labels is
    nearer to a target of several labels than to one of one.

    The paper says in words what is meant, and gives neither layers nor numbers; these are a choice. With
    `of="layers"` the quantiles of $E$ are taken over the samples' $E_i$, those of $T$ over the $T_i$: a sample is
    compared with others at the same depth, and there are easy ones in a network whose first layers know little. With
    `of="pooled"` there is one pair of thresholds, the quantiles of all distances of all layers. Where many distances
    are equal, more samples than the quantile says may be small or large; where the quantiles are equal, a sample that
    is both is small.

    Args:
        distances: as `sample_distances` returns them, shape `(L, N)`.
        quantiles: the lower and the upper quantile.
        early: places of the early layers, negative ones from the end; the first third if None, one at least.
        late: places of the late layers; the last third, the network's output among them, if None.
        of: see above.

    Returns:
        The kind of each sample, the thresholds, and what they were compared with.

    Raises:
        TypeError: if distances are not floating point.
        ValueError: if there are fewer than two layers, or an option is out of range.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section 6.1.3, figures 5 and 17.

    Example:
        >>> easy, hard, confused = [0.1, 0.1, 0.0], [0.9, 0.9, 0.8], [0.1, 0.5, 0.9]
        >>> usual = [0.7, 0.4, 0.2]
        >>> table = torch.tensor([easy, hard, confused, *[usual] * 4]).T
        >>> difficulty(table).kinds[:4]
        ('easy', 'hard', 'confused', 'other')
    """
    check_floating("distances", distances)
    check_rank("distances", distances, (2,), "(L, N)")
    n = len(distances)
    check(n >= 2, "distances", "two layers or more", distances)
    check_items("quantiles", quantiles, (float, int), "two numbers between 0 and 1, the lower first")
    check(len(quantiles) == 2, "quantiles", "two numbers between 0 and 1, the lower first", quantiles)
    low, high = quantiles
    check(0 <= low <= high <= 1, "quantiles", "two numbers between 0 and 1, the lower first", quantiles)
    check_choice("of", of, ("layers", "pooled"))
    third = max(n // 3, 1)
    places = [
        _places("early", range(third) if early is None else early, n),
        _places("late", range(n - third, n) if late is None else late, n),
    ]
    table = distances.detach().double().cpu()
    means = [table[list(own)].mean(0) for own in places]
    known = table.isfinite().all(0)
    thresholds = {}
    for name, mean in zip(("early", "late"), means, strict=True):
        values = (table[:, known].flatten() if of == "pooled" else mean[known]).sort().values
        thresholds[f"small_{name}"], thresholds[f"large_{name}"] = _quantile(values, low), _quantile(values, high)
    first, last = means
    small = first <= thresholds["small_early"]
    # Where the quantiles coincide a mean is small and large at once; it counts as small.
    large = (last >= thresholds["large_late"]) & (last > thresholds["small_late"])
    rows = zip(known.tolist(), small.tolist(), large.tolist(), (last > first).tolist(), strict=True)
    return Difficulty(
        tuple(_kind(*row) for row in rows), first, last, thresholds, (low, high), places[0], places[1], of
    )


def _kind(known: bool, small: bool, large: bool, grows: bool) -> Kind:
    if not known:
        return "unknown"
    if small:
        return "easy" if not large else "confused" if grows else "other"
    return "hard" if large else "other"


def _places(argument: str, places: Sequence[int], n: int) -> tuple[int, ...]:
    check_items(argument, places, int, f"places of one layer or more, each from {-n} to {n - 1}")
    right = len(places) > 0 and all(-n <= place < n for place in places)
    check(right, argument, f"places of one layer or more, each from {-n} to {n - 1}", tuple(places))
    return tuple(place % n for place in places)


def _quantile(ordered: Tensor, q: float) -> float:
    """Interpolated; `torch.quantile` takes no more than 16 million numbers."""
    if not len(ordered):
        return float("nan")
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(torch.lerp(ordered[below], ordered[above], place - below))
