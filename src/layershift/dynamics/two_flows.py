"""Theorem 2 of the paper as an experiment: the normalised flow and the flow on the manifold, in many settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from layershift._seeds import derive_seed
from layershift.dynamics.flows import flow
from layershift.dynamics.losses import Activation, Loss
from layershift.dynamics.metric import to_ellipsoid
from layershift.dynamics.network import random_particles
from layershift.dynamics.planar import centred_sample
from layershift.dynamics.results import Curve, Experiment, Plot, claim_of
from layershift.dynamics.steps import descend
from layershift.dynamics.velocities import Problem


class Case(NamedTuple):
    """A setting of theorem 2: dimension, condition number of the covariance, activation, loss."""

    d: int
    condition: float
    activation: Activation
    loss: Loss

    def __str__(self) -> str:
        return f"d = {self.d}, κ(Σ) = {self.condition:.0e}, {self.activation}, {self.loss}"


CASES = (
    Case(2, 1e1, "tanh", "squared"),
    Case(10, 1e3, "softplus", "logistic"),
    Case(50, 1e6, "tanh", "squared"),
)


def random_covariance(d: int, condition: float, *, seed: int = 0) -> Tensor:
    """A random covariance with given condition number: eigenvalues at equal ratios from 1 down, random axes.

    Args:
        d: dimension.
        condition: largest over least eigenvalue.
        seed: of the axes.

    Returns:
        Shape `(d, d)`, in float64.

    Example:
        >>> values = torch.linalg.eigvalsh(random_covariance(3, 100.0))
        >>> round(float(values[-1] / values[0]), 6)
        100.0
    """
    g = torch.Generator().manual_seed(seed)
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))
    values = torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)
    made: Tensor = (axes * values) @ axes.mT
    return (made + made.mT) / 2


def random_problem(case: Case, n: int, *, seed: int = 0) -> Problem:
    """A teacher with three neurons on Gaussian data; the logistic loss gets its sign.

    Args:
        case: setting.
        n: data.
        seed: of covariance, data and teacher.

    Returns:
        The problem, in float64.
    """
    sigma = random_covariance(case.d, case.condition, seed=derive_seed(seed, 0))
    x = centred_sample(n, sigma, seed=derive_seed(seed, 1))
    _, b = random_particles(case.d, 3, seed=derive_seed(seed, 2), dtype=torch.float64)
    y = (x @ to_ellipsoid(b, sigma).mT).tanh() @ torch.tensor([2.0, -1.5, 1.0], dtype=torch.float64)
    return Problem(x, y.sign() if case.loss == "logistic" else y, sigma, case.loss, case.activation)


def theorem2(
    *,
    cases: Sequence[Case] = CASES,
    m: int = 20,
    n: int = 100,
    rtol: float = 1e-9,
    halvings: int = 4,
    seed: int = 0,
) -> Experiment:
    """Theorem 2: the normalised network's flow and the plain network's flow on the manifold are one.

    Each case runs both flows by an adaptive method until the loss has halved, then both descents with finite steps.
    Activations should be smooth: the adaptive method crawls over the kinks of ReLU.

    Args:
        cases: settings.
        m: neurons.
        n: data, at least; twice the dimension is added.
        rtol: relative tolerance of the integration; the absolute one is a hundredth of it.
        halvings: of the step, for the order of the gap between the descents.
        seed: of the problems and starts.

    Returns:
        The experiment.
    """
    gaps, printed, drift, exact, orders, falls, curves = [], [], [], [], [], [], []
    for k, case in enumerate(cases):
        problem = random_problem(case, n + 2 * case.d, seed=derive_seed(seed, k))
        a, b = random_particles(case.d, m, seed=derive_seed(seed, k, 1), dtype=torch.float64)
        lengths = 0.5 + 1.5 * torch.rand(m, 1, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        b, bar = b * lengths, to_ellipsoid(b, problem.sigma)
        end = _halving_time(problem, a, b)
        times = torch.linspace(0, end, 9, dtype=torch.float64)
        options = {"times": times, "rtol": rtol, "atol": rtol / 100}
        euclid = flow(problem, a, b, kind="batch_norm", **options)  # type: ignore[arg-type]
        own = flow(problem, a, bar, kind="manifold", norms=lengths[:, 0], **options)  # type: ignore[arg-type]
        as_printed = flow(problem, a, bar, kind="manifold", **options)  # type: ignore[arg-type]
        seen = to_ellipsoid(euclid.b, problem.sigma)
        gaps.append(_gap(euclid.a, seen, own.a, own.b))
        printed.append(_gap(euclid.a, seen, as_printed.a, as_printed.b))
        drift.append(float((euclid.b.norm(dim=-1) / lengths[:, 0] - 1).abs().max()))
        falls.append(float(euclid.loss[-1] / euclid.loss[0]))
        curves += [Curve(str(case), (times / times[-1]).tolist(), (euclid.loss / euclid.loss[0]).tolist())]
        short = min(end, 4.0)  # long enough to tell an order; steps of 0.04 and less are stable in these cases
        coarse = max(math.ceil(short / 0.04), 25)
        steps = [_descents(problem, a, b / lengths, short, coarse * 2**j) for j in range(halvings + 1)]
        exact.append(max(own for own, _ in steps))
        x, y = torch.arange(halvings + 1.0), torch.tensor([gap for _, gap in steps]).log2()
        orders.append(-float(((x - x.mean()) * y).sum() / (x - x.mean()).square().sum()))
    told = "One number a case: " + "; ".join(map(str, cases)) + "."
    claims = [
        claim_of(
            "Both flows agree: (a, b̄) of the normalised network and of the plain one on the manifold",
            gaps,
            expected="0; under 1e-6 at this tolerance",
            holds=max(gaps) < 1e-6,
            note=f"Largest relative gap at nine times, until the loss has fallen to {max(falls):.2f} or less. {told}",
        ),
        claim_of(
            "Eq. 7 as printed, for neurons of lengths from 0.5 to 2",
            printed,
            expected="0",
            holds=max(printed) < 1e-6,
            note="It holds for ‖b‖ = 1, which the paper assumes without loss of generality. For other lengths the part "
            "of b̄ is divided by ‖b‖², as in the row above.",
        ),
        claim_of(
            "The flow conserves ‖b‖",
            drift,
            expected="0",
            holds=max(drift) < 1e-6,
            note="Largest relative change. " + told,
        ),
        claim_of(
            "With finite steps both agree if every neuron has its own rate η/‖b‖²",
            exact,
            expected="0, up to rounding",
            holds=max(exact) < 1e-9,
            note="Largest relative gap after a time of 4 at most, over all lengths of a step. " + told,
        ),
        claim_of(
            "With one rate for all they part, to first order in the step",
            orders,
            expected="order 1",
            holds=all(abs(order - 1) < 0.1 for order in orders),
            note=f"Order of the gap over {halvings} halvings of the step. " + told,
        ),
    ]
    settings = {"cases": [str(case) for case in cases], "neurons": m, "data": f"{n} + 2d", "tolerance": rtol}
    statement = (
        "The gradient flow of the network with batch normalisation, in Euclidean space, is the gradient flow of the "
        "plain network on a manifold with a metric that depends on the data's covariance."
    )
    plots = [Plot("loss", "Loss, as a share of that at the start", "time, as a share of the longest", "share", curves)]
    settings = settings | {"seed": seed}
    return Experiment("theorem", 2, "Two flows that are one", statement, settings, claims, plots)


def _halving_time(problem: Problem, a: Tensor, b: Tensor) -> float:
    """A power of two by which the loss has fallen by half."""
    end = 1.0
    while end < 2**14:
        times = torch.tensor([0, end], dtype=torch.float64)
        loss = flow(problem, a, b, kind="batch_norm", times=times, rtol=1e-4, atol=1e-6).loss
        if loss[1] <= loss[0] / 2:
            break
        end *= 2
    return end


def _gap(a: Tensor, b: Tensor, other_a: Tensor, other_b: Tensor) -> float:
    """The largest distance over times, relative to the size of all parameters."""
    x, y = (torch.cat([k[..., None], v], -1).flatten(1) for k, v in ((a, b), (other_a, other_b)))
    return float(((x - y).norm(dim=1) / x.norm(dim=1)).max())


def _descents(problem: Problem, a: Tensor, b: Tensor, end: float, steps: int) -> tuple[float, float]:
    """Gaps between normalised and manifold descent at the end: with a rate of its own for each neuron, and without."""
    ends = []
    for kind, norms in (("batch_norm", None), ("manifold", torch.ones_like(a)), ("manifold", None)):
        at = b.clone() if kind == "batch_norm" else to_ellipsoid(b, problem.sigma)
        options = {"rate": end / steps, "steps": steps, "record": (steps,), "norms": norms}
        found = descend(problem, a.clone(), at, kind=kind, **options)  # type: ignore[arg-type]
        ends.append((found.a, to_ellipsoid(found.b, problem.sigma)))
    return _gap(*ends[0], *ends[1]), _gap(*ends[0], *ends[2])
