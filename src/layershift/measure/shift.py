"""How far a layer's outputs have moved between two times, with bracket and error bar, as a stream of paired samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_floating,
    check_not_empty,
    check_seed,
    check_type,
)
from layershift.functional.kept import kept
from layershift.functional.sliced import directions
from layershift.functional.transport import exact_wasserstein, gaussian_fit_wasserstein, sliced_transport
from layershift.functional.wasserstein1d import Order
from layershift.measure.critic import Critic, CriticDistance, critic_distances
from layershift.measure.estimate import Estimate
from layershift.measure.pairs import PairSums, ShiftBounds, choose, pair_sums, priorities, shift_bounds

Estimator: TypeAlias = Literal["exact", "sliced", "gaussian", "critic"]
_SAMPLES = {"exact": 512, "sliced": 4096, "gaussian": 512, "critic": 512}
_ORDERS: dict[str, tuple[Order, ...]] = {"exact": (1, 2), "sliced": (1, 2), "gaussian": (2,), "critic": (1,)}


class Shift(Metric):
    r"""Internal covariate shift: the Wasserstein distance of a layer's outputs to what they were.

    A sample is one image's whole map, flattened to $\mathbb R^d$. Both distributions come from the same inputs, so each
    estimate has a bracket for nothing, $\|E x-E y\|\le W_p\le(E\|x-y\|^p)^{1/p}$.

    | `estimator` | value | `lower`, `upper` | kept | cost |
    | --- | --- | --- | --- | --- |
    | `"sliced"` | $SW_1/c_d$ (p = 1), $\sqrt d\,SW_2$ (p = 2): at most $W_p$ | of $W_p$ | projections | sorting |
    | `"exact"` | $W_p$ by a linear program (extra `ot`) | of $W_p$ | samples | $n^3$, CPU |
    | `"gaussian"` | $W_2$ between Gaussian fits: at most $W_2$ | of $W_2$; value is lower | samples | an SVD |
    | `"critic"` | what `Critic` says | of $W_1$; for `"clip"` of the value | samples | training a network |

    The lower end is the sliced distance less three standard errors of its directions, never below the distance of the
    means. A critic that is divided by its Lipschitz constant may stay below it: then the free bracket knows more. A
    clipped one is $K\cdot W_1$ with K unknown; its bracket is 0 and $L\cdot E\|x-y\|$ with $L$ a guaranteed Lipschitz
    constant of this critic. `"gaussian"` estimates $W_2\ge W_1$ and need not lie in the bracket of $W_1$.

    All of it, the brackets too, is about the samples at hand: at most `max_samples` pairs, of more a uniform choice
    without replacement. (For `"sliced"` means and bracket are those of all pairs seen.) As a statement about all inputs
    it has the standard error, which is over pairs. Nothing is resampled: errors come from the influence of each pair,
    for `"critic"` with the critic held fixed, for `"sliced"` with the directions added. A layer that has not moved
    shows 0, not a floor, since its pairs are equal; but the exact distance of few samples in many dimensions is above
    that of the distributions, up to the upper end, because the pairing is then close to the best coupling.

    Args:
        estimator: see the table.
        p: 1 or 2, of `"exact"` and `"sliced"`; by default 1. `"gaussian"` is 2, `"critic"` 1.
        max_samples: how many pairs are kept; by default 4096 for `"sliced"`, else 512.
        num_projections: how many directions, of `"sliced"` and of the lower ends.
        critic: options of `"critic"`.
        seed: of the directions and of the choice of pairs.
        **kwargs: options of `torchmetrics.Metric`.

    Returns:
        `compute()` gives an `Estimate` of shape `()`; `n` counts the pairs that the value rests on.

    Raises:
        ValueError: if an option is out of range or does not fit the estimator, or samples do not pair.
        TypeError: if `update` does not get floating point tensors.
        ModuleNotFoundError: if `"exact"` is computed without POT.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs", eq. 2.

    Example:
        >>> shift = Shift()
        >>> for _ in range(4):
        ...     before = torch.randn(64, 3, 4, 4)
        ...     shift.update(before + 0.5, before)
        >>> estimate = shift.compute()
        >>> round(float(estimate.value), 4), float(estimate.n)  # 0.5 √48
        (3.4641, 256.0)
    """

    full_state_update = False
    needs_reference: ClassVar[bool] = True  # update takes a layer's outputs now and before
    priority: list[Tensor] | Tensor
    kept: list[Tensor] | Tensor  # tensors once they have been gathered from all ranks
    sums: Tensor
    largest: Tensor
    means: Tensor

    def __init__(
        self,
        *,
        estimator: Estimator = "sliced",
        p: Order | None = None,
        max_samples: int | None = None,
        num_projections: int = 128,
        critic: Critic | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("estimator", estimator, tuple(_SAMPLES))
        check_choice("p", _ORDERS[estimator][0] if p is None else p, _ORDERS[estimator])
        max_samples = _SAMPLES[estimator] if max_samples is None else max_samples
        check_count("max_samples", max_samples, "a number of pairs, 1 or more")
        check_count("num_projections", num_projections, "a number of directions, 1 or more")
        check_seed("seed", seed)
        check_type("critic", critic, (Critic, type(None)), "a Critic, or None")
        check(critic is None or estimator == "critic", "critic", "None unless estimator='critic'", critic)
        self.estimator, self.p = estimator, _ORDERS[estimator][0] if p is None else p
        self.max_samples, self.num_projections, self.seed = max_samples, num_projections, seed
        self.critic = Critic() if critic is None else critic
        # The kept pairs are those of least priority, on every rank and after merging, and that is a uniform choice.
        self.add_state("priority", [], dist_reduce_fx="cat")
        self.add_state("kept", [], dist_reduce_fx="cat")
        # What a stream of projections cannot tell; the other estimators keep the samples.
        self.add_state("sums", torch.zeros(PairSums.size(), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("means", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("largest", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    @property
    def measure_name(self) -> str:
        """What a monitor records the number as: each estimator stands for itself."""
        return f"shift/{self.estimator}"

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in the outputs of a layer for some inputs, at both times.

        Args:
            x: activations now, shape `(N, C, …)`.
            y: activations before, for the same inputs in the same order, shape `(N, C, …)`.
        """
        for argument, samples in (("x", x), ("y", y)):
            check_floating(argument, samples)
        check(x.dim() >= 2, "x", "a tensor of shape (N, C, …)", x)
        check_not_empty("x", x)
        check(x.shape == y.shape, "y", f"the same inputs' samples, shape {tuple(x.shape)}", y)
        assert isinstance(self.kept, list)
        assert isinstance(self.priority, list)
        if self.sums.device != x.device:
            self.to(x.device)
        dtype = torch.promote_types(x.dtype, y.dtype)
        with torch.autocast(x.device.type, enabled=False):
            x, y = x.detach().to(dtype), y.detach().to(dtype)
            if self.estimator == "sliced":
                added = pair_sums(x.flatten(1), y.flatten(1))
                self.sums, self.means = self.sums + added.sums, self.means + added.means
                self.largest = torch.maximum(self.largest, added.largest)
                x, y = self._projected(x.flatten(1)), self._projected(y.flatten(1))
            self.kept.append(torch.stack([x, y], 1))
        self.priority.append(priorities(len(x), self.seed, self._update_count, x.device))
        if sum(map(len, self.kept)) > self.max_samples:
            joined = choose(torch.cat(self.priority), torch.cat(self.kept), self.max_samples)
            self.priority[:], self.kept[:] = [joined[0]], [joined[1]]

    def _projected(self, x: Tensor) -> Tensor:
        columns = _directions(x.shape[1], self.num_projections, self.seed, x.device, accumulation_dtype(x))
        return x.to(columns.dtype) @ columns

    def compute(self) -> Estimate:
        """The distance over everything since the last `reset`."""
        return self.compute_all([self])[0]

    @staticmethod
    def compute_all(metrics: Sequence[Shift]) -> list[Estimate]:
        """What `compute` gives, for metrics with the same options; critics of all layers are trained side by side.

        Args:
            metrics: not reduced across ranks.

        Returns:
            The estimate of each. `seconds` of critics that are trained together is an equal share.
        """
        start = time.perf_counter()
        critics = [i for i, metric in enumerate(metrics) if metric.estimator == "critic"]
        found: dict[int, CriticDistance] = {}
        for options in {metrics[i].critic for i in critics}:
            members = [i for i in critics if metrics[i].critic == options]
            pairs = [_for_critic(*metrics[i]._pairs()) for i in members]
            found |= zip(members, critic_distances(pairs, options), strict=True)
        share = (time.perf_counter() - start) / max(len(critics), 1)
        with torch.autocast(metrics[0].sums.device.type, enabled=False):
            return [metric._estimate(found.get(i), share) for i, metric in enumerate(metrics)]

    def bounds(self, alpha: float | Tensor | None = None, *, p: int = 2, C: float | None = None) -> ShiftBounds:
        """The theorems' bounds for this layer's samples, beside the bracket and the estimate.

        Args:
            alpha: the parameter of a unitized layer, a number or a vector; None for other layers.
            p: which moment theorem 2 looks at, 2 or more.
            C: where theorem 2 clips; by default nowhere.

        Returns:
            Numbers by name; `str()` of it is a table.

        Raises:
            ValueError: if an option is out of range, or `"sliced"`, which keeps no samples, is asked for a p above 4 or
                a C.
        """
        estimate = self.compute()
        if self.estimator == "sliced":
            return shift_bounds(self._seen(), None, alpha=alpha, p=p, C=C, estimate=estimate)
        x, y = (side.flatten(1) for side in self._pairs())
        return shift_bounds(pair_sums(x, y), (x, y), alpha=alpha, p=p, C=C, estimate=estimate)

    def _seen(self) -> PairSums:
        return PairSums(self.sums, self.means, self.largest)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """The kept pairs: of `"sliced"` their projections."""
        priority = self.priority if isinstance(self.priority, Tensor) else torch.cat(self.priority)
        kept = self.kept if isinstance(self.kept, Tensor) else torch.cat(self.kept)
        x, y = choose(priority, kept, self.max_samples)[1].unbind(1)
        return x, y

    def _estimate(self, found: CriticDistance | None, seconds: float) -> Estimate:
        start = time.perf_counter()
        x, y = (side.flatten(1).to(torch.float64) for side in self._pairs())
        seen = self._seen() if self.estimator == "sliced" else pair_sums(x, y)
        bracket = seen.bracket(self.p)
        along = (x, y) if self.estimator == "sliced" else (self._projected(x), self._projected(y))
        sliced = sliced_transport(*along, bracket.lower, d=seen.means.shape[-1], p=self.p)
        lower, upper, n, name = torch.minimum(sliced.lower, bracket.upper), bracket.upper, len(x), ""
        if self.estimator == "sliced":
            # The mean over all directions is not above the upper end; one over a few may be.
            value, stderr = torch.minimum(sliced.value, upper), sliced.stderr
            name = f"sliced W{self.p} on the scale of W{self.p}, {self.num_projections} directions; standard error over"
            name += " pairs and directions"
        elif self.estimator == "exact":
            value, stderr = exact_wasserstein(x, y, p=self.p)
            name = f"exact W{self.p} of these pairs; standard error by dual potentials over pairs"
        elif self.estimator == "gaussian":
            value, stderr = gaussian_fit_wasserstein(x, y)
            lower = value
            name = "W2 between Gaussian fits, a lower bound on W2; standard error by influence over pairs"
        else:
            assert found is not None
            value, stderr, n = found.value, found.stderr, found.n
            if self.critic.lipschitz == "clip":
                lower, upper = torch.zeros_like(upper), upper * found.lipschitz
            name = _words(self.critic)
        value, stderr = value.to(torch.float64), stderr.to(torch.float64)
        size = torch.full_like(value, n)
        units = "K·x" if self.estimator == "critic" and self.critic.lipschitz == "clip" else "x"
        seconds = time.perf_counter() - start + (0 if found is None else seconds)
        return Estimate(value, stderr, size, lower, upper, estimator=name, units=units, seconds=seconds)


@kept(maxsize=4)  # layers of one size follow each other; more entries would hold on to much memory
def _directions(size: int, count: int, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The same directions for every layer of this size, as columns."""
    generator = torch.Generator().manual_seed(seed)
    return directions(size, count, generator=generator, device=device, dtype=dtype).mT


def _words(critic: Critic) -> str:
    """What a critic's number is."""
    kind = {
        "clip": f"K·W1 with K unknown, weights clipped to {critic.clip:g}",
        "spectral": "a certified lower bound on W1",
        "penalty": "W1 by gradient penalty, over the largest slope met",
    }[critic.lipschitz]
    return f"critic, {kind}, {critic.activation}, {critic.steps} steps; standard error over pairs, critic fixed"


def _for_critic(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Images as they are, everything else as vectors."""
    return (x, y) if x.dim() == 4 else (x.flatten(1), y.flatten(1))
