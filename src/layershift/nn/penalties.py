"""Penalties on a layer's activations: a scalar to add to the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_floating,
    check_generator,
    check_not_empty,
    check_number,
)
from layershift.functional.per import per, per_joint
from layershift.functional.synchronize import world_size

SampleKind = Literal["image", "position", "step"]


def as_samples(x: Tensor, sample: SampleKind) -> Tensor:
    """Arrange activations as samples of one distribution.

    Args:
        x: activations `(N, C, …)`, or `(…, d)` for "step".
        sample: "image" takes everything of one batch entry as a sample, `d = C·H·W`; "position" each spatial location,
            `d = C`; "step" each entry of the leading dimensions, features last, as recurrent layers and transformers
            arrange them.

    Returns:
        Samples of shape `(M, d)`; a view where the layout allows it.

    Raises:
        ValueError: if `x` has fewer than two dimensions, no element, or `sample` another value.

    Example:
        >>> x = torch.zeros(2, 3, 4, 4)
        >>> [tuple(as_samples(x, kind).shape) for kind in ("image", "position", "step")]
        [(2, 48), (32, 3), (24, 4)]
    """
    check_floating("x", x)
    check_choice("sample", sample, ("image", "position", "step"))
    check(x.dim() >= 2, "x", "activations of shape (N, C, …)", x)
    check_not_empty("x", x)
    if sample == "image":
        return x.flatten(1)
    if sample == "position":
        return x.movedim(1, -1).flatten(0, -2)
    return x.flatten(0, -2)


class LayerPenalty(nn.Module):
    """A penalty that may see all regularised layers at once, and knows their names.

    Subclasses give `forward`. Those that are cheaper for several layers together override `joint` as well; those that
    hold something for each layer override `prepare` and `named`.

    Example:
        >>> class Mean(LayerPenalty):
        ...     def forward(self, x):
        ...         return x.mean().square()
        >>> Mean().joint([torch.ones(2, 3), torch.zeros(2, 5)])
        tensor([1., 0.])
    """

    def joint(self, xs: Sequence[Tensor]) -> Tensor:
        """The penalty of each layer, shape `(L,)`.

        Args:
            xs: the activations of L layers.
        """
        return torch.stack([self(x) for x in xs])

    def named(self, outputs: Sequence[tuple[str, Tensor]]) -> Tensor:
        """The penalty of each layer, told their names, shape `(L,)`; what `layershift.regularize` calls.

        Args:
            outputs: names and activations; a layer that ran twice comes twice.
        """
        return self.joint([x for _, x in outputs])

    def prepare(self, layers: Sequence[str], outputs: Mapping[str, Tensor] | None = None) -> None:
        """Get ready for these layers; `layershift.regularize` calls it once.

        Args:
            layers: their names.
            outputs: their outputs for an example, if there is one.
        """


class PER(LayerPenalty):
    r"""Projected error function regularisation, exact by default; see `layershift.functional.per`.

    It bounds the norms of activations (its expected gradient is radial, its minimum is at 0); it does not by itself
    decorrelate units.

    Args:
        mode: "exact" or "projections" (the paper's Algorithm 1).
        num_projections: directions of "projections".
        reduction: "mean" over samples (eq. 5 and 6), or "sum" (Algorithm 1 as printed, which adds $\lambda g$ to each
            sample's gradient). A weight λ for one is a weight λ/N for the other; the paper's coefficients go with
            "sum". Data parallelism averages gradients over processes; so that N counts the samples of all of them,
            "sum" is multiplied by their number.
        sample: what a sample is, see `as_samples`.
        generator: source of the random directions. Processes that train together draw their own, which is as good; the
            same ones, if each gets a generator with the same seed.

    Raises:
        ValueError: if an option has another value.

    References:
        T. Joo, D. Kang, B. Kim, 2020, "Regularizing activations in neural networks via distribution matching with the
        Wasserstein metric".

    Example:
        >>> PER()(torch.zeros(5, 3, 4, 4))
        tensor(0.7979)
    """

    def __init__(
        self,
        mode: Literal["exact", "projections"] = "exact",
        num_projections: int = 256,
        reduction: Literal["mean", "sum"] = "mean",
        sample: SampleKind = "image",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, ("exact", "projections"))
        check_choice("reduction", reduction, ("mean", "sum"))
        check_choice("sample", sample, ("image", "position", "step"))
        check_count("num_projections", num_projections, "at least 1")
        check_generator("generator", generator)
        self.mode: Literal["exact", "projections"] = mode
        self.num_projections = num_projections
        self.reduction = reduction
        self.sample: SampleKind = sample
        self.generator = generator

    def _reduce(self, values: Tensor) -> Tensor:
        return values.mean(-1) if self.reduction == "mean" else values.sum(-1) * world_size()

    def forward(self, x: Tensor) -> Tensor:
        """The penalty of one layer's activations, a scalar."""
        samples = as_samples(x, self.sample)
        return self._reduce(per(samples, self.mode, self.num_projections, self.generator))

    def joint(self, xs: Sequence[Tensor]) -> Tensor:
        """The penalty of each layer; layers with equally many samples share one evaluation."""
        samples = [as_samples(x, self.sample) for x in xs]
        if self.mode == "exact" and len({len(x) for x in samples}) == 1:
            return self._reduce(per_joint(samples))
        return super().joint(xs)

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        projections = f", num_projections={self.num_projections}" if self.mode == "projections" else ""
        return f"mode={self.mode!r}{projections}, reduction={self.reduction!r}, sample={self.sample!r}"


class ActivationPenalty(LayerPenalty):
    r"""The mean of $|x|^p$: the L1 ($p=1$) and L2 ($p=2$) penalties on activations, without a factor ½.

    Neither has a scale: unlike PER, L1 pulls a small activation as much as a large one, and L2 a large one in
    proportion.

    Args:
        p: the power, positive.
        reduction: "mean" over all elements (activation regularisation as in Merity et al.), or "sum" over elements and
            mean over the batch's first dimension, $E\lVert h\rVert_p^p$, the norms of whole samples that the PER paper
            compares with; or "total", the sum over everything, as PER's "sum" is over samples, which fits the small
            weights of that paper. A weight λ for the mean is a weight λ/d for the sum and λ/(Nd) for the total, N
            being the number of samples, of all processes, and d the size of one.

    Raises:
        ValueError: if an option is out of range.

    References:
        S. Merity, B. McCann, R. Socher, 2017, "Revisiting activation regularization for language RNNs", section 3.1;
        T. Joo, D. Kang, B. Kim, 2020, section 4.2.

    Example:
        >>> ActivationPenalty(2)(torch.tensor([[1.0, -3.0]]))
        tensor(5.)
        >>> ActivationPenalty(1, reduction="sum")(torch.tensor([[1.0, -3.0], [0.0, 0.0]]))
        tensor(2.)
        >>> ActivationPenalty(1, reduction="total")(torch.tensor([[1.0, -3.0], [0.0, 0.0]]))
        tensor(4.)
    """

    def __init__(self, p: float, *, reduction: Literal["mean", "sum", "total"] = "mean") -> None:
        super().__init__()
        check_number("p", p, "a positive number", above=0)
        check_choice("reduction", reduction, ("mean", "sum", "total"))
        self.p = p
        self.reduction = reduction

    def forward(self, x: Tensor) -> Tensor:
        """The penalty of one layer's activations, a scalar."""
        check_floating("x", x)
        check_not_empty("x", x)
        x = x.to(accumulation_dtype(x))
        powers = x.abs() if self.p == 1 else x.square() if self.p == 2 else x.abs().pow(self.p)
        if self.reduction == "mean":
            return powers.mean()
        return powers.sum() / x.shape[0] if self.reduction == "sum" else powers.sum() * world_size()

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        return f"p={self.p}, reduction={self.reduction!r}"
