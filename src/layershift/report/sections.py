"""The parts of the page: which plots stand in which section, and the words around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from layershift.report import figures
from layershift.report.data import Method, Run, label
from layershift.report.series import KEEP, merge_orders
from layershift.report.style import CONSTANT, NOT_FINITE, VIRIDIS, colour, log_ticks
from layershift.report.words import count

BUDGET = 500_000
"""How many numbers the plots of a section hold at most, if 40 steps allow it: about 3 MB of page."""


class Panel(NamedTuple):
    """A small plot: its title, and a figure for each choice of a layer ("" where there is none to choose)."""

    key: str
    title: str
    colour: str | None
    figures: dict[str, Any]


class Section(NamedTuple):
    """A part of the page: plots of one kind, with the words that explain them.

    Attributes:
        key: its anchor.
        title: says what one sees.
        lead: how to read it.
        panels: the plots.
        columns: how many stand side by side where there is room.
        caption: n, spread, thinning.
        chosen: the layer that is shown first; "" if there is no choice.
        choices: the layers to choose from.
        fixed: what the fixed vertical scale is called, which the reader can let go; "" if there is no choice.
        legend: pairs (colour, name).
        scale: the colour scale of heat maps: its stops and the ticks (place in per cent, text).
    """

    key: str
    title: str
    lead: str
    panels: list[Panel]
    columns: int
    caption: str
    chosen: str = ""
    choices: Sequence[str] = ()
    fixed: str = ""
    legend: Sequence[tuple[str, str]] = ()
    scale: dict[str, Any] | None = None


def build(methods: Sequence[Method]) -> tuple[list[Section], list[str]]:
    """The sections for which there is data, and a sentence for each of the others."""
    shown, missing = [], []
    for make in (_curves, _distance, _quantiles, _moments):
        made = make(methods)
        if isinstance(made, str):
            missing.append(made)
        else:
            shown.append(made)
    return shown, missing


def seeds_of(methods: Sequence[Method], has: Callable[[Any], bool]) -> str:
    """How many runs stand behind each line: `n = 3 seeds`, or one number a method where they differ."""
    counts = {method.name: sum(has(run) for run in method.runs) for method in methods}
    counts = {name: n for name, n in counts.items() if n}
    if len(set(counts.values())) == 1:
        n = next(iter(counts.values()))
        return f"n = {count(n, 'run' if label(methods) == 'run' else 'seed')}"
    return "n = " + ", ".join(f"{n} ({name})" for name, n in counts.items())


def legend_of(methods: Sequence[Method]) -> list[tuple[str, str]]:
    """The methods' colours and names; nothing for a single one."""
    return [(colour(method), method.name) for method in methods] if len(methods) > 1 else []


_CURVES = (
    ("val/accuracy", "Validation accuracy", "accuracy, %", 100.0),
    ("test/accuracy", "Test accuracy", "accuracy, %", 100.0),
    ("train/loss", "Training loss", "loss", 1.0),
    ("val/loss", "Validation loss", "loss", 1.0),
)


