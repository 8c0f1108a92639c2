"""Handwritten digits that come with scikit-learn: 1,797 grey images of 8 × 8, ten classes, no download."""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import check, import_extra
from layershift.train.data.files import Part
from layershift.train.data.images import ImageData

SIZES = {"train": 1077, "val": 270, "test": 450}
SPLIT_SEED = 0
"""The split is the same for every method and every run's seed."""


class DigitsData(ImageData):
    """Digits in three disjoint parts with equal shares of each class: 1,077 to train, 270 to validate, 450 to test.

    Pixels are standardised with the mean and the standard deviation of all training pixels (two numbers; single pixels
    at the border never vary). The test part serves the final number only. The last, smaller training batch is left out;
    the order of the others depends on the seed and the epoch alone.

    Args:
        batch_size: samples in a training batch.
        seed: of the order of the training batches; the split does not depend on it.

    Raises:
        ValueError: if the batch size is not between 2 and the number of training images.

    References:
        E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", 1998, https://doi.org/10.24432/C50P49.

    Example:
        >>> data = DigitsData(batch_size=128)
        >>> data.setup()
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape, len(data.train_dataloader())
        (torch.Size([128, 1, 8, 8]), torch.Size([128]), 8)
    """

    title = "digits"
    in_channels, num_classes, side = 1, 10, 8
    augmented = False

    def __init__(self, batch_size: int = 128, seed: int = 0) -> None:
        expected = f"a number from 2 to {SIZES['train']} (the training images)"
        check(2 <= batch_size <= SIZES["train"], "batch_size", expected, batch_size)
        super().__init__(batch_size, seed)

    def load(self, device: torch.device) -> dict[str, Part]:
        """The three parts, standardised."""
        images, labels, parts = split_digits()
        std, mean = torch.std_mean(images[parts["train"]])
        return {
            name: (((images[indices] - mean) / std).to(device), labels[indices].to(device))
            for name, indices in parts.items()
        }


def split_digits() -> tuple[Tensor, Tensor, dict[str, list[int]]]:
    """All digits, (1797, 1, 8, 8) with brightness from 0 to 16, their labels, and which of them are in each part."""
    digits = import_extra("sklearn.datasets", extra="train").load_digits()
    divide = import_extra("sklearn.model_selection", extra="train").train_test_split
    rest, test = divide(
        range(len(digits.target)), test_size=SIZES["test"], stratify=digits.target, random_state=SPLIT_SEED
    )
    train, val = divide(rest, test_size=SIZES["val"], stratify=digits.target[rest], random_state=SPLIT_SEED)
    images = torch.from_numpy(digits.images).float().unsqueeze(1)
    return images, torch.from_numpy(digits.target).long(), {"train": train, "val": val, "test": test}
