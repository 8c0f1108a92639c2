"""The parts of the page: which plots stand in which section, and the words around them."""

from __future__ import annotations

from collections.abc import Sequence

from layershift.report import alarms, cost, figures, health, shift, speeds
from layershift.report.data import Method, label
from layershift.report.parts import (
    Panel,
    Section,
    first_choice,
    legend_of,
    listed_seeds,
    mean_over_seeds,
    points,
    scale_legend,
    seeds_of,
    side_by_side,
)
from layershift.report.series import merge_orders
from layershift.report.style import colour
from layershift.report.words import count


def build(methods: Sequence[Method]) -> tuple[list[Section], list[str]]:
    """The sections for which there is data, and a sentence for each of the others."""
    shown, missing = [], []
    for make in (
        _curves,
        alarms.section,
        _distance,
        shift.section,
        _quantiles,
        _moments,
        health.section,
        speeds.section,
    ):
        made = make(methods)
        if isinstance(made, str):
            missing.append(made)
        elif made is not None:
            shown.append(made)
    return shown, missing + cost.missing(methods)


_CURVES = (
    ("val/accuracy", "Validation accuracy", "accuracy, %", 100.0),
    ("test/accuracy", "Test accuracy", "accuracy, %", 100.0),
    ("val/perplexity", "Validation perplexity", "perplexity", 1.0),
    ("test/perplexity", "Test perplexity", "perplexity", 1.0),
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
    first = next((name for name in ("Accuracy", "Perplexity") if name.lower() in panels[0].key), None)
    title = f"{first} and loss through training" if first else "Loss through training"
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
    limit, thinned = points(having, layers=max(len(m.layers) for m in having), each=2 * len(having))
    panels = [
        Panel(f"distance-{m.index}", m.name, colour(m), {"": figures.heat_map(m, scale, limit=limit)}) for m in having
    ]
    lead = (
        "Sliced W1 distance between a layer’s outputs and a standard normal distribution. Each row is a layer, "
        "the input at the top; time runs to the right. Dark is close to N(0, I), bright is far from it."
    )
    caption = f"{mean_over_seeds('Mean', having, 'normality')}. {thinned}"
    columns = 1 if len(panels) == 1 else 2
    legend = [scale_legend("distance", scale, panels)]
    return Section("distance", "How far each layer is from N(0, I)", lead, panels, columns, caption, scales=legend)


def _quantiles(methods: Sequence[Method]) -> Section | str:
    names = [figures.quantile_name(q) for q in figures.QUANTILES]
    having = [m for m in methods if all(m.having(name) for name in names)]
    if not having:
        return (
            "Quantiles of a layer by step: no run holds “quantile_0.05” to “quantile_0.95”. "
            '“Monitor(model, measures=("moments",), …)” measures them.'
        )
    layers = merge_orders(m.layers for m in having)
    limit, thinned = points(having, layers=len(layers), each=5 * len(having))
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
    caption = f"{mean_over_seeds('Mean of each quantile', having, names[0])}. {thinned}"
    fixed = f"one scale for all {label(methods)}s" if len(having) > 1 else ""
    first = first_choice(methods, layers)
    columns = side_by_side(len(panels))
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
    limit, thinned = points(having, layers=len(layers), each=len(having) * len(measures) * (3 + units))
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
    first = first_choice(methods, layers)
    return Section(
        "moments", "Moments of a layer and its units", lead, panels, len(measures), caption, first, layers, fixed
    )
