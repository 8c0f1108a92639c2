"""Random covariances, problems and neurons that tests of the two-layer dynamics share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from layershift.dynamics.metric import to_ellipsoid
from layershift.dynamics.network import second_moment
from layershift.dynamics.velocities import Problem

DIMENSIONS = st.sampled_from([2, 3, 5, 17, 64, 200])
CONDITIONS = st.sampled_from([1.0, 1e2, 1e4, 1e6])
SEEDS = st.integers(0, 10_000)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=draw(seed))


def covariance(d: int, condition: float, seed: int) -> Tensor:
    """A random Σ with eigenvalues from 1 down to 1 over the condition, evenly in the logarithm."""
    turn = torch.linalg.qr(normal(d, d, seed=seed)).Q
    values = condition ** -torch.linspace(0, 1, d, dtype=torch.float64)
    sigma = turn * values @ turn.mT
    return (sigma + sigma.mT) / 2


def points(m: int, sigma: Tensor, seed: int) -> Tensor:
    """Random points on Ω."""
    return to_ellipsoid(normal(m, len(sigma), seed=seed), sigma)


def problem(
    n: int, d: int, *, loss="squared", activation="tanh", condition=10.0, seed=0, own=True, even=0.5
) -> Problem:
    """Targets of a random teacher, with an even part; Σ of the samples, or another one with that condition."""
    sigma = covariance(d, condition, seed)
    x = normal(n, d, seed=seed + 1) @ torch.linalg.cholesky(sigma).mT
    x -= x.mean(0)
    y = torch.tanh(2 * x @ normal(d, seed=seed + 2)) + even * (x @ normal(d, seed=seed + 3)).square()
    y = (y - y.mean()).sign() if loss == "logistic" else y
    return Problem(x, y, second_moment(x) if own else sigma, loss, activation)
