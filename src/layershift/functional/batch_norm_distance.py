r"""How far batch normalisation's own parameters move a layer's distribution."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from layershift._checks import accumulated, check, check_choice, check_floating
from layershift.functional.gaussian import safe_root

GammaForm: TypeAlias = Literal["scale", "variance", "printed"]


def batch_norm_wasserstein(
    beta_x: Tensor, gamma_x: Tensor, beta_y: Tensor, gamma_y: Tensor, *, form: GammaForm = "scale"
) -> Tensor:
    r"""W2 between two states of a batch-normalised layer, as Gaussians (proposition 4).

    The output $\gamma\hat x+\beta$ of a batch has mean $\beta$ and standard deviation $|\gamma|$ in each channel. Two
    Gaussians with diagonal covariances $\Gamma$ and $\Gamma'$ are

    $$W_2^2=\lVert\beta-\beta'\rVert^2+\lVert\Gamma^{1/2}-\Gamma'^{1/2}\rVert_F^2$$

    apart, and the three forms differ in what $\gamma$ is and where the root stands:

    | form | second term | reading |
    | --- | --- | --- |
    | `"scale"` | $\sum(\lvert\gamma\rvert-\lvert\gamma'\rvert)^2$ | $\gamma$ multiplies: covariance $\gamma^2$ |
    | `"variance"` | $\sum(\sqrt\gamma-\sqrt{\gamma'})^2$ | the paper's $\Gamma$, a covariance of $\gamma$ |
    | `"printed"` | $\sum\lvert\gamma-\gamma'\rvert$ | $\lVert(\Gamma-\Gamma')^{1/2}\rVert_F^2$, the root outside |

    With `"scale"` it is also a **lower bound** on $W_2$ between the layer's outputs in the two states, whatever their
    distributions: in each channel no two distributions of these means and deviations are closer, and transport in all
    channels at once costs at least the sum of the channels. The printed form is no distance of Gaussians: it is never
    smaller than `"variance"`, and for small steps larger by far.

    Args:
        beta_x: $\beta$, shape `(…, d)`.
        gamma_x: $\gamma$, as `beta_x`; not negative unless `form` is `"scale"`, or NaN comes out.
        beta_y: $\beta'$, as `beta_x`.
        gamma_y: $\gamma'$, as `gamma_x`.
        form: `"scale"`, which is right for a batch normalisation module; `"variance"`; or `"printed"`.

    Returns:
        $W_2$, the root taken, of shape `(…)`; differentiable, with gradient 0 where it is 0.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes differ or `form` has another value.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", proposition 4.
        M. Gelbrich, 1990, "On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert
        spaces", for the lower bound.

    Example:
        >>> import torch
        >>> beta, gamma = torch.zeros(2), torch.ones(2)
        >>> [round(float(batch_norm_wasserstein(beta, gamma, beta, 1.21 * gamma, form=f)), 4)
        ...  for f in ("scale", "variance", "printed")]
        [0.297, 0.1414, 0.6481]
    """
    check_choice("form", form, ("scale", "variance", "printed"))
    for argument, x in (("beta_x", beta_x), ("gamma_x", gamma_x), ("beta_y", beta_y), ("gamma_y", gamma_y)):
        check_floating(argument, x, beta_x)
        check(x.dim() >= 1 and x.shape == beta_x.shape, argument, f"shape {tuple(beta_x.shape) or '(…, d)'}", x)
    beta_x, gamma_x, beta_y, gamma_y = accumulated(beta_x, gamma_x, beta_y, gamma_y)
    if form == "printed":
        spread = (gamma_x - gamma_y).abs()
    elif form == "variance":
        spread = (gamma_x.sqrt() - gamma_y.sqrt()).square()
    else:
        spread = (gamma_x.abs() - gamma_y.abs()).square()
    return safe_root(((beta_x - beta_y).square() + spread).sum(-1))
