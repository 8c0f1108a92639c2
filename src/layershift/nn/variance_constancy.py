"""VCL as a module, with a trained β for each unit of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_device,
    check_dtype,
    check_number,
)
from layershift.functional.synchronize import batch_sizes, gather_samples, world_size
from layershift.functional.variance_constancy import group_rows, variance_constancy
from layershift.nn.layer_state import layer_key, layer_name
from layershift.nn.penalties import LayerPenalty, SampleKind, as_samples


class VarianceConstancy(LayerPenalty):
    r"""VCL, the variance constancy loss: a unit's variance shall be the same in any few samples.

    $$\operatorname{mean}_{\text{units}}\left(1-\frac{v_1}{v_2+\beta}\right)^2$$

    over two groups of 5 samples of the batch, see `layershift.functional.variance_constancy`. Put it on
    pre-activations; the authors' weight is 0.01, the sum over layers.

    $\beta$ is a parameter for each unit of each layer, trained with the network: 350,000 numbers for the 11-layer CNN,
    where a unit is a channel at a location. The authors leave it free; here it is used clamped to `min_beta`, so that a
    unit of small variance cannot divide by 0, and below that bound the gradient passes if a step against it leads back.

    For many layers give no `size`, but an example of the model's inputs to `layershift.regularize`, before you make the
    optimiser: that is when the parameters come to be. Alone, for one layer, give `size`.

    Under `torch.distributed` the two groups are those of all processes' batches together, in the order of ranks: each
    sends its part of them. Every process has the same penalty and the same gradient of $\beta$, and gradients averaged
    over processes, as data parallelism does, are those of one process on the union.

    Args:
        size: how many units the layer has that `forward` is called with; None if `layershift.regularize` shall find
            out.
        group_size: samples in each group, 2 or more.
        beta: what every $\beta$ is at first.
        min_beta: the least $\beta$ that is used.
        sample: "image" makes each location of each channel a unit; "position" and "step" a channel or feature, of which
            every location or step is a sample. See `layershift.nn.as_samples`.
        device: of the parameters, if `size` is given.
        dtype: their dtype, likewise.

    Raises:
        ValueError: if an option is out of range; on a call, if the batch has fewer samples than two groups.
        RuntimeError: on a call, if the layer is not known.

    References:
        E. Littwin, L. Wolf, 2018, "Regularizing by the variance of the activations' sample-variances".

    Example:
        >>> import layershift as ls
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        >>> penalty, x = VarianceConstancy(), torch.randn(32, 1, 8, 8)
        >>> handle = ls.regularize(model, penalty, layers="0", weight=0.01, example=x[:1])
        >>> optimizer = torch.optim.SGD([*model.parameters(), *penalty.parameters()], lr=0.1)
        >>> penalty
        VarianceConstancy(group_size=5, min_beta=0.001, sample='image', layers={'0': 144})
    """

    def __init__(
        self,
        size: int | None = None,
        *,
        group_size: int = 5,
        beta: float = 1.0,
        min_beta: float = 1e-3,
        sample: SampleKind = "image",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("group_size", group_size, "at least 2", least=2)
        check_number("min_beta", min_beta, "a positive number", above=0)
        check_number("beta", beta, f"at least min_beta, {min_beta}", least=min_beta)
        check_choice("sample", sample, ("image", "position", "step"))
        check_device("device", device)
        check_dtype("dtype", dtype)
        self.group_size, self.beta, self.min_beta = group_size, beta, min_beta
        self.sample: SampleKind = sample
        self.betas = nn.ParameterDict()
        if size is not None:
            check_count("size", size, "a number of units, 1 or more")
            self._add("", torch.empty(size, device=device, dtype=dtype))

    def prepare(self, layers: Sequence[str], outputs: Mapping[str, Tensor] | None = None) -> None:
        """Make the parameters of layers that have none yet."""
        missing = [name for name in layers if layer_key(name) not in self.betas]
        check(
            not missing or outputs is not None,
            "example",
            "an example of the model's inputs, because VarianceConstancy holds parameters for each unit",
            f"None, with layers {', '.join(map(repr, missing))} not known yet",
        )
        for name in missing:
            assert outputs is not None
            samples = as_samples(outputs[name].detach(), self.sample)
            self._add(name, samples.new_empty(samples.shape[1], dtype=accumulation_dtype(samples)))

    def forward(self, x: Tensor, layer: str = "") -> Tensor:
        """The penalty of one layer's activations, a scalar.

        Args:
            x: its activations.
            layer: its name; "" for the one that `size` was given for.
        """
        if layer_key(layer) not in self.betas:
            raise RuntimeError(
                f"VarianceConstancy has no parameters for layer {layer!r}: give size, or an example to regularize"
            )
        beta: Tensor = _AtLeast.apply(self.betas[layer_key(layer)], self.min_beta)
        samples = self._groups(as_samples(x, self.sample))
        check(samples.shape[1] == len(beta), "x", f"{len(beta)} units in layer {layer!r}", x)
        return variance_constancy(samples, beta, group_size=self.group_size).mean()

    def named(self, outputs: Sequence[tuple[str, Tensor]]) -> Tensor:
        """The penalty of each layer."""
        return torch.stack([self(x, name) for name, x in outputs])

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        sizes = {layer_name(key): len(beta) for key, beta in self.betas.items()}
        return f"group_size={self.group_size}, min_beta={self.min_beta}, sample={self.sample!r}, layers={sizes}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _groups(self, samples: Tensor) -> Tensor:
        """Where several processes train together, the rows of both groups out of the union of their batches."""
        if world_size() == 1:
            return samples
        sizes = batch_sizes(len(samples), samples.device)
        if sum(sizes) < 2 * self.group_size:
            return samples[:0]
        rows = group_rows(sum(sizes), self.group_size) - sum(sizes[: torch.distributed.get_rank()])
        mine = rows[(rows >= 0) & (rows < len(samples))].to(samples.device)
        return gather_samples(samples.index_select(0, mine))

    def _add(self, name: str, beta: Tensor) -> None:
        self.betas[layer_key(name)] = nn.Parameter(torch.full_like(beta, self.beta))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make the parameters that a checkpoint has and this module has not yet."""
        start = f"{prefix}betas."
        for key, value in state_dict.items():
            if key.startswith(start) and key.removeprefix(start) not in self.betas:
                self.betas[key.removeprefix(start)] = nn.Parameter(torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _AtLeast(torch.autograd.Function):
    """Clamp from below; there the gradient passes only if a step against it leads back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> Tensor:
        ctx.save_for_backward(x < least)
        return x.clamp(min=least)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (below,) = ctx.saved_tensors
        return torch.where(below & (gradient > 0), 0.0, gradient), None
