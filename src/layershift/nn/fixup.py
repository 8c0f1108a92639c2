"""Fixup: train deep residual networks without a normaliser, by the scale of the first weights and a few scalars."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from layershift._checks import check, check_count, check_floating, check_items, check_type

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ScalarBias(nn.Module):
    """Add one trained number, at first 0, to all activations.

    Example:
        >>> layer = ScalarBias()
        >>> layer(torch.ones(2)).tolist(), sum(p.numel() for p in layer.parameters())
        ([1.0, 1.0], 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Shift."""
        check_floating("x", x)
        return x + self.bias


class ScalarScale(nn.Module):
    """Multiply all activations by one trained number, at first 1.

    Example:
        >>> ScalarScale()(torch.tensor([2.0, 3.0])).tolist()
        [2.0, 3.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        check_floating("x", x)
        return x * self.scale


def fixup_factor(num_branches: int, depth: int) -> float:
    r"""How much smaller than usual the weights inside a residual branch start: $L^{-1/(2m-2)}$.

    With it, one step of gradient descent changes the network's function by an amount of the order of the learning rate,
    however many branches $L$ there are. The last layer of a branch is zero at first; a step changes it in proportion to
    what enters it, and the branch's output in proportion to that once more. With the factor on each of the other
    $m-1$ layers this is the factor to the power $2m-2$, which is $1/L$, and $L$ branches add up.

    Args:
        num_branches: $L$, residual branches of the network.
        depth: $m$, layers with weights in each branch, at least 2.

    Returns:
        The factor, in (0, 1].

    Raises:
        ValueError: if there is no branch, or a branch has fewer than two layers.

    References:
        H. Zhang, Y. Dauphin, T. Ma, "Fixup initialization: residual learning without normalization", 2019,
        https://arxiv.org/abs/1901.09321, section 3, rule 2.

    Example:
        >>> fixup_factor(25, 2), fixup_factor(16, 3)
        (0.2, 0.5)
    """
    check_count("num_branches", num_branches, "at least one")
    check_count("depth", depth, "at least two layers in a branch", least=2)
    return float(num_branches ** (-1 / (2 * depth - 2)))


@torch.no_grad()
def fixup_init(branches: Iterable[nn.Module], classifier: nn.Linear) -> None:
    """Rescale the weights of a residual network that has a standard initialisation, as Fixup starts.

    The classifier and the last layer of each branch become zero, so that every branch's output is zero at first and the
    network computes what its shortcuts do; the branches' other layers are multiplied by `fixup_factor`. Fixup's third
    rule is a matter of architecture: a `ScalarBias` before each convolution, linear layer and activation, and a
    `ScalarScale` in each branch, as in `layershift.train.models.cifar_resnet`.

    Args:
        branches: the network's residual branches, each a module with its linear and convolutional layers in order.
        classifier: the network's last layer.

    Raises:
        ValueError: if there is no branch, or a branch has fewer than two layers.

    References:
        Zhang et al., 2019, section 3.

    Example:
        >>> branch = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4, bias=False))
        >>> fixup_init([branch], nn.Linear(4, 2))
        >>> branch(torch.randn(1, 4)).abs().max().item()
        0.0
    """
    check_type("branches", branches, Iterable, "modules, one a branch")
    branches = list(branches)
    check_items("branches", branches, nn.Module, "modules, one a branch")
    check_type("classifier", classifier, nn.Linear, "a linear layer")
    layers = [[m for m in branch.modules() if isinstance(m, _WEIGHTED)] for branch in branches]
    check(bool(layers), "branches", "at least one residual branch", "none")
    for branch in layers:
        factor = fixup_factor(len(layers), len(branch))
        for layer in branch[:-1]:
            layer.weight.mul_(factor)
    for layer in [*(branch[-1] for branch in layers), classifier]:
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()


def fixup_slow_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that Fixup trains with a tenth of the learning rate: every bias, every multiplier.

    One number moves all activations of a layer, so it needs smaller steps than a weight does. Biases are those of
    layers and of normalisers too, as in the authors' code; "Regularizing activations in neural networks via
    distribution matching with the Wasserstein metric" (PER) does so for the biases of its 11-layer networks.

    Args:
        model: any module.

    Returns:
        Names as `named_parameters` gives them.

    References:
        Zhang et al., 2019, section 4.

    Example:
        >>> fixup_slow_parameters(nn.Sequential(ScalarBias(), nn.Linear(3, 2), ScalarScale()))
        ['0.bias', '1.bias', '2.scale']
    """
    check_type("model", model, nn.Module, "a module")
    return [name for name, _ in model.named_parameters() if name.rpartition(".")[2] in ("bias", "scale")]
