"""Dead, saturated and non-finite units, the scale of a layer, and whether its samples still differ, as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    check_seed,
    check_type,
)
from layershift.functional.health import SampleSums, merge_sample_sums, sample_sums, summarize_samples, wide_dtype
from layershift.functional.kept import kept
from layershift.measure.estimate import Estimate

_EVIDENCE = 0.1
_COUNT = "count over units"
_BOUNDS = "count of units at the ends of the layer's range, or of the range that was given"
_FINITE = "of the finite numbers"
_ALIKE = "mean product of two samples' channel means over their mean square; standard error by the delta method"
_RANK = "exp of the order-2 entropy of the covariance of channel means, unbiased traces; standard error as if normal"


class Health(Metric):
    r"""Whether a layer still works: shares of units that do nothing, its scale, and how much its samples differ.

    A unit is a channel with all its positions; a sample is an image. `compute()` gives, for the layer,

    | name | meaning |
    | --- | --- |
    | `dead` | share of units all of whose outputs are 0, to within `tolerance` |
    | `saturated` | share of units that are at one end or the other of a bounded range most of the time, see below |
    | `collapsed` | how alike two samples are: 1 if all are the same, 0 if they have nothing in common |
    | `effective_rank` | in how many directions samples differ, between 1 and the number of units |
    | `rms` | root mean square of all outputs |
    | `max_abs` | the largest magnitude |
    | `nonfinite` | share of NaN and infinities among all numbers |
    | `nonfinite_units` | how many units have any |

    Numbers that are not finite count as 0 in all but the last two; a unit that has any is neither dead nor saturated.

    *Saturated.* Of outputs between $a$ and $b$, $s=4E(x-a)(b-x)/(b-a)^2$ is 0 if and only if all are at the ends. With
    the ends of tanh it is the mean slope, $E(1-x^2)$; with those of a sigmoid too, as a share of the slope at 0. A unit
    is saturated if $s$ is less than `slope`. Where `bounds` are not given, $a$ and $b$ are the smallest and the largest
    output of the layer, and it takes evidence that these are bounds: by Bhatia and Davis $E(x-a)(b-x)\le
    (b-Ex)(Ex-a)$, and a unit with less than `slope` times that goes back and forth between the ends. Such units are
    saturated; if they are a tenth of the units or more, those that stay at an end are as well. Layers without bounds or
    with one, as ReLU, have no such units; outputs that are two-valued by nature, such as binary pixels, do.

    *Samples that differ.* A sample is the vector of its channels' means over positions. Similarity and effective rank
    are corrected for their finite number, see `layershift.functional.health`: an uncorrected rank of N samples could
    not exceed N − 1. Of more channels than `max_channels`, as many random projections are looked at, which is corrected
    for as well.

    Args:
        tolerance: the largest magnitude that counts as 0 for `dead`.
        slope: see above.
        bounds: the ends of the activation's range, such as (−1, 1) for tanh; None to take them from the outputs.
        max_channels: the side of the largest matrix that is kept.
        seed: of the projections.
        channel_dim: the dimension of the channels; 1 as in `(N, C, H, W)`, −1 for sequences `(N, T, C)`.
        **kwargs: options of `torchmetrics.Metric`.

    Returns:
        `compute()` gives a dictionary of `Estimate` of shape `()`; `n` counts samples. `effective_rank` lies between
        its `lower`, 1, and its `upper`, the number of units.

    Raises:
        ValueError: if an option is out of range, or `update` gets fewer than two dimensions or no element.
        TypeError: if `update` does not get a floating point tensor.

    Example:
        >>> health = Health()
        >>> for _ in range(4):
        ...     health.update((torch.randn(64, 10, 5) + torch.linspace(-90, 5, 10).unsqueeze(-1)).relu())
        >>> estimates = health.compute()
        >>> estimates["dead"].value, estimates["saturated"].value, estimates["rms"].n
        (tensor(0.9000, dtype=torch.float64), tensor(0., dtype=torch.float64), tensor(256., dtype=torch.float64))
    """

    full_state_update = False
    # Lists of one tensor, since a state's shape depends on the layer; tensors once they are gathered from all ranks.
    samples: list[Tensor] | Tensor  # (1, k + 3, k + 4): the matrix of sums, and its pivot in a last column
    units: list[Tensor] | Tensor  # (1, 6, C): see `_Units`

    def __init__(
        self,
        *,
        tolerance: float = 0.0,
        slope: float = 0.1,
        bounds: tuple[float, float] | None = None,
        max_channels: int = 256,
        seed: int = 0,
        channel_dim: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("tolerance", tolerance, "a number, 0 or more", least=0)
        check_number("slope", slope, "a share in (0, 1)", above=0, below=1)
        two = bounds is None or (isinstance(bounds, tuple | list) and [type(end) in (int, float) for end in bounds])
        check(two in (True, [True, True]), "bounds", "two numbers in ascending order", bounds)
        check(bounds is None or bounds[0] < bounds[1], "bounds", "two numbers in ascending order", bounds)
        check_type("channel_dim", channel_dim, int, "a dimension")
        check_seed("seed", seed)
        check_count("max_channels", max_channels, "a number of channels, 1 or more")
        self.tolerance, self.slope, self.bounds = tolerance, slope, bounds
        self.max_channels, self.seed, self.channel_dim = max_channels, seed, channel_dim
        self.add_state("samples", [], dist_reduce_fx="cat")
        self.add_state("units", [], dist_reduce_fx="cat")

    def update(self, x: Tensor) -> None:
        """Take in the outputs of a layer.

        Args:
            x: activations of shape `(N, C, …)`, or with the channels at `channel_dim`.
        """
        check_floating("x", x)
        check(x.dim() >= 2, "x", "a tensor of shape (N, C, …)", x)
        check_not_empty("x", x)
        if self.device != x.device:
            self.to(x.device)
        described = [_describe(part) for part in _parts(x.detach().movedim(self.channel_dim, 1))]
        mean, square, low, high, bad = (torch.cat(rows) for rows in zip(*described, strict=True))
        size = x.numel() / x.shape[self.channel_dim]
        units = _Units(
            torch.full_like(mean[0], size),
            mean.sum(0) * (size / len(mean)),
            square.sum(0) * (size / len(mean)),
            low.amin(0),
            high.amax(0),
            bad.sum(0),
        )
        points = self._project(mean)
        new = torch.stack(units).unsqueeze(0)
        if not len(self.units):
            sums = sample_sums(points, square.mean(1))
        else:
            before, new = _unpack(self._joined()[0]), _merge_units(torch.cat([*self.units, new]))
            sums = sample_sums(points, square.mean(1), pivot=before.pivot)
            sums = sums._replace(gram=before.gram + sums.gram)
        self.samples, self.units = [_pack(sums)], [new]

    def compute(self) -> dict[str, Estimate]:
        """The health of a layer over everything since the last `reset`."""
        return self.compute_all([self])[0]

    @staticmethod
    def compute_all(metrics: Sequence[Health]) -> list[dict[str, Estimate]]:
        """What `compute` gives, for metrics with the same options at little more than the cost of one.

        Args:
            metrics: on one device; not reduced across ranks.

        Returns:
            The estimates of each.
        """
        check(all(len(m.units) for m in metrics), "metrics", "metrics that were updated", "one that was not")
        rows = torch.stack(_shares(metrics), -1)
        alike: dict[int, list[int]] = {}
        for i, metric in enumerate(metrics):
            alike.setdefault(min(metric._channels, metric.max_channels), []).append(i)
        found: dict[int, Tensor] = {}
        for members in alike.values():
            sums = _unpack(torch.cat([metrics[i]._joined() for i in members]))
            channels = torch.tensor([metrics[i]._channels for i in members]).to(sums.gram, non_blocking=True)
            summary = summarize_samples(sums, size=channels)
            rms = summary.extra.sqrt()
            rms_stderr = torch.where(rms > 0, summary.extra_stderr / (2 * rms), summary.extra_stderr)
            columns = torch.stack([summary.n, rms, rms_stderr, *summary[3:], channels], -1)
            found |= {i: columns[row] for row, i in enumerate(members)}
        return [_named(found[i], row) for i, row in enumerate(rows)]

    @property
    def _channels(self) -> int:
        return int(self.units[0].shape[-1])

    def _project(self, mean: Tensor) -> Tensor:
        """The samples' channel means or, of many channels, random projections of them."""
        if mean.shape[1] <= self.max_channels:
            return mean
        return mean @ _projection(mean.shape[1], self.max_channels, self.seed, mean.dtype, mean.device)

    def _joined(self) -> Tensor:
        """The sums over samples, of all ranks together."""
        states = self.samples if isinstance(self.samples, list) else self.samples.unsqueeze(1).unbind()
        first, *others = states
        for other in others:
            first = _pack(merge_sample_sums(_unpack(first[0]), _unpack(other[0])))
        return first


