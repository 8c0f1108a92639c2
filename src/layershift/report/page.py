"""Figures and tables of runs to one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from layershift._checks import check, check_items, check_path, check_type
from layershift.report import overview, sections
from layershift.report.data import Method, read_methods
from layershift.report.document import render_document, write_document


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
    check_type("paths", paths, (str, Path, Iterable), "paths of stores or folders")
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    check_items("paths", paths, (str, Path), "paths of stores or folders")
    check(len(paths) > 0, "paths", "at least one", "none")
    check_path("out", out)
    check_type("title", title, (str, type(None)), "text, or None")
    page = render(read_methods(paths), title=title)
    out = Path(out)
    out = out / "report.html" if out.is_dir() or not out.suffix else out
    return write_document(page, out)


def render(methods: Sequence[Method], *, title: str | None = None) -> str:
    """The page as text.

    Args:
        methods: what to show, as `read_methods` returns it.
        title: what the page is called; put together from the runs' configuration if None.

    Returns:
        An HTML document.
    """
    shown, missing = sections.build(methods)
    return render_document(
        "page.html",
        shown,
        **overview.head(methods, title),
        table=overview.table(methods),
        sections=shown,
        missing=missing,
        numbers=overview.numbers(methods),
        runs=overview.configurations(methods),
    )
