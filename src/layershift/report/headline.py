"""The number that says how good a network is: accuracy for classifiers, perplexity for language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from layershift.report.data import Method


class Headline(NamedTuple):
    """A measure of the network as a whole and how it is told.

    Attributes:
        measure: its name in the stores.
        name: in words.
        unit: what stands after a number.
        factor: what values are multiplied by, 100 for per cent.
        better: which values are better.
    """

    measure: str
    name: str
    unit: str
    factor: float
    better: Literal["high", "low"]

    @property
    def title(self) -> str:
        """What stands above its column."""
        return f"{self.name[0].upper()}{self.name[1:]}" + (f", {self.unit}" if self.unit else "")


HEADLINES = (
    Headline("test/accuracy", "test accuracy", "%", 100.0, "high"),
    Headline("test/perplexity", "test perplexity", "", 1.0, "low"),
    Headline("val/accuracy", "validation accuracy", "%", 100.0, "high"),
    Headline("val/perplexity", "validation perplexity", "", 1.0, "low"),
)
"""The test's number before the validation's."""


def headline(methods: Sequence[Method]) -> Headline:
    """The first of `HEADLINES` that some run has."""
    known = {measure for method in methods for run in method.runs for measure in run.network}
    return next((one for one in HEADLINES if one.measure in known), HEADLINES[0])
