"""What the numbers say, in a few sentences that are put together from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from layershift.report.data import Method, Run
from layershift.report.headline import headline
from layershift.report.summary import Score, scores
from layershift.report.words import count, listed, number


def finding(methods: Sequence[Method]) -> str:
    """What the numbers say, in words that are put together from them."""
    columns = {score.key: score for score in scores(methods)}
    said = []
    if len(methods) > 1:
        said += [_compared(columns[key], methods) for key in ("headline", "distance") if key in columns]
    elif (run := methods[0].runs[0]).levels:
        said.append(_course(run))
    said += _faults(methods) + _alarmed(methods)
    if not said:
        said = [f"{count(sum(len(m.runs) for m in methods), 'run')} with measures of the network as a whole"]
    text = " ".join(sentence.rstrip(".") + "." for sentence in said)
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")  # a number does not break over lines


def _compared(score: Score, methods: Sequence[Method]) -> str:
    """One sentence on who leads a column, or why nobody can be said to."""
    main = headline(methods) if score.key == "headline" else None
    what = main.name if main else "mean sliced W1 to N(0, I)"
    unit = f" {main.unit}" if main and main.unit else ""
    texts = score.texts()
    told = [f"{method.name} ({text}{unit})" for method, text in zip(methods, texts, strict=True)]
    leading, alone = score.leaders()
    if not leading:
        return f"{what[0].upper()}{what[1:]} at the end: {listed(told)}"
    if len(leading) == len(told):
        return f"No method is ahead in {what}, within the spread over seeds: {listed(told)}"
    rest = [f"{methods[i].name} ({texts[i].split(' ±')[0]}{unit})" for i in score.ranked() if i not in leading]
    who = listed([told[i] for i in leading])
    most = f"the {'highest' if score.better == 'high' else 'lowest'} {what}"
    best = most if main else "the layers closest to N(0, I) in mean sliced W1"
    verb = "has" if alone else "are level within the spread for" if main else "have, level within the spread,"
    return f"{who[0].upper()}{who[1:]} {verb} {best}, ahead of {listed(rest)}"


def _course(run: Run) -> str:
    """How the distance went in a single run, or how much was measured."""
    if "normality" not in run.levels:
        return f"{count(len(run.layers), 'layer')} measured at {count(run.steps, 'step')}"
    table = run.levels["normality"]
    first, last = table.iloc[0].dropna(), table.iloc[-1].dropna()
    start, end = f"step {table.index[0]:,}", f"step {table.index[-1]:,}"
    over = f"mean distance to N(0, I), over {count(len(last), 'layer')},"
    farthest = f"the layer farthest from it is {last.idxmax()}, with {number(last.max())}"
    if np.isinf(last.max()):
        return f"The {over} is not finite at {end}"
    if len(table) == 1:
        return f"At {end} the {over} is {number(last.mean())}; {farthest}"
    went = f"went from {number(first.mean())} to {number(last.mean())}"
    return f"Between {start} and {end} the {over} {went}; now {farthest}"


def _faults(methods: Sequence[Method]) -> list[str]:
    """Where layers stopped being finite or put out a constant: the earliest step and layer of each method."""
    said = []
    for method in methods:
        broken = [_first(run, name, np.isinf) for run in method.runs for name in ("mean", "variance", "normality")]
        constant = [_first(run, "variance", lambda table: table == 0) for run in method.runs]
        for what, found in (("Not finite", broken), ("Constant", constant)):
            if seen := [place for places in found for place in places]:
                step, _, layer, run = min(seen)
                said.append(f"{what}: layer {layer} of {run}, first at step {step:,}")
    return said


def _alarmed(methods: Sequence[Method]) -> list[str]:
    """How many alarms there are, and the first of them."""
    found = [(alarm, run) for method in methods for run in method.runs for alarm in run.alarms]
    if not found:
        return []
    first, run = min(found, key=lambda pair: pair[0].step)
    where = f"layer {first.layer} of {run.name}" if first.layer else f"the network of {run.name}"
    many = f"{len(found):,}\u00a0alarms, the first" if len(found) > 1 else "1\u00a0alarm"
    return [f"{many} at step {first.step:,}: {where} ({first.kind})"]


def _first(run: Run, measure: str, fault: Callable[[Any], Any]) -> list[tuple[int, int, str, str]]:
    """Step, place in the network, name and run of the first faulty number of a measure, if there is one."""
    if measure not in run.levels:
        return []
    table = run.levels[measure]
    rows, columns = np.nonzero(fault(table.to_numpy()))
    steps, names = table.index.tolist(), [str(c) for c in table.columns]
    found = [
        (int(steps[r]), run.layers.index(names[c]), names[c], run.name) for r, c in zip(rows, columns, strict=True)
    ]
    return [min(found)] if found else []
