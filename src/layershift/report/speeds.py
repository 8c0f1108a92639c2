"""How fast normalised neurons turn: effective learning rate and turn, by layer and step."""

from __future__ import annotations

from collections.abc import Sequence

from layershift.report.data import Method
from layershift.report.maps import heat_maps
from layershift.report.parts import Section

SHOWN = {
    "effective_rate": ("effective learning rate", "learning rate / squared length"),
    "turn": ("turn between measured steps", "angle in radians"),
}
_LEAD = (
    "Layers that a normaliser follows, the input at the top; time runs to the right. Of a neuron’s weights only the "
    "direction matters there. It learns at the effective rate, the learning rate over the weights’ squared length. "
    "The turn is the angle to the direction at the measured step before. Means over neurons."
)


def section(methods: Sequence[Method]) -> Section | None:
    """The part of the page; None if no run measured speeds."""
    shown = {measure: words for measure, words in SHOWN.items() if any(m.having(measure) for m in methods)}
    return heat_maps("speeds", "How fast neurons turn", _LEAD, methods, shown) if shown else None
