"""The page about a figure or theorem: one HTML file with verdicts, circles, an animation and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layershift.report.document import render_document, write_document
from layershift.report.flow import sections
from layershift.report.flow.data import Flow, read_flow
from layershift.report.results import numeric, place_of, showing
from layershift.report.words import duration


def write_flow_page(folder: str | Path, out: str | Path | None = None, *, title: str | None = None) -> Path:
    """Write one self-contained HTML page about a figure or theorem on batch normalisation's geometry.

    Args:
        folder: with the `flow.json` that `layershift.report.flow.data` describes.
        out: the page to write; `report.html` in that folder if None.
        title: what the page is called; that of the experiment if None.

    Returns:
        Where the page was written.

    Raises:
        FileNotFoundError: if the folder holds no results.
        ValueError: if they are damaged.
        ModuleNotFoundError: if the extra `report` is not installed.

    Example:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> claim = {"claim": "Both flows agree", "value": 1e-9, "holds": True, "n": 3}
        >>> content = {"kind": "theorem", "number": 2, "title": "Two flows", "claims": [claim]}
        >>> text = json.dumps({"format": "layershift flow, version 1"} | content)
        >>> _ = (folder / "flow.json").write_text(text)
        >>> write_flow_page(folder).name
        'report.html'
    """
    flow = read_flow(folder)
    with showing(place_of(folder, "flow.json")):
        page = render(flow, title=title)
    out = flow.folder / "report.html" if out is None else Path(out)
    return write_document(page, out)


def render(flow: Flow, *, title: str | None = None) -> str:
    """The page as text.

    Args:
        flow: as `read_flow` returns it.
        title: what the page is called; that of the experiment if None.

    Returns:
        An HTML document.
    """
    shown = sections.build(flow)
    command = flow.mapping("about").get("command")
    return render_document(
        "flow.html",
        shown,
        package="layershift.report.flow",
        title=title or flow.name,
        statement=flow.content.get("statement"),
        finding=sections.finding(flow),
        facts=_facts(flow),
        commands=[command] if command else [],
        verdicts=sections.verdicts(flow),
        sections=shown,
        settings={str(k).capitalize(): _text(v) for k, v in flow.mapping("settings").items()},
        numbers=sections.numbers(flow),
    )


def _facts(flow: Flow) -> dict[str, str]:
    about = {k: v for k, v in flow.mapping("about").items() if k != "command"}
    facts = {str(key).replace("_", " ").capitalize(): _text(value) for key, value in about.items()}
    seconds = numeric(flow.content.get("seconds"))
    facts["Took"] = duration(seconds) if seconds == seconds else ""
    facts["Written"] = str(flow.content.get("written") or "").replace("T", " ")[:16]
    facts["With"] = ", ".join(f"{name} {version}" for name, version in flow.mapping("versions").items())
    return {name: fact for name, fact in facts.items() if fact}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return (
            ", ".join(map(_text, value)) if all(not isinstance(v, str) for v in value) else "; ".join(map(str, value))
        )
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
