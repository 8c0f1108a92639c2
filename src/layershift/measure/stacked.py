r"""Many small networks of one architecture, side by side: every parameter has them on its first dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from layershift._seeds import derive_seed
from layershift.functional.lipschitz import convolution_norm_bound, linear_norm

_LARGE = 2**16  # numbers of a layer's batch


class StackedCritics:
    """L critics for samples of one shape: convolutions or dense layers, then one linear unit.

    All start from the same weights (He's initialisation, drawn on the CPU, so on every device).

    Args:
        copies: how many, L.
        like: samples `(…, *shape)`; their dtype and device are the weights'.
        shape: of one sample: `(d,)` or `(C, H, W)`.
        widths: of the hidden layers; convolutions are 3 × 3, with padding 1 and strides 2, 1, 2, 1, …
        normalized: divide each layer's weights by their norm, and activate by MaxMin instead of ReLU.
        sigmoid: put the last unit through a sigmoid.
        seed: of the weights.

    Attributes:
        parameters: what is trained.
    """

    def __init__(
        self,
        copies: int,
        like: Tensor,
        shape: Sequence[int],
        *,
        widths: Sequence[int],
        normalized: bool,
        sigmoid: bool,
        seed: int,
    ) -> None:
        self.images, self.normalized, self.sigmoid, self.frozen = len(shape) == 3, normalized, sigmoid, False
        self.strides = [2 - i % 2 for i in range(len(widths))]
        sizes, inputs, edges = [], shape[0], shape[1:]
        for width, stride in zip(widths, self.strides, strict=True):
            sizes.append((width, inputs, 3, 3) if self.images else (width, inputs))
            inputs, edges = width, [-(-edge // stride) for edge in edges]
        sizes.append((1, inputs * math.prod(edges)))
        generator = torch.Generator().manual_seed(derive_seed(seed, 0))
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self._vectors: list[Tensor] = []  # of the power iteration
        for size in sizes:
            weight = torch.randn(size, generator=generator) * math.sqrt(2 / math.prod(size[1:]))
            vector = torch.nn.functional.normalize(torch.randn(size[0], generator=generator), dim=0)
            weight, vector = (t.to(like).expand(copies, *t.shape).clone() for t in (weight, vector))
            self.weights.append(weight.requires_grad_())
            self.biases.append(torch.zeros(copies, size[0], dtype=like.dtype, device=like.device, requires_grad=True))
            self._vectors.append(vector)
        self.parameters = [*self.weights, *self.biases]

    def __call__(self, x: Tensor) -> Tensor:
        """The critics' outputs `(L, B)` for samples `(L, B, …)`."""
        *hidden, last = self._effective()
        for weight, bias, stride in zip(hidden, self.biases, self.strides, strict=False):
            if self.images:
                x = self._activate(_convolutions(x, weight, bias, stride))
            else:
                x = self._activate(torch.baddbmm(bias.unsqueeze(1), x, weight.mT))
        out = torch.baddbmm(self.biases[-1].unsqueeze(1), x.flatten(2), last.mT).squeeze(2)
        return out.sigmoid() if self.sigmoid else out

    def _activate(self, x: Tensor) -> Tensor:
        if not self.normalized:
            return x.relu()
        # MaxMin sorts two halves against each other: its slope is 1 everywhere, no steepness is lost on the way.
        first, second = x.chunk(2, 2)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 2)

    def _effective(self) -> list[Tensor]:
        """The weights that act: while training, if wanted, divided by their norm, which a power iteration follows."""
        if self.frozen or not self.normalized:
            return self.weights
        divided, vectors = [], []
        for weight, vector in zip(self.weights, self._vectors, strict=True):
            matrix = weight.flatten(2)
            with torch.no_grad():
                other = torch.nn.functional.normalize(torch.einsum("loi,lo->li", matrix, vector), dim=1)
                vector = torch.nn.functional.normalize(torch.einsum("loi,li->lo", matrix, other), dim=1)
            norm = torch.einsum("lo,loi,li->l", vector, matrix, other)
            divided.append(weight / norm.view(-1, *[1] * (weight.dim() - 1)))
            vectors.append(vector)
        self._vectors = vectors
        return divided

    def freeze(self) -> None:
        """End the training: from here on the weights stay as they are."""
        with torch.no_grad():
            self.weights = self._effective()
        self.frozen = True

    def lipschitz(self) -> Tensor:
        """A guaranteed Lipschitz constant of each frozen critic, `(L,)`: the product of its layers' operator norms.

        Those of convolutions are bounds: tight for normalised critics, whose estimate is divided by them.
        """
        norms = linear_norm(self.weights[-1])
        for weight, stride in zip(self.weights[:-1], self.strides, strict=True):
            if self.images:
                norms = norms * convolution_norm_bound(weight, stride=stride, tight=self.normalized)
            else:
                norms = norms * linear_norm(weight)
        return (norms / 4 if self.sigmoid else norms).to(self.weights[0].dtype)

    def slopes(self, points: Tensor) -> Tensor:
        """Gradient norms at points `(L, B, …)`, differentiable, shape `(L, B)`."""
        points = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self(points).sum(), points, create_graph=True)
        norms: Tensor = torch.linalg.vector_norm(gradient.flatten(2), dim=2)
        return norms


def _convolutions(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Each layer's own convolution, `(L, B, C, H, W)` to `(L, B, O, H', W')`."""
    if x.device.type == "cpu" and x[0].numel() > _LARGE:  # beyond, grouping is slower
        each = zip(x, weight, bias, strict=True)
        return torch.stack([torch.nn.functional.conv2d(*one, stride=stride, padding=1) for one in each])
    copies = len(x)
    joined = x.transpose(0, 1).flatten(1, 2)
    out = torch.nn.functional.conv2d(
        joined, weight.flatten(0, 1), bias.flatten(), stride=stride, padding=1, groups=copies
    )
    return out.view(len(out), copies, -1, *out.shape[2:]).transpose(0, 1)
