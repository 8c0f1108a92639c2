"""Sliced Wasserstein distances: those of samples projected on random directions, to N(0, I) and between samples."""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import (
    accumulation_dtype,
    check,
    check_count,
    check_device,
    check_dtype,
    check_floating,
    check_generator,
    check_rank,
    check_readable,
    check_samples,
)
from layershift.functional.wasserstein1d import Order, wasserstein, wasserstein_normal


def directions(
    d: int,
    num: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent uniform directions on the unit sphere.

    Args:
        d: dimension.
        num: how many.
        generator: source of randomness; directions are drawn on its device, so that a CPU generator with one seed gives
            the same ones on every device and rank. By default the global one of `device`.
        device: where the result lies.
        dtype: of the result.

    Returns:
        Rows of length 1, shape `(num, d)`.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> torch.allclose(directions(3, 2).norm(dim=1), torch.ones(2))
        True
    """
    check_count("d", d, "a dimension of at least 1")
    check_count("num", num, "at least 1")
    check_generator("generator", generator)
    check_device("device", device)
    check_dtype("dtype", dtype)
    drawn_on = device if generator is None else generator.device
    noise = torch.randn(num, d, generator=generator, device=drawn_on, dtype=dtype)
    unit: Tensor = noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    return unit.to(device)


def sliced_wasserstein_normal(
    x: Tensor,
    p: Order = 1,
    num_projections: int = 256,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""$W_p$ to N(0, 1) of samples along random directions.

    The mean is the sliced $W_1$ to N(0, I) for p = 1; for p = 2 the sliced $W_2$ is the root of the mean square.
    For its standard error and for what N(0, I) itself would show see `layershift.functional.normal_distance`.

    Args:
        x: samples of shape `(N, d)`.
        p: 1 or 2.
        num_projections: how many directions are drawn, unless `directions` are given.
        directions: unit rows of shape `(P, d)`.
        generator: source of the directions.

    Returns:
        $W_p$ along each direction, shape `(P,)`.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if shapes do not fit, there is no sample, or an option has another value.

    Example:
        >>> x = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
        >>> bool(sliced_wasserstein_normal(x).mean() < 0.06)
        True
    """
    return wasserstein_normal(_project(_directions_for(x, num_projections, directions, generator), "x", x), p)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    p: Order = 1,
    num_projections: int = 256,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""$W_p$ between two samples along random directions.

    Args:
        x: samples of shape `(N, d)`.
        y: samples of shape `(M, d)`.
        p: 1 or 2.
        num_projections: how many directions are drawn, unless `directions` are given.
        directions: unit rows of shape `(P, d)`.
        generator: source of the directions.

    Returns:
        $W_p$ along each direction, shape `(P,)`.

    Raises:
        TypeError: if a sample is not floating point.
        ValueError: if shapes do not fit, there is no sample, or an option has another value.

    Example:
        >>> x = torch.randn(50, 16)
        >>> sliced_wasserstein(x, x, num_projections=3)
        tensor([0., 0., 0.])
    """
    rows = _directions_for(x, num_projections, directions, generator)
    return wasserstein(_project(rows, "x", x), _project(rows, "y", y), p)


def _directions_for(x: Tensor, num: int, given: Tensor | None, generator: torch.Generator | None) -> Tensor:
    check_floating("x", x)
    check_readable("x", x)
    check_rank("x", x, (2,), "(N, d)")
    check(x.shape[1] > 0, "x", "shape (N, d), d ≥ 1", x)
    dtype = accumulation_dtype(x)
    if given is None:
        check_count("num_projections", num, "at least 1")
        return directions(x.shape[1], num, generator=generator, device=x.device, dtype=dtype)
    check_floating("directions", given, x)
    fits = given.dim() == 2 and len(given) > 0 and given.shape[1] == x.shape[1]
    check(fits, "directions", f"shape (P, {x.shape[1]})", given)
    return given.to(dtype)


def _project(rows: Tensor, argument: str, x: Tensor) -> Tensor:
    """Coordinates along each direction, shape `(P, N)`, never in half precision."""
    check_samples(argument, x, rows)
    check(x.shape[1] == rows.shape[1], argument, f"shape (N, {rows.shape[1]})", x)
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x.to(rows.dtype).mT
