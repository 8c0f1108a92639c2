"""Two handwritten digits side by side, labelled with the digits that are there: several labels, no download."""

from __future__ import annotations

import torch
from torch import Tensor

from layershift._checks import check
from layershift.train.data.digits import split_digits
from layershift.train.data.files import Part
from layershift.train.data.images import ImageData
from layershift.train.data.multilabel import targets_of
from layershift.train.data.preprocess import Standardize

PAIRS = {"train": 4000, "val": 1000, "test": 2000}
PAIR_SEED = 0
"""The pairs are the same for every method and every run's seed."""

_BRIGHTEST = 16


class DigitPairsData(ImageData):
    """Images of 8 × 16 that show two of scikit-learn's digits: 4,000 to train, 1,000 to validate, 2,000 to test.

    The labels of an image are the digits in it, one or two of ten: about a tenth of the pairs show the same digit
    twice. The digits are divided first, as in `DigitsData`, and pairs are drawn inside each part, so no digit is in two
    parts. No pair comes twice, and none shows one image of a digit twice; two different pairs may share a digit.

    Pixels are standardised with the mean and the standard deviation of all training pixels. The last, smaller training
    batch is left out; the order of the others depends on the seed and the epoch alone.

    Args:
        batch_size: samples in a training batch.
        seed: of the order of the training batches; the pairs do not depend on it.

    Raises:
        ValueError: if the batch size is not between 2 and the number of training images.

    Example:
        >>> data = DigitPairsData(batch_size=100)
        >>> data.setup()
        >>> images, targets = next(iter(data.train_dataloader()))
        >>> images.shape, targets.shape, len(data.train_dataloader()), sorted(targets.sum(1).unique().tolist())
        (torch.Size([100, 1, 8, 16]), torch.Size([100, 10]), 40, [1.0, 2.0])
    """

    task = "multi_label"
    title = "digit_pairs"
    in_channels, num_classes, side = 1, 10, 8
    augmented = False

    def __init__(self, batch_size: int = 128, seed: int = 0) -> None:
        expected = f"a number from 2 to {PAIRS['train']} (the training images)"
        check(2 <= batch_size <= PAIRS["train"], "batch_size", expected, batch_size)
        super().__init__(batch_size, seed)

    @property
    def in_features(self) -> int:
        """Numbers of an image."""
        return 2 * super().in_features

    def load(self, device: torch.device) -> dict[str, Part]:
        """The three parts, as bytes; sets `prepare`."""
        images, labels, chosen = split_digits()
        images = (images * (255 / _BRIGHTEST)).round().to(torch.uint8)
        parts = {}
        for number, (name, indices) in enumerate(chosen.items()):
            left, right = draw_pairs(len(indices), PAIRS[name], seed=PAIR_SEED + number)
            own, classes = images[indices], labels[indices]
            targets = targets_of(torch.stack([classes[left], classes[right]], 1).tolist(), self.num_classes)
            parts[name] = torch.cat([own[left], own[right]], -1).to(device), targets.to(device)
        self.prepare = Standardize.fit(parts["train"][0])
        return parts


def draw_pairs(size: int, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Different ordered pairs of different things, each as likely as any other.

    Args:
        size: how many things.
        count: how many pairs, at most size · (size − 1).
        seed: of the draws.

    Returns:
        Numbers of the left and of the right things, each (count,).

    Example:
        >>> left, right = draw_pairs(3, 6, seed=0)
        >>> sorted(zip(left.tolist(), right.tolist()))
        [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    """
    every = size * (size - 1)
    check(count <= every, "count", f"at most {every}, the pairs of {size} things", count)
    pairs = torch.randperm(every, generator=torch.Generator().manual_seed(seed))[:count]
    left, right = pairs // (size - 1), pairs % (size - 1)
    return left, right + (right >= left)
