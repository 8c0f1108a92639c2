r"""All steps of a batch-normalised LSTM layer as one function.

Recurrent batch normalisation (Cooijmans et al., 2017, eq. 6 to 8) standardises three things at each time step:

$$\begin{aligned}
(\tilde\imath,\tilde f,\tilde g,\tilde o)_t &= \gamma_x\widehat{W_x x_t} + \gamma_h\widehat{W_h h_{t-1}} + b,\\
c_t &= \sigma(\tilde f_t)\,c_{t-1}+\sigma(\tilde\imath_t)\tanh\tilde g_t,\\
h_t &= \sigma(\tilde o_t)\tanh(\gamma_c\hat c_t+\beta_c).
\end{aligned}$$

The cell state itself stays as it is, so that gradients flow along it. What the loop over steps need not wait for (the
products with the inputs and their normalisation, slopes of the gates, gradients of the weights) is computed for all
steps at once; the loop writes into tables that are made once. So a step costs two small products and few operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Moments(NamedTuple):
    """Mean and variance of each feature at each step, (T, 1, F)."""

    mean: Tensor
    variance: Tensor


class Affine(NamedTuple):
    """What follows the standardisations: scales of input and hidden part (4H,), scale and shift of the cell (H,)."""

    input_scale: Tensor
    hidden_scale: Tensor
    cell_scale: Tensor
    cell_shift: Tensor


def lstm_steps(
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    affine: Affine,
    state: tuple[Tensor, Tensor],
    *,
    mask: Tensor | None = None,
    moments: tuple[Moments, Moments, Moments] | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, tuple[Moments, ...]]:
    """Run a batch-normalised LSTM layer over a sequence.

    Args:
        projected: products of the inputs with their weights, (T, B, 4H), gates in PyTorch's order: input, forget,
            cell, output.
        weight: recurrent weights, (4H, H).
        bias: (4H,).
        affine: scales and shift.
        state: output and cell before the first step, each (B, H).
        mask: factors of the output on its way through the recurrent connection, (B, H), the same at all steps.
        moments: fixed moments of input part, hidden part and cell; None takes those of the batch, biased variances.
        eps: added to variances.

    Returns:
        Outputs (T, B, H), the last cell (B, H), and the moments that were used, without gradient. Differentiable once.

    References:
        T. Cooijmans, N. Ballas, C. Laurent, Ç. Gülçehre, A. Courville, "Recurrent batch normalization", 2017,
        https://arxiv.org/abs/1603.09025.

    Example:
        >>> affine = Affine(*(torch.full((n,), 0.1) for n in (12, 12, 3)), torch.zeros(3))
        >>> state = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> x, weight, bias = torch.randn(7, 2, 12), torch.randn(12, 3), torch.zeros(12)
        >>> outputs, cell, moments = lstm_steps(x, weight, bias, affine, state)
        >>> outputs.shape, cell.shape, moments[2].mean.shape
        (torch.Size([7, 2, 3]), torch.Size([2, 3]), torch.Size([7, 1, 3]))
    """
    # What compiles or exports takes the formula apart itself, and cannot follow writing into tables.
    steps = _composition if torch.compiler.is_compiling() else _Steps.apply
    outputs, cell, *used = steps(projected, weight, bias, *affine, *state, mask, moments, eps)
    return outputs, cell, tuple(Moments(*used[i : i + 2]) for i in (0, 2, 4))


class _Standardizer:
    """Standardises a table of rows (T, B, F) in place, with the batch's moments or fixed ones."""

    def __init__(self, table: Tensor, fixed: Moments | None, eps: float) -> None:
        self.table, self.fixed, self.eps = table, fixed is not None, eps
        self.moments = fixed or Moments(*(table.new_empty(len(table), 1, table.shape[2]) for _ in range(2)))
        self.inverse = torch.add(self.moments.variance, eps).rsqrt_() if fixed else torch.empty_like(self.moments.mean)
        self.scratch = torch.empty_like(table[0])
        self.rows = [x.unbind(0) for x in (table, *self.moments, self.inverse)]

    def step(self, t: int) -> Tensor:
        """Standardise row t."""
        x, mean, variance, inverse = (rows[t] for rows in self.rows)
        return self._standardize(x, mean, variance, inverse, self.scratch)

    def all(self) -> Tensor:
        """Standardise all rows."""
        scratch = self.scratch if self.fixed else torch.empty_like(self.table)
        return self._standardize(self.table, *self.moments, self.inverse, scratch)

    def _standardize(self, x: Tensor, mean: Tensor, variance: Tensor, inverse: Tensor, scratch: Tensor) -> Tensor:
        if self.fixed:
            return x.sub_(mean).mul_(inverse)
        x.sub_(torch.mean(x, -2, keepdim=True, out=mean))
        torch.mean(torch.mul(x, x, out=scratch), -2, keepdim=True, out=variance)
        return x.mul_(torch.add(variance, self.eps, out=inverse).rsqrt_())


