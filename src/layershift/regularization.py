"""Penalise the activations of named layers, without touching the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from layershift._checks import check, check_number
from layershift.capture import LayerSelector, add_output_hook, select_layers
from layershift.nn.penalties import LayerPenalty
from layershift.recording import outputs_of


class Regularization:
    """The handle that `regularize` returns: it gathers activations in each forward and gives their penalty."""

    def __init__(
        self,
        model: nn.Module,
        penalty: Callable[[Tensor], Tensor],
        layers: Mapping[str, nn.Module],
        weights: Mapping[str, float],
    ) -> None:
        self.model = model
        self.penalty = penalty
        self.weights = dict(weights)
        self._outputs: list[tuple[str, Tensor, int]] = []
        self._terms: list[tuple[str, Tensor]] = []
        self._handles = [add_output_hook(name, module, self._see) for name, module in layers.items()]

    @property
    def layers(self) -> list[str]:
        """Names of the penalised layers."""
        return list(self.weights)

    def _see(self, name: str, output: Tensor) -> None:
        if not (self.model.training and torch.is_grad_enabled()):
            return
        if isinstance(self.penalty, LayerPenalty):
            self._outputs.append((name, output, output._version))
        else:
            self._terms.append((name, self.penalty(output)))

    def loss(self) -> Tensor:
        """The weighted sum of the penalties of all forwards since the last call.

        Returns:
            A scalar to add to the loss.

        Raises:
            RuntimeError: if there was no forward in training mode with gradients since the last call, or if a layer's
                output was changed in place after the layer had returned it.
        """
        outputs, terms = self._outputs, self._terms
        self._outputs, self._terms = [], []
        if not outputs and not terms:
            raise RuntimeError(
                "penalty.loss(): expected a forward of the model in training mode with gradients enabled before it, "
                "got none since the last call"
            )
        for name, output, version in outputs:
            if output._version != version:
                raise RuntimeError(
                    f"layer {name!r}: its output was changed in place after the layer returned it (an inplace "
                    "activation after it, perhaps); penalise that layer instead, or use inplace=False"
                )
        names = [name for name, *_ in outputs] + [name for name, _ in terms]
        parts = [value.unsqueeze(0) for _, value in terms]
        if isinstance(self.penalty, LayerPenalty) and outputs:
            parts = [self.penalty.named([(name, output) for name, output, _ in outputs])]
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        weights = {self.weights[name] for name in names}
        if len(weights) == 1:
            return values.sum() * weights.pop()
        return values @ values.new_tensor([self.weights[name] for name in names])

    def remove(self) -> None:
        """Detach from the model; it is as it was before. Removing twice does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._outputs, self._terms = [], [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Regularization({self.penalty!r}, weights={self.weights})"


def regularize(
    model: nn.Module,
    penalty: Callable[[Tensor], Tensor],
    *,
    layers: LayerSelector,
    weight: float | Mapping[str, float],
    example: Any = None,
) -> Regularization:
    r"""Add $\sum_l\lambda_l\,\mathrm{penalty}(h_l)$ over named layers to a loss.

    Each forward in training mode leaves the layers' outputs with the handle; `.loss()` turns them into one scalar.
    Evaluation, `torch.no_grad()` and forwards that activation checkpointing repeats (use `use_reentrant=False`) are not
    seen. Call `.loss()` once per backward pass. With `torch.compile`, regularise before the first compiled forward.

    Args:
        model: any module; nothing is set on it but forward hooks, which `.remove()` takes away.
        penalty: from activations to a scalar, `layershift.nn.PER()` say; its own parameters, if any, are yours to
            optimise. One penalty serves all layers; it may hold parameters for each.
        layers: a name pattern, a module class, or a sequence of them, see `layershift.capture.select_layers`. For a
            layer that returns a tuple or a dictionary, its first floating point tensor is penalised.
        weight: λ, for all layers or by pattern, the first that matches counting.
        example: inputs of the model, for penalties that hold parameters for each layer (`layershift.nn
            .VarianceConstancy`): a tensor, a batch of a loader whose first entry is the input, or a mapping of keyword
            arguments. The model sees it once, in evaluation mode and without gradients.

    Returns:
        A handle with `.loss()` and `.remove()`, also a context manager.

    Raises:
        ValueError: if a pattern matches no layer (the message lists the nearest names), a layer has no weight, or the
            penalty needs an example, or a record, that it has not.

    Example:
        >>> import layershift as ls
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with regularize(model, ls.nn.PER(), layers=nn.ReLU, weight=1e-4) as penalty:
        ...     loss = model(torch.randn(16, 4)).square().mean() + penalty.loss()
        ...     loss.backward()
    """
    chosen = select_layers(model, layers)
    if not callable(penalty) or isinstance(penalty, type):
        raise TypeError(f"penalty: expected a module or function of activations, got {penalty!r}")
    weights = _weights(model, chosen, weight)
    if isinstance(penalty, LayerPenalty):
        outputs = None if example is None else outputs_of(model, chosen, example, argument="example")
        penalty.prepare(list(chosen), outputs)
    return Regularization(model, penalty, chosen, weights)


def _weights(
    model: nn.Module, chosen: Mapping[str, nn.Module], weight: float | Mapping[str, float]
) -> dict[str, float]:
    if not isinstance(weight, Mapping):
        check_number("weight", weight)
        return dict.fromkeys(chosen, float(weight))
    weights: dict[str, float] = {}
    for pattern, value in weight.items():
        for name in select_layers(model, pattern):
            check_number("weight", value)
            weights.setdefault(name, float(value))
    without = [name for name in chosen if name not in weights]
    check(not without, "weight", "a weight for every layer", f"none for {', '.join(without)}")
    return {name: weights[name] for name in chosen}
