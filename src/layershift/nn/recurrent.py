"""An LSTM layer with recurrent batch normalisation and variational dropout, which `nn.LSTM` cannot have."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from layershift._checks import (
    check,
    check_choice,
    check_count,
    check_floating,
    check_not_empty,
    check_number,
    check_rank,
)
from layershift.functional.recurrent import Affine, Moments, lstm_steps

State: TypeAlias = tuple[Tensor, Tensor]
"""The output and the cell after the last step, each (B, H)."""
PARTS = ("input", "hidden", "cell")
"""What recurrent batch normalisation standardises."""


class VariationalDropout(nn.Module):
    """Dropout that drops the same features at all steps of a sequence.

    Args:
        p: share of the features that is dropped; the others are divided by 1 − p. In evaluation nothing happens.

    Raises:
        ValueError: if `p` is not in [0, 1).

    References:
        Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", 2016,
        https://arxiv.org/abs/1512.05287.

    Example:
        >>> y = VariationalDropout(0.5)(torch.ones(7, 2, 100))
        >>> torch.equal(y[0], y[6]), sorted(y.unique().tolist())
        (True, [0.0, 2.0])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_probability("p", p)

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of (T, B, F), one mask of (B, F) for all T."""
        check_floating("x", x)
        check_rank("x", x, (3,), "(T, B, F)")
        check_not_empty("x", x)
        return x * dropout_mask(x[0], self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        """The share, for `repr`."""
        return f"p={self.p}"


def check_probability(argument: str, p: float) -> float:
    """Return a share that dropout can have, or raise."""
    check_number(argument, p, "a number in [0, 1)", least=0, below=1)
    return p


def dropout_mask(like: Tensor, p: float) -> Tensor:
    """Zeros with probability p, otherwise 1/(1 − p), from the device's global state."""
    return torch.empty_like(like).bernoulli_(1 - p).div_(1 - p)


