"""VCL, the variance constancy loss: the variance of a unit shall be the same in any few samples."""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import accumulation_dtype, check, check_broadcast, check_count, check_floating, check_rank


def variance_constancy(x: Tensor, beta: Tensor, *, group_size: int = 5) -> Tensor:
    r"""How much the variance of each unit differs between two small groups of samples.

    $$\left(1-\frac{v_1}{v_2+\beta}\right)^2$$

    with $v_1$ and $v_2$ the unbiased variances of the unit in two disjoint groups of `group_size` samples. Few samples
    are the point: as they grow many the loss goes to $(\beta/(v+\beta))^2$, and knows nothing of the shape of the
    distribution. It is smallest for distributions of few modes.

    Args:
        x: samples of shape `(N, d)`, at least twice `group_size`; the groups are taken alternately from
            $2\cdot$`group_size` samples that are evenly spaced in the batch (`group_rows`). Of a shuffled batch any
            choice is as good as any other.
        beta: positive numbers of shape `(d,)`, or a shape that broadcasts to it.
        group_size: samples in each group, 2 or more.

    Returns:
        The loss of each unit, shape `(d,)`, in float32 or, for float64 input, float64. Differentiable.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if there are fewer samples, or `group_size` is too small.

    References:
        E. Littwin, L. Wolf, 2018, "Regularizing by the variance of the activations' sample-variances". Their program
        takes the first and the second five samples of a shuffled batch.

    Example:
        >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])  # both groups are {0, 1}, with variance 1/2
        >>> variance_constancy(x, torch.tensor([0.5]), group_size=2)
        tensor([0.2500])
    """
    check_floating("x", x)
    check_rank("x", x, (2,), "(N, d)")
    check_count("group_size", group_size, "at least 2", least=2)
    check_floating("beta", beta, x)
    check_broadcast("beta", beta, x.shape[1:])
    check(beta.dim() <= 1, "beta", f"shape ({x.shape[1]},)", beta)
    samples = x.shape[0]  # not len(), which torch.export would take for a constant
    check(samples >= 2 * group_size, "x", f"at least {2 * group_size} samples, two groups of {group_size}", x)
    if samples > 2 * group_size:
        x = x.index_select(0, group_rows(samples, group_size, device=x.device))
    first, second = x.to(accumulation_dtype(x)).view(group_size, 2, -1).var(0)
    loss: Tensor = (1 - first / (second + beta)).square()
    return loss


def group_rows(n: int, group_size: int, *, device: torch.device | None = None) -> Tensor:
    """Which of n samples form the two groups: as many rows as both need, evenly spaced.

    Args:
        n: how many samples there are, at least twice `group_size`.
        group_size: samples in each group.
        device: where the result lies.

    Returns:
        Row numbers, shape `(2 · group_size,)`: the first group's at even places, the second one's at odd places.

    Example:
        >>> group_rows(12, 3)
        tensor([ 0,  2,  4,  6,  8, 10])
    """
    count = 2 * group_size
    return torch.arange(count, device=device) * n // count
