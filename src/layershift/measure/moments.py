"""Mean, variance, skewness, kurtosis and quantiles of a layer and of some of its units, as a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from layershift._checks import check, check_count, check_floating, check_items, check_type
from layershift.functional.moments import MomentTable, summarize_moments
from layershift.functional.quantiles import BINS, number_quantile, quantile_sketch, sketch_quantile
from layershift.measure.estimate import Estimate
from layershift.measure.layer_sums import columns, merge, quantiles_with_errors, spread, sums_of, thinned, unpack

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
        check_count("num_units", num_units, "a number of units, 0 or more", least=0)
        check_items("quantiles", quantiles, (float, int), "probabilities in [0, 1]")
        check(all(0 <= q <= 1 for q in quantiles), "quantiles", "probabilities in [0, 1]", tuple(quantiles))
        check_type("channel_dim", channel_dim, int, "a dimension")
        check_count("quantile_numbers", quantile_numbers, "a number of numbers, 1 or more")
        self.quantile_numbers = quantile_numbers
        self.num_units, self.quantiles, self.channel_dim = num_units, tuple(quantiles), channel_dim
        self.unit_indices: Tensor | None = None  # on the CPU: reading it never waits for another device
        self._units: Tensor | None = None
        self.add_state("sums", torch.zeros(1 + num_units, 26, dtype=torch.float64), dist_reduce_fx=merge)
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
        joined = columns(x.unsqueeze(0), units)
        rows = slice(1 + len(units))
        added = sums_of(joined).squeeze(0)
        self.sums[rows] = added if self._empty else merge(torch.stack([self.sums[rows], added]))
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
        layer, chosen = (numbers.squeeze(0) for numbers in self._thinned(x.unsqueeze(0), units, self._samples))
        quantile_sketch(layer, counts=self.counts[:1])
        if stop > 1:
            quantile_sketch(chosen, counts=self.counts[1:stop])
        self._samples += len(x)
        self.numbers[0] += x.numel()
        self.numbers[1:stop] += len(x) * x[0, 0].numel()
        bad = _nonfinite(x.unsqueeze(0), joined, units)
        if bad is not None:
            self.nonfinite[:stop] += bad.squeeze(0)

    def _thinned(self, x: Tensor, units: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Numbers of layers `(G, N, C, …)` for quantiles, `(G, 1, M)`, and of units, `(G, U - 1, M')`."""
        dense = x if x.is_contiguous() else x.movedim(2, -1)  # channels last, without a copy
        layer = thinned(dense.reshape(len(x), 1, -1), x[0, 0].numel(), self.quantile_numbers, samples)
        chosen = x.transpose(1, 2).index_select(1, units).flatten(2)
        few = max(self.quantile_numbers // 4, 1)
        return layer, thinned(chosen, x[0, 0, 0].numel(), few, samples)

    def _units_of(self, x: Tensor) -> Tensor:
        """Choose the units at the first update, and move to the input's device."""
        if self._units is None or self._units.device != x.device:
            self.to(x.device)
            self.unit_indices = spread(min(self.num_units, x.shape[1]), x.shape[1])
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
        sketches = [m.counts[:r] for m, r in zip(metrics, rows, strict=True)]
        counted = torch.cat([sketch.sum(1) for sketch in sketches])

        def read(q: Tensor) -> Tensor:
            # Sketches are large: joining them would cost more than it saves.
            return torch.cat([sketch_quantile(*part) for part in zip(sketches, torch.split(q, rows), strict=True)])

        return metrics[0]._estimates(rows, sums, counted, numbers, nonfinite, read)

    @staticmethod
    def measure_all(metrics: Sequence[Moments], x: Tensor) -> list[dict[str, Estimate]]:
        """What `update` and `compute` would give of one batch, for small layers of one shape at the cost of one.

        Nothing is kept: a metric is as it was, save that it knows its units.

        Args:
            metrics: of G layers, with the same options.
            x: their outputs, shape `(G, N, C, …)`, or with the channels at `channel_dim`.

        Returns:
            The estimates of each.
        """
        first = metrics[0]
        x = x.detach().movedim(first.channel_dim + (first.channel_dim >= 0), 2)
        units, *_ = [metric._units_of(x[0]) for metric in metrics]
        joined, (layer, chosen) = columns(x, units), first._thinned(x, units, 0)
        layers, rows, samples = len(x), 1 + len(units), x.shape[1]

        def shaped(of_layer: int, of_unit: int) -> Tensor:
            numbers = torch.full((layers, rows), of_unit, dtype=torch.int64, device=x.device)
            numbers[:, 0] = of_layer
            return numbers.flatten()

        def read(q: Tensor) -> Tensor:
            probabilities = q.view(layers, rows, -1)
            wide = number_quantile(layer.squeeze(1), probabilities[:, 0])
            narrow = number_quantile(chosen.flatten(0, 1), probabilities[:, 1:].flatten(0, 1))
            return torch.cat([wide.unsqueeze(1), narrow.view(layers, rows - 1, q.shape[1])], 1).flatten(0, 1)

        bad = _nonfinite(x, joined, units)
        return first._estimates(
            [rows] * layers,
            sums_of(joined).flatten(0, 1),
            shaped(layer.shape[-1], chosen.shape[-1]),
            shaped(x[0].numel(), samples * x[0, 0, 0].numel()),
            torch.zeros_like(shaped(0, 0)) if bad is None else bad.flatten(),
            read,
        )

    def _estimates(
        self,
        rows: list[int],
        sums: Tensor,
        counted: Tensor,
        numbers: Tensor,
        nonfinite: Tensor,
        read: Callable[[Tensor], Tensor],
    ) -> list[dict[str, Estimate]]:
        """Estimates of several layers, each with so many rows, of the rows of all of them."""
        summary = summarize_moments(unpack(sums))
        quantile, error = quantiles_with_errors(self.quantiles, summary, counted, numbers, read)
        share = (nonfinite.double() / numbers).unsqueeze(1)
        value = torch.cat([summary.value, quantile, share], 1)
        stderr = torch.cat([summary.stderr, error, torch.full_like(share, torch.nan)], 1)
        parts = zip(*(torch.split(column, rows) for column in (value, stderr, summary.n)), strict=True)
        return [self._named(*part) for part in parts]

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


def _nonfinite(x: Tensor, joined: MomentTable, units: Tensor) -> Tensor | None:
    """How many numbers are not finite, `(G, U)`; None if none is.

    On a CPU looking costs less than counting; elsewhere it would wait for the device.
    """
    if x.device.type == "cpu" and bool(joined.mean[:, :, 0].isfinite().all()):
        return None
    bad = x.unsqueeze(-1).flatten(3).isfinite().logical_not_().sum((1, 3))
    return torch.cat([bad.sum(1, keepdim=True), bad.index_select(1, units)], 1)
