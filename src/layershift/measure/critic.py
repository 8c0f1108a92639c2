r"""The critic of Wasserstein GANs as an estimator of how far layers have moved, for all layers in one pass.

$W_1=\sup_{\operatorname{Lip}f\le1}E f(x)-E f(y)$; a critic is a network $f_w$ trained to make the difference large.
Critics of layers of one shape are trained side by side: their weights are stacked, each operation is one batched call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_floating,
    check_not_empty,
    check_number,
    check_seed,
    check_type,
)
from layershift._seeds import derive_seed
from layershift.measure.stacked import StackedCritics

Constraint: TypeAlias = Literal["clip", "spectral", "penalty"]
_LEARNING_RATE = {"clip": 5e-5, "spectral": 1e-2, "penalty": 5e-3}
_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class Critic:
    r"""How a critic is built and trained; the defaults are those of the paper (Algorithm 3, appendix B.2).

    Images `(C, H, W)` meet 3 × 3 convolutions of `widths` maps with strides 2, 1, 2, 1, … and padding 1, vectors meet
    dense layers of the same widths; then one linear unit. Weights start from He's initialisation, the same ones for
    each estimate of a shape.

    | `lipschitz` | during training | the estimate |
    | --- | --- | --- |
    | `"clip"` (the paper's) | weights clipped to ±`clip`, ReLU | the difference itself, $K\cdot W_1$ with K unknown |
    | `"spectral"` | weights divided by their norm, MaxMin | the difference over a guaranteed Lipschitz constant |
    | `"penalty"` | gradient norms pulled to 1, ReLU | the difference over the largest gradient norm that was met |

    Of these only `"spectral"` is certified: a lower bound on $W_1$ between the samples, whatever the training did.
    Use it with `activation="linear"`; a sigmoid has slope at most 1/4, and less away from 0.

    Args:
        lipschitz: how the critic is kept from being steep.
        activation: of the last unit; the paper's is the sigmoid.
        steps: updates of the weights.
        batch_size: pairs in one update, drawn with replacement.
        clip: the paper's bound c on weights, for `"clip"`.
        learning_rate: the paper only says "update w by g_w". By default RMSprop at 5e-5 for `"clip"`, as in the WGAN it
            follows, Adam at 1e-2 for `"spectral"` and 5e-3 for `"penalty"`, falling linearly to 0.
        penalty_weight: of `"penalty"`.
        widths: maps or units of the hidden layers; even numbers for `"spectral"`.
        holdout: the share of pairs that are kept from training and alone evaluated; 0 trains and evaluates on all.
        seed: of weights, batches and holdout.

    Raises:
        ValueError: if an option is out of range.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        appendix B; M. Arjovsky, S. Chintala, L. Bottou, 2017, "Wasserstein GAN"; I. Gulrajani et al., 2017, "Improved
        training of Wasserstein GANs"; C. Anil, J. Lucas, R. Grosse, 2019, "Sorting out Lipschitz function
        approximation".

    Example:
        >>> x = torch.randn(256, 4)
        >>> critic = Critic(lipschitz="spectral", activation="linear", steps=100, widths=(32, 32))
        >>> (estimate,) = critic_distances([(x + 1, x)], critic)
        >>> bool(1.5 < estimate.value <= 2)  # W1 is 2
        True
    """

    lipschitz: Constraint = "clip"
    activation: Literal["sigmoid", "linear"] = "sigmoid"
    steps: int = 1500
    batch_size: int = 128
    clip: float = 0.01
    learning_rate: float | None = None
    penalty_weight: float = 10.0
    widths: tuple[int, ...] = (64, 64, 128, 128)
    holdout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("lipschitz", self.lipschitz, ("clip", "spectral", "penalty"))
        check_choice("activation", self.activation, ("sigmoid", "linear"))
        check_count("steps", self.steps, "a number of updates, 0 or more", least=0)
        check_count("batch_size", self.batch_size, "a number of pairs, 1 or more")
        check_number("clip", self.clip, "a positive number", above=0)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, "a positive number", above=0)
        check_number("penalty_weight", self.penalty_weight, "a number, 0 or more", least=0)
        check_seed("seed", self.seed)
        check_type("widths", self.widths, (tuple, list), "positive numbers, even for 'spectral'")
        whole = len(self.widths) > 0 and all(isinstance(width, int) and width > 0 for width in self.widths)
        even = whole and (self.lipschitz != "spectral" or all(width % 2 == 0 for width in self.widths))
        check(even, "widths", "positive numbers, even for 'spectral'", self.widths)
        check_number("holdout", self.holdout, "a share in [0, 1)", least=0, below=1)


class CriticDistance(NamedTuple):
    """What a critic found; tensors of shape `()`.

    Attributes:
        value: the estimate; see `Critic` for what it estimates.
        stderr: its standard error over the pairs that were evaluated, the critic held fixed; NaN for one pair.
        lipschitz: the Lipschitz constant of the critic: guaranteed for `"clip"` and `"spectral"`, measured for
            `"penalty"`. The estimates of the latter two are divided by it.
        n: how many pairs were evaluated.
    """

    value: Tensor
    stderr: Tensor
    lipschitz: Tensor
    n: int


def critic_distances(pairs: Sequence[tuple[Tensor, Tensor]], critic: Critic | None = None) -> list[CriticDistance]:
    """Train a critic for each layer, those of one shape side by side.

    Args:
        pairs: for each layer its samples now and before, the same inputs in the same order, both `(N, d)` or
            `(N, C, H, W)`.
        critic: how; by default as in the paper.

    Returns:
        The estimate of each. It does not depend on which other layers there are.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if a layer's two samples differ in shape, have another rank, or are empty.

    Example:
        >>> x = torch.randn(64, 4)
        >>> still, moved = critic_distances([(x, x), (x + 1, x)], Critic(steps=100))
        >>> float(still.value), bool(moved.value > 0)
        (0.0, True)
    """
    check_type("critic", critic, (Critic, type(None)), "a Critic, or None")
    critic = Critic() if critic is None else critic
    check_type("pairs", pairs, (list, tuple), "samples now and before, for each layer")
    for pair in pairs:
        check(isinstance(pair, tuple | list) and len(pair) == 2, "pairs", "samples now and before", type(pair).__name__)
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (x, y) in enumerate(pairs):
        check_floating("x", x)
        check(x.dim() in (2, 4), "x", "samples of shape (N, d) or (N, C, H, W)", x)
        check_not_empty("x", x)
        check_floating("y", y)
        check(x.shape == y.shape, "y", f"the same inputs' samples, shape {tuple(x.shape)}", y)
        groups.setdefault((x.shape, accumulation_dtype(x), x.device), []).append(i)
    found: dict[int, CriticDistance] = {}
    # A metric may be computed where gradients are off.
    with torch.inference_mode(False), torch.enable_grad():
        for members in groups.values():
            sides = [
                torch.stack([pairs[i][k].detach().to(accumulation_dtype(pairs[i][k])) for i in members]) for k in (0, 1)
            ]
            with torch.autocast(sides[0].device.type, enabled=False):
                found |= zip(members, _estimate(torch.stack(sides, 1), critic), strict=True)
    return [found[i] for i in range(len(pairs))]


def _estimate(data: Tensor, critic: Critic) -> list[CriticDistance]:
    """The estimates of L layers, from data of shape `(L, 2, N, …)`."""
    generator = torch.Generator().manual_seed(derive_seed(critic.seed, 1))
    n = data.shape[2]
    kept = round(n * critic.holdout)
    order = torch.randperm(n, generator=generator).to(data.device)
    test, train = (order[:kept], order[kept:]) if 0 < kept < n else (order, order)
    scale = torch.ones(len(data), dtype=data.dtype, device=data.device)
    if critic.lipschitz != "clip":  # a matter of units and origin: W1 scales with the data and ignores translations
        data = data - data.mean((1, 2), keepdim=True)
        scale = data.flatten(1).square().mean(1).sqrt()
        scale = torch.where(scale == 0, 1, scale)
        data = data / scale.view(-1, *[1] * (data.dim() - 1))
    critics = StackedCritics(
        len(data),
        data,
        data.shape[3:],
        widths=critic.widths,
        normalized=critic.lipschitz == "spectral",
        sigmoid=critic.activation == "sigmoid",
        seed=critic.seed,
    )
    chosen = torch.randint(len(train), (critic.steps, critic.batch_size), generator=generator).to(data.device)
    _train(critics, data, train[chosen], critic)
    critics.freeze()
    with torch.no_grad():
        differences = torch.cat(
            [_difference(critics, data.index_select(2, part)) for part in torch.split(test, _CHUNK)], 1
        )
    lipschitz = _steepest(critics, data, test) if critic.lipschitz == "penalty" else critics.lipschitz()
    if critic.lipschitz != "clip":
        differences = differences * (scale / torch.where(lipschitz > 0, lipschitz, 1)).unsqueeze(1)
    size = len(test)
    error = differences.std(1) / math.sqrt(size) if size > 1 else torch.full_like(scale, torch.nan)
    rows = zip(differences.mean(1), error, lipschitz, strict=True)
    return [CriticDistance(value, stderr, steepness, size) for value, stderr, steepness in rows]


def _difference(critics: StackedCritics, batch: Tensor) -> Tensor:
    """`f(x) - f(y)` of each pair, `(L, B)`, for a batch `(L, 2, B, …)`."""
    now, before = critics(batch.flatten(1, 2)).chunk(2, 1)
    return now - before


def _train(critics: StackedCritics, data: Tensor, batches: Tensor, critic: Critic) -> None:
    """Algorithm 3, lines 1 to 6: ascent on the difference of means."""
    rate = critic.learning_rate or _LEARNING_RATE[critic.lipschitz]
    if critic.lipschitz == "clip":
        optimizer: torch.optim.Optimizer = torch.optim.RMSprop(critics.parameters, lr=rate, maximize=True)
    else:
        optimizer = torch.optim.Adam(critics.parameters, lr=rate, betas=(0.5, 0.9), maximize=True)
    blend = torch.Generator(data.device).manual_seed(derive_seed(critic.seed, 2))
    for step, rows in enumerate(batches):
        batch = data.index_select(2, rows)
        gain = _difference(critics, batch).mean(1)
        if critic.lipschitz == "penalty":
            share = torch.rand(len(rows), generator=blend, dtype=data.dtype, device=data.device)
            slopes = critics.slopes(_between(batch, share))
            gain = gain - critic.penalty_weight * (slopes - 1).square().mean(1)
        if critic.lipschitz != "clip":
            optimizer.param_groups[0]["lr"] = rate * (1 - step / len(batches))
        # A layer's gain depends on its own weights alone, so the gradient of the sum is each one's own.
        gradients = torch.autograd.grad(gain.sum(), critics.parameters)
        for parameter, gradient in zip(critics.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if critic.lipschitz == "clip":
            with torch.no_grad():
                for parameter in critics.parameters:
                    parameter.clamp_(-critic.clip, critic.clip)


def _between(batch: Tensor, share: Tensor) -> Tensor:
    """Points between the two ends of each pair."""
    now, before = batch.unbind(1)
    return torch.lerp(before, now, share.view(1, -1, *[1] * (now.dim() - 2)))


def _steepest(critics: StackedCritics, data: Tensor, rows: Tensor) -> Tensor:
    """The largest gradient norm met at samples and between pairs, shape `(L,)`."""
    shares = torch.linspace(0, 1, 9, dtype=data.dtype, device=data.device)
    parts = [data.index_select(2, part) for part in torch.split(rows, _CHUNK)]
    met = [critics.slopes(_between(part, share.expand(part.shape[2]))).detach() for part in parts for share in shares]
    return torch.cat(met, 1).amax(1)
