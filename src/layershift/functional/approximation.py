r"""How well a network of given depth follows a composition of functions: theorem 4, its width and what it assumes.

A teacher $\varphi_{l:1}=\varphi_l\circ\dots\circ\varphi_1$ is followed by a student $f_{l:1}$ of $l$ layers. The proof
allows the student's step $k$ an error of $\varepsilon/(L_{k-1}L_k)$ with $L_k=1+\log k$, and leaves out the inputs that
any step threw farther than $s$ from where the teacher can go. Its pieces are functions here, so that each can be tried.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from layershift._checks import check, check_broadcast, check_choice, check_count, check_readable, check_real

CompositionForm: TypeAlias = Literal["printed", "proof"]


def composition_bound(
    depth: int | Tensor,
    *,
    epsilon: float | Tensor,
    s: float | Tensor,
    C: float | Tensor,
    m: int | Tensor,
    D: float | Tensor,
    delta: float | Tensor = 1.0,
    form: CompositionForm = "printed",
) -> Tensor:
    r"""The upper bound on $W_2^2$ between the student's and the teacher's outputs at a depth (theorem 4).

    As printed, and as the proof's own inequalities add up:

    $$\frac{\varepsilon^2}{L_l^2}\left((2C_l\sqrt{m_l}+D_l)^2\frac\delta{s^2}+1\right),\qquad
      \frac{\varepsilon^2}{L_l^2}+(2C_l\sqrt{m_l}+D_l)^2\,\frac{\varepsilon^2}{s^2}\sum_{k=1}^{l-1}\frac1{L_k^2}.$$

    Pairing the two outputs of one input is a coupling. On the inputs that stay near the teacher the squared error is
    the first term; on the rest, whose share Markov's inequality bounds, no two outputs are farther apart than
    $2C_l\sqrt{m_l}+D_l$.

    The two forms differ in that share. Every layer adds some, $\varepsilon^2/(s^2L_k^2)$, so it is a sum. The printed
    form writes the sum as $\delta\varepsilon^2/(s^2L_l^2)$ with $\delta$ called a constant. It is not one: see
    `composition_delta`. The printed bound falls with depth as $1/L_l^2$ where $C_l$, $m_l$ and $D_l$ do not grow; the
    proof's grows, about as $l/L_l^2$, wherever $s\le2C_l\sqrt{m_l}+D_l$, as is any useful $s$.

    Args:
        depth: $l$, the number of hidden layers, 1 or more; a tensor of depths gives a bound for each.
        epsilon: $\varepsilon$, the error that the student's width is chosen for.
        s: how far an output of the student may lie from where the teacher can go.
        C: $C_l$, the Barron constant of the teacher's last function.
        m: $m_l$, its number of outputs.
        D: $D_l$, the diameter of the set that holds its outputs.
        delta: $\delta$ of the printed form; the proof's has none.
        form: `"printed"` or `"proof"`.

    Returns:
        Bounds on the **square** of $W_2$, in float64, of the arguments' broadcast shape. What it assumes is rarely met:
        see `composition_lipschitz`.

    Raises:
        ValueError: if `depth` is less than 1 or `form` has another value.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", theorem 4, eq. 4 and appendix B.
        H. Lee, R. Ge, T. Ma, A. Risteski, S. Arora, 2017, "On the ability of neural nets to express distributions",
        whose theorem this one follows.

    Example:
        >>> depths = torch.tensor([1, 10, 100])
        >>> composition_bound(depths, epsilon=0.1, s=1.0, C=1.0, m=4, D=1.0)
        tensor([0.2600, 0.0238, 0.0083], dtype=torch.float64)
        >>> composition_bound(depths, epsilon=0.1, s=1.0, C=1.0, m=4, D=1.0, form="proof")
        tensor([0.0100, 0.5872, 1.5971], dtype=torch.float64)
    """
    check_choice("form", form, ("printed", "proof"))
    root = _log_depth(depth)
    error, reach, constant, outputs, diameter, share = _numbers(root, epsilon=epsilon, s=s, C=C, m=m, D=D, delta=delta)
    farthest = 2 * constant * outputs.sqrt() + diameter
    if form == "proof":
        share = composition_delta(depth)
    return (error / root).square() * (farthest.square() * share / reach.square() + 1)


def composition_delta(depth: int | Tensor) -> Tensor:
    r"""What the printed bound's $\delta$ must be for the proof to hold at a depth.

    $$\delta_l=L_l^2\sum_{k=1}^{l-1}\frac1{L_k^2}\sim l.$$

    The share of inputs left out after step $k$ is at most that after step $k-1$, and $\varepsilon^2/(s^2L_{k-1}^2)$.

    Args:
        depth: $l$, 1 or more, or a tensor of depths.

    Returns:
        $\delta_l$ in float64, in the shape of `depth`; 0 at depth 1.

    Raises:
        ValueError: if `depth` is less than 1.

    Example:
        >>> composition_delta(torch.tensor([1, 2, 100]))
        tensor([  0.0000,   2.8667, 200.6690], dtype=torch.float64)
    """
    root = _log_depth(depth)
    deepest = int(torch.as_tensor(depth).max())
    shares = (1 + torch.arange(1, deepest, dtype=root.dtype, device=root.device).log()).pow(-2)
    return root.square() * torch.nn.functional.pad(shares.cumsum(0), (1, 0))[torch.as_tensor(depth) - 1]


def composition_width(depth: int | Tensor, *, epsilon: float | Tensor, C: float | Tensor, m: int | Tensor) -> Tensor:
    r"""How many neurons theorem 4 gives the student's layer: $\lceil4C_l^2m_lL_{l-1}^2L_l^2/\varepsilon^2\rceil$.

    Layer 1, which has no layer before it, is given $\lceil4C_1^2m_1/\varepsilon^2\rceil$.

    Args:
        depth: $l$, 1 or more, or a tensor of depths.
        epsilon: $\varepsilon$.
        C: $C_l$, the Barron constant of the teacher's function.
        m: $m_l$, its number of outputs.

    Returns:
        Widths as whole numbers, of the arguments' broadcast shape.

    Raises:
        ValueError: if `depth` is less than 1.

    References:
        The same paper, theorem 4 and the proof of theorem 6. A division by $\varepsilon^2$ is printed as one by 2.

    Example:
        >>> composition_width(torch.tensor([1, 2, 100]), epsilon=0.1, C=1.0, m=4)
        tensor([   1600,    4587, 1573680])
    """
    root, before = _log_depth(depth), _log_depth(torch.as_tensor(depth).clamp(min=2) - 1)
    error, constant, outputs = _numbers(root, epsilon=epsilon, C=C, m=m)
    return (4 * constant.square() * outputs / error.square() * before.square() * root.square()).ceil().long()


def composition_lipschitz(depth: int | Tensor) -> Tensor:
    r"""How fast the teacher's function may change for theorem 4 to speak of it: $(L_{l-1}-1)/L_l=\log(l-1)/(1+\log l)$.

    The induction adds what the new step does wrong to what it makes of earlier errors:

    $$\operatorname{Lip}(\varphi_l)\frac\varepsilon{L_{l-1}}+\frac\varepsilon{L_{l-1}L_l}\le\frac\varepsilon{L_l}
      \iff\operatorname{Lip}(\varphi_l)\le\frac{L_{l-1}-1}{L_l}.$$

    Every function must contract. At $l=2$ the limit is 0, so $\varphi_2$ must be constant, and with it the teacher.

    Args:
        depth: $l$, 1 or more, or a tensor of depths.

    Returns:
        Lipschitz constants in float64, in the shape of `depth`; infinite at depth 1, where there are no earlier errors.

    Raises:
        ValueError: if `depth` is less than 1.

    References:
        The same paper, the proof of theorem 6.

    Example:
        >>> composition_lipschitz(torch.tensor([1, 2, 3, 10, 1000]))
        tensor([   inf, 0.0000, 0.3303, 0.6653, 0.8734], dtype=torch.float64)
    """
    root, depth = _log_depth(depth), torch.as_tensor(depth)
    limit = (depth - 1).clamp(min=1).to(torch.float64).log() / root
    return torch.where(depth == 1, torch.inf, limit)


def _log_depth(depth: int | Tensor) -> Tensor:
    """1 + log l, in float64."""
    expected = "a whole number of layers, or a tensor of them"
    if not isinstance(depth, Tensor):
        check_count("depth", depth, "at least 1 layer")
        depth = torch.tensor(depth)
    check_readable("depth", depth)
    if depth.is_floating_point() or depth.is_complex() or depth.dtype == torch.bool:
        raise TypeError(f"depth: expected {expected}, got {depth.dtype}")
    check(depth.numel() > 0, "depth", expected, depth)
    check(bool((depth >= 1).all()), "depth", "at least 1 layer", depth.tolist())  # bounds are far from any hot path
    return 1 + depth.to(torch.float64).log()


def _numbers(depths: Tensor, **values: float | Tensor) -> list[Tensor]:
    """Arguments in float64, which broadcast with the depths and with one another."""
    found, shape = [], depths.shape
    for argument, value in values.items():
        positive = argument in ("epsilon", "s", "m")
        words = f"{'a positive number' if positive else 'a number, 0 or more'}, or a tensor of such"
        check_real(argument, value, words, least=0, above=0 if positive else -1)
        found.append(torch.as_tensor(value, dtype=torch.float64))
        check_broadcast(argument, found[-1], shape)
        shape = torch.broadcast_shapes(shape, found[-1].shape)  # type: ignore[no-untyped-call]
    return found
