"""Group normalisation by the number of groups or by their size, and the ten groupings of the micro-batch experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from layershift._checks import check


def group_norm(
    *, num_groups: int | None = None, channels_per_group: int | None = None, eps: float = 1e-5
) -> Callable[[int], nn.GroupNorm]:
    """A factory of group normalisations that all have as many groups, or groups of as many channels.

    What it returns can be given to a network as its `norm`. One group is layer normalisation over a sample's whole map;
    one channel per group is instance normalisation.

    Args:
        num_groups: how many groups, whatever the number of channels.
        channels_per_group: how large the groups, whatever the number of channels.
        eps: added to the variance.

    Returns:
        A function from a number of channels to a new layer. It raises ValueError if the channels do not divide.

    Raises:
        ValueError: unless exactly one of the two numbers is given, and it is at least 1.

    References:
        Y. Wu, K. He, "Group normalization", 2018, https://arxiv.org/abs/1803.08494, tables 3 and 4;
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        appendix C.

    Example:
        >>> group_norm(num_groups=4)(64), group_norm(channels_per_group=4)(64)
        (GroupNorm(4, 64, eps=1e-05, affine=True, bias=True), GroupNorm(16, 64, eps=1e-05, affine=True, bias=True))
    """
    one = (num_groups is None) != (channels_per_group is None)
    check(one, "num_groups, channels_per_group", "exactly one of them", (num_groups, channels_per_group))
    argument = "num_groups" if channels_per_group is None else "channels_per_group"
    number = num_groups or channels_per_group or 0
    check(number >= 1, argument, "at least 1", number)
    return partial(_group_norm, argument, number, eps)


def _group_norm(argument: str, number: int, eps: float, num_channels: int) -> nn.GroupNorm:
    check(num_channels % number == 0, argument, f"a divisor of the layer's {num_channels} channels", number)
    return nn.GroupNorm(number if argument == "num_groups" else num_channels // number, num_channels, eps=eps)


GROUPINGS: Mapping[str, Callable[[int], nn.GroupNorm]] = {
    **{f"groups_{n}": group_norm(num_groups=n) for n in (1, 2, 4, 8, 16)},
    **{f"channels_{n}": group_norm(channels_per_group=n) for n in (1, 2, 4, 8, 16)},
}
"""The ten groupings of table 4 of the unitization paper: so many groups, or groups of so many channels."""
