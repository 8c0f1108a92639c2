"""Penalties on the distribution of a batch along directions: sliced Wasserstein and Epps–Pulley."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check_choice, check_count, check_generator, check_number
from layershift.functional.epps_pulley import characteristic_distance, characteristic_function
from layershift.functional.laplace import wasserstein_laplace
from layershift.functional.sliced import directions
from layershift.functional.synchronize import gather_samples, sum_of_ranks, world_size
from layershift.functional.wasserstein1d import Order, wasserstein, wasserstein_normal
from layershift.nn.penalties import LayerPenalty, SampleKind, as_samples
from layershift.nn.targets import RecordedTarget

Target: TypeAlias = Literal["normal", "laplace"] | RecordedTarget


class SlicedWasserstein(LayerPenalty):
    r"""The mean over directions of $W_p^p$ between a layer's projected activations and a target's.

    | `target` | directions | the distribution along each |
    | --- | --- | --- |
    | `"normal"` | random, drawn at each call | N(0, 1) |
    | `"laplace"` | coordinates; beyond `num_projections` of them, a random choice at each call | Laplace |
    | a `RecordedTarget` | those that were recorded | what a network showed there |

    Unlike PER it compares distributions over the batch, so it also reacts to means and correlations; it needs a sort,
    and its gradient couples the samples of a batch.

    The Laplace target is for sparse activations: each unit shall be 0 often and large rarely. That is a statement about
    coordinates. Along a direction that mixes many of them a sum of independent Laplacians is nearly normal, so random
    directions would ask for little more than the normal target does. A unit that cannot be negative, after ReLU, cannot
    have this distribution: put the penalty before the activation function.

    The recorded target, made by `layershift.record_target`, keeps a network's layers near the distributions that they
    had, against forgetting.

    Under `torch.distributed` the batch is that of all processes: they share directions and exchange projections
    (`N × num_projections` numbers), every one has the same penalty, and gradients averaged over processes, as data
    parallelism does, are those of one process on the union.

    Args:
        target: see the table.
        p: order of the distance, 1 or 2.
        num_projections: directions drawn at each call.
        sample: what a sample is, see `layershift.nn.as_samples`; a recorded target brings its own.
        scale: of the Laplace target, its mean magnitude; by default variance is 1.
        generator: source of the directions.

    Raises:
        ValueError: if an option has another value; when regularised, if the target has no record of a layer.

    References:
        T. Joo, D. Kang, B. Kim, 2020, eq. 4, and section 5 for the other targets.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> bool(SlicedWasserstein(generator=generator)(torch.randn(256, 8, generator=generator)) < 0.1)
        True
        >>> SlicedWasserstein("laplace", p=1)(torch.zeros(5, 3))  # E|X| = 1/√2
        tensor(0.7071)
    """

    def __init__(
        self,
        target: Target = "normal",
        p: Order = 2,
        *,
        num_projections: int = 256,
        sample: SampleKind = "image",
        scale: float = math.sqrt(0.5),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(target, RecordedTarget):
            check_choice("target", target, ("normal", "laplace"))
        check_choice("p", p, (1, 2))
        check_choice("sample", sample, ("image", "position", "step"))
        check_count("num_projections", num_projections, "at least 1")
        check_number("scale", scale, "a positive number", above=0)
        check_generator("generator", generator)
        self.target: Target = target
        self.p: Order = p
        self.num_projections, self.scale = num_projections, scale
        self.sample: SampleKind = target.sample if isinstance(target, RecordedTarget) else sample
        self.generator = generator

    def prepare(self, layers: Sequence[str], outputs: Mapping[str, Tensor] | None = None) -> None:  # noqa: ARG002
        """See that a recorded target knows these layers."""
        if isinstance(self.target, RecordedTarget):
            for name in layers:
                self.target.layer(name)

    def forward(self, x: Tensor, layer: str = "") -> Tensor:
        """The penalty of one layer's activations, a scalar.

        Args:
            x: its activations.
            layer: its name, by which a recorded target knows it.
        """
        samples = as_samples(x, self.sample)
        samples = samples.to(accumulation_dtype(samples))
        if isinstance(self.target, RecordedTarget):
            slices, quantiles = self.target.layer(layer)
            projected = gather_samples(_project(samples, slices)).mT
            distance = wasserstein(projected, quantiles.to(projected.dtype), self.p)
        elif self.target == "laplace":
            units = gather_samples(samples[:, self._coordinates(samples)]).mT
            distance = wasserstein_laplace(units, self.p, scale=self.scale)
        else:
            slices = shared_directions(samples, self.num_projections, self.generator)
            distance = wasserstein_normal(gather_samples(_project(samples, slices)).mT, self.p)
        return distance.pow(self.p).mean()

    def named(self, outputs: Sequence[tuple[str, Tensor]]) -> Tensor:
        """The penalty of each layer."""
        return torch.stack([self(x, name) for name, x in outputs])

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        if isinstance(self.target, RecordedTarget):
            return f"p={self.p}"
        scale = f", scale={self.scale:.6g}" if self.target == "laplace" else ""
        options = f"p={self.p}, num_projections={self.num_projections}, sample={self.sample!r}{scale}"
        return f"target={self.target!r}, {options}"

    def _coordinates(self, samples: Tensor) -> Tensor | slice:
        d = samples.shape[1]
        if d <= self.num_projections:
            return slice(None)
        drawn_on = samples.device if self.generator is None else self.generator.device
        chosen = torch.randperm(d, generator=self.generator, device=drawn_on)[: self.num_projections].to(samples.device)
        return _of_first_rank(chosen)


class EppsPulley(LayerPenalty):
    r"""The mean over random directions of the Epps–Pulley distance between projected activations and N(0, 1).

    That of LeJEPA's SIGReg, for hidden layers: the characteristic function of the projections against that of N(0, 1),
    see `layershift.functional.epps_pulley`. It needs no sort, its gradient is bounded, and it is blind to what lies far
    from 0 and from all other samples: layers should start at the right scale.

    Under `torch.distributed` the batch is that of all processes: they share directions and add up characteristic
    functions (`2 × num_projections × num_nodes` numbers), every one has the same penalty, and gradients averaged over
    processes, as data parallelism does, are those of one process on the union.

    Args:
        num_projections: directions drawn at each call.
        reduction: "mean", or "sum", which multiplies by the number of samples: the test statistic, as in LeJEPA.
        num_nodes: nodes of the quadrature in $[0,t_{max}]$.
        t_max: where the integral is cut off.
        sample: what a sample is, see `layershift.nn.as_samples`.
        generator: source of the directions.

    Raises:
        ValueError: if an option has another value.

    References:
        R. Balestriero, Y. LeCun, 2025, "LeJEPA: provable and scalable self-supervised learning without the heuristics";
        T. W. Epps, L. B. Pulley, 1983.

    Example:
        >>> x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
        >>> penalty = EppsPulley()
        >>> bool(penalty(x) < 0.01 < penalty(2 * x))
        True
    """

    def __init__(
        self,
        num_projections: int = 256,
        *,
        reduction: Literal["mean", "sum"] = "mean",
        num_nodes: int = 17,
        t_max: float = 4.0,
        sample: SampleKind = "image",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, ("mean", "sum"))
        check_choice("sample", sample, ("image", "position", "step"))
        check_count("num_projections", num_projections, "at least 1")
        check_count("num_nodes", num_nodes, "at least 2", least=2)
        check_number("t_max", t_max, "a positive number", above=0)
        check_generator("generator", generator)
        self.num_projections, self.num_nodes, self.t_max = num_projections, num_nodes, t_max
        self.reduction: Literal["mean", "sum"] = reduction
        self.sample: SampleKind = sample
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """The penalty of one layer's activations, a scalar."""
        samples = as_samples(x, self.sample)
        samples = samples.to(accumulation_dtype(samples))
        slices = shared_directions(samples, self.num_projections, self.generator)
        values = characteristic_function(_project(samples, slices).mT, num_nodes=self.num_nodes, t_max=self.t_max)
        size = samples.shape[0]  # not len(), which torch.export would take for a constant
        n = values.new_full((), size)
        if world_size() > 1:
            n = sum_of_ranks(n)
            values = sum_of_ranks(values * size) / n
        distance = characteristic_distance(values, t_max=self.t_max).mean()
        return distance if self.reduction == "mean" else distance * n

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        quadrature = f"num_nodes={self.num_nodes}, t_max={self.t_max}"
        options = f"num_projections={self.num_projections}, reduction={self.reduction!r}, {quadrature}"
        return f"{options}, sample={self.sample!r}"


def shared_directions(samples: Tensor, num: int, generator: torch.Generator | None) -> Tensor:
    """Random directions for samples `(N, d)`, the same in all processes that train together; rows `(num, d)`."""
    drawn = directions(samples.shape[1], num, generator=generator, device=samples.device, dtype=samples.dtype)
    return _of_first_rank(drawn)


def _of_first_rank(x: Tensor) -> Tensor:
    if world_size() > 1:
        torch.distributed.broadcast(x, 0)
    return x


def _project(samples: Tensor, slices: Tensor) -> Tensor:
    """Coordinates along each direction, shape `(N, P)`, never in half precision."""
    with torch.autocast(samples.device.type, enabled=False):
        return samples @ slices.to(samples.dtype).mT
