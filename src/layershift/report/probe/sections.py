"""Which plots of a probe stand on the page, and the words around them."""

from __future__ import annotations

from layershift.report.parts import Panel, Section
from layershift.report.probe import figures
from layershift.report.probe.data import ProbeResults
from layershift.report.words import count, listed


def build(results: ProbeResults) -> list[Section]:
    """The sections for which there are data."""
    made = (_depth(results), _epochs(results), _samples(results), _course(results))
    return [section for section in made if section is not None]


def _depth(results: ProbeResults) -> Section | None:
    rows = results.rows("depth")
    methods = [m for m in results.methods if any(row.get("method") == m for row in rows)]
    panels = [
        Panel(f"depth-{k}", figures.METHOD_NAMES.get(m, m), None, {"": figures.depth(results, m)})
        for k, m in enumerate(methods)
    ]
    if not panels:
        return None
    lead = (
        "How far the label distributions of each layer’s classifier are from the targets. Layers in order of depth; "
        "the last is the network’s own output. A distance that falls says that layers come closer to the labels."
    )
    used = {str(row.get("estimator")): None for row in rows if row.get("method") == methods[0]}
    sizes = [f"{name}, {count(int(n), 'sample')}" for name, n in results.mapping("splits").items()]
    left = max((int(row.get("left_out") or 0) for row in rows), default=0)
    caption = f"Bars: one standard error over samples; n: {'; '.join(sizes)}. First panel: {listed(list(used))}."
    caption += f" Left out, without a label or a distribution: up to {count(left, 'sample')}." if left else ""
    legend = [(figures.colour_of(k), name) for k, name in enumerate(results.mapping("splits"))]
    title = "Distance to the target through depth"
    columns = min(len(panels) - 1, 2)
    return Section("depth", title, lead, panels[1:], columns, caption, legend=legend, overview=panels[:1])


def _epochs(results: ProbeResults) -> Section | None:
    kinds = {
        "epochs": ("Distance to the target", "distance to the target"),
        "adjacent": ("Distance from one recorded epoch to the next", "distance between epochs"),
    }
    panels = [
        Panel(f"course-of-{key}", title, None, {"": figures.epochs(results, key, words)})
        for key, (title, words) in kinds.items()
        if results.rows(key)
    ]
    if not panels:
        return None
    first = (results.rows("epochs") or results.rows("adjacent"))[0]
    recorded = {row.get("epoch") for row in results.rows("epochs")}
    caption = f"Mean over {count(int(first.get('n') or 0), 'sample')}; {first.get('estimator')}."
    caption += f" {count(len(recorded), 'epoch')} recorded; epoch 0 is before training." if recorded else ""
    lead = (
        "The classifiers of the layers while they are trained; the network itself stays as it is, and so does its "
        "output. The first plot: how far they are from the targets. The second: how much they still move."
    )
    lead = lead if len(panels) == 2 else lead.split(" The first plot:")[0]
    n = len(results.layers)
    legend = [(figures.shade(k, n), name) for k, name in enumerate(results.layers)]
    return Section("epochs", "Through training", lead, panels, len(panels), caption, legend=legend)


def _samples(results: ProbeResults) -> Section | None:
    samples = [sample for sample in results.rows("gallery") if sample.get("distributions")]
    if not samples:
        return None
    names = figures.chosen(samples, kinds=True)
    labels = results.labels
    made = {
        name: figures.distribution(sample["distributions"], results.layers, sample.get("target") or (), labels)
        for name, sample in zip(names, samples, strict=True)
    }
    lead = (
        "The label distribution of one sample, layer by layer, the input at the top and the target at the bottom. One "
        "sample’s way need not be as steady as the mean’s."
    )
    panels = [Panel("sample", "Label distribution through depth", None, made)]
    caption = f"{count(len(labels), 'label')}; a row adds up to 1."
    return Section(
        "samples", "Single samples through depth", lead, panels, 1, caption, names[0], names, scales=[figures.SHARES]
    )


def _course(results: ProbeResults) -> Section | None:
    course = results.mapping("course")
    samples = course.get("samples") or []
    if not samples:
        return None
    names = figures.chosen(samples, kinds=False)
    epochs = [f"epoch {epoch}" for epoch in course.get("epochs") or ()]
    panels = []
    for k, layer in enumerate(course.get("layers") or ()):
        made = {
            name: figures.distribution(sample["distributions"][k], epochs, sample.get("target") or (), results.labels)
            for name, sample in zip(names, samples, strict=True)
        }
        panels.append(Panel(f"course-{k}", str(layer), None, made))
    lead = "The label distribution of one sample while the classifiers are trained; time runs downwards."
    caption = f"{count(len(samples), 'sample')} to choose from; a row adds up to 1."
    return Section(
        "course",
        "Single samples through training",
        lead,
        panels,
        min(len(panels), 3) if len(results.labels) <= 30 else 1,
        caption,
        names[0],
        names,
        scales=[figures.SHARES],
    )
