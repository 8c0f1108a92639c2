"""Hostile strings as names of runs, layers, measures, labels and files: pages show them as text, and nothing runs.

The pages are opened in a real Chromium where there is one; everywhere their markup is parsed, and must have the
elements and attributes of a page about harmless names.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.outcome import Counts, judged
from tests.report.test_flow_page import content as flow_content
from tests.report.test_probe_page import content as probe_content

from layershift.monitor.alarm import Alarm
from layershift.monitor.store import Record, Store
from layershift.report import write_report
from layershift.report.flow import write_flow_page
from layershift.report.probe import write_probe_report

RUN = "window.hacked = 1"
FRAGMENTS = (
    f"</script><script>{RUN}</script>",
    f"<img src=x data-hacked onerror='{RUN}'>",
    f"<svg data-hacked onload={RUN.replace(' ', '')}>",
    f"\"><b data-hacked onmouseover='{RUN}'>",
    f"'><i data-hacked autofocus onfocus='{RUN}'>",
    f"javascript:{RUN}",
    f'<a href="javascript:{RUN}" data-hacked>x</a>',
    "<!--",
    "-->",
    "<![CDATA[",
    "</style><style>*{display:none}</style>",
    "</title>",
    "</textarea>",
    "{{ 7 * 7 }}{% raw %}",
    "%{x}",
    "&lt;script&gt;",
    "&#60;i data-hacked&#62;",
    "\u2028\u2029",
    "\u202e",
    "\x00\x07",
    "\ud800",
    "__proto__",
    "constructor",
    "</script >",
    "<iframe srcdoc='<i data-hacked></i>'>",
    "🧠" * 3,
    "\\u003cscript\\u003e",
    "$\\mathrm{x}$",
    "x" * 300,
    "a\nb\tc",
)


def text(random: Random, *, stored: bool = False) -> str:
    """A few fragments together; SQLite takes no half surrogates."""
    made = "".join(random.choice(FRAGMENTS) for _ in range(random.randint(1, 3)))
    return made.replace("\ud800", "") or "<" if stored else made


def spoilt(value: Any, known: dict[str, str], random: Random, keep: tuple[str, ...] = ()) -> Any:
    """Every text of a structure with something hostile before it, the same for the same text, but under some keys."""
    if isinstance(value, str):
        return known.setdefault(value, text(random) + value)
    if isinstance(value, dict):
        return {key: inner if key in keep else spoilt(inner, known, random, keep) for key, inner in value.items()}
    return [spoilt(inner, known, random, keep) for inner in value] if isinstance(value, list) else value


def run_report(folder: Path, random: Random) -> tuple[Path, str]:
    """A page about runs, one of them in a folder with a hostile name."""
    place = folder / text(random, stored=True).replace("/", "∕").replace("\x00", "")[:80]
    place.mkdir()
    names = [text(random, stored=True) for _ in range(4)]
    measures = ["normality", "mean", "shift/" + names[0], names[1]]
    with Store(place / "run.db") as store:
        for step in range(3):
            told = [Record(step, layer, m, 0.5 + step, 0.1, 8, estimator=names[2], units=names[3])
                    for layer in names for m in measures]  # fmt: skip
            units = [Record(step, layer, "mean", 0.1 * u, 0.1, 8, unit=u) for layer in names for u in range(2)]
            store.write([*told, *units, Record(step, "", names[0], 1.0), Record(step, "", "val/accuracy", 0.5)])
        store.write_alarms([Alarm(1, names[0], None, names[1], names[2], 1.0, 0.5, names[3], names[0])])
        for key in ("method", "command", "started", "git_revision"):
            store.set_meta(key, text(random, stored=True))
        store.set_meta("config", {text(random): text(random), "model": text(random)})
        store.set_meta("versions", {text(random): text(random)})
        store.set_meta("alarms", [text(random)])
    title = text(random)
    return write_report(place, folder / "report.html", title=title), title


def probe_page(folder: Path, random: Random) -> tuple[Path, str]:
    """A page about a probe."""
    made = spoilt(probe_content(), {}, random, keep=("format",))
    made["splits"], made["about"][text(random)] = {text(random): 3}, text(random)
    (folder / "probe.json").write_text(json.dumps(made))
    title = text(random)
    return write_probe_report(folder, title=title), title


def flow_page(folder: Path, random: Random) -> tuple[Path, str]:
    """A page about an experiment."""
    known: dict[str, str] = {}
    made = spoilt(flow_content(), known, random, keep=("format", "log", "look"))
    for ring in made["rings"]:
        ring["groups"] = {known.get(name, text(random)): lists for name, lists in ring["groups"].items()}
    (folder / "flow.json").write_text(json.dumps(made))
    title = text(random)
    return write_flow_page(folder, title=title), title


PAGES: dict[str, Callable[[Path, Random], tuple[Path, str]]] = {
    "runs": run_report,
    "probe": probe_page,
    "experiment": flow_page,
}


class Markup(HTMLParser):
    """What of a page could do something."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts, self.styles, self.wrong, self.title, self._inside = 0, 0, [], "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.styles += tag == "style"
        self._inside = tag
        if tag in ("iframe", "object", "embed", "base"):
            self.wrong.append(tag)
        for name, value in attrs:
            link = name in ("href", "src", "action", "srcdoc") and not (value or "").startswith(("#", "data:"))
            if name.startswith("on") or name == "data-hacked" or link:
                self.wrong.append(f"<{tag} {name}={value!r}>"[:120])

    def handle_data(self, data: str) -> None:
        if self._inside == "h1":
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def check_markup(page: str, scripts: int) -> None:
    """Nothing in a page's markup comes from its texts."""
    found = Markup()
    found.feed(page)
    assert found.scripts == scripts, f"{found.scripts} scripts instead of {scripts}"
    assert not found.wrong, f"markup from a text: {found.wrong[:3]}"