class LSTMLayer(nn.Module):
    r"""One LSTM layer with recurrent batch normalisation, or recurrent dropout, or both.

    In training the statistics of a time step are those of the batch at that step; an exponential mean of them is kept
    for each of the first `steps` steps and serves evaluation, where later steps use the last one (and in training add
    to it). Variances that normalise are biased, those that are kept unbiased, as in `nn.BatchNorm1d`.

    The gates are in PyTorch's order (input, forget, cell, output) and the weights start as those of `nn.LSTM`; its two
    biases, of which one is redundant, are one. Without normaliser and dropout the layer computes what `nn.LSTM` does,
    only slower.

    Args:
        input_size: features of an input.
        hidden_size: units H.
        norm: "batch" or None.
        steps: time steps with running statistics of their own.
        recurrent_dropout: share of the units of $h_{t-1}$ that the recurrent connection does not see, the same at all
            steps of a sequence.
        scale: where all $\gamma$ start. With 1, gradients of a new layer grow from step to step; with the paper's 0.1
            they do not.
        eps: added to variances.
        momentum: weight of the newest batch in the running statistics.

    Raises:
        ValueError: if an option has another value.

    References:
        T. Cooijmans, N. Ballas, C. Laurent, Ç. Gülçehre, A. Courville, "Recurrent batch normalization", 2017,
        https://arxiv.org/abs/1603.09025. The dropout: Gal and Ghahramani, see `VariationalDropout`.

    Example:
        >>> layer = LSTMLayer(5, 8, steps=35)
        >>> output, (h, c) = layer(torch.randn(35, 20, 5))
        >>> output.shape, torch.equal(output[-1], h), c.shape
        (torch.Size([35, 20, 8]), True, torch.Size([20, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        norm: Literal["batch"] | None = "batch",
        steps: int = 35,
        recurrent_dropout: float = 0.0,
        scale: float = 0.1,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice("norm", norm, ("batch", None))
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("steps", steps)):
            check_count(name, value, "at least 1")
        check_number("eps", eps, "a positive number", above=0)
        check_number("scale", scale)
        check_number("momentum", momentum, "a number in [0, 1]", least=0, most=1)
        self.input_size, self.hidden_size, self.norm, self.steps = input_size, hidden_size, norm, steps
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.eps, self.momentum = eps, momentum
        gates = 4 * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(gates, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_size))
        self.bias = nn.Parameter(torch.empty(gates))
        for name, features in zip(PARTS, (gates, gates, hidden_size), strict=True) if norm else ():
            self.register_parameter(f"{name}_scale", nn.Parameter(torch.full((features,), float(scale))))
            self.register_buffer(f"{name}_mean", torch.zeros(steps, features))
            self.register_buffer(f"{name}_var", torch.ones(steps, features))
        if norm:
            self.cell_shift = nn.Parameter(torch.zeros(hidden_size))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        r"""Draw weights and bias as `nn.LSTM` does, uniformly within $\pm1/\sqrt H$; one bias stands for two."""
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for weight in (self.weight_ih, self.weight_hh):
                weight.uniform_(-bound, bound, generator=generator)
            second = torch.empty_like(self.bias).uniform_(-bound, bound, generator=generator)
            self.bias.uniform_(-bound, bound, generator=generator).add_(second)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run over a sequence.

        Args:
            x: inputs, (T, B, input_size).
            state: output and cell before the first step, each (B, H); zeros if None.

        Returns:
            Outputs of all steps, (T, B, H), and the state after the last.

        Raises:
            TypeError: if `x` is not floating point.
            ValueError: if a shape does not fit, or a training batch to normalise holds one sequence.
        """
        self._check(x, state)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight_ih.dtype)
            zeros = x.new_zeros(x.shape[1], self.hidden_size)
            h, c = (zeros, zeros) if state is None else (part.to(x.dtype) for part in state)
            dropped = self.training and self.recurrent_dropout > 0
            mask = dropout_mask(zeros, self.recurrent_dropout) if dropped else None
            projected = x @ self.weight_ih.mT
            affine, moments = self._normaliser(len(x), x)
            output, last, used = lstm_steps(
                projected, self.weight_hh, self.bias, affine, (h, c), mask=mask, moments=moments, eps=self.eps
            )
            if moments is None:
                self._update(used, x.shape[1])
        return output, (output[-1], last)

    def _check(self, x: Tensor, state: State | None) -> None:
        check_floating("x", x)
        fits = x.dim() == 3 and x.shape[2] == self.input_size and x.numel() > 0
        check(fits, "x", f"a tensor of shape (T, B, {self.input_size}) that is not empty", x)
        if self.norm and self.training:
            check(x.shape[1] > 1, "x", "at least two sequences, to normalise over them", x)
        shape = (x.shape[1], self.hidden_size)
        pair = state is None or (isinstance(state, tuple | list) and len(state) == 2)
        check(pair, "state", f"two tensors of shape {shape}, or None", type(state).__name__)
        for part in state or ():
            check_floating("state", part)
            check(part.shape == shape, "state", f"two tensors of shape {shape}", part)

    def _normaliser(self, length: int, x: Tensor) -> tuple[Affine, tuple[Moments, Moments, Moments] | None]:
        """Scales and shift, and fixed moments of each step, or None for those of the batch."""
        if not self.norm:  # mean 0, variance 1, scale 1: nothing happens
            zero, one = x.new_zeros(1), x.new_ones(1)
            same = Moments(zero.expand(length, 1, 1), (one - self.eps).expand(length, 1, 1))
            return Affine(one, one, one, zero), (same, same, same)
        affine = Affine(*(self.get_parameter(name) for name in (*(f"{part}_scale" for part in PARTS), "cell_shift")))
        if self.training:
            return affine, None
        rows = torch.arange(length, device=x.device).clamp(max=self.steps - 1)
        first, second, third = (
            Moments(mean[rows].unsqueeze(1), variance[rows].unsqueeze(1)) for mean, variance in self._running()
        )
        return affine, (first, second, third)

    def _running(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_var")) for name in PARTS]

    def _update(self, used: tuple[Moments, ...], size: int) -> None:
        """Move the running statistics; the last row stands for all steps from its own on."""
        for (mean, variance), batch in zip(self._running(), used, strict=True):
            for running, values in ((mean, batch.mean), (variance, batch.variance * (size / (size - 1)))):
                rows = values.squeeze(1)
                if len(rows) > self.steps:
                    rows = torch.cat([rows[: self.steps - 1], rows[self.steps - 1 :].mean(0, keepdim=True)])
                running[: len(rows)].lerp_(rows, self.momentum)

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        dropout = f", recurrent_dropout={self.recurrent_dropout}" if self.recurrent_dropout else ""
        steps = f", steps={self.steps}" if self.norm else ""
        return f"{self.input_size}, {self.hidden_size}, norm={self.norm!r}{steps}{dropout}"
