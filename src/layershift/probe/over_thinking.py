"""Over-thinking: samples that an inner layer has right and the network gets wrong in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from layershift._checks import check, check_type
from layershift.probe.outputs import LayerOutputs


class OverthinkingRow(NamedTuple):
    """What share of all samples an inner layer has right and the network wrong.

    Attributes:
        layer: its name.
        first: those that no layer before has right; these shares add up.
        first_stderr: binomial.
        share: all that this layer has right; a sample may be counted at several layers.
        share_stderr: binomial.
    """

    layer: str
    first: float
    first_stderr: float
    share: float
    share_stderr: float


@dataclass(frozen=True)
class Overthinking:
    """Tables 2 and 3 of the paper.

    Attributes:
        rows: the inner layers, in order of depth.
        accuracy: the network's own share of samples with every label right.
        accuracy_stderr: binomial.
        ideal: the share of samples that some layer, the last one included, has right.
        ideal_stderr: binomial.
        n: how many samples have a label.
        left_out: how many have none.
    """

    rows: tuple[OverthinkingRow, ...]
    accuracy: float
    accuracy_stderr: float
    ideal: float
    ideal_stderr: float
    n: int
    left_out: int


def overthinking(outputs: LayerOutputs) -> Overthinking:
    """Count samples that are finally wrong at the layers that have them right.

    The paper's rows with the final accuracy add up to its "ideal result" (for ResNet-18 on VOC2007,
    5.97 % + 64.48 % = 70.45 %, printed 70.44 %), so that each sample is counted once: here at the first layer that has
    it right, `first`. Its text says "1.17 % are actually correctly classified at 0-th layer", which for that layer is
    the same number; for the others it is `share`, which counts a sample at every layer that has it right.

    Right means every label right and no other. Samples without a label are left out. All shares are of the samples that
    remain.

    Args:
        outputs: what the layers' classifiers say.

    Returns:
        The shares, each with its standard error.

    Raises:
        ValueError: if no sample has a label.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section H, tables 2 and 3.

    Example:
        >>> p = torch.tensor([[[0.9, 0.1], [0.9, 0.1]], [[0.8, 0.2], [0.2, 0.8]]])
        >>> targets = torch.tensor([[True, False], [True, False]])
        >>> outputs = LayerOutputs(("conv", "output"), p, targets, "single_label", ("0", "1"), ("0", "1"))
        >>> table = overthinking(outputs)
        >>> table.accuracy, table.rows[0].first, table.ideal
        (0.5, 0.5, 1.0)
    """
    check_type("outputs", outputs, LayerOutputs, "LayerOutputs")
    labelled = outputs.targets.any(1)
    right = outputs.correct()[:, labelled]
    n = right.shape[1]
    check(n > 0, "outputs", "at least one sample with a label", f"{len(labelled)} without")
    inner, final = right[:-1], right[-1]
    lost = inner & ~final
    before = lost.cumsum(0) - lost.long()
    firsts, shares = (lost & (before == 0)).sum(1).tolist(), lost.sum(1).tolist()
    rows = tuple(
        OverthinkingRow(name, *_share(first, n), *_share(every, n))
        for name, first, every in zip(outputs.layers[:-1], firsts, shares, strict=True)
    )
    some, last = (int(x) for x in torch.stack([right.any(0), final]).sum(1))
    return Overthinking(rows, *_share(last, n), *_share(some, n), n, len(labelled) - n)


def _share(count: int, n: int) -> tuple[float, float]:
    """A share and its binomial standard error."""
    share = count / n
    return share, (share * (1 - share) / n) ** 0.5
