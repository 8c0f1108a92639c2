"""Normalisers with state: batch normalisation on tables of rows, and unitization inside it."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from layershift._autograd import is_recomputed
from layershift._checks import (
    check,
    check_choice,
    check_count,
    check_device,
    check_dtype,
    check_floating,
    check_not_empty,
    check_number,
    check_rank,
)
from layershift.functional.normalize import Pooling, batch_norm_rows, pool_samples
from layershift.functional.rows import Normalized
from layershift.functional.unitize import Divisor, Form, Over, unitization_rows

AlphaConstraint: TypeAlias = Literal["clamp", "sigmoid"] | None


# Not torch's _BatchNorm: torch.nn.SyncBatchNorm.convert_sync_batchnorm replaces whatever derives from that, and would
# lose alpha without a word.
class _RunningNorm(_NormBase):
    """Statistics of the batch in training, running statistics in evaluation, as `torch.nn.BatchNorm2d` keeps them."""

    _ranks: ClassVar[tuple[int, ...]]
    _shape: ClassVar[str]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        check_count("num_features", num_features, "a number of channels, 1 or more")
        check_number("eps", eps)  # whether it is positive `forward` asks, as in PyTorch
        if momentum is not None:
            check_number("momentum", momentum, "a number in [0, 1], or None", least=0, most=1)
        check_device("device", device)
        check_dtype("dtype", dtype)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            x: activations, `num_features` channels on the second dimension.

        Returns:
            A tensor like `x`.

        Raises:
            TypeError: if `x` is not a floating point tensor.
            ValueError: if its shape does not fit, it is empty, or has one number for each channel in training.
        """
        check_floating("x", x)
        check_rank("x", x, self._ranks, self._shape)
        check(x.shape[1] == self.num_features, "x", f"{self.num_features} channels", x)
        check_not_empty("x", x)
        of_batch = self.training or self.running_mean is None
        check(self.eps > 0 or (self.eps == 0 and not of_batch), "eps", "a positive number", self.eps)
        if not self.training and self.running_mean is not None:
            return self._normalize(x, mean=self.running_mean, variance=self.running_var).output
        normalized = self._normalize(x, pooling=self._pooling())
        if self.training and self.track_running_stats and not is_recomputed():
            self._remember(normalized)
        return normalized.output

    def _normalize(self, x: Tensor, **statistics: Any) -> Normalized:
        return batch_norm_rows(x, self.weight, self.bias, eps=self.eps, **statistics)

    def _pooling(self) -> Pooling:
        return pool_samples

    # Statistics have no gradient. A block of torch.no_grad would be one that an exported graph cannot be saved with.
    def _remember(self, batch: Normalized) -> None:
        _, mean, variance, size = cast("tuple[Tensor, ...]", batch)
        buffers = self.running_mean, self.running_var, self.num_batches_tracked
        running_mean, running_variance, tracked = cast("tuple[Tensor, ...]", buffers)
        tracked.add_(1)
        new = 1 / tracked.to(mean.dtype) if self.momentum is None else self.momentum
        unbiased = variance * (size / (size - 1))
        running_mean.mul_(1 - new).add_(mean.to(running_mean.dtype) * new)
        running_variance.mul_(1 - new).add_(unbiased.to(running_variance.dtype) * new)


class BatchNorm1d(_RunningNorm):
    """`torch.nn.BatchNorm1d`, whose running statistics a recomputed forward (activation checkpointing) leaves alone.

    Args:
        num_features: channels `C` of an input `(N, C)` or `(N, C, L)`.
        eps: added to the variance.
        momentum: weight of a new batch in the running statistics; None for their plain average.
        affine: whether there are a weight and a bias.
        track_running_stats: whether there are running statistics; without them evaluation uses the batch's.
        device: where parameters and buffers live.
        dtype: their dtype.
    """

    _ranks, _shape = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_RunningNorm):
    """`torch.nn.BatchNorm2d`, whose running statistics a recomputed forward leaves alone; see `BatchNorm1d`."""

    _ranks, _shape = (4,), "(N, C, H, W)"


class BatchNorm3d(_RunningNorm):
    """`torch.nn.BatchNorm3d`, whose running statistics a recomputed forward leaves alone; see `BatchNorm1d`."""

    _ranks, _shape = (5,), "(N, C, D, H, W)"