def check_drawn(browser: Any, page: Path, title: str) -> None:
    """In a browser the page is drawn, nothing has run, nothing was asked for, and the title is the text."""
    browser.get_log("browser")
    browser.get(page.as_uri())
    end = time.monotonic() + 10
    while not browser.execute_script("return document.documentElement.dataset.drawn === 'true'"):
        assert time.monotonic() < end, f"not drawn: {browser.get_log('browser')[:2]}"
        time.sleep(0.05)
    seen = browser.execute_script(
        """
        return [window.hacked === undefined, document.querySelectorAll("[data-hacked]").length,
                performance.getEntriesByType("resource").filter((e) => !/^(data|blob):/.test(e.name)).length,
                document.querySelector("h1").textContent, document.querySelectorAll("script").length];
        """
    )
    assert seen[0], "a script has run"
    assert seen[1] == 0, f"{seen[1]} elements were made of texts"
    assert seen[2] == 0, f"{seen[2]} files were asked for"
    shown = "".join(" " if c in "\n\t" else c for c in title if c not in "\x00\ud800")
    told = "".join(" " if c in "\n\t" else c for c in seen[3] if c not in "\x00\ufffd?")
    assert told.strip() == shown.replace("?", "").strip(), f"the title is {seen[3]!r}, not {title!r}"
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, f"errors: {errors[:2]}"


def hostile(seed: int, full: bool) -> Counts:
    """Pages about hostile names, of three kinds."""
    random, counts = Random(f"hostile {seed}"), Counts()
    with chromium() as browser, tempfile.TemporaryDirectory(prefix="layershift-") as name:
        counts.how = "Chromium" if browser is not None else "markup parsed"
        for case in range(30 if full else 3):
            kind = list(PAGES)[case % 3]
            folder = Path(name) / str(case)
            folder.mkdir()
            with judged(counts, f"{kind}, case {case}", may_refuse=False):
                page, title = PAGES[kind](folder, random)
                check_markup(page.read_text(encoding="utf-8"), scripts=4)
                if browser is not None:
                    check_drawn(browser, page, title)
    return counts


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium whose every name lookup fails; None where there is none."""
    paths = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    path, driver = next((p for p in paths if p), None), shutil.which("chromedriver")
    if path is None or driver is None:
        yield None
        return
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = path
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()
