"""Photographs in files: read, scaled, cut and made into numbers, the same whatever the number of worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from layershift._checks import check_choice, import_extra
from layershift._seeds import derive_seed
from layershift.train.data.batches import EpochSampler
from layershift.train.data.files import DataError

Pixels: TypeAlias = Literal["imagenet", "caffe"]
"""What a network expects of its input: see `to_tensor`."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)
THUMBNAIL = 96
"""Side of the small images that people look at."""

_STREAM = 1


def read_image(path: str | Path) -> Any:
    """A PIL image in RGB.

    Raises:
        DataError: if the file is absent, truncated or no image.
    """
    pillow = import_extra("PIL.Image", extra="train")
    try:
        with pillow.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # PIL's words for damaged files
        raise DataError(f"{path}: not a readable image ({error})") from error


def to_tensor(pixels: Pixels = "imagenet") -> list[Any]:
    """Transforms from a PIL image in RGB to the numbers that a network expects, float32, (3, H, W).

    Args:
        pixels: "imagenet", as torchvision's networks were trained: RGB in [0, 1], minus a mean and divided by a
            standard deviation for each channel; "caffe", as older networks were: BGR in [0, 255], minus a mean.

    Example:
        >>> from PIL import Image
        >>> from torchvision.transforms import v2
        >>> v2.Compose(to_tensor("caffe"))(Image.new("RGB", (1, 1), (255, 0, 0))).flatten()
        tensor([-103.9390, -116.7790,  131.3200])
    """
    check_choice("pixels", pixels, ("imagenet", "caffe"))
    v2 = import_extra("torchvision.transforms.v2", extra="train")
    if pixels == "caffe":
        steps = [v2.ToDtype(torch.float32), v2.Lambda(_reversed), v2.Normalize(CAFFE_MEAN, (1.0, 1.0, 1.0))]
    else:
        steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return [v2.ToImage(), *steps, v2.ToPureTensor()]


def _reversed(image: Tensor) -> Tensor:
    """RGB to BGR."""
    return image.flip(-3)


def middle(side: int, shorter: int) -> list[Any]:
    """Transforms that scale the shorter side to a length and cut out the middle."""
    v2 = import_extra("torchvision.transforms.v2", extra="train")
    return [v2.Resize(shorter), v2.CenterCrop(side)]


def thumbnails(paths: Sequence[str], side: int = THUMBNAIL) -> Tensor:
    """The middles of photographs, small, as bytes: (N, 3, side, side)."""
    v2 = import_extra("torchvision.transforms.v2", extra="train")
    small = v2.Compose([*middle(side, side), v2.ToImage(), v2.ToPureTensor()])
    return torch.stack([small(read_image(path)) for path in paths]) if paths else torch.empty(0, 3, side, side).byte()


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Image files that are read a whole batch of indices at a time; workers each take whole batches.

    Args:
        paths: of N files.
        targets: what belongs to them, (N, …).
        transform: from a PIL image to a tensor; may draw from torch's global generator.
        sampler: it knows the epoch; None if nothing is drawn.
        seed: of what the transform draws for an image, together with the epoch and the image's number.
    """

    def __init__(
        self,
        paths: Sequence[str],
        targets: Tensor,
        transform: Callable[[Any], Tensor],
        sampler: EpochSampler | None = None,
        seed: int | None = None,
    ) -> None:
        self.paths, self.targets, self.transform, self.sampler, self.seed = paths, targets, transform, sampler, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([self._image(i) for i in indices.tolist()]), self.targets[indices]

    def _image(self, index: int) -> Tensor:
        image = read_image(self.paths[index])
        with torch.random.fork_rng(devices=[]):
            if self.seed is not None and self.sampler is not None:
                torch.manual_seed(derive_seed(self.seed, self.sampler.epoch, _STREAM, index))
            return self.transform(image)
