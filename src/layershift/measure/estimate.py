"""A measured number with what is needed to believe it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A value with its standard error, its sample size and, where theory gives one, its bracket.

    The tensors share one shape: ``()`` for a whole layer, ``(units,)`` for single units. They stay on the device that
    they were computed on; nothing here waits for it. (A named tuple and not a dataclass, because torchmetrics maps over
    what ``compute`` returns.)

    Attributes:
        value: the estimate.
        stderr: its standard error; NaN where it is not known.
        n: how many independent samples it rests on (images, not pixels).
        lower: a lower bound on the true value, or None.
        upper: an upper bound on the true value, or None.
        estimator: how the number was made, in a few words.
        units: the unit of measurement; "1" for a pure number, "x" for the activation's own scale, "x^2" for its square.
        floor: what this estimator gives on average, at this sample size, where the true value is 0; None if that is 0.
        seconds: how long the estimate took, for those whose cost is worth knowing, or None.
    """

    value: Tensor
    stderr: Tensor
    n: Tensor
    lower: Tensor | None = None
    upper: Tensor | None = None
    estimator: str = ""
    units: str = "1"
    floor: Tensor | None = None
    seconds: float | None = None
