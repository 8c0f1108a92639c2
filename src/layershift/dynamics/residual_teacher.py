r"""What a layer learns from a noisy residual teacher (theorem 1).

The teacher $x+\sigma(x)$ sees the clean input, the student $f$ the noisy one, $\tilde x=x+\varepsilon$ with
$\varepsilon\sim N(0,tI)$. The loss, eq. 3, is

$$E\lVert f(x+\varepsilon)-(x+\sigma(x))\rVert^2.$$

Had the teacher the noisy input too, as the notation of theorem 1 has it, the student would copy it and nothing would
be denoised; the proof is that of the clean teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_floating,
    check_generator,
    check_rank,
    check_real,
    check_samples,
    check_type,
)
from layershift.functional.denoise import posterior_mean

MapForm: TypeAlias = Literal["exact", "printed"]
Residual: TypeAlias = Callable[[Tensor], Tensor]


def optimal_map(
    x: Tensor, data: Tensor, residual: Residual | None, t: float | Tensor, *, form: MapForm = "exact"
) -> Tensor:
    r"""The map of least loss for inputs that are drawn from given points.

    The minimiser is a conditional mean, and the paper prints another function:

    $$f_t(\tilde x)=E[x+\sigma(x)\mid\tilde x]=\tilde x+t\nabla\log(\nu_t*\mu_0)(\tilde x)+E[\sigma(x)\mid\tilde x],
      \qquad\tilde x+t\nabla\log(\nu_t*\mu_0)(\tilde x)+\sigma(\tilde x).$$

    They agree for constant $\sigma$. Where $\mu_0$ has a smooth density, they are
    $t\left(\tfrac12\Delta\sigma+\nabla\sigma\,\nabla\log\mu_0\right)+O(t^2)$ apart: of the same order as the denoising
    itself. On separate points, with noise smaller than the gaps between them, a noisy point has one origin, the exact
    map knows it, and the gap is $\sigma(x_i)-\sigma(\tilde x)$, of order $\sqrt t$.

    Args:
        x: noisy inputs $\tilde x$, shape `(Q, m)`.
        data: the points of equal weight that make up $\mu_0$, shape `(N, m)`.
        residual: $\sigma$, which takes `(…, m)` row by row and returns the same shape; None for 0.
        t: the variance of the noise on each coordinate, a positive number or a tensor of shape `()`.
        form: `"exact"` or `"printed"`.

    Returns:
        Outputs of shape `(Q, m)`.

    Raises:
        TypeError: if `x` or `data` is not floating point.
        ValueError: if shapes do not fit, `t` is not positive or `form` has another value.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", theorems 1 and 7, whose proof
        has $E[f^0(x-\varepsilon)\mid x]$ up to its last but two lines, where $\sigma$ leaves the mean.

    Example:
        >>> data = torch.tensor([[0.0], [1.0]])
        >>> square = lambda x: x.square()
        >>> x = torch.tensor([[0.5]])  # as likely from 0 as from 1, where the teacher says 0 and 2
        >>> optimal_map(x, data, square, 0.01), optimal_map(x, data, square, 0.01, form="printed")
        (tensor([[1.]]), tensor([[0.7500]]))
    """
    check_choice("form", form, ("exact", "printed"))
    check_floating("x", x)
    check_rank("x", x, (2,), "(Q, m)")
    check_samples("data", data, x)
    check(data.shape[1] == x.shape[1], "data", f"shape (N, {x.shape[1]}), as wide as x", data)
    _check_residual(residual)
    if residual is None:
        return posterior_mean(x, data, t)
    if form == "printed":
        return posterior_mean(x, data, t) + _at(residual, x)
    wide = data.to(accumulation_dtype(data))
    return posterior_mean(x, data, t, values=wide + _at(residual, wide))


def teacher_loss(
    student: Callable[[Tensor], Tensor],
    x: Tensor,
    residual: Residual | None,
    t: float | Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The squared error of a student, with one draw of noise for each input (eq. 3).

    Two students are best compared with generators of one seed: their losses then differ by what their maps do, and not
    by their noise. A student's loss exceeds the exact map's by the mean square of the difference of the two maps.

    Args:
        student: $f$, which takes noisy inputs `(N, m)` and returns the same shape.
        x: clean inputs, shape `(N, m)`.
        residual: $\sigma$ of the teacher $x+\sigma(x)$; None for 0.
        t: the variance of the noise on each coordinate.
        generator: source of the noise, which is drawn on its device.

    Returns:
        $\lVert f(x+\varepsilon)-(x+\sigma(x))\rVert^2$ of each input, shape `(N,)`.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if `x` has another shape, or `t` is not positive.

    Example:
        >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> loss = teacher_loss(lambda noisy: noisy, x, None, 0.1, generator=torch.Generator().manual_seed(1))
        >>> print(f"{loss.mean():.1f}")  # of the student that changes nothing: the noise, 0.1 in both coordinates
        0.2
    """
    check_floating("x", x)
    check_rank("x", x, (2,), "(N, m)")
    check_real("t", t, "a positive variance", above=0, ranks=(0,))
    check_type("student", student, Callable, "a function of noisy inputs")  # type: ignore[arg-type]
    check_generator("generator", generator)
    _check_residual(residual)
    device = x.device if generator is None else generator.device
    noise = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    target = x if residual is None else x + _at(residual, x)
    scale = torch.as_tensor(t, dtype=x.dtype, device=x.device).sqrt()
    return (student(x + scale * noise) - target).square().sum(1)


def _check_residual(residual: Residual | None) -> None:
    if residual is not None:
        check_type("residual", residual, Callable, "a function or None")  # type: ignore[arg-type]


def _at(residual: Residual, x: Tensor) -> Tensor:
    moved = residual(x)
    check(moved.shape == x.shape, "residual", f"a function that keeps the shape {tuple(x.shape)}", moved)
    return moved
