r"""Losses and activations of the two-layer model, with the derivatives that its closed-form velocities need.

All four activations have a derivative that is a function of their value,

$$\sigma'(z)=c_0+c_1\,K(\sigma(z)),$$

so that a velocity keeps one number a neuron and sample, and only $K$ enters a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from layershift._checks import check, check_choice

Loss: TypeAlias = Literal["squared", "logistic"]
Activation: TypeAlias = Literal["relu", "leaky_relu", "tanh", "softplus"]
LOSSES = ("squared", "logistic")
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "softplus")
LEAK = 0.01
_LINEAR = 50.0  # beyond it softplus is z to the last bit of float64; PyTorch's own 20 is good for float32 only


def loss_values(f: Tensor, y: Tensor, loss: Loss) -> Tensor:
    r"""The loss of each sample: $\tfrac12(f-y)^2$, or $\log(1+e^{-yf})$ for labels $y=\pm1$.

    Args:
        f: predictions, shape `(n,)`.
        y: targets, shape `(n,)`.
        loss: "squared" or "logistic".

    Returns:
        Losses of shape `(n,)`.

    Raises:
        ValueError: if shapes differ, or the loss is unknown.

    Example:
        >>> loss_values(torch.tensor([3.0]), torch.tensor([1.0]), "squared")
        tensor([2.])
    """
    _check_pair(f, y, loss)
    return (f - y).square() / 2 if loss == "squared" else F.softplus(-y * f, threshold=_LINEAR)


def loss_slopes(f: Tensor, y: Tensor, loss: Loss) -> Tensor:
    r"""The derivative $l'(f,y)$ in the prediction: $f-y$, or $-y/(1+e^{yf})$.

    Args:
        f: predictions, shape `(n,)`.
        y: targets, shape `(n,)`.
        loss: "squared" or "logistic".

    Returns:
        Derivatives of shape `(n,)`.

    Raises:
        ValueError: if shapes differ, or the loss is unknown.

    Example:
        >>> loss_slopes(torch.tensor([0.0]), torch.tensor([1.0]), "logistic")
        tensor([-0.5000])
    """
    _check_pair(f, y, loss)
    return f - y if loss == "squared" else -y * torch.sigmoid(-y * f)


def activate(z: Tensor, activation: Activation) -> Tensor:
    r"""The activation $\sigma(z)$; leaky ReLU has slope 0.01 below zero.

    Args:
        z: pre-activations, any shape.
        activation: "relu", "leaky_relu", "tanh" or "softplus".

    Returns:
        $\sigma(z)$, differentiable, of the shape of `z`.

    Raises:
        ValueError: if the activation is unknown.

    Example:
        >>> activate(torch.tensor([-1.0, 2.0]), "leaky_relu")
        tensor([-0.0100,  2.0000])
    """
    check_choice("activation", activation, ACTIVATIONS)
    if activation == "relu":
        return z.relu()
    if activation == "leaky_relu":
        return F.leaky_relu(z, LEAK)
    return z.tanh() if activation == "tanh" else F.softplus(z, threshold=_LINEAR)


class InPlace(NamedTuple):
    r"""An activation and its derivative without new memory.

    Attributes:
        activate_: replaces $z$ by $\sigma(z)$.
        slope_part: writes $K(\sigma(z))$ into a second tensor: `slope_part(value, out)`. Of homogeneous ones the value
            may be 1 and 0 in int8, for what is positive and what is not.
        offset: $c_0$.
        factor: $c_1$.
        homogeneous: whether $\sigma(z)=z\sigma'(z)$ and $\sigma'$ knows only the sign of $z$.
    """

    activate_: Callable[[Tensor], object]
    slope_part: Callable[[Tensor, Tensor], object]
    offset: float
    factor: float
    homogeneous: bool


def _positive(value: Tensor, out: Tensor) -> None:
    if value.dtype == out.dtype:
        torch.gt(value, 0, out=out)
    else:
        out.copy_(value)


IN_PLACE: dict[Activation, InPlace] = {
    "relu": InPlace(Tensor.relu_, _positive, 0, 1, True),
    "leaky_relu": InPlace(lambda z: F.leaky_relu_(z, LEAK), _positive, LEAK, 1 - LEAK, True),
    # 1 - tanh²; the one meets the samples' sum, which is the same for all neurons.
    "tanh": InPlace(Tensor.tanh_, lambda value, out: torch.mul(value, value, out=out), 1, -1, False),
    # The logistic function is 1 - exp(-softplus).
    "softplus": InPlace(
        lambda z: z.copy_(F.softplus(z, threshold=_LINEAR)),
        lambda value, out: torch.neg(value, out=out).expm1_(),
        0,
        -1,
        False,
    ),
}


def _check_pair(f: Tensor, y: Tensor, loss: Loss) -> None:
    check_choice("loss", loss, LOSSES)
    check(f.shape == y.shape, "y", f"shape {tuple(f.shape)}, as the predictions have", y)
