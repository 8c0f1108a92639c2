"""What a probe's numbers say, in a few sentences that are put together from them."""

from __future__ import annotations

import itertools
import math

from layershift.report.probe.data import ProbeResults, series, value
from layershift.report.probe.tables import percent, plus_minus, rule_name
from layershift.report.words import count, listed


def finding(results: ProbeResults) -> str:
    """The sentences for which there are numbers."""
    said = [*_depth(results), *_epochs(results), *_overthinking(results), *_kinds(results), *_exits(results)]
    text = " ".join(said) or f"{count(len(results.layers), 'layer')} probed; there are no numbers yet."
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def _depth(results: ProbeResults) -> list[str]:
    first = results.methods[0] if results.methods else ""
    rows = [r for r in results.rows("depth") if r.get("split") == results.main and r.get("method") == first]
    means, errors = (series(rows, results.layers, key) for key in ("mean", "stderr"))
    known = [(layer, m, e) for layer, m, e in zip(results.layers, means, errors, strict=True) if math.isfinite(m)]
    if len(known) < 2:
        return []
    (start, a, da), (end, b, db) = known[0], known[-1]
    steps = [late < early for (_, early, _), (_, late, _) in itertools.pairwise(known)]
    went = "falls" if b < a else "rises" if b > a else "stays"
    how = "at every step" if all(steps) else f"at {sum(steps)} of {len(steps)} steps from layer to layer"
    ends = f"from {plus_minus(a, da)} at {start} to {plus_minus(b, db)} at {end}"
    sentence = f"On {results.main} the distance W to the target {went} {ends}; it falls {how}."
    nearest = min(known, key=lambda item: item[1])
    if nearest[0] != end:
        sentence += f" The layer nearest to the targets is {nearest[0]}, with {plus_minus(nearest[1], nearest[2])}."
    return [sentence]


def _epochs(results: ProbeResults) -> list[str]:
    rows = results.rows("epochs")
    epochs = sorted({int(value(row, "epoch")) for row in rows})
    inner = results.layers[:-1]
    if len(epochs) < 2 or not inner:
        return []
    ends = [[r for r in rows if r.get("epoch") == epoch] for epoch in (epochs[0], epochs[-1])]
    before, after = (series(own, inner, "mean") for own in ends)
    fell = sum(b < a for a, b in zip(before, after, strict=True))
    where = f"{fell} of {count(len(inner), 'inner layer')}"
    return [f"From epoch {epochs[0]} to {epochs[-1]} of the classifiers’ training it falls at {where}."]


def _overthinking(results: ProbeResults) -> list[str]:
    found = results.mapping("overthinking")
    accuracy, ideal = value(found, "accuracy"), value(found, "ideal")
    if not (math.isfinite(accuracy) and math.isfinite(ideal)):
        return []
    return [
        f"{percent(accuracy, value(found, 'accuracy_stderr'))} % of samples are exactly right at the output; "
        f"{percent(ideal - accuracy)} % more are right at some inner layer and wrong in the end, "
        f"so that the ideal exit would reach {percent(ideal, value(found, 'ideal_stderr'))} %."
    ]


def _kinds(results: ProbeResults) -> list[str]:
    counts = results.mapping("difficulty").get("counts") or {}
    shown = [kind for kind in ("easy", "hard", "confused") if kind in counts]
    told = [f"{int(counts[kind]):,} {'' if k else 'are '}{kind}" for k, kind in enumerate(shown)]
    total = sum(int(n) for n in counts.values())
    return [f"Of {count(total, 'sample')} {listed(told)}."] if told else []


def _exits(results: ProbeResults) -> list[str]:
    rows = [row for row in results.rows("exits") if math.isfinite(value(row, "accuracy"))]
    if not rows:
        return []
    best = max(rows, key=lambda row: value(row, "accuracy"))
    sentence = f"The exit rule {rule_name(best.get('rule'))} has {percent(value(best, 'accuracy'))} % exactly right"
    gain, error, cost = (value(best, key) for key in ("difference", "difference_stderr", "cost"))
    if math.isfinite(gain):
        sentence += f", {percent(gain, error)} points {'more' if gain >= 0 else '(less)'} than the full network"
    if math.isfinite(cost):
        sentence += f", at {100 * cost:.0f} % of its operations"
    return [f"{sentence}."]
