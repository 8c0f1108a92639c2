"""The distance of a layer's outputs to N(0, I), as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from layershift._checks import accumulation_dtype, check, check_count, check_floating, check_not_empty, check_seed
from layershift.functional.kept import kept
from layershift.functional.normal_distance import normal_distance, normal_floor
from layershift.functional.sliced import directions
from layershift.measure.estimate import Estimate


class Normality(Metric):
    r"""Sliced W1 between a layer's outputs and N(0, I), with its standard error and its floor.

    A sample is one image's whole map, flattened to $\mathbb R^d$. It is projected on random unit directions, the same
    ones for all samples, steps and ranks; the distance of each projection to N(0, 1) is a closed form of its sorted
    values. Only projections are kept: memory is `max_samples × num_projections` numbers, whatever the layer's size.

    Samples of N(0, I) itself are not at distance 0 but, on average, at `floor`, because they are finitely many.

    Args:
        num_projections: how many directions.
        seed: of the directions, and of the choice of samples beyond `max_samples`.
        max_samples: how many samples are kept; of more, a uniform random choice without replacement.
        **kwargs: options of `torchmetrics.Metric`.

    Returns:
        `compute()` gives an `Estimate` of shape `()`; `n` counts the samples that were kept.

    Raises:
        ValueError: if an option is out of range, or `update` gets fewer than two dimensions or no element.
        TypeError: if `update` does not get a floating point tensor.

    Example:
        >>> normality = Normality()
        >>> for _ in range(8):
        ...     normality.update(torch.randn(64, 3, 4, 4))
        >>> near = normality.compute()
        >>> abs(near.value - near.floor) < 5 * near.stderr
        tensor(True)
    """

    full_state_update = False
    kept: list[Tensor] | Tensor  # a tensor once it has been gathered from all ranks

    def __init__(self, *, num_projections: int = 64, seed: int = 0, max_samples: int = 4096, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("num_projections", num_projections, "a number of directions, 1 or more")
        check_count("max_samples", max_samples, "a number of samples, 1 or more")
        check_seed("seed", seed)
        self.num_projections, self.seed, self.max_samples = num_projections, seed, max_samples
        # One state of rows (priority, projections): the kept samples are those of least priority, on every rank and
        # after merging, and that is a uniform choice.
        self.add_state("kept", [], dist_reduce_fx="cat")

    def update(self, x: Tensor) -> None:
        """Take in the outputs of a layer.

        Args:
            x: activations of shape `(N, …)`; a sample is all that follows the first dimension.
        """
        check_floating("x", x)
        check(x.dim() >= 2, "x", "a tensor of shape (N, C, …)", x)
        check_not_empty("x", x)
        assert isinstance(self.kept, list)
        self.kept.append(self._project(x.unsqueeze(0), self._update_count)[0])
        if sum(map(len, self.kept)) > self.max_samples:
            self.kept[:] = [self._choose(torch.cat(self.kept))]

    def _project(self, x: Tensor, update: int) -> Tensor:
        """Rows (priority, projections) of layers `(G, N, …)` at their update of this number."""
        samples = x.detach().flatten(2).to(accumulation_dtype(x))
        columns = _directions(samples.shape[2], self.num_projections, self.seed, x.device, samples.dtype)
        with torch.autocast(x.device.type, enabled=False):
            projected = samples @ columns
        generator = torch.Generator(x.device).manual_seed(hash((self.seed, _rank(), update)) % 2**63)
        priority = torch.rand(x.shape[1], 1, device=x.device, dtype=torch.float64, generator=generator)
        return torch.cat([priority.to(projected).expand(len(x), -1, -1), projected], 2)

    def compute(self) -> Estimate:
        """The distance of everything since the last `reset`."""
        return self.compute_all([self])[0]

    @staticmethod
    def compute_all(metrics: Sequence[Normality]) -> list[Estimate]:
        """What `compute` gives, for metrics with the same options at the cost of one, if all saw as many samples.

        Args:
            metrics: on one device; not reduced across ranks.

        Returns:
            The estimate of each.
        """
        kept = [metric._choose(dim_zero_cat(metric.kept)) for metric in metrics]
        if len({(len(rows), rows.dtype) for rows in kept}) > 1:
            return [estimate for metric in metrics for estimate in metric.compute_all([metric])]
        return metrics[0]._estimates(torch.stack(kept))

    @staticmethod
    def measure_all(metrics: Sequence[Normality], x: Tensor) -> list[Estimate]:
        """What `update` and `compute` would give of one batch, for small layers of one shape at the cost of one.

        Args:
            metrics: of G layers, with the same options; they stay as they are.
            x: their outputs, shape `(G, N, …)`.

        Returns:
            The estimate of each.
        """
        first = metrics[0]
        kept = first._project(x, 1)
        if x.shape[1] > first.max_samples:
            kept = torch.stack([first._choose(rows) for rows in kept])
        return first._estimates(kept)

    def _estimates(self, kept: Tensor) -> list[Estimate]:
        """Estimates of layers of which rows `(G, n, 1 + P)` are kept."""
        value, stderr = normal_distance(kept[..., 1:])
        n = kept.shape[1]
        size, floor = torch.full_like(value, n), torch.full_like(value, normal_floor(n))
        estimator = (
            f"sliced W1 to N(0, I), {self.num_projections} directions; standard error over samples and "
            "directions; N(0, I) itself gives the floor at this n"
        )
        return [
            Estimate(v, s, m, estimator=estimator, units="x", floor=f)
            for v, s, m, f in zip(value, stderr, size, floor, strict=True)
        ]

    def _choose(self, kept: Tensor) -> Tensor:
        """Of too many rows those of least priority."""
        if len(kept) <= self.max_samples:
            return kept
        return kept[kept[:, 0].topk(self.max_samples, largest=False).indices]


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return int(torch.distributed.get_rank()) if distributed else 0


@kept(maxsize=8)  # a network has few sizes of layers, and those after the first stages are small
def _directions(size: int, count: int, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The same directions for every layer of this size, as columns."""
    generator = torch.Generator(device).manual_seed(seed)
    return directions(size, count, generator=generator, device=device, dtype=dtype).mT
