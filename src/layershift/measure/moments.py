"""Mean, variance, skewness, kurtosis and quantiles of a layer and of some of its units, as a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from layershift._checks import check, check_floating
from layershift.functional.moments import (
    MomentSummary,
    MomentSums,
    MomentTable,
    merge_moment_sums,
    moment_sums,
    moment_table,
    move_pivot,
    pool_moments,
    summarize_moments,
)
from layershift.functional.quantiles import BINS, quantile_sketch, sketch_quantile
from layershift.measure.estimate import Estimate

_MOMENTS = {"mean": "x", "variance": "x^2", "skewness": "1", "kurtosis": "1"}
_BY_MOMENTS = "sample moment; standard error by the delta method over samples"
_BY_SKETCH = "quantile of bins 0.8 % wide; Woodruff standard error with the design effect of mean and variance"


class Moments(Metric):
    r"""Moments and quantiles of a layer's outputs, with standard errors, in constant memory.

    The layer is described twice: as one distribution over all channels and positions, and by single units (channels),
    each over its positions. A unit's number is independent of another sample's but not of its own sample's other
    positions, so `n` counts samples (images), and standard errors come from how much samples differ:

    - of moments by the delta method, see `layershift.functional.moments.summarize_moments`;
    - of a quantile $Q(p)$ by Woodruff's interval, $\tfrac12[Q(p+s)-Q(p-s)]$ with $s=\sqrt{p(1-p)/n_e}$. Here $n_e$
      is how many independent numbers the samples are worth, by the spread of the mean and of the variance, whichever is
      less. It is an approximation, exact when numbers within a sample are independent or all equal. NaN where
      $p \pm s$ leaves [0, 1].

    Numbers that are not finite make the moments NaN until the next `reset`; quantiles are those of the finite numbers,
    and `"nonfinite"` is the share of the others.

    Args:
        num_units: how many units are described one by one; they are spread evenly over the channels, so that two runs
            and all ranks look at the same ones. All channels, if the layer has fewer.
        quantiles: which quantiles, in [0, 1].
        quantile_numbers: how many numbers of a sample enter the layer's quantiles, and a quarter of it those of a
            unit: all, if a sample has no more, else about so many, evenly spaced, at positions that change from sample
            to sample. Quantiles' standard errors count what is left out: on a ResNet's maps they are 10 to 20 % wider
            for it. Moments and `"nonfinite"` always see all.
        channel_dim: the dimension of the channels; 1 as in `(N, C, H, W)`, −1 for sequences `(N, T, C)`.
        **kwargs: options of `torchmetrics.Metric`.

    Returns:
        `compute()` gives a dictionary of `Estimate`: `"mean"`, `"variance"` (divided by n), `"skewness"`, `"kurtosis"`
        (3 for a normal), `"quantile_0.5"` … and `"nonfinite"` of shape `()` for the layer; `"mean/units"` … of shape
        `(units,)` for the units `unit_indices`.

    Raises:
        ValueError: if an option is out of range, or `update` gets fewer than two dimensions or no element.
        TypeError: if `update` does not get a floating point tensor.

    References:
        R. S. Woodruff, 1952, "Confidence intervals for medians and other position measures".

    Example:
        >>> moments = Moments(num_units=2)
        >>> for _ in range(4):
        ...     moments.update(torch.randn(256, 3, 5, 5).relu())
        >>> estimates = moments.compute()
        >>> abs(estimates["mean"].value - 0.399) < 5 * estimates["mean"].stderr
        tensor(True)
        >>> estimates["mean"].n, estimates["mean/units"].value.shape, moments.unit_indices
        (tensor(1024., dtype=torch.float64), torch.Size([2]), tensor([0, 2]))
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor
    numbers: Tensor
    nonfinite: Tensor

    def __init__(
        self,
        *,
        num_units: int = 8,
        quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
        quantile_numbers: int = 512,
        channel_dim: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check(num_units >= 0, "num_units", "a number of units, 0 or more", num_units)
        check(all(0 <= q <= 1 for q in quantiles), "quantiles", "probabilities in [0, 1]", tuple(quantiles))
        check(quantile_numbers >= 1, "quantile_numbers", "a number of numbers, 1 or more", quantile_numbers)
        self.quantile_numbers = quantile_numbers
        self.num_units, self.quantiles, self.channel_dim = num_units, tuple(quantiles), channel_dim
        self.unit_indices: Tensor | None = None  # on the CPU: reading it never waits for another device
        self._units: Tensor | None = None
        self.add_state("sums", torch.zeros(1 + num_units, 26, dtype=torch.float64), dist_reduce_fx=_merge)
        self.add_state("counts", torch.zeros(1 + num_units, BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("numbers", torch.zeros(1 + num_units, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("nonfinite", torch.zeros(1 + num_units, dtype=torch.int64), dist_reduce_fx="sum")
        self._samples, self._empty = 0, True

    def update(self, x: Tensor) -> None:
        """Take in the outputs of a layer.

        Args:
            x: activations of shape `(N, C, …)`, or with the channels at `channel_dim`.
        """
        check_floating("x", x)
        check(x.dim() >= 2, "x", "a tensor of shape (N, C, …)", x)
        x = x.detach().movedim(self.channel_dim, 1)
        units = self._units_of(x)
        joined = _columns(x, units)
        rows = slice(joined.mean.shape[1])
        added = _pack(moment_sums(joined))
        self.sums[rows] = added if self._empty else _merge(torch.stack([self.sums[rows], added]))
        self._empty = False
        self._count(x, joined, units)

    def reset(self) -> None:
        """Forget what was seen."""
        super().reset()
        self._samples, self._empty = 0, True

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another metric has seen."""
        super().merge_state(incoming_state)
        self._empty = False

    def set_dtype(self, dst_type: str | torch.dtype) -> Moments:  # noqa: ARG002
        """Do nothing: sums are in float64 and counts whole numbers, whatever the inputs are."""
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._empty = False

    def _count(self, x: Tensor, joined: MomentTable, units: Tensor) -> None:
        """Numbers into the bins of the sketches, and how many are not finite."""
        stop = 1 + len(units)
        size, row = x[0].numel(), x[0, 0].numel()
        dense = x if x.is_contiguous() else x.movedim(1, -1)  # channels last, without a copy
        layer = _thinned(dense.reshape(1, -1), size, self.quantile_numbers, self._samples)
        quantile_sketch(layer, counts=self.counts[:1])
        if stop > 1:
            chosen = x.transpose(0, 1).index_select(0, units).flatten(1)
            few = max(self.quantile_numbers // 4, 1)
            quantile_sketch(_thinned(chosen, row, few, self._samples), counts=self.counts[1:stop])
        self._samples += len(x)
        self.numbers[0] += x.numel()
        self.numbers[1:stop] += len(x) * row
        # On a CPU looking costs less than counting; elsewhere it would wait for the device.
        if x.device.type != "cpu" or not bool(joined.mean[:, 0].isfinite().all()):
            bad = (
                x.flatten(2).isfinite().logical_not_().sum((0, 2))
                if x.dim() > 2
                else x.isfinite().logical_not_().sum(0)
            )
            self.nonfinite[0] += bad.sum()
            self.nonfinite[1:stop] += bad[units]

    def _units_of(self, x: Tensor) -> Tensor:
        """Choose the units at the first update, and move to the input's device."""
        if self._units is None or self._units.device != x.device:
            self.to(x.device)
            self.unit_indices = _spread(min(self.num_units, x.shape[1]), x.shape[1])
            self._units = self.unit_indices.to(x.device)
        return self._units

    def compute(self) -> dict[str, Estimate]:
        """Moments and quantiles of everything since the last `reset`."""
        return self.compute_all([self])[0]

    def _rows(self) -> int:
        """How many rows of the states are in use: the layer and its units."""
        if self.unit_indices is None:  # no update yet, but something may have been loaded or merged
            return int((self.numbers > 0).sum()) or 1 + self.num_units
        return 1 + len(self.unit_indices)

    @staticmethod
    def compute_all(metrics: Sequence[Moments]) -> list[dict[str, Estimate]]:
        """What `compute` gives, for metrics with the same options at the cost of one.

        Args:
            metrics: on one device; not reduced across ranks.

        Returns:
            The estimates of each.
        """
        rows = [m._rows() for m in metrics]
        sums, numbers, nonfinite = (
            torch.cat([getattr(m, state)[:r] for m, r in zip(metrics, rows, strict=True)])
            for state in ("sums", "numbers", "nonfinite")
        )
        summary = summarize_moments(_unpack(sums))
        quantile, error = _quantiles(
            metrics[0].quantiles, summary, [m.counts[:r] for m, r in zip(metrics, rows, strict=True)], numbers
        )
        share = (nonfinite.double() / numbers).unsqueeze(1)
        value = torch.cat([summary.value, quantile, share], 1)
        stderr = torch.cat([summary.stderr, error, torch.full_like(share, torch.nan)], 1)
        parts = zip(*(torch.split(columns, rows) for columns in (value, stderr, summary.n)), strict=True)
        return [metrics[0]._named(*part) for part in parts]

    def _named(self, value: Tensor, stderr: Tensor, n: Tensor) -> dict[str, Estimate]:
        """The columns by name; the first row is the layer, the others its units."""
        described = [
            *((name, _BY_MOMENTS, units) for name, units in _MOMENTS.items()),
            *((f"quantile_{q:g}", _BY_SKETCH, "x") for q in self.quantiles),
            ("nonfinite", "count", "1"),
        ]
        estimates = {}
        for rows, suffix in ((0, ""), (slice(1, None), "/units")):
            columns = zip(described, value[rows].unbind(-1), stderr[rows].unbind(-1), strict=True)
            size = n[rows]
            for (name, estimator, units), v, s in columns:
                estimates[name + suffix] = Estimate(v, s, size, estimator=estimator, units=units)
        return estimates


def _thinned(numbers: Tensor, size: int, limit: int, samples: int) -> Tensor:
    """Every s-th number of a stream, about `limit` of the `size` numbers of a sample; `samples` came before.

    Where the stream is cut into batches makes no difference. s shares no factor with `size`, so that the positions
    inside a sample take turns.
    """
    step = -(-size // limit)
    while step > 1 and math.gcd(step, size) > 1:
        step += 1
    return numbers[:, -(samples * size) % step :: step]


def _quantiles(
    quantiles: Sequence[float], summary: MomentSummary, sketches: Sequence[Tensor], numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Quantiles and their standard errors, both `(R, Q)`, from sketches of some of the numbers, R rows in all."""
    _, variance, _, kurtosis = summary.value.unbind(1)
    by_mean = variance / summary.stderr[:, 0].square()
    by_variance = (kurtosis - 1) * (variance / summary.stderr[:, 1]).square()
    worth = torch.maximum(torch.minimum(by_mean, by_variance).nan_to_num(0), summary.n)
    counted = torch.cat([sketch.sum(1) for sketch in sketches]).clamp(min=1)
    left_out = 1 - (counted / numbers.clamp(min=1)).clamp(max=1)
    worth = torch.minimum(worth, counted)
    worth = (1 / (1 / worth + left_out / counted)).unsqueeze(1)
    p = torch.tensor(quantiles, dtype=torch.float64, device=numbers.device)
    step = (p * (1 - p) / worth).sqrt()
    wanted = torch.split(torch.cat([p - step, p.expand_as(step), p + step], 1), [len(sketch) for sketch in sketches])
    # Sketches are large: joining them would cost more than it saves.
    found = torch.cat([sketch_quantile(sketch, q) for sketch, q in zip(sketches, wanted, strict=True)])
    low, value, high = found.chunk(3, 1)
    known = (p - step >= 0) & (p + step <= 1) & (summary.n > 1).unsqueeze(1)
    return value, torch.where(known, (high - low) / 2, torch.nan)


def _in_cache(x: Tensor) -> tuple[Tensor, ...]:
    """On a CPU some samples at a time, so that what lies between two passes stays in the cache."""
    samples = 2**19 // x[0].numel() if x.device.type == "cpu" and x.numel() > 0 else len(x)
    return tuple(torch.split(x, max(samples, 1)))


def _columns(x: Tensor, units: Tensor) -> MomentTable:
    """The table of the layer and of single units, one column each."""
    parts = [moment_table(part) for part in _in_cache(x)]
    table = MomentTable(*map(torch.cat, zip(*parts, strict=True)))
    layer = torch.stack(pool_moments(table, 1, keepdim=True))
    return MomentTable(*torch.cat([layer, torch.stack(table).index_select(2, units)], 2))


def _spread(count: int, size: int) -> Tensor:
    """`count` of `size` indices, evenly spread, with the first and the last.

    Example:
        >>> _spread(3, 10)
        tensor([0, 4, 9])
    """
    return torch.tensor([i * (size - 1) // max(count - 1, 1) for i in range(count)], dtype=torch.int64)


def _pack(sums: MomentSums) -> Tensor:
    """One tensor `(U, 26)`, because torchmetrics reduces each state alone, and gram and pivot belong together."""
    return torch.cat([sums.pivot.unsqueeze(1), sums.gram.flatten(1)], 1)


def _unpack(state: Tensor) -> MomentSums:
    return MomentSums(state[:, 0], state[:, 1:].reshape(-1, 5, 5))


def _merge(states: Tensor) -> Tensor:
    """Add up states `(K, U, 26)`, about a pivot of one that is not empty."""
    merged, *others = map(_unpack, states)
    for other in others:
        pivot = torch.where(merged.gram[:, 0, 0] > 0, merged.pivot, other.pivot)
        merged = merge_moment_sums(move_pivot(merged, pivot), other)
    return _pack(merged)
