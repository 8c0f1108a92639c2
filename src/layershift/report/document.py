"""One HTML file that opens without a network: frame, style, script, the plots' data and plotly.js are inside."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from layershift._checks import import_extra
from layershift._version import __version__
from layershift.report import style
from layershift.report.parts import Section
from layershift.report.words import number

# What must not stand inside a <script> element: the end of it, the start of a comment, and an entity.
_UNSAFE = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def render_document(
    template: str, shown: Sequence[Section], *, package: str = "layershift.report", **context: Any
) -> str:
    """A document as text.

    Args:
        template: extends `frame.html`, which tells what it needs of the context.
        shown: sections whose plots the document holds.
        package: whose templates to use. Of the same name as the template, `.css` and `.js` files follow the frame's.
        **context: what the template shows; escaped.

    Returns:
        An HTML document.
    """
    jinja = import_extra("jinja2", extra="report")
    offline = import_extra("plotly.offline", extra="report")
    loader = jinja.ChoiceLoader([jinja.PackageLoader(name) for name in dict.fromkeys((package, "layershift.report"))])
    environment = jinja.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number}
    known, own = set(environment.list_templates()), template.removesuffix(".html")

    def source(kind: str) -> str:
        names = [name for name in (f"frame.{kind}", f"{own}.{kind}") if name in known]
        return "\n".join(loader.get_source(environment, name)[0] for name in names)

    return str(
        environment.get_template(template).render(
            **context,
            payload=payload(shown),
            style=source("css"),
            script=source("js"),
            plotly=offline.get_plotlyjs().replace("</script", "<\\/script"),
            version=__version__,
        )
    )


def write_document(page: str, out: Path) -> Path:
    """Write a document, which appears under its name only when it is complete.

    Args:
        page: as text.
        out: the file; folders are made.

    Returns:
        The file.

    Raises:
        OSError: if it cannot be written; the message names it, and what was there stays.
    """
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(page, encoding="utf-8", errors="replace")  # half a surrogate pair is no reason for no page
        draft.replace(out)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error  # a full disk is told without a name
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return out


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
