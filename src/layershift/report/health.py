"""Which layers do nothing: dead and saturated units and effective rank, by layer and step."""

from __future__ import annotations

from collections.abc import Sequence

from layershift.report.data import Method
from layershift.report.figures import Scale, distance_scale, heat_map
from layershift.report.parts import Panel, Section, mean_over_seeds, points, scale_legend
from layershift.report.style import colour

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
    having = [m for m in methods if any(m.having(measure) for measure in drawn)]
    each = 2 * len(having) * len(drawn)
    limit, thinned = points(having, layers=max(len(m.layers) for m in having), each=each)
    scales = {k: Scale(0.0, 1.0, log=False) if k in _SHARES else distance_scale(having, k) for k in drawn}
    panels: dict[str, list[Panel]] = {k: [] for k in drawn}
    for m in having:
        for k in drawn:
            if m.having(k):
                title = f"{m.name}: {SHOWN[k][0]}" if len(having) > 1 else SHOWN[k][0].capitalize()
                made = {"": heat_map(m, scales[k], measure=k, limit=limit, constant=False, undefined=_UNDEFINED)}
                panels[k].append(Panel(f"health-{m.index}-{k}", title, colour(m), made))
    rows = [panel for m in having for k in drawn for panel in panels[k] if panel.key == f"health-{m.index}-{k}"]
    legends = [scale_legend(SHOWN[k][1], scales[k], panels[k], undefined=_UNDEFINED) for k in drawn]
    said = "; ".join(_LEAD[k] for k in drawn)
    lead = f"Layers downwards, the input at the top; time runs to the right. {said[0].upper()}{said[1:]}."
    nothing = " No unit was saturated at any measured step." if len(drawn) < len(measures) else ""
    caption = f"{mean_over_seeds('Mean', having, drawn[0])}. {thinned}{nothing}"
    return Section("health", "Health of the layers", lead, rows, len(drawn), caption, scales=legends)


def _ever(methods: Sequence[Method], measure: str) -> bool:
    """Whether it was above 0 anywhere."""
    return any((run.levels[measure] > 0).to_numpy().any() for m in methods for run in m.having(measure))