class _Units(NamedTuple):
    """What is kept of each unit: how many numbers, their sum and sum of squares, extremes, how many are not finite."""

    size: Tensor
    total: Tensor
    square: Tensor
    low: Tensor
    high: Tensor
    bad: Tensor


def _parts(x: Tensor) -> Sequence[Tensor]:
    """On a CPU some samples at a time, so that what lies between two passes stays in the cache."""
    samples = max(2**17 // x[0].numel(), 1) if x.device.type == "cpu" else len(x)
    return torch.split(x, samples)


def _describe(x: Tensor) -> tuple[Tensor, ...]:
    """Means and mean squares `(N, C)`; smallest, largest and how many are not finite, `(1, C)`."""
    wide = wide_dtype(x)
    x = x.to(accumulation_dtype(x))
    x = x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)
    finite = x.nan_to_num(0.0, 0.0, 0.0)
    bad = (finite != x).sum((0, 2)).unsqueeze(0)
    low, high = finite.amin((0, 2)).unsqueeze(0), finite.amax((0, 2)).unsqueeze(0)
    mean = finite.mean(-1).to(wide)
    square = torch.linalg.vector_norm(finite, dim=-1).to(wide).square() / finite.shape[-1]
    return mean, square, low.to(wide), high.to(wide), bad.to(wide)


