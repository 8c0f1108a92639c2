"""Classify images at several scales: the average over 42 crops, and over all positions of the fully-convolutional form.

Images may have any size; a network's unitization keeps the divisor $n$ that it was trained with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layershift._checks import check, check_rank
from layershift.nn import SyncUnitization, Unitization1d, Unitization2d, Unitization3d

SCALES = (224, 256, 384, 480, 640)
_UNITIZATIONS = (Unitization1d, Unitization2d, Unitization3d, SyncUnitization)


def resize_shorter_side(images: Tensor, size: int) -> Tensor:
    """Scale images, bilinearly and smoothed when they shrink, so that the shorter side has `size` pixels.

    Example:
        >>> resize_shorter_side(torch.zeros(1, 3, 30, 40), 15).shape
        torch.Size([1, 3, 15, 20])
    """
    check_rank("images", images, (4,), "(N, C, H, W)")
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter == size:
        return images
    target = round(height * size / shorter), round(width * size / shorter)
    return F.interpolate(images, target, mode="bilinear", align_corners=False, antialias=True)


def multi_scale_crops(images: Tensor, *, scales: Sequence[int] = SCALES, crop: int = 224) -> Iterator[Tensor]:
    """The crops of images at several scales: of the centre, and, where the image is larger, of the four corners.

    Each comes with its mirror image: 2 crops where the shorter side is as long as the crop, 10 at the other scales, so
    42 at the paper's. Crops are made one at a time.

    Args:
        images: (N, C, H, W).
        scales: lengths of the shorter side, none shorter than the crop.
        crop: side of a crop.

    Yields:
        Crops of all images, (N, C, crop, crop).

    Raises:
        ValueError: if a scale is smaller than the crop.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        section 4.3. A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep convolutional neural
        networks", 2012, section 4.1.

    Example:
        >>> len(list(multi_scale_crops(torch.randn(1, 3, 24, 32), scales=(14, 16, 24, 30, 40), crop=14)))
        42
    """
    check(min(scales) >= crop, "scales", f"none smaller than the crop, {crop}", tuple(scales))
    for scale in scales:
        scaled = resize_shorter_side(images, scale)
        down, right = scaled.shape[-2] - crop, scaled.shape[-1] - crop
        places = [(down // 2, right // 2)]
        if scale > crop:
            places += [(0, 0), (0, right), (down, 0), (down, right)]
        for top, left in places:
            part = scaled[..., top : top + crop, left : left + crop]
            yield from (part, part.flip(-1))


@torch.no_grad()
def crop_scores(model: nn.Module, images: Tensor, *, scales: Sequence[int] = SCALES, crop: int = 224) -> Tensor:
    """Class probabilities, averaged over `multi_scale_crops`.

    Every crop has the size that the network was trained with, so nothing of the network changes.

    Args:
        model: (N, C, crop, crop) → (N, K), in evaluation mode.
        images: (N, C, H, W).
        scales: lengths of the shorter side.
        crop: side of a crop.

    Returns:
        Probabilities, (N, K).

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
        >>> crop_scores(model, torch.randn(2, 3, 8, 9), scales=(6, 8), crop=6).shape
        torch.Size([2, 5])
    """
    return _mean(model(part).softmax(1) for part in multi_scale_crops(images, scales=scales, crop=crop))


def fully_convolutional(model: nn.Sequential, *, train_size: int | tuple[int, int] = 224) -> nn.Sequential:
    """The network in its fully-convolutional form: class scores at every position instead of one for the image.

    ``pool`` becomes a mean over windows as large as the last map is in training (7 × 7 at 224), at every position, and
    ``classifier`` a 1 × 1 convolution. On images of the training's size there is one position, whose scores are the
    network's. All modules and weights are the network's own; only the form is new.

    Args:
        model: a network that ends with ``pool`` → ``flatten`` → ``classifier``, as those here do.
        train_size: height and width of images in training.

    Returns:
        The network: (N, C, H, W) → (N, K, H', W').

    Raises:
        ValueError: if the network does not end so.

    References:
        K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, section
        3.2; K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2016, section 3.4.

    Example:
        >>> from layershift.train.models import small_cnn
        >>> fully_convolutional(small_cnn(norm="batch").eval(), train_size=8)(torch.randn(2, 1, 12, 16)).shape
        torch.Size([2, 10, 3, 5])
    """
    names = [name for name, _ in model.named_children()]
    check(
        names[-3:] == ["pool", "flatten", "classifier"], "model", "pool → flatten → classifier at its end", names[-3:]
    )
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    features = nn.Sequential(OrderedDict(list(model.named_children())[:-3]))
    conv = nn.Conv2d(classifier.in_features, classifier.out_features, 1, bias=classifier.bias is not None)
    conv.weight = nn.Parameter(classifier.weight.detach()[:, :, None, None])
    if classifier.bias is not None:
        conv.bias = nn.Parameter(classifier.bias.detach())
    with torch.no_grad(), _evaluating(model):
        window = features(_example(model, train_size)).shape[-2:]
    dense = OrderedDict(features=features, pool=nn.AvgPool2d(window, stride=1), classifier=conv)
    return nn.Sequential(dense).train(model.training)


@torch.no_grad()
def dense_scores(
    model: nn.Sequential, images: Tensor, *, scales: Sequence[int] = SCALES, train_size: int | tuple[int, int] = 224
) -> Tensor:
    """Class probabilities of the fully-convolutional form, averaged over scales.

    At each scale the whole image is seen, scores are averaged over positions, and then turned into probabilities.
    Unitization's divisor is that of training at every scale (`training_divisors`).

    Args:
        model: as for `fully_convolutional`, in evaluation mode.
        images: (N, C, H, W).
        scales: lengths of the shorter side.
        train_size: height and width of images in training.

    Returns:
        Probabilities, (N, K).

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        section 4.3.

    Example:
        >>> from layershift.train.models import small_cnn
        >>> model = small_cnn(norm="unitization").eval()
        >>> dense_scores(model, torch.randn(2, 1, 10, 12), scales=(8, 12), train_size=8).shape
        torch.Size([2, 10])
    """
    dense = fully_convolutional(model, train_size=train_size)
    with training_divisors(model, train_size=train_size):
        maps = (dense(resize_shorter_side(images, scale)) for scale in scales)
        return _mean(scores.mean((2, 3)).softmax(1) for scores in maps)


@contextmanager
def training_divisors(model: nn.Module, *, train_size: int | tuple[int, int] = 224) -> Iterator[None]:
    """Within it, every unitization with the paper's divisor uses the $n$ that it has on images of the training's size.

    The paper's $n$ is the number of positions of a layer's map, so on larger images it would grow, and with it the
    unitized part of the output. The paper fixes it. Layers with another divisor are left alone.

    Args:
        model: a network of images.
        train_size: height and width of images in training.

    References:
        "An internal covariate shift bounding algorithm for deep neural networks by unitizing layers' outputs",
        section 4.3.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), Unitization2d(4))
        >>> with training_divisors(model, train_size=10):
        ...     model[1].divisor
        64.0
        >>> model[1].divisor
        'paper'
    """
    layers = [m for m in model.modules() if isinstance(m, _UNITIZATIONS) and m.divisor == "paper"]
    positions = _positions(model, layers, train_size) if layers else {}
    try:
        for layer in layers:
            layer.divisor = float(positions.get(layer, 0)) or "paper"
        yield
    finally:
        for layer in layers:
            layer.divisor = "paper"


def _positions(model: nn.Module, layers: Sequence[nn.Module], size: int | tuple[int, int]) -> dict[nn.Module, int]:
    """Positions of the layers' maps for one image of this size; the network's state stays as it is."""
    found: dict[nn.Module, int] = {}
    hooks = []
    try:
        for layer in layers:
            hook = layer.register_forward_hook(lambda m, _, out: found.update({m: out[0, 0].numel()}))
            hooks.append(hook)
        with torch.no_grad(), _evaluating(model):
            model(_example(model, size))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _example(model: nn.Module, size: int | tuple[int, int]) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    return first.weight.new_zeros(1, first.in_channels, height, width)


def _mean(scores: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(scores)).mean(0)