class _Back:
    """Takes gradients back through scale and standardisation of a table's rows.

    Through the batch's moments, a gradient loses its mean over the batch (`pull`) and its part along the standardised
    values (`lean` is the mean of their product); fixed moments only scale it.
    """

    def __init__(self, hat: Tensor, inverse: Tensor, scale: Tensor, fixed: bool) -> None:
        self.hat, self.fixed = hat, fixed
        self.factor = inverse * scale
        self.pull, self.lean = torch.empty_like(inverse), torch.empty_like(inverse)
        self.rows = [x.unbind(0) for x in (hat, self.factor, self.pull, self.lean)]

    def step(self, t: int, grad: Tensor, out: Tensor) -> Tensor:
        """Of row t."""
        hat, factor, pull, lean = (rows[t] for rows in self.rows)
        return self._back(grad, hat, factor, pull, lean, out)

    def all(self, grad: Tensor) -> Tensor:
        """Of all rows."""
        return self._back(grad, self.hat, self.factor, self.pull, self.lean, torch.empty_like(grad))

    def _back(self, grad: Tensor, hat: Tensor, factor: Tensor, pull: Tensor, lean: Tensor, out: Tensor) -> Tensor:
        if self.fixed:
            return torch.mul(grad, factor, out=out)
        torch.mean(torch.mul(grad, hat, out=out), -2, keepdim=True, out=lean)
        torch.mean(grad, -2, keepdim=True, out=pull)
        return torch.sub(grad, pull, out=out).addcmul_(hat, lean, value=-1).mul_(factor)

    def of_scale(self, grad: Tensor) -> Tensor:
        """The gradient of the scale, given those of all rows."""
        return (grad * self.hat).sum((0, 1)) if self.fixed else self.lean.sum((0, 1)) * grad.shape[1]


def _composition(
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    input_scale: Tensor,
    hidden_scale: Tensor,
    cell_scale: Tensor,
    cell_shift: Tensor,
    h: Tensor,
    c: Tensor,
    mask: Tensor | None,
    moments: tuple[Moments, Moments, Moments] | None,
    eps: float,
) -> tuple[Tensor, ...]:
    """The same formula in plain operations, step by step."""
    outputs: list[Tensor] = []
    used: tuple[list[Moments], ...] = ([], [], [])

    def standardize(x: Tensor, part: int, t: int) -> Tensor:
        if moments is None:
            now = Moments(x.mean(0, keepdim=True), x.var(0, correction=0, keepdim=True))
        else:
            now = Moments(moments[part].mean[t], moments[part].variance[t])
        used[part].append(now)
        return (x - now.mean) * torch.rsqrt(now.variance + eps)

    for t, x in enumerate(projected.unbind(0)):
        hidden = standardize((h if mask is None else h * mask) @ weight.mT, 1, t)
        i, f, g, o = (standardize(x, 0, t) * input_scale + hidden * hidden_scale + bias).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(standardize(c, 2, t) * cell_scale + cell_shift)
        outputs.append(h)
    told = [torch.stack([row[k].detach() for row in part]) for part in used for k in (0, 1)]
    return torch.stack(outputs), c, *told


