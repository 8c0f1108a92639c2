"""A section of heat maps: measures of every layer by step, a map for each method and measure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from layershift.report.data import Method
from layershift.report.figures import Scale, distance_scale, heat_map
from layershift.report.parts import Panel, Section, mean_over_seeds, points, scale_legend
from layershift.report.style import colour


def heat_maps(
    key: str,
    title: str,
    lead: str,
    methods: Sequence[Method],
    shown: Mapping[str, tuple[str, str]],
    *,
    shares: Collection[str] = (),
    undefined: str = "not finite",
    note: str = "",
) -> Section:
    """A section with a map for each method that has a measure, and each measure.

    Args:
        key: of the section.
        title: of the section.
        lead: what the maps say.
        methods: whose runs to average.
        shown: measures, each with its name and what its colours mean; some method has each of them.
        shares: measures on a scale from 0 to 1, so that reports compare.
        undefined: what a cell is called that was measured and is not finite.
        note: said at the end.

    Returns:
        The section.
    """
    having = [m for m in methods if any(m.having(measure) for measure in shown)]
    limit, thinned = points(having, layers=max(len(m.layers) for m in having), each=2 * len(having) * len(shown))
    scales = {k: Scale(0.0, 1.0, log=False) if k in shares else distance_scale(having, k) for k in shown}
    panels: dict[str, list[Panel]] = {k: [] for k in shown}
    rows = []
    for m in having:
        for k, (name, _) in shown.items():
            if m.having(k):
                heading = f"{m.name}: {name}" if len(having) > 1 else name.capitalize()
                made = {"": heat_map(m, scales[k], measure=k, limit=limit, constant=False, undefined=undefined)}
                panels[k].append(Panel(f"{key}-{m.index}-{k}", heading, colour(m), made))
                rows.append(panels[k][-1])
    legends = [scale_legend(meaning, scales[k], panels[k], undefined=undefined) for k, (_, meaning) in shown.items()]
    caption = f"{mean_over_seeds('Mean', having, next(iter(shown)))}. {thinned}{note}"
    return Section(key, title, lead, rows, len(shown), caption, scales=legends)
