"""Which layers do nothing: dead and saturated units and effective rank, by layer and step."""

from __future__ import annotations

from collections.abc import Sequence

from layershift.report.data import Method
from layershift.report.maps import heat_maps
from layershift.report.parts import Section

# What is drawn, what its colours mean; shares have a scale from 0 to 1, so that reports compare.
SHOWN = {
    "dead": ("dead units", "share of dead units"),
    "saturated": ("saturated units", "share of saturated units"),
    "effective_rank": ("effective rank", "effective rank"),
}
_SHARES = ("dead", "saturated")
_UNDEFINED = "not defined (samples are alike, or not finite)"
_LEAD = {
    "dead": "a unit is dead if all its outputs are 0",
    "saturated": "a unit is saturated if it stays at the ends of its activation’s range",
    "effective_rank": "the effective rank is the number of directions in which samples differ, at most the number of "
    "units: 1 means that a layer has collapsed to a line",
}


def section(methods: Sequence[Method]) -> Section | str:
    """The part of the page, or a sentence on what would fill it."""
    measures = [measure for measure in SHOWN if any(m.having(measure) for m in methods)]
    if not measures:
        return (
            "Health of the layers: no run holds “dead”, “saturated” or “effective_rank”. "
            '“Monitor(model, measures=("moments", "health"), …)” measures them.'
        )
    drawn = [k for k in measures if k != "saturated" or _ever(methods, k)] or measures
    said = "; ".join(_LEAD[k] for k in drawn)
    lead = f"Layers downwards, the input at the top; time runs to the right. {said[0].upper()}{said[1:]}."
    nothing = " No unit was saturated at any measured step." if len(drawn) < len(measures) else ""
    shown = {k: SHOWN[k] for k in drawn}
    return heat_maps(
        "health", "Health of the layers", lead, methods, shown, shares=_SHARES, undefined=_UNDEFINED, note=nothing
    )


def _ever(methods: Sequence[Method], measure: str) -> bool:
    """Whether it was above 0 anywhere."""
    return any((run.levels[measure] > 0).to_numpy().any() for m in methods for run in m.having(measure))
