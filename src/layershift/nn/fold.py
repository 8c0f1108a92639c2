"""Fold normalisers into the layers before them, for inference, where that changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, NamedTuple, cast

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedBuffer
from torch.nn.utils.parametrize import is_parametrized

from layershift._checks import check, check_rank, check_type, fail
from layershift.nn.activated import plain_kind
from layershift.nn.feeding import Feeding, NotExact, need, unseen
from layershift.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Unitization1d,
    Unitization2d,
    Unitization3d,
    _Unitization,
)
from layershift.nn.structure import NORMALIZERS
from layershift.nn.synchronized import SyncBatchNorm, SyncUnitization

# How many dimensions there are of what a layer gives, and of what a normaliser takes. Classes derived from these may do
# something else.
_LAYERS: dict[type, int] = {
    nn.Linear: 2,
    **dict.fromkeys((nn.Conv1d, nn.ConvTranspose1d), 3),
    **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d), 4),
    **dict.fromkeys((nn.Conv3d, nn.ConvTranspose3d), 5),
}
_NORMS: dict[type, tuple[int, ...]] = {
    **dict.fromkeys((nn.BatchNorm1d, BatchNorm1d, Unitization1d), (2, 3)),
    **dict.fromkeys((nn.BatchNorm2d, BatchNorm2d, Unitization2d), (4,)),
    **dict.fromkeys((nn.BatchNorm3d, BatchNorm3d, Unitization3d), (5,)),
    **dict.fromkeys((nn.SyncBatchNorm, SyncBatchNorm, SyncUnitization), (2, 3, 4, 5)),
    nn.InstanceNorm1d: (3,),
    nn.InstanceNorm2d: (4,),
    nn.InstanceNorm3d: (5,),
}
_SHAPES = {2: "(N, C)", 3: "(N, C, L)", 4: "(N, C, H, W)", 5: "(N, C, D, H, W)"}


class Folded(NamedTuple):
    """A network for inference, and what became of its normalisers; `str()` is a list of these.

    Attributes:
        model: a copy of the network.
        folded: names of layers, and of the normaliser that each has taken over.
        left: names of the normalisers that are as they were, and why.
    """

    model: nn.Module
    folded: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        done = [f"{norm}: folded into {layer}" for layer, norm in self.folded.items()]
        return "\n".join(done + [f"{norm}: left, {reason}" for norm, reason in self.left.items()])


def fold(model: nn.Module, *, keep: Collection[str] = ()) -> Folded:
    r"""Let layers do the work of the normalisers that follow them: the same network, faster, for inference.

    In evaluation batch normalisation is the affine map $y=a\odot x+b$ with $a=\gamma/\sqrt{\sigma^2+\varepsilon}$ and
    $b=\beta-a\odot\mu$; so are unitization, if $\alpha$ is 0, and instance normalisation with running statistics. After
    a convolution or linear layer, $x=Wz+c$, that is the same layer with $a\odot W$ and $a\odot c+b$.

    A normaliser is folded only where it is proven that this changes nothing but rounding: the network is traced, and
    what the layer gives must go into the normaliser and nowhere else. All others stay, each with its reason: a
    unitization whose $\alpha$ is not 0 divides each sample by its own norm, layer and group normalisation use each
    sample's moments, a layer may be shared, and so on. Dropout and activation of a normaliser that ends in these, such
    as timm's `BatchNormAct2d`, stay in its place. A network whose path depends on its data cannot be traced, and
    none of its normalisers is folded.

    The model that is passed stays as it is. The copy has its dtypes, devices, flags and hooks; a layer that took over a
    normaliser has a new weight and bias, computed in float64, and in the normaliser's place is an identity, which
    refuses input of another rank. The copy is not to be trained.

    Args:
        model: any module, in evaluation mode.
        keep: names of normalisers to leave.

    Returns:
        The copy and what was done.

    Raises:
        TypeError: if `model` is not a module.
        ValueError: if it cannot be copied, or `keep` names what is no normaliser.

    References:
        S. Ioffe, C. Szegedy, 2015, "Batch normalization", https://arxiv.org/abs/1502.03167, algorithm 2, step 11.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8)).eval()
        >>> folded = fold(model)
        >>> print(folded)
        1: folded into 0
        3: left, it normalises each sample by that sample's own moments
        >>> x = torch.randn(2, 3, 8, 8)
        >>> torch.allclose(folded.model(x), model(x), atol=1e-5)
        True
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    norms = {name: module for name, module in model.named_modules() if isinstance(module, NORMALIZERS)}
    check_type("keep", keep, Collection, "names of normalisers")
    unknown = sorted({keep} if isinstance(keep, str) else {str(name) for name in keep if name not in norms})
    check(not unknown, "keep", f"names of normalisers, some of {', '.join(map(repr, norms)) or 'none'}", unknown)
    made = _copied(model)
    pairs: dict[str, str] = {}
    left: dict[str, str] = {}
    feeding = Feeding(made)
    for name, norm in norms.items():
        try:
            need(name not in keep, "as asked")
            need(not (model.training or norm.training), "training mode: call model.eval() first")
            kind = plain_kind(norm)
            affine = _affine(norm, kind)
            layer = feeding.layer_before(name)
            _take_over(layer, made.get_submodule(layer), kind, *affine)
            pairs[layer] = name
        except NotExact as reason:
            left[name] = str(reason)
    _replace(made, pairs)
    if pairs and Feeding(made).calls() != feeding.calls():
        other = "what the network does depends on the kinds or attributes of its layers"
        return Folded(_copied(model), {}, {name: left.get(name, other) for name in norms})
    return Folded(made, pairs, left)


