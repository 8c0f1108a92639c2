"""Augmentation of whole batches on their device: what happens to an image depends on seed, epoch and image alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layershift._seeds import derive_seed

_STREAM = 1
"""Keeps these draws apart from those of the order, which come from the same seed and epoch."""


def crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, *, padding: int) -> Tensor:
    """Pad each image with zeros, cut a window of the former size out of it, and mirror some.

    Args:
        images: (N, C, H, W).
        top: (N,), first row of the window, from 0 to twice the padding.
        left: (N,), its first column.
        flip: (N,), true where the window is mirrored.
        padding: rows and columns of zeros on each side.

    Returns:
        (N, C, H, W).

    Example:
        >>> image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
        >>> crop_flip(image, torch.tensor([0]), torch.tensor([1]), torch.tensor([True]), padding=1)[0, 0]
        tensor([[0., 0., 0.],
                [3., 2., 1.],
                [6., 5., 4.]])
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, top, left, H, W), a view
    cut = windows[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flip[:, None, None, None], cut.flip(-1), cut)


class CropFlip:
    """The augmentation of CIFAR: zeros around the image, a random window of its size, mirrored in half of the cases.

    The images are standardised before, so the zeros are pixels of the mean colour. All draws of an epoch are made at
    its start, one for each image of the data, so they do not depend on the size or the order of the batches, nor on
    the number of processes.

    Args:
        size: number of images in the data.
        padding: 4 for images of 32 × 32.
        seed: of the draws.

    References:
        K. He et al., "Deep residual learning for image recognition", 2016, section 4.2, https://arxiv.org/abs/1512.03385

    Example:
        >>> augment = CropFlip(100, padding=4, seed=0)
        >>> augment(torch.randn(5, 3, 32, 32), torch.arange(5), 0).shape
        torch.Size([5, 3, 32, 32])
    """

    def __init__(self, size: int, *, padding: int, seed: int) -> None:
        self.size, self.padding, self.seed = size, padding, seed
        self._epoch = -1
        self._draws = torch.empty(0)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Augment the images (N, C, H, W) whose numbers in the data are `indices`, (N,)."""
        if epoch != self._epoch:
            self._epoch, self._draws = epoch, self.draws(epoch).to(indices.device)
        top, left, flip = self._draws[:, indices]
        return crop_flip(images, top, left, flip.bool(), padding=self.padding)

    def draws(self, epoch: int) -> Tensor:
        """First row, first column, and whether to mirror, of every image in an epoch, (3, size)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, _STREAM))
        window = torch.randint(2 * self.padding + 1, (2, self.size), generator=generator)
        return torch.cat([window, torch.randint(2, (1, self.size), generator=generator)])
