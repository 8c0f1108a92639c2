r"""One fused function for every normaliser: rows to a small table, the table to a scale and a shift for each row.

A row is what one channel of one sample holds. Two passes give each row's mean and mean square about it, an `(N, C)`
table; a *rule* turns the table into `(N, C)` scales and shifts; a last pass applies them. The backward pass needs the
rows' sums of `dy` and `dy·x`, the derivative of the rule on the small table, and one pass
`dx = A·dy + B·x + C`. So any rule costs the memory traffic of batch normalisation.

Rows are centred before they are squared, in the buffer that becomes the output: nothing cancels when the mean is large
beside the spread, and no temporary of the input's size is allocated beyond the output and the input's gradient. On a
GPU each pass is one kernel (see `triton_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype
from layershift.functional import triton_rows


class RowTable(NamedTuple):
    """First and second moments of each row about a pivot near its mean.

    Attributes:
        size: how many numbers a row holds.
        pivot: the pivots, shape `(N, C)` or `(1, C)`; constants for the gradient.
        mean: each row's mean minus its pivot, shape `(N, C)`.
        square: each row's mean square about its pivot, shape `(N, C)`.
    """

    size: int
    pivot: Tensor
    mean: Tensor
    square: Tensor

    def about(self, centre: Tensor) -> Tensor:
        """Each row's mean square about `pivot + centre`."""
        return torch.addcmul(self.square, centre, torch.sub(centre, self.mean, alpha=2))