class _Unitization(_RunningNorm):
    alpha: nn.Parameter

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        alpha_init: float = 0.0,
        alpha_constraint: AlphaConstraint = None,
        divisor: Divisor = "paper",
        over: Over = "sample",
        form: Form = "practical",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_choice("alpha_constraint", alpha_constraint, (None, "clamp", "sigmoid"))
        check_choice("over", over, ("sample", "position"))
        check_choice("form", form, ("practical", "bounded"))
        known = divisor if isinstance(divisor, str) else "paper"
        check(known in ("paper", "elements"), "divisor", "'paper', 'elements' or a positive number", repr(divisor))
        if not isinstance(divisor, str):
            check_number("divisor", divisor, "'paper', 'elements' or a positive number", above=0)
        check_number("alpha_init", alpha_init)
        if alpha_constraint is not None or form != "practical":
            check_number("alpha_init", alpha_init, "a number in [0, 1]", least=0, most=1)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.alpha_init, self.alpha_constraint = alpha_init, alpha_constraint
        self.divisor, self.over, self.form = divisor, over, form
        self.alpha = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.reset_alpha()

    def reset_alpha(self) -> None:
        """Set every channel's alpha to `alpha_init`; under a sigmoid to the nearest number in [0.01, 0.99]."""
        start = float(self.alpha_init)
        if self.alpha_constraint == "sigmoid":
            start = min(max(start, 0.01), 0.99)
            start = math.log(start / (1 - start))
        nn.init.constant_(self.alpha, start)

    def reset_parameters(self) -> None:
        """Set running statistics, weight, bias and alpha to what they were at first."""
        super().reset_parameters()
        if "alpha" in self._parameters:  # not yet when the parent's constructor calls this
            self.reset_alpha()

    @property
    def effective_alpha(self) -> Tensor:
        """What alpha is after its constraint, shape `(C,)`."""
        if self.alpha_constraint == "sigmoid":
            return torch.sigmoid(self.alpha)
        if self.alpha_constraint == "clamp" or self.form == "bounded":
            return _ClampToUnit.apply(self.alpha)  # type: ignore[no-any-return]
        return self.alpha

    def _normalize(self, x: Tensor, **statistics: Any) -> Normalized:
        return unitization_rows(
            x,
            self.effective_alpha,
            self.weight,
            self.bias,
            eps=self.eps,
            divisor=self.divisor,
            over=self.over,
            form=self.form,
            **statistics,
        )

    def extra_repr(self) -> str:
        """Batch normalisation's options, and those of ours that are not the default."""
        ours = {"alpha_constraint": None, "divisor": "paper", "over": "sample", "form": "practical"}
        said = [f"{name}={getattr(self, name)}" for name, usual in ours.items() if getattr(self, name) != usual]
        return ", ".join([super().extra_repr(), *said])  # type: ignore[no-untyped-call]


class Unitization1d(_Unitization):
    r"""Batch normalisation that divides each sample by a part of its norm.

    $$y=\gamma\,[p\,\alpha+(1-\alpha)]\,\hat x+\beta,\qquad p=1/\sqrt{s+\varepsilon},\qquad s=\sum\hat x^2/(n\cdot L)$$

    with $\hat x$ the batch-normalised input and one $\alpha$ a channel, trained like $\gamma$ and $\beta$. In
    evaluation $\hat x$ comes from the running statistics; the norm is each sample's own. See
    `layershift.functional.unitization` for the formula, and its forms.

    Parameters and buffers are those of `torch.nn.BatchNorm1d`, and `alpha`. The authors use no weight decay on `alpha`,
    `weight` and `bias`. A forward that activation checkpointing repeats leaves the running statistics alone. A NaN in
    one sample reaches, in training, every sample (through the batch's statistics), in evaluation that sample only.

    Args:
        num_features: channels `C` of an input `(N, C)` or `(N, C, L)`.
        eps: $\varepsilon$, added to the variance and to the squared norm.
        momentum: weight of a new batch in the running statistics; None for their plain average.
        affine: whether there are `weight` and `bias`; `alpha` stays.
        track_running_stats: whether there are running statistics; without them evaluation uses the batch's.
        alpha_init: every channel's first $\alpha$; 0 is batch normalisation.
        alpha_constraint: None leaves $\alpha$ free, as the authors do. `"clamp"` uses it clamped to [0, 1]; outside,
            the gradient passes if a step against it leads back, so that no channel is stuck. `"sigmoid"` uses the
            sigmoid of the parameter, which starts where that is `alpha_init`, or 0.01 or 0.99 if that is beyond.
        divisor: $n$: `"paper"` ($n=L$), `"elements"` ($n=C$; the unitized branch has root mean square 1) or a number.
        over: `"sample"` takes one norm of each sample, `"position"` one of each position.
        form: `"practical"` as above (eq. 10), or `"bounded"` (eq. 9), for which alpha is in [0, 1]: without a
            constraint it is clamped.
        bias: whether `affine` gives a `bias` beside the `weight`.
        device: where parameters and buffers live.
        dtype: their dtype.

    Raises:
        ValueError: if an option is not one of those.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        algorithms 1 and 2.

    Example:
        >>> layer = Unitization1d(3, alpha_init=1.0)
        >>> layer(torch.randn(4, 3)).norm(dim=1).detach()
        tensor([1.0000, 1.0000, 1.0000, 1.0000])
    """

    _ranks, _shape = (2, 3), "(N, C) or (N, C, L)"


class Unitization2d(_Unitization):
    """Unitization of images; see `Unitization1d`.

    Example:
        >>> Unitization2d(3)
        Unitization2d(3, eps=1e-05, momentum=0.1, affine=True, ...)
    """

    _ranks, _shape = (4,), "(N, C, H, W)"


class Unitization3d(_Unitization):
    """Unitization of volumes; see `Unitization1d`."""

    _ranks, _shape = (5,), "(N, C, D, H, W)"


class _ClampToUnit(torch.autograd.Function):
    """Clamp to [0, 1]; outside, the gradient passes only if a step against it leads back inside."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(alpha)
        return alpha.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (alpha,) = ctx.saved_tensors
        outward = ((alpha < 0) & (gradient > 0)) | ((alpha > 1) & (gradient < 0))
        return torch.where(outward, 0, gradient)