def _curves(methods: Sequence[Method]) -> Section | str:
    runs = [run for method in methods for run in method.runs]
    panels, notes = [], []
    for measure, title, axis, factor in _CURVES:
        having = [run for run in runs if measure in run.network and len(run.network[measure]) > 1]
        if having:
            accuracy = measure.endswith("accuracy")
            figure = figures.curves(methods, measure, title=axis, factor=factor, settled=accuracy)
            notes += ["the accuracy axis leaves out the first tenth of training"] if accuracy else []
            panels.append(Panel(measure.replace("/", "-"), title, None, {"": figure}))
            size = max(-(-len(run.network[measure]) // 120) for run in having)
            notes += [f"each point of the {title.lower()} averages {size} recorded values"] if size > 1 else []
    if not panels:
        return (
            "Accuracy and loss by step: no run holds “train/loss”, “val/loss” or “val/accuracy”. "
            "Training with “layershift train” records them; “Store.write” takes them from any other loop."
        )
    spread = f"{seeds_of(methods, lambda run: bool(run.network))}: line, mean; band, lowest to highest"
    single = all(len(method.runs) == 1 for method in methods)
    alone = seeds_of(methods, lambda run: bool(run.network)) + (" each" if len(methods) > 1 else "")
    caption = "; ".join([alone if single else spread, *notes])
    title = "Accuracy and loss through training" if "accuracy" in panels[0].key else "Loss through training"
    lead = "How well, and how fast, the network learns."
    return Section("training", title, lead, panels, min(len(panels), 3), caption + ".", legend=legend_of(methods))


def _distance(methods: Sequence[Method]) -> Section | str:
    having = [method for method in methods if method.having("normality")]
    if not having:
        return (
            "Distance to N(0, I) by layer and step: no run holds “normality”. "
            '“Monitor(model, measures=("moments", "normality"), …)” measures it.'
        )
    scale = figures.distance_scale(having)
    limit, thinned = _points(having, layers=max(len(m.layers) for m in having), each=2 * len(having))
    panels = [
        Panel(f"distance-{m.index}", m.name, colour(m), {"": figures.heat_map(m, scale, limit=limit)}) for m in having
    ]
    lead = (
        "Sliced W1 distance between a layer’s outputs and a standard normal distribution. Each row is a layer, "
        "the input at the top; time runs to the right. Dark is close to N(0, I), bright is far from it."
    )
    caption = f"{seeds_of(having, lambda run: 'normality' in run.levels)}. {thinned}"
    caption = f"Mean over seeds, {caption}" if any(len(m.having("normality")) > 1 for m in having) else caption
    columns = 1 if len(panels) == 1 else 2
    seen = {code for panel in panels for trace in panel.figures[""].data[1:] for code in np.unique(trace.z)}
    special = [pair for code, pair in _STATES.items() if code in seen]
    legend = {**_legend(scale), "special": special}
    return Section("distance", "How far each layer is from N(0, I)", lead, panels, columns, caption, scale=legend)


_STATES = {1.0: (CONSTANT, "constant output"), 2.0: (NOT_FINITE, "not finite")}


def _legend(scale: figures.Scale) -> dict[str, Any]:
    """The colour scale as the page draws it: colours from left to right, ticks at their place in per cent."""
    if scale.log:
        ticks = log_ticks(scale.low, scale.high)
    else:
        step = 10.0 ** np.floor(np.log10(scale.high - scale.low))
        step /= 1 if (scale.high - scale.low) / step > 4 else 2 if (scale.high - scale.low) / step > 2 else 5
        ticks = [step * k for k in range(int(np.ceil(scale.low / step)), int(scale.high / step) + 1)]
    ends = scale.place([scale.low, scale.high])
    ticks = [t for t in ticks if scale.low * (1 - 1e-9) <= t <= scale.high * (1 + 1e-9)]
    places = [100 * float((scale.place(t) - ends[0]) / (ends[1] - ends[0])) for t in ticks]
    kept = [(place, f"{t:.4g}") for place, t in zip(places, ticks, strict=True)]
    return {"colours": VIRIDIS, "ticks": kept, "log": scale.log}


def _quantiles(methods: Sequence[Method]) -> Section | str:
    names = [figures.quantile_name(q) for q in figures.QUANTILES]
    having = [m for m in methods if all(m.having(name) for name in names)]
    if not having:
        return (
            "Quantiles of a layer by step: no run holds “quantile_0.05” to “quantile_0.95”. "
            '“Monitor(model, measures=("moments",), …)” measures them.'
        )
    layers = merge_orders(m.layers for m in having)
    limit, thinned = _points(having, layers=len(layers), each=5 * len(having))
    spans = {layer: figures.quantile_span(having, layer) for layer in layers}
    panels = [
        Panel(
            f"quantiles-{m.index}",
            m.name,
            colour(m),
            {layer: figures.quantile_ribbon(m, layer, span=spans[layer], limit=limit) for layer in layers},
        )
        for m in having
    ]
    lead = (
        "Light band, 5 to 95 % of the activations; dark band, 25 to 75 %; line, median. "
        "Dotted, the same five quantiles of N(0, 1): where a band leaves its dotted lines, the layer leaves N(0, 1)."
    )
    caption = f"{seeds_of(having, lambda run: names[0] in run.levels)}. {thinned}"
    caption = (
        f"Mean of each quantile over seeds, {caption}" if any(len(m.having(names[0])) > 1 for m in having) else caption
    )
    fixed = f"one scale for all {label(methods)}s" if len(having) > 1 else ""
    first = _first_choice(methods, layers)
    columns = min(len(panels), 4 if len(panels) % 2 == 0 else 3)
    return Section("quantiles", "Where a layer’s activations lie", lead, panels, columns, caption, first, layers, fixed)


def _moments(methods: Sequence[Method]) -> Section | str:
    having = [m for m in methods if any(m.having(measure) for measure in figures.MOMENTS)]
    if not having:
        return (
            "Moments of a layer by step: no run holds “mean”, “variance”, “skewness” or “kurtosis”. "
            '“Monitor(model, measures=("moments",), …)” measures them.'
        )
    measures = [measure for measure in figures.MOMENTS if any(m.having(measure) for m in having)]
    layers = merge_orders(m.layers for m in having)
    firsts = [m.runs[0] for m in having]
    units = max((t[t.columns[0][0]].shape[1] for run in firsts for t in run.units.values()), default=0)
    limit, thinned = _points(having, layers=len(layers), each=len(having) * len(measures) * (3 + units))
    spans = {(layer, measure): figures.moment_span(having, layer, measure) for layer in layers for measure in measures}
    panels = []
    for m in having:
        for measure in measures:
            title = f"{m.name}: {measure}" if len(having) > 1 else measure.capitalize()
            made = {x: figures.moment(m, x, measure, span=spans[x, measure], limit=limit) for x in layers}
            panels.append(Panel(f"moments-{m.index}-{measure}", title, colour(m), made))
    which = listed_seeds(firsts)
    thin = f"thin lines, {count(units, 'sampled unit')}; " if units else ""
    lead = (
        f"Thick line, the layer as a whole, in a band of ± its standard error; {thin}dotted, N(0, 1). "
        "A stable layer has flat lines; units that part ways make its distribution shift."
    )
    outermost = "the outermost 2 % of the units’ values"
    if len(having) > 1:
        fixed = f"one scale for all {label(methods)}s"
        thinned = f"That scale leaves out {outermost}. {thinned}" if units else thinned
    else:
        fixed = f"leave out {outermost}" if units else ""
    caption = f"One run: {which}. {thinned}"
    first = _first_choice(methods, layers)
    return Section(
        "moments", "Moments of a layer and its units", lead, panels, len(measures), caption, first, layers, fixed
    )


def listed_seeds(runs: Sequence[Run]) -> str:
    """Which runs these are: `seed 0 of each method`, or their names."""
    seeds = {run.seed for run in runs}
    if len(runs) > 1 and len(seeds) == 1 and None not in seeds:
        return f"seed {seeds.pop()} of each method"
    return "; ".join(run.name for run in runs)


def _points(methods: Sequence[Method], *, layers: int, each: int) -> tuple[int, str]:
    """How many steps to draw so that the page stays small, and a sentence on it."""
    steps = max(run.steps for method in methods for run in method.runs)
    limit = int(np.clip(BUDGET / max(layers * each, 1), 40, KEEP))
    if steps > limit:
        return limit, f"{limit} of {steps:,} measured steps are drawn, evenly spread."
    return limit, f"All {steps:,} measured steps are drawn." if steps > 1 else "One measured step."


def _first_choice(methods: Sequence[Method], layers: Sequence[str]) -> str:
    """The layer that ends farthest from N(0, I) in any method, or the last one."""
    finals = [run.final[run.final["measure"] == "normality"] for method in methods for run in method.runs]
    known = [(float(value), str(name)) for f in finals for value, name in zip(f["value"], f["layer"], strict=True)]
    known = [(value, name) for value, name in known if np.isfinite(value) and name in layers]
    return max(known)[1] if known else layers[-1]