def _copied(model: nn.Module) -> nn.Module:
    new: Any = UninitializedBuffer  # that PyTorch does not copy
    lazy = {id(b): new(device=b.device, dtype=b.dtype) for b in model.buffers() if isinstance(b, UninitializedBuffer)}
    try:
        return copy.deepcopy(model, lazy)
    except Exception as error:  # whatever a user keeps in a module
        fail("model", "a module that copy.deepcopy can copy", f"{type(error).__name__}: {error}")


def _affine(norm: Any, kind: type[nn.Module]) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel in evaluation, in float64 on the CPU."""
    own = isinstance(norm, (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm))
    own = own or (isinstance(norm, _InstanceNorm) and not norm.track_running_stats)
    need(not own, "it normalises each sample by that sample's own moments")
    need(not unseen(norm), "it has not seen its first input")
    need(kind in _NORMS, f"{type(norm).__name__} may do more than the class it derives from")
    need(norm.running_mean is not None, "it has no running statistics, and takes those of the batch")
    mean, variance, weight, bias = map(_wide, (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    assert mean is not None
    assert variance is not None
    if isinstance(norm, _Unitization):
        alpha = norm.effective_alpha.detach()
        count = int((alpha if weight is None else alpha.cpu() * (weight != 0)).count_nonzero())
        need(count == 0, f"its alpha is not 0 in {count} of {len(alpha)} channels, which depend on each sample's norm")
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if weight is None else scale * weight
    shift = -scale * mean
    return scale, shift if bias is None else shift + bias


def _take_over(name: str, layer: Any, kind: type[nn.Module], scale: Tensor, shift: Tensor) -> None:
    """Give a layer the weight and bias by which it does the normaliser's work."""
    need(not is_parametrized(layer), f"{name!r} computes its weight from other parameters")
    need(type(layer) in _LAYERS, f"{name!r}, {type(layer).__name__}, may do more than the class it derives from")
    kinds = f"{kind.__name__} of what {name!r}, {type(layer).__name__}, gives is over other dimensions"
    need(_LAYERS[type(layer)] in _NORMS[kind], kinds)
    weight, bias = _wide(layer.weight), _wide(layer.bias)
    assert weight is not None
    # A transposed convolution has its outputs on the second dimension, those of each group of inputs.
    transposed = layer.transposed if hasattr(layer, "transposed") else False
    groups = layer.groups if transposed else 1
    column = scale.view(groups, *((1, -1) if transposed else (-1, 1)), *(1,) * (weight.dim() - 2))
    grouped = weight.view(groups, -1, *weight.shape[1:]) if transposed else weight.unsqueeze(0)
    new = {"weight": (grouped * column).flatten(0, 1), "bias": shift if bias is None else bias * scale + shift}
    for key, value in new.items():
        value = value.to(layer.weight)
        need(bool(value.isfinite().all()), f"the {key} of {name!r} would not be finite in {value.dtype}")
        new[key] = value
    for key, value in new.items():
        old = getattr(layer, key)
        setattr(layer, key, nn.Parameter(value, requires_grad=(layer.weight if old is None else old).requires_grad))


def _wide(x: Tensor | None) -> Tensor | None:
    # On the CPU, because not every device has float64.
    if x is None:
        return None
    need(not x.is_meta, "its numbers are not there: device meta")
    return x.detach().to("cpu", torch.float64)


class FoldedNorm(nn.Identity):
    """Takes the place of a normaliser that a layer has taken over.

    Args:
        ranks: how many dimensions the layer's output may have; of others the normaliser would have taken another one.
        told: what was folded where, for `repr`.

    Example:
        >>> fold(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()).model[1]
        FoldedNorm(BatchNorm1d into 0)
    """

    def __init__(self, ranks: tuple[int, ...], told: str) -> None:
        super().__init__()
        self.ranks, self.told = ranks, told

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes."""
        return _of_rank(x, self.ranks)

    def extra_repr(self) -> str:
        """What was folded where."""
        return self.told


class FoldedNormAct(nn.Module):
    """Takes the place of a normaliser that ended in a dropout and an activation: these are left of it.

    Args:
        ranks: as `FoldedNorm` takes them.
        told: the same.
        drop: the dropout.
        act: the activation.
    """

    def __init__(self, ranks: tuple[int, ...], told: str, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.ranks, self.told, self.drop, self.act = ranks, told, drop, act

    def forward(self, x: Tensor) -> Tensor:
        """Drop and activate what comes."""
        return cast("Tensor", self.act(self.drop(_of_rank(x, self.ranks))))

    def extra_repr(self) -> str:
        """What was folded where."""
        return self.told


def _of_rank(x: Tensor, ranks: tuple[int, ...]) -> Tensor:
    check_rank("x", x, ranks, _SHAPES[ranks[0]])
    return x


torch.fx.wrap("_of_rank")  # so that a folded network can be traced


def _replace(model: nn.Module, pairs: dict[str, str]) -> None:
    places: dict[int, nn.Module] = {}
    for layer, norm in pairs.items():
        module: Any = model.get_submodule(norm)
        rank = _LAYERS[type(model.get_submodule(layer))]
        # Instance normalisation takes one sample without a batch, as convolutions do.
        ranks = (rank, rank - 1) if isinstance(module, _InstanceNorm) else (rank,)
        told = f"{type(module).__name__} into {layer}"
        ends = type(module) not in _NORMS  # in a dropout and an activation, or it had not been folded
        place = FoldedNormAct(ranks, told, module.drop, module.act) if ends else FoldedNorm(ranks, told)
        place.training = module.training
        places[id(module)] = place
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in places:
                parent._modules[name] = places[id(child)]
