"""Figures and tables to one HTML page that opens without a network: style, script, data and plotly.js are inside."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from layershift._checks import import_extra
from layershift._version import __version__
from layershift.report import overview, sections, style
from layershift.report.data import Method, read_methods
from layershift.report.parts import Section
from layershift.report.words import number

# What must not stand inside a <script> element: the end of it, the start of a comment, and an entity.
_UNSAFE = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def write_report(paths: str | Path | Iterable[str | Path], out: str | Path, *, title: str | None = None) -> Path:
    """Write one self-contained HTML page about one or several runs.

    Args:
        paths: store files, or folders that hold `run.db` files anywhere below them.
        out: the page to write, or a folder that gets a `report.html`.
        title: what the page is called; put together from the runs' configuration if None.

    Returns:
        Where the page was written.

    Raises:
        FileNotFoundError: if there is no store at a path.
        ValueError: if a store holds no measurement.
        ModuleNotFoundError: if the extra `report` is not installed.

    Example:
        >>> import tempfile
        >>> from layershift.monitor.store import Record, Store
        >>> folder = Path(tempfile.mkdtemp())
        >>> with Store(folder / "run.db") as store:
        ...     store.write([Record(step, "fc", "normality", 1 / (1 + step), None, 64) for step in range(3)])
        >>> write_report(folder, folder).name
        'report.html'
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    page = render(read_methods(paths), title=title)
    out = Path(out)
    out = out / "report.html" if out.is_dir() or not out.suffix else out
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return out


def render(methods: Sequence[Method], *, title: str | None = None) -> str:
    """The page as text.

    Args:
        methods: what to show, as `read_methods` returns it.
        title: what the page is called; put together from the runs' configuration if None.

    Returns:
        An HTML document.
    """
    jinja = import_extra("jinja2", extra="report")
    offline = import_extra("plotly.offline", extra="report")
    templates = jinja.PackageLoader("layershift.report")
    environment = jinja.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number}
    shown, missing = sections.build(methods)
    part = {name: templates.get_source(environment, name)[0] for name in ("page.css", "page.js")}
    return str(
        environment.get_template("page.html").render(
            head=overview.head(methods, title),
            table=overview.table(methods),
            sections=shown,
            missing=missing,
            numbers=overview.numbers(methods),
            runs=overview.configurations(methods),
            payload=payload(shown),
            style=part["page.css"],
            script=part["page.js"],
            plotly=offline.get_plotlyjs().replace("</script", "<\\/script"),
            version=__version__,
        )
    )


def payload(shown: Sequence[Section]) -> str:
    """The plots' data as JSON that may stand inside a `<script>` element.

    A panel that has a choice of layers keeps its styles once, and for each layer the arrays and what differs in layout.
    """
    encoder = import_extra("plotly.utils", extra="report").PlotlyJSONEncoder
    panels: dict[str, Any] = {}
    steps: dict[str, int] = {}  # many panels share their time axis: it is kept once, and traces have its number

    def arrays(trace: dict[str, Any]) -> dict[str, Any]:
        packed = {key: trace[key] for key in _ARRAYS if key in trace}
        return packed | {"x": steps.setdefault(json.dumps(trace["x"], cls=encoder), len(steps))}

    for section in shown:
        for panel in [*section.overview, *section.panels]:
            options = {choice: _plain(figure) for choice, figure in panel.figures.items()}
            base = options.get(section.chosen) or options[""]
            panels[panel.key] = {
                "section": section.key,
                "data": [{k: v for k, v in trace.items() if k not in _ARRAYS} for trace in base["data"]],
                "layout": base["layout"],
                "choices": {
                    choice: {
                        "data": [arrays(trace) for trace in option["data"]],
                        "layout": {k: v for k, v in option["layout"].items() if v != base["layout"].get(k)},
                    }
                    for choice, option in options.items()
                },
            }
    chosen = {section.key: section.chosen for section in shown}
    axes = [json.loads(axis) for axis in steps]
    everything = {"template": style.TEMPLATE, "steps": axes, "panels": panels, "chosen": chosen}
    return json.dumps(_without_nan(everything), cls=encoder, separators=(",", ":")).translate(_UNSAFE)


_ARRAYS = ("x", "y", "z", "customdata")


def _plain(figure: Any) -> dict[str, Any]:
    """A figure as Plotly's JSON, arrays packed, without the template that all of them share."""
    made: dict[str, Any] = figure.to_dict()
    made["layout"].pop("template", None)
    return made


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
