"""Networks of torchvision with the options of the others: sizes of both ends, normaliser, weights, seed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layershift._checks import check, fail, import_extra
from layershift.nn import convert
from layershift.train.models.parts import Norm, NormWithOptions, make_norm

HEADS = {"resnet": "fc", "vgg": "classifier.6", "squeezenet": "classifier.1"}
"""Where each family has its classifier."""

_IMAGENET = 1000


def resnet18(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = None,
    weights: str | Path | None = None,
    seed: int | None = None,
) -> nn.Module:
    """ResNet-18 as torchvision builds it, with torchvision's names of layers: `layer1.0` to `layer4.1`, `fc`.

    Args:
        num_classes: outputs. If the weights' classifier has another number, it is left as it was initialised.
        in_channels: of the images; 3 with weights.
        norm: None and "batch" leave torchvision's batch normalisation; "unitization" converts it, its state kept; any
            other normaliser, by name or as a factory, takes its place, which weights do not allow.
        weights: a file of a state dictionary with torchvision's names, read without running code that it might hold; or
            "DEFAULT", which torchvision downloads. None initialises as torchvision does.
        seed: of the initial weights; the same for every normaliser. None draws from torch's global state.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Raises:
        ValueError: if the weights cannot be read or are another network's, or the options do not go together.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2016,
        https://arxiv.org/abs/1512.03385

    Example:
        >>> model = resnet18(7, in_channels=1, norm="group", seed=0)
        >>> model(torch.randn(2, 1, 32, 32)).shape, model.layer1[0].bn1
        (torch.Size([2, 7]), GroupNorm(16, 64, eps=1e-05, affine=True, bias=True))
    """
    return _build("resnet18", num_classes, in_channels, norm, weights, seed)


def resnet50(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = None,
    weights: str | Path | None = None,
    seed: int | None = None,
) -> nn.Module:
    """ResNet-50 as torchvision builds it: the stride of a bottleneck lies in its 3 × 3 convolution.

    Args:
        num_classes: see `resnet18`, for all options.
        in_channels: of the images.
        norm: of the convolutions.
        weights: a file, or "DEFAULT".
        seed: of the initial weights.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Raises:
        ValueError: as `resnet18`.
    """
    return _build("resnet50", num_classes, in_channels, norm, weights, seed)


def vgg16(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = None,
    weights: str | Path | None = None,
    seed: int | None = None,
) -> nn.Module:
    """VGG-16 as torchvision builds it, in one list of `features` and one `classifier` with dropout.

    Args:
        num_classes: see `resnet18`, for all options.
        in_channels: of the images.
        norm: None is the network without normaliser, `vgg16` of torchvision; "batch" is its `vgg16_bn`, whose layers
            have other numbers; the others are made from that.
        weights: a file, or "DEFAULT"; of `vgg16_bn` unless `norm` is None.
        seed: of the initial weights.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Raises:
        ValueError: as `resnet18`.

    References:
        K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015,
        https://arxiv.org/abs/1409.1556
    """
    return _build("vgg16" if norm is None else "vgg16_bn", num_classes, in_channels, norm, weights, seed)


def squeezenet1_1(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = None,
    weights: str | Path | None = None,
    seed: int | None = None,
) -> nn.Module:
    """SqueezeNet 1.1 as torchvision builds it; its classifier is a 1 × 1 convolution before the mean over positions.

    torchvision rectifies the classifier's output. For any other number of classes than ImageNet's 1,000 that ReLU is
    left out here: a label that is absent needs a logit below 0.

    Args:
        num_classes: see `resnet18`, for all options.
        in_channels: of the images.
        norm: None: the network has no normaliser.
        weights: a file, or "DEFAULT". Weights from Caffe want `pixels="caffe"` of the data.
        seed: of the initial weights.

    Returns:
        The network: (N, in_channels, H, W) → (N, num_classes).

    Raises:
        ValueError: as `resnet18`, and for a normaliser.

    References:
        F. Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016,
        https://arxiv.org/abs/1602.07360

    Example:
        >>> squeezenet1_1(20, seed=0)(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 20])
    """
    check(norm is None, "norm", "None (method vanilla): SqueezeNet has no normaliser", norm)
    model = _build("squeezenet1_1", num_classes, in_channels, norm, weights, seed)
    if num_classes != _IMAGENET:
        model.set_submodule("classifier.2", nn.Identity())
    return model


def _build(
    name: str, num_classes: int, in_channels: int, norm: Norm, weights: str | Path | None, seed: int | None
) -> nn.Module:
    check(num_classes >= 1, "num_classes", "at least 1", num_classes)
    check(in_channels >= 1, "in_channels", "at least 1", in_channels)
    check(weights is None or in_channels == 3, "in_channels", "3 with weights", in_channels)
    kind = norm.name if isinstance(norm, NormWithOptions) else norm
    kept = norm in (None, "batch") or kind == "unitization"
    check(weights is None or kept, "norm", "None, 'batch' or 'unitization' with weights", norm)
    models = import_extra("torchvision.models", extra="train")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model: nn.Module = models.get_model(name, num_classes=num_classes)
        if in_channels != 3:
            _replace_first(model, in_channels)
    if weights is not None:
        _load(model, name, _read(models, name, weights))
    if kind == "unitization":
        return convert(model, to="unitization", **(dict(norm.options) if isinstance(norm, NormWithOptions) else {}))
    if not kept:
        _replace(model, nn.BatchNorm2d, lambda old: make_norm(norm, old.num_features, dimensions=2))
    return model


def _replace_first(model: nn.Module, in_channels: int) -> None:
    """The first convolution for images of other channels, initialised as torchvision does the others."""
    name, old = next((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    model.set_submodule(name, new)


def _replace(model: nn.Module, kind: type[nn.Module], make: Any) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, kind):
            model.set_submodule(name, make(module))


def _read(models: Any, name: str, weights: str | Path) -> Mapping[str, Tensor]:
    if weights == "DEFAULT":
        known = models.get_model_weights(name).DEFAULT
        try:
            return known.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"weights: torchvision could not download {known.url} ({error}); name a file of these weights instead"
            ) from error
    path = Path(weights).expanduser()
    check(path.is_file(), "weights", "a file of a state dictionary, or 'DEFAULT'", weights)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"weights: {path} is not a file of a state dictionary ({reason})") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        fail("weights", "a dictionary of tensors by name", f"a {type(found).__name__} of other things in {path}")
    return found


def _load(model: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    """Strictly, but for a classifier of another size."""
    own = model.state_dict()
    head = next(place for family, place in HEADS.items() if name.startswith(family))
    ends = [f"{head}.weight", f"{head}.bias"]
    other = ends[0] in state and state[ends[0]].shape[0] != own[ends[0]].shape[0]
    left = set(ends) if other else set()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # files of old versions lack them
    strange = sorted(set(state) - set(own))
    lacking = sorted(set(own) - set(state) - counters)
    shapes = [key for key in own if key in state and key not in left and own[key].shape != state[key].shape]
    if strange or lacking or shapes:
        said = f"{len(lacking)} tensors lack, {len(strange)} are unknown, {len(shapes)} have another shape"
        fail("weights", f"those of {name}", f"others: {said}, such as {(lacking + strange + shapes)[0]}")
    model.load_state_dict({key: value for key, value in state.items() if key not in left}, strict=False)
