"""Proposition 4 applied to modules: how far the parameters of each batch normalisation have moved its outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from layershift._checks import accumulation_dtype, check, check_type
from layershift.functional.batch_norm_distance import GammaForm, batch_norm_wasserstein


def batch_norm_shift(before: nn.Module, after: nn.Module, *, form: GammaForm = "scale") -> dict[str, Tensor]:
    r"""W2 between two states of each batch normalisation of a network, from $\beta$ and $\gamma$ alone.

    No data are needed: a batch leaves the layer with mean $\beta$ and standard deviation $|\gamma|$ in each channel,
    whatever came in (but for `eps`). The distance is that of two Gaussians, and a lower bound on the distance of the
    outputs themselves; see `batch_norm_wasserstein`. Parameters that stand still give 0 however far the inputs move: it
    is not all of the shift.

    Args:
        before: a batch normalisation of any dimension, or a network that contains some.
        after: the same module at another time, such as a copy made earlier.
        form: as in `batch_norm_wasserstein`.

    Returns:
        $W_2$ of shape `()` by the layer's name, in the order of the modules; `""` is the module itself.

    Raises:
        ValueError: if there is no batch normalisation, or the two do not have the same ones.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", proposition 4.

    Example:
        >>> import copy
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        >>> before = copy.deepcopy(model)
        >>> _ = nn.init.constant_(model[1].bias, 0.5)
        >>> batch_norm_shift(before, model)
        {'1': tensor(1.)}
    """
    for argument, model in (("before", before), ("after", after)):
        check_type(argument, model, nn.Module, "a module")
    olds, news = _parameters(before), _parameters(after)
    check(bool(olds), "before", "a module with at least one batch normalisation", type(before).__name__)
    sizes = [{name: len(beta) for name, (beta, _) in layers.items()} for layers in (olds, news)]
    check(sizes[0] == sizes[1], "after", f"the batch normalisations {sizes[0]} (name: channels)", sizes[1])
    return {name: batch_norm_wasserstein(*olds[name], *news[name], form=form) for name in olds}


def _parameters(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Each batch normalisation's β and γ, which are 0 and 1 where it has none."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            if not layer.affine:
                found[name] = torch.zeros(layer.num_features), torch.ones(layer.num_features)
            else:
                beta, gamma = layer.bias.detach(), layer.weight.detach()
                found[name] = beta.to(accumulation_dtype(beta)), gamma.to(accumulation_dtype(gamma))
    return found
