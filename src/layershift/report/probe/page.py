"""The page about a probe: one HTML file with plots, tables and a gallery, that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layershift.report.document import render_document, write_document
from layershift.report.parts import Panel, Section
from layershift.report.probe import cards, figures, sections, tables
from layershift.report.probe.data import ProbeResults, read_results
from layershift.report.probe.finding import finding
from layershift.report.results import place_of, showing
from layershift.report.words import count, number


def write_probe_report(folder: str | Path, out: str | Path | None = None, *, title: str | None = None) -> Path:
    """Write one self-contained HTML page about the results of a probe.

    Args:
        folder: with the `probe.json` that `layershift.report.probe.data` describes, and the pictures beside it.
        out: the page to write; `report.html` in that folder if None.
        title: what the page is called; that of the results if None.

    Returns:
        Where the page was written.

    Raises:
        FileNotFoundError: if the folder holds no results.
        ValueError: if they are damaged.
        ModuleNotFoundError: if the extra `report` is not installed.

    Example:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = {"split": "test", "method": "auto", "layer": "output", "mean": 0.1, "n": 8}
        >>> content = {"layers": ["conv", "output"], "labels": ["cat"], "splits": {"test": 8}, "depth": [row]}
        >>> text = json.dumps({"format": "layershift probe, version 1"} | content)
        >>> _ = (folder / "probe.json").write_text(text)
        >>> write_probe_report(folder).name
        'report.html'
    """
    results = read_results(folder)
    with showing(place_of(folder, "probe.json")):
        page = render(results, title=title)
    out = results.folder / "report.html" if out is None else Path(out)
    return write_document(page, out)


def render(results: ProbeResults, *, title: str | None = None) -> str:
    """The page as text.

    Args:
        results: as `read_results` returns them.
        title: what the page is called; that of the results if None.

    Returns:
        An HTML document.
    """
    shown = sections.build(results)
    table = _scores(results)
    about = results.mapping("about")
    command = about.get("command")
    return render_document(
        "probe.html",
        [*shown, *([table] if table else [])],
        package="layershift.report.probe",
        title=title or str(about.get("title") or "What each layer knows"),
        finding=finding(results),
        facts=_facts(results),
        commands=[command] if command else [],
        sections={section.key: section for section in shown},
        scores=table,
        layers=tables.layers(results),
        overthinking=tables.overthinking(results),
        overthinking_n=results.mapping("overthinking").get("n"),
        exits=tables.exits(results),
        gallery=cards.groups(results),
        kinds=_kinds(results),
        place=cards,
        numbers=tables.numbers(results),
        main=results.main,
        layer_names=results.layers,
    )


def _scores(results: ProbeResults) -> Section | None:
    """The plot beside the table of layers."""
    if not results.rows("scores"):
        return None
    legend = [(figures.colour_of(k), name) for k, name in enumerate(figures.SCORE_NAMES.values())]
    panel = Panel("scores", "Scores through depth", None, {"": figures.scores(results)})
    return Section("layers", "Layer by layer", "", [panel], 1, "", legend=legend)


def _facts(results: ProbeResults) -> dict[str, str]:
    """What was probed, on what, and with which costs."""
    about = {k: v for k, v in results.mapping("about").items() if k not in ("title", "command")}
    cost, splits = results.mapping("cost"), results.mapping("splits")
    facts = {str(key).replace("_", " ").capitalize(): _text(value) for key, value in about.items()}
    facts["Layers"] = f"{len(results.layers)}, the output among them"
    facts["Labels"] = f"{len(results.labels)}, {str(results.content.get('task') or '').replace('_', '-')}".rstrip(", ")
    facts["Samples"] = ", ".join(f"{name} {int(n):,}" for name, n in splits.items())
    if cost.get("mean") is not None:
        facts["Costs between labels"] = f"mean {number(float(cost['mean']))}, largest {number(float(cost['largest']))}"
    facts["Written"] = str(results.content.get("written") or "").replace("T", " ")[:16]
    facts["With"] = ", ".join(f"{name} {version}" for name, version in results.mapping("versions").items())
    return {name: fact for name, fact in facts.items() if fact}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _kinds(results: ProbeResults) -> str:
    """What easy, hard and confused mean here, in a sentence."""
    told = results.mapping("difficulty")
    if not told:
        return ""
    low, high = told.get("quantiles") or (None, None)
    levels = told.get("thresholds") or {}
    limits = ", ".join(f"{name.replace('_', ' ')} {number(float(x))}" for name, x in levels.items() if x is not None)
    counts = told.get("counts") or {}
    kinds = ", ".join(f"{int(n):,} {kind}" for kind, n in counts.items() if n)
    over = "all distances" if told.get("of") == "pooled" else "the samples’ means over the same layers"
    return (
        f"Early: {', '.join(map(str, told.get('early') or ()))}. Late: {', '.join(map(str, told.get('late') or ()))}. "
        f"Small is at most the {low} quantile, large at least the {high} quantile of {over}: {limits}. "
        f"Of {count(sum(int(n) for n in counts.values()), 'sample')}, {kinds}."
    )
