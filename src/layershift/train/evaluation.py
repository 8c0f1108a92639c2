"""Testing a trained network of images at several scales: by crops, and in its fully-convolutional form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from layershift.monitor import Record
from layershift.train.learner import Mean
from layershift.train.models.multiscale import crop_scores, dense_scores


def side_of(sizes: dict[str, int]) -> int:
    """The side of the square images that a network was trained with.

    Example:
        >>> side_of({"in_channels": 3, "in_features": 3 * 32 * 32})
        32
    """
    return math.isqrt(sizes["in_features"] // sizes["in_channels"])


@torch.no_grad()
def multi_scale_records(
    model: nn.Sequential, batches: Iterable[tuple[Tensor, Tensor]], *, scales: Sequence[int], side: int, step: int
) -> Iterator[Record]:
    """Accuracies over test images at several scales, as records of the network.

    They are called `crops/accuracy` and `convolutional/accuracy`, and `…/accuracy5` for the share of images whose label
    is among the five largest scores.

    Args:
        model: of images, ending with pool → flatten → classifier.
        batches: images (N, C, H, W) and labels (N,).
        scales: lengths of the shorter side.
        side: of the images in training, and of the crops.
        step: what the records' step is.

    Yields:
        Four records, with standard errors over images.
    """
    device = next(model.parameters()).device
    how = f"mean over images, at scales {', '.join(map(str, scales))}"
    means = {f"{form}/{rank}": Mean(how).to(device) for form in ("crops", "convolutional") for rank in _RANKS}
    training = model.training
    model.eval()
    for images, labels in batches:
        x, y = images.to(device), labels.to(device)
        scores = {
            "crops": crop_scores(model, x, scales=scales, crop=side),
            "convolutional": dense_scores(model, x, scales=scales, train_size=side),
        }
        for form, found in scores.items():
            for rank, count in _RANKS.items():
                largest = found.topk(min(count, found.shape[1]), 1).indices
                means[f"{form}/{rank}"].update(largest.eq(y.unsqueeze(1)).any(1))
    model.train(training)
    for name, mean in means.items():
        e = mean.compute()
        yield Record(step, "", name, float(e.value), float(e.stderr), int(e.n), estimator=e.estimator)


_RANKS = {"accuracy": 1, "accuracy5": 5}