class _Steps(torch.autograd.Function):
    """The loop over steps, forwards and backwards."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        weight: Tensor,
        bias: Tensor,
        input_scale: Tensor,
        hidden_scale: Tensor,
        cell_scale: Tensor,
        cell_shift: Tensor,
        h0: Tensor,
        c0: Tensor,
        mask: Tensor | None,
        moments: tuple[Moments, Moments, Moments] | None,
        eps: float,
    ) -> tuple[Tensor, ...]:
        fixed = moments or (None, None, None)
        shape = (len(projected), *h0.shape)
        cells, tanhs, outputs = (projected.new_empty(shape) for _ in range(3))
        of_input = _Standardizer(projected.clone(), fixed[0], eps)
        of_hidden = _Standardizer(torch.empty_like(projected), fixed[1], eps)
        of_cell = _Standardizer(projected.new_empty(shape), fixed[2], eps)
        gates = torch.addcmul(bias, of_input.all(), input_scale)
        four = _by_gate(gates)
        i, f, g, o = (part.unbind(0) for part in four.unbind(2))
        h, c, transposed = h0, c0, weight.mT
        for t, now in enumerate(cells.unbind(0)):
            torch.mm(h if mask is None else h * mask, transposed, out=of_hidden.table[t])
            gates[t].addcmul_(of_hidden.step(t), hidden_scale)
            four[t, :, :2].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(f[t], c, out=now).addcmul_(i[t], g[t])
            of_cell.table[t] = now
            torch.addcmul(cell_shift, of_cell.step(t), cell_scale, out=tanhs[t]).tanh_()
            h, c = torch.mul(o[t], tanhs[t], out=outputs[t]), now
        parts = of_input, of_hidden, of_cell
        ctx.fixed = moments is not None
        ctx.save_for_backward(
            *(weight, input_scale, hidden_scale, cell_scale, h0, c0, mask, gates, cells, tanhs, outputs),
            *(tensor for part in parts for tensor in (part.table, part.inverse)),
        )
        used = [tensor.clone() for part in parts for tensor in part.moments]
        ctx.mark_non_differentiable(*used)
        return outputs, c.clone(), *used

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_cell: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        weight, input_scale, hidden_scale, cell_scale, h0, c0, mask, gates, cells, tanhs, outputs, *tables = (
            ctx.saved_tensors
        )
        scales = input_scale, hidden_scale, cell_scale
        of_input, of_hidden, of_cell = (_Back(tables[2 * i], tables[2 * i + 1], scales[i], ctx.fixed) for i in range(3))
        slopes, through, forget = _slopes(gates, cells, tanhs, c0)
        d_sums, d_products, d_cells = torch.empty_like(gates), torch.empty_like(gates), torch.empty_like(cells)
        d_gates = _by_gate(d_sums)
        dh, dc, scratch = torch.zeros_like(h0), grad_cell.clone(), torch.empty_like(c0)
        for t in reversed(range(len(gates))):
            dh.add_(grad_outputs[t])
            dc.add_(of_cell.step(t, torch.mul(dh, through[t], out=d_cells[t]), scratch))
            torch.mul(slopes[t, :, :3], dc.unsqueeze(1), out=d_gates[t, :, :3])
            torch.mul(slopes[t, :, 3], dh, out=d_gates[t, :, 3])
            torch.mm(of_hidden.step(t, d_sums[t], d_products[t]), weight, out=dh)
            dc.mul_(forget[t])
            if mask is not None:
                dh.mul_(mask)
        before = torch.cat([h0.unsqueeze(0), outputs[:-1]])
        before = before if mask is None else before.mul_(mask)
        return (
            of_input.all(d_sums),
            d_products.flatten(0, 1).mT @ before.flatten(0, 1),
            d_sums.sum((0, 1)),
            of_input.of_scale(d_sums),
            of_hidden.of_scale(d_sums),
            of_cell.of_scale(d_cells),
            d_cells.sum((0, 1)),
            dh,
            dc,
            *(None, None, None),
        )


def _by_gate(gates: Tensor) -> Tensor:
    return gates.view(*gates.shape[:2], 4, -1)


def _slopes(gates: Tensor, cells: Tensor, tanhs: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of cell and output in the gates' sums, (T, B, 4, H); of the output before tanh; of a cell in the last."""
    i, f, g, o = _by_gate(gates).unbind(2)
    before = torch.cat([c0.unsqueeze(0), cells[:-1]])
    slopes = torch.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g.square()), tanhs * o * (1 - o)], dim=2)
    return slopes, o * (1 - tanhs.square()), f
