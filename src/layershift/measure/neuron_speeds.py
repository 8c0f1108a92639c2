r"""How fast normalised neurons turn: effective learning rates, and speed by direction, in any network.

What a normaliser follows does not depend on the length of a neuron's weights $w$, only on their direction. Gradient
descent at rate $\eta$ turns the direction, in a step, by

$$\frac{\eta\,\|g_\perp\|}{\|w\|}=\frac{\eta}{\|w\|^2}\cdot\|\nabla_{w/\|w\|}L\|,$$

so the neuron learns at the *effective rate* $\eta/\|w\|^2$. The gradient by the direction $u=w/\|w\|$ contains
$1/\sqrt{v}$, where $v=u^T\Sigma u$ is the variance of the inputs along it: neurons turn faster where they point along
directions in which the inputs are small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy

from layershift._checks import accumulation_dtype, check, check_count, check_number, check_type
from layershift.capture import LayerSelector, select_layers
from layershift.measure.estimate import Estimate
from layershift.nn.structure import channels, normalized_layers


class NeuronSpeeds(NamedTuple):
    r"""The neurons (output channels) of one layer; every tensor has shape `(channels,)`.

    Attributes:
        normalizer: name of the normaliser that follows.
        norm: length $\|w\|$ of each neuron's weights. Under group and layer normalisation only the weights of a group
            have no length that matters: there it is the group's, as are all others.
        effective_rate: $\eta/\|w\|^2$.
        variance: $v$, of the layer's inputs along the neuron's direction: the normaliser's running variance over
            $\|w\|^2$; None if it keeps none.
        speed: $\eta\|g_\perp\|/\|w\|$, radians that a step of plain gradient descent turns the direction by, to first
            order; None without gradients. Momentum and Adam turn it otherwise.
        radial: cosine between gradient and weights: 0 where the length truly does not matter; None without gradients.
    """

    normalizer: str
    norm: Tensor
    effective_rate: Tensor
    variance: Tensor | None
    speed: Tensor | None
    radial: Tensor | None


def speeds(
    model: nn.Module, *, lr: float | torch.optim.Optimizer = 1.0, layers: LayerSelector = "*"
) -> dict[str, NeuronSpeeds]:
    r"""Effective learning rate and speed by direction of every neuron that a normaliser follows.

    Reads weights, gradients (call it after `backward`) and running statistics; runs nothing.

    Args:
        model: the network. Which layer feeds which normaliser is found by `layershift.nn.structure.normalized_layers`.
        lr: the learning rate $\eta$, or the optimiser that knows each layer's; 1 gives rates for each unit of it.
        layers: which of them, by name pattern or class, see `layershift.capture.select_layers`.

    Returns:
        By layer, in the model's order. Parameters that are sharded over processes are gathered, on all of them.

    Raises:
        ValueError: if no layer among `layers` feeds a normaliser, a pattern matches nothing, or the optimiser does not
            hold a layer's weights.

    References:
        C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch
        normalization", section 3, for two layers.
        T. van Laarhoven, 2017, "L2 regularization versus batch and weight normalization", for the effective rate.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        >>> model(torch.randn(64, 3)).square().mean().backward()
        >>> found = speeds(model, lr=0.1)["0"]
        >>> torch.allclose(found.effective_rate, 0.1 / model[0].weight.square().sum(1))
        True
        >>> found.normalizer, bool((found.radial.abs() < 1e-2).all())  # not quite 0: BatchNorm adds eps
        ('1', True)
    """
    return {name: found for name, found, _ in _read(model, _pairs(model, layers), lr)}


class Speeds:
    r"""The same in a monitor, at each measured step: `layershift.Monitor(model, measures=[…, Speeds(lr=optimizer)])`.

    Records, for each layer that a normaliser follows, the mean over its neurons, with the standard error over neurons,
    and single neurons that are spread evenly:

    | name | meaning |
    | --- | --- |
    | `weight_norm` | $\|w\|$ |
    | `effective_rate` | $\eta/\|w\|^2$ |
    | `direction_variance` | of the layer's inputs along the neurons' directions, where the normaliser knows it |
    | `speed` | of a step of plain gradient descent, in radians, if there are gradients when the step ends |
    | `turn` | angle in radians to the directions at the measured step before, which any optimiser has made |

    It keeps one copy of these layers' directions.

    Args:
        lr: the learning rate, or the optimiser that knows it; 1 gives rates for each unit of it.
        layers: which layers, by name pattern or class.
        num_units: how many neurons of a layer are recorded one by one.

    Raises:
        ValueError: if `num_units` is negative.

    Example:
        >>> import layershift as ls
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ls.Monitor(model, measures=[Speeds(lr=optimizer)], every=1) as monitor:
        ...     for i in range(2):
        ...         with monitor.step(i):
        ...             optimizer.zero_grad()
        ...             model(torch.randn(64, 3)).square().mean().backward()
        ...             optimizer.step()
        ...     records = monitor.records()
        >>> [r.measure for r in records if r.step == 1 and r.unit is None and r.layer == "0"]
        ['weight_norm', 'effective_rate', 'direction_variance', 'speed', 'turn']
    """

    def __init__(
        self, *, lr: float | torch.optim.Optimizer = 1.0, layers: LayerSelector = "*", num_units: int = 8
    ) -> None:
        check_count("num_units", num_units, "a number of neurons, 0 or more", least=0)
        check_type("layers", layers, (str, type, Sequence), "a pattern, a module class, or a sequence of them")
        _rates(lr)
        self.lr, self.layers, self.num_units = lr, layers, num_units
        self._pairs: dict[str, str] = {}
        self._before: dict[str, Tensor] = {}

    def of_model(self, model: nn.Module) -> Iterator[tuple[str, list[int], dict[str, Estimate]]]:
        """The network as it is now.

        Args:
            model: the network, the same at each call.

        Yields:
            For each layer its name, which neurons stand alone, and estimates by name; those of single neurons end in
            "/units".
        """
        rate = "learning rate" if isinstance(self.lr, torch.optim.Optimizer) else f"{self.lr:g}"
        self._pairs = self._pairs or _pairs(model, self.layers)
        for name, found, now in _read(model, self._pairs, self.lr):
            before, self._before[name] = self._before.get(name), now
            turn = None if before is None else _each(_angle(now, before), len(found.norm))
            numbers = {
                "weight_norm": (found.norm, "norm of the weights", "w"),
                "effective_rate": (found.effective_rate, f"{rate} / norm²", "1/w^2"),
                "direction_variance": (found.variance, "running variance / norm²", "x^2"),
                "speed": (found.speed, f"{rate} · gradient across / norm", "rad"),
                "turn": (turn, "angle to the direction at the measured step before", "rad"),
            }
            units = torch.linspace(0, len(found.norm) - 1, min(self.num_units, len(found.norm))).round().long()
            yield name, units.tolist(), dict(_estimates(numbers, units))


def _estimates(numbers: Mapping[str, tuple[Tensor | None, str, str]], units: Tensor) -> Iterator[tuple[str, Estimate]]:
    at: Tensor | None = None
    for key, (values, how, unit) in numbers.items():
        if values is None:
            continue
        at = units.to(values.device, non_blocking=True) if at is None else at
        n = values.new_full((), len(values))
        spread = values.std() / n.sqrt() if len(values) > 1 else torch.full_like(n, torch.nan)
        yield key, Estimate(values.mean(), spread, n, estimator=f"{how}; mean over neurons", units=unit)
        if len(units):
            alone = values[at]
            unknown = torch.full_like(alone, torch.nan)
            yield f"{key}/units", Estimate(alone, unknown, torch.ones_like(alone), estimator=how, units=unit)


def _pairs(model: nn.Module, layers: LayerSelector) -> dict[str, str]:
    """Layers and the normalisers that follow them."""
    chosen, modules = select_layers(model, layers), dict(model.named_modules())
    found = {name: norm for name, norm in normalized_layers(model).items() if name in chosen}
    found = {name: norm for name, norm in found.items() if _weight(modules[name]) is not None}
    check(bool(found), "layers", "linear layers or convolutions that a normaliser follows", repr(layers))
    return found


def _read(
    model: nn.Module, pairs: Mapping[str, str], lr: float | torch.optim.Optimizer
) -> Iterator[tuple[str, NeuronSpeeds, Tensor]]:
    """Of each layer its name, speeds, and directions `(groups, -1)`."""
    modules, rate_of = dict(model.named_modules()), _rates(lr)
    for name, norm in pairs.items():
        weight = _weight(modules[name])
        assert weight is not None
        rate = rate_of(weight)
        check(rate is not None, "lr", f"an optimiser that holds the weights of layer {name!r}", "one that does not")
        yield name, *_speeds(modules[name], weight, norm, modules[norm], rate)


@torch.no_grad()
def _speeds(
    layer: nn.Module, weight: nn.Parameter, norm_name: str, norm: nn.Module, rate: Any
) -> tuple[NeuronSpeeds, Tensor]:
    size, groups = channels(layer), _groups(norm, layer)
    assert size is not None
    rows = _rows(layer, weight, groups)
    norms = rows.norm(dim=1)
    direction = rows / norms[:, None]
    speed = radial = variance = None
    if weight.grad is not None:
        slopes = _rows(layer, weight.grad, groups)
        along = (slopes * direction).sum(1)
        speed = _each(rate * (slopes - along[:, None] * direction).norm(dim=1) / norms, size)
        radial = _each(along / slopes.norm(dim=1), size)
    if isinstance(getattr(norm, "running_var", None), Tensor):
        variance = norm.running_var.to(norms) / norms.square()
    effective = _each(rate / norms.square(), size)
    return NeuronSpeeds(norm_name, _each(norms, size), effective, variance, speed, radial), direction


def _rates(lr: float | torch.optim.Optimizer) -> Callable[[Tensor], Any]:
    """The rate at which a parameter learns; None if the optimiser does not know it."""
    if not isinstance(lr, torch.optim.Optimizer):
        check_number("lr", lr, "a positive number or an optimiser", above=0)
        return lambda _: lr
    known = {id(p): group["lr"] for group in lr.param_groups for p in group["params"]}
    return lambda weight: known.get(id(weight))


def _weight(layer: nn.Module) -> nn.Parameter | None:
    """The weights, if they are a parameter that is there: not a lazy layer's, nor what a parametrisation makes."""
    weight = layer._parameters.get("weight")
    return None if weight is None or is_lazy(weight) else weight


def _groups(norm: nn.Module, layer: nn.Module) -> int:
    """How many groups of channels are normalised, each by a scale of its own."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return 1
    size = channels(layer)
    assert size is not None
    return size


def _rows(layer: nn.Module, weight: Tensor, groups: int) -> Tensor:
    """Weights `(groups, -1)`, in float32 or better."""
    full = getattr(weight, "full_tensor", None)  # of a tensor that is sharded over processes
    weight = (weight if full is None else full()).detach()
    weight = weight.to(accumulation_dtype(weight))
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, …)
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2)
    return weight.reshape(groups, -1)


def _angle(u: Tensor, v: Tensor) -> Tensor:
    """Between unit vectors; exact for small angles, which an arc cosine is not."""
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def _each(values: Tensor, size: int) -> Tensor:
    """Of every group, for each of its channels."""
    return values.repeat_interleave(size // len(values))