def _merge_units(states: Tensor) -> Tensor:
    """Of several states `(R, 6, C)` one, `(1, 6, C)`."""
    units = _Units(*states.unbind(1))
    merged = _Units(*(part.sum(0) for part in units))._replace(low=units.low.amin(0), high=units.high.amax(0))
    return torch.stack(merged).unsqueeze(0)


def _shares(metrics: Sequence[Health]) -> tuple[Tensor, ...]:
    """Dead, saturated, largest magnitude, share of numbers and number of units not finite, each `(layers,)`."""
    states = [torch.cat(m.units) if isinstance(m.units, list) else m.units for m in metrics]
    units = _Units(*torch.cat([_merge_units(state) for state in states], -1)[0])
    sizes = torch.tensor([metric._channels for metric in metrics])
    # Built on the host, and not waited for: on a device its length would be.
    layer = torch.arange(len(sizes)).repeat_interleave(sizes).to(units.total.device, non_blocking=True)

    def total(numbers: Tensor) -> Tensor:
        return numbers.new_zeros(len(sizes)).index_add_(0, layer, numbers)

    def largest(numbers: Tensor) -> Tensor:
        return numbers.new_full((len(sizes),), -torch.inf).scatter_reduce_(0, layer, numbers, "amax")

    low, high = -largest(-units.low), largest(units.high)
    magnitude = torch.maximum(-units.low, units.high)
    intact = units.bad == 0
    dead = intact & (magnitude <= metrics[0].tolerance)
    mean, square = units.total / units.size, units.square / units.size
    count = sizes.to(units.total, non_blocking=True)
    working = intact & ~dead
    ends = metrics[0].bounds
    a, b = (low[layer], high[layer]) if ends is None else (torch.full_like(mean, end) for end in ends)
    gap, slope = (a + b) * mean - a * b - square, metrics[0].slope
    saturated = working & (gap < slope * (b - a).square() / 4)
    if ends is None:
        # A unit that never leaves an end of the layer's range is saturated only if that end is a bound.
        widest = (b - mean) * (mean - a)
        alternating = working & (gap < slope * widest) & (widest > 1e-9 * (b - a).square())
        bounded = total(alternating.to(count)) >= _EVIDENCE * count
        saturated = alternating | (saturated & bounded[layer])
    return (
        total(dead.to(count)) / count,
        total(saturated.to(count)) / count,
        largest(magnitude),
        total(units.bad) / total(units.size),
        total((~intact).to(count)),
    )


def _named(samples: Tensor, shares: Tensor) -> dict[str, Estimate]:
    """Estimates by name, from a layer's rows of numbers."""
    n, rms, rms_stderr, similarity, similarity_stderr, rank, rank_stderr, channels = samples.unbind()
    dead, saturated, max_abs, nonfinite, bad_units = shares.to(n).unbind()
    unknown = torch.full_like(n, torch.nan)
    return {
        "dead": Estimate(dead, unknown, n, estimator=_COUNT),
        "saturated": Estimate(saturated, unknown, n, estimator=_BOUNDS),
        "collapsed": Estimate(similarity, similarity_stderr, n, estimator=_ALIKE),
        "effective_rank": Estimate(rank, rank_stderr, n, torch.ones_like(n), channels, estimator=_RANK),
        "rms": Estimate(rms, rms_stderr, n, estimator=_FINITE, units="x"),
        "max_abs": Estimate(max_abs, unknown, n, estimator=_FINITE, units="x"),
        "nonfinite": Estimate(nonfinite, unknown, n, estimator="count"),
        "nonfinite_units": Estimate(bad_units, unknown, n, estimator=_COUNT),
    }


@kept(maxsize=4)
def _projection(size: int, count: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Columns from N(0, I/count), the same for every layer of this size."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(size, count, generator=generator, dtype=torch.float64)
    return columns.div_(count**0.5).to(device, dtype, non_blocking=True)


def _pack(sums: SampleSums) -> Tensor:
    """One tensor `(1, k + 3, k + 4)`, because torchmetrics gathers each state alone, and they belong together."""
    column = torch.nn.functional.pad(sums.pivot.reshape(-1), (2, 1))
    return torch.cat([sums.gram.reshape(len(column), -1), column.unsqueeze(1)], 1).unsqueeze(0)


def _unpack(state: Tensor) -> SampleSums:
    return SampleSums(state[..., 2:-1, -1], state[..., :-1])
