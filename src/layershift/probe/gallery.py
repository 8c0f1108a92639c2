"""Samples to look at: the most typical of each kind of difficulty, with small pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layershift._checks import check, import_extra
from layershift.probe.difficulties import Difficulty, Kind
from layershift.probe.outputs import LayerOutputs

SHOWN: tuple[Kind, ...] = ("easy", "hard", "confused")
_SIZE = 192

Images = Mapping[str, Any] | Callable[[str], Any]


def gallery_of(
    outputs: LayerOutputs, distances: Tensor, difficulty: Difficulty, *, each: int, folder: Path, images: Images | None
) -> list[dict[str, Any]]:
    """The most typical samples of each kind: target, distribution and distance at every layer, and a thumbnail.

    Args:
        outputs: what the layers' classifiers say.
        distances: of the samples from their targets, shape `(L, N)`.
        difficulty: which samples are of which kind.
        each: how many samples of a kind.
        folder: that gets `gallery/*.png`.
        images: by a sample's id, a tensor of shape `(H, W)` or `(C, H, W)` with 1 or 3 channels, a picture of Pillow,
            or None where there is none.

    Returns:
        Plain data, kind by kind.

    Raises:
        ValueError: if an image has another shape.
    """
    distributions, correct = outputs.distributions(), outputs.correct()
    rows = []
    for kind in SHOWN:
        for i in difficulty.typical(kind, each):
            image = None if images is None else _image(images, outputs.ids[i])
            name = None if image is None else f"gallery/{i}.png"
            if name is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                thumbnail(image).save(folder / name, format="PNG")
            rows.append(
                {
                    "id": outputs.ids[i],
                    "kind": kind,
                    "image": name,
                    "target": outputs.targets[i].nonzero().flatten().tolist(),
                    "correct": correct[:, i].tolist(),
                    "distances": distances[:, i].tolist(),
                    "distributions": rounded(distributions[:, i]),
                }
            )
    return rows


def _image(images: Images, key: str) -> Any:
    if isinstance(images, Mapping):
        return images.get(key)
    return images(key)


def rounded(values: Tensor) -> Any:
    """Nested lists of numbers with 5 digits after the point: a page shows no more."""
    return [rounded(row) for row in values] if values.dim() > 1 else [round(x, 5) for x in values.tolist()]


def thumbnail(image: Any) -> Any:
    """A small picture of Pillow.

    Args:
        image: a picture of Pillow, or a tensor of shape `(H, W)` or `(C, H, W)`, C 1 or 3: bytes, or numbers from 0 to
            1. Numbers that leave that range, as normalised images do, are stretched from their least to their largest.

    Returns:
        At most 192 pixels wide and high; smaller ones keep their size.

    Raises:
        ValueError: if the tensor has another shape.

    Example:
        >>> thumbnail(torch.rand(3, 500, 1000)).size
        (192, 96)
    """
    pillow = import_extra("PIL.Image", extra="train")
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        pixels = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels
        right = pixels.dim() == 3 and pixels.shape[0] in (1, 3) and pixels.numel() > 0
        check(right, "images", "tensors of shape (H, W), (1, H, W) or (3, H, W)", image)
        if pixels.dtype != torch.uint8:
            pixels = pixels.float().nan_to_num()
            low, high = pixels.aminmax()
            if low < 0 or high > 1:
                pixels = (pixels - low) / (high - low).clamp(min=1e-12)
            pixels = (pixels * 255).round().to(torch.uint8)
        image = pillow.fromarray(pixels.squeeze(0).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    small = image.convert("RGB")  # a copy
    small.thumbnail((_SIZE, _SIZE))
    return small