class Affine(NamedTuple):
    """What a rule gives: `y = scale·(x − pivot) + shift`, and the statistics that a module may want to remember.

    Attributes:
        scale: shape `(N, C)` or broadcastable to it.
        shift: likewise.
        mean: pooled mean, or None.
        variance: pooled variance, not corrected for bias, or None.
        size: how many numbers were pooled, or None.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor | None = None
    variance: Tensor | None = None
    size: Tensor | int | None = None


Parameters: TypeAlias = Sequence[Tensor | None]
Rule: TypeAlias = Callable[..., Affine]
RuleGradient: TypeAlias = Callable[..., tuple[Tensor, Tensor | None, Tensor | None, Sequence[Tensor | None]]]


class Normalized(NamedTuple):
    """A normalised tensor and, without gradient, the statistics of `Affine`."""

    output: Tensor
    mean: Tensor | None
    variance: Tensor | None
    size: Tensor | int | None


def normalize_rows(
    x: Tensor,
    rule: Rule,
    parameters: Parameters = (),
    *,
    pivot: Tensor | None = None,
    gradient: RuleGradient | None = None,
) -> Normalized:
    """Apply a rule to the rows of a tensor.

    Args:
        x: activations of shape `(N, C, …)`; without trailing dimensions a row is one number.
        rule: called as `rule(table, *parameters)`, differentiable, without side effects: the backward pass calls it
            again.
        parameters: tensors (or None) of the rule's that may need gradients; those of floating point arrive in the
            table's dtype.
        pivot: constants near the rows' means, shape `(1, C)`, if known; otherwise the means are computed.
        gradient: the rule's gradient, if it is known: of a table, the slopes of scales and shifts `(N, C)` and the
            parameters the scales, the slopes of means and mean squares, and those of the parameters. Otherwise autograd
            finds it.

    Returns:
        The normalised tensor, in the dtype and memory format of `x`, and the rule's statistics.

    Example:
        >>> x = torch.randn(2, 3, 4)
        >>> centre = lambda table: Affine(torch.ones_like(table.mean), -table.mean)
        >>> torch.allclose(normalize_rows(x, centre).output, x - x.mean(-1, keepdim=True), atol=1e-6)
        True
    """
    rows = x.unsqueeze(-1) if x.dim() == 2 else x
    parameters = [None if p is None else p.to(accumulation_dtype(x)) for p in parameters]
    pivot = None if pivot is None else pivot.detach().to(accumulation_dtype(x))
    # Compilers and torch.func take the formula apart themselves; they fuse it as well as we do. And where a row is one
    # number the table is as large as the input: there is nothing to fuse.
    plain = rows[0, 0].numel() == 1 or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if plain:
        y, *statistics = _composition(rows, rule, pivot, *parameters)
    else:
        y, *statistics = _Fused.apply(rows, rule, gradient, pivot, *parameters)
    return Normalized(y.squeeze(-1) if x.dim() == 2 else y, *statistics)


def _composition(x: Tensor, rule: Rule, pivot: Tensor | None, *parameters: Tensor | None) -> tuple[Any, ...]:
    """The same formula in plain operations, which any transformation of PyTorch understands."""
    size, dims = x[0, 0].numel(), tuple(range(2, x.dim()))
    if size == 1:
        pivot = x.detach().reshape(x.shape[:2]).to(accumulation_dtype(x)) if pivot is None else pivot
        centred = x - _spread(pivot, x)
        table = RowTable(size, pivot, centred.reshape(x.shape[:2]), centred.reshape(x.shape[:2]).square())
    else:
        pivot = x.detach().mean(dims, dtype=accumulation_dtype(x)) if pivot is None else pivot
        centred = x - _spread(pivot, x)
        table = RowTable(size, pivot, centred.mean(dims), centred.square().mean(dims))
    affine = rule(table, *parameters)
    y = torch.addcmul(_spread(affine.shift, x), centred, _spread(affine.scale, x))
    return y.to(x.dtype), *(s.detach() if isinstance(s, Tensor) else s for s in affine[2:])


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rule: Rule,
        gradient: RuleGradient | None,
        pivot: Tensor | None,
        *parameters: Tensor | None,
    ) -> tuple[Tensor | int | None, ...]:
        size, ctx.on_gpu = x[0, 0].numel(), triton_rows.available(x)
        if ctx.on_gpu:
            table = RowTable(size, *triton_rows.row_moments(x, pivot))
            affine = rule(table, *parameters)
            y = triton_rows.apply_rows(x, table.pivot, affine.scale, affine.shift)
        else:
            dims = tuple(range(2, x.dim()))
            pivot = x.mean(dims, dtype=accumulation_dtype(x)) if pivot is None else pivot
            centred = x - _spread(pivot, x)
            square = torch.linalg.vector_norm(centred, dim=dims).square_().div_(size)
            table = RowTable(size, pivot, centred.mean(dims), square)
            affine = rule(table, *parameters)
            y = centred.mul_(_spread(affine.scale, x)).add_(_spread(affine.shift, x)).to(x.dtype)
        ctx.rule, ctx.gradient, ctx.size = rule, gradient or _by_autograd(rule), size
        ctx.save_for_backward(x, *table[1:], *parameters)
        ctx.mark_non_differentiable(*(s for s in affine[2:] if isinstance(s, Tensor)))
        ctx.set_materialize_grads(False)
        return y, *affine[2:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * len(ctx.needs_input_grad)
        x, pivot, mean, square, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient must have a gradient
            return _differentiable_backward(ctx, dy, x, pivot, parameters)
        if ctx.on_gpu:
            d_shift, d_scale = triton_rows.row_sums(dy, x, pivot)
        else:
            centred = x - _spread(pivot, x)
            d_shift, d_scale = _row_sums(dy, centred)
        table = RowTable(ctx.size, pivot, mean, square)
        scale, d_mean, d_square, d_parameters = ctx.gradient(table, d_scale, d_shift, *parameters)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, *d_parameters
        # The mean square's derivative is 2(x − pivot)/size, the mean's 1/size.
        by_square, by_mean = _scaled(d_square, 2 / ctx.size, mean), _scaled(d_mean, 1 / ctx.size, mean)
        if ctx.on_gpu:
            return triton_rows.combine_rows(dy, x, pivot, scale, by_square, by_mean), None, None, None, *d_parameters
        centred.mul_(_spread(by_square, x)).add_(_spread(by_mean, x)).addcmul_(dy, _spread(scale, x))
        return centred.to(x.dtype), None, None, None, *d_parameters


def _by_autograd(rule: Rule) -> RuleGradient:
    """The gradient of a rule that says nothing of it."""

    def gradient(
        table: RowTable, d_scale: Tensor, d_shift: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Sequence[Tensor | None]]:
        with torch.enable_grad():
            leaves: list[Any] = [
                None if t is None else t.detach().requires_grad_() for t in (table.mean, table.square, *parameters)
            ]
            affine = rule(RowTable(table.size, table.pivot, *leaves[:2]), *leaves[2:])
        roots = [(t, g) for t, g in zip(affine[:2], (d_scale, d_shift), strict=True) if t.requires_grad]
        wanted = [t for t in leaves if t is not None]
        found = iter(
            torch.autograd.grad(
                [t for t, _ in roots], wanted, [g.sum_to_size(t.shape) for t, g in roots], allow_unused=True
            )
        )
        d_mean, d_square, *d_parameters = (None if t is None else next(found) for t in leaves)
        return affine.scale.detach(), d_mean, d_square, d_parameters

    return gradient


def _differentiable_backward(
    ctx: Any, dy: Tensor, x: Tensor, pivot: Tensor, parameters: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    y = _composition(x, ctx.rule, pivot.detach(), *parameters)[0]
    inputs = [x, None, None, None, *parameters]
    wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed and t is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True, allow_unused=True))
    return tuple(
        next(found) if needed and t is not None else None
        for t, needed in zip(inputs, ctx.needs_input_grad, strict=True)
    )


def _row_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's sums of `a` and of `a·b`, in the dtype of `b`, shapes `(N, C)`."""
    a = a.to(b.dtype)
    if b.device.type == "cpu" and b.is_contiguous():
        # Both sums in one pass, without the product as a temporary: they are the gradients of bias and weight of a
        # group normalisation of one group a row, whose mean is 0 and whose standard deviation is 1.
        samples, channels, rows = *b.shape[:2], b.shape[0] * b.shape[1]
        shape = (1, rows, b[0, 0].numel())
        zero, one = b.new_zeros(1, rows), b.new_ones(1, rows)
        _, product, total = torch.ops.aten.native_group_norm_backward(
            a.contiguous().view(shape), b.view(shape), zero, one, None, *shape, rows, [False, True, True]
        )
        return total.view(samples, channels), product.view(samples, channels)
    dims = tuple(range(2, b.dim()))
    return a.sum(dims), (a * b).sum(dims)


def _spread(table: Tensor, x: Tensor) -> Tensor:
    """A table as a tensor that broadcasts over the trailing dimensions of `x`."""
    return table.reshape(*table.shape, *(1,) * (x.dim() - table.dim()))


def _scaled(table: Tensor | None, factor: float, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if table is None else table * factor
