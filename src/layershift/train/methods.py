"""What a run does to the distributions of the layers: a normaliser, a penalty, or nothing.

A new method is one entry of `METHODS` and its name in `MethodName`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import nn

    from layershift.train.models import NormName

MethodName: TypeAlias = Literal["vanilla", "batch", "unitization", "per"]


@dataclass(frozen=True)
class Method:
    """How a network is built and what is added to its loss.

    Attributes:
        norm: the normaliser, as `layershift.train.models.make_norm` knows it.
        penalty: makes the penalty on the hidden activations, or None.
        penalty_weight: its weight λ unless a run says otherwise.
        summary: one line for people.
    """

    norm: NormName | None = None
    penalty: Callable[[], nn.Module] | None = None
    penalty_weight: float = 0.0
    summary: str = ""


def _per() -> nn.Module:
    from layershift.nn import PER

    return PER(mode="exact", reduction="sum")


METHODS: Mapping[MethodName, Method] = {
    "vanilla": Method(summary="the plain network"),
    "batch": Method(norm="batch", summary="batch normalisation before each activation"),
    "unitization": Method(norm="unitization", summary="unitization before each activation"),
    "per": Method(
        penalty=_per,
        penalty_weight=3e-5,
        summary="the plain network with exact PER, summed over the batch, on each activation",
    ),
}
