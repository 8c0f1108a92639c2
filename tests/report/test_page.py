"""The page as text: complete, closed to injected markup, small, and clear about what it lacks."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from layershift.monitor.alarm import Alarm
from layershift.monitor.store import Record, Store, StoreError
from layershift.report import parts, write_report

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&amp;%{x}\u2028"


def body_of(page: str) -> str:
    """The page without the library that is embedded in it."""
    return re.sub(r"<script>\s*/\*\*\s*\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)


def payload_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture(scope="module")
def page(demo, tmp_path_factory) -> str:
    return write_report(demo, tmp_path_factory.mktemp("page") / "report.html").read_text()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "run.db"
    with Store(path) as store:
        store.write([Record(step, "fc", "normality", 0.5) for step in range(3)])
    return path


def one(tmp_path: Path, records, **meta) -> str:
    with Store(tmp_path / "run.db") as store:
        store.write(records)
        for key, value in meta.items():
            store.set_meta(key, value)
    return write_report(tmp_path, tmp_path / "report.html").read_text()


def test_the_page_loads_nothing_from_elsewhere(page) -> None:
    body = body_of(page)
    assert len(page) - len(body) > 1_000_000, "plotly.js is embedded"
    assert page.count("* plotly.js v") == 1
    assert not re.findall(r"https?://|<link(?! rel=\"icon\" href=\"data:)|@import|url\(|src=", body)


def test_the_demos_page_is_small_beside_the_library(page) -> None:
    assert len(body_of(page)) < 1_500_000


def test_every_panel_has_its_data_and_every_choice(page) -> None:
    payload = payload_of(page)
    layers = [f"block{k // 2}.{'relu' if k % 2 else 'norm'}" for k in range(10)] + ["head.norm"]
    assert len(payload["panels"]) == 3 + 4 + 4 + 16
    for key, panel in payload["panels"].items():
        assert list(panel["choices"]) == (layers if panel["section"] in ("quantiles", "moments") else [""]), key
        assert f'id="{key}"' in page


def test_a_run_that_was_measured_in_every_way_lacks_nothing(watched, tmp_path) -> None:
    page = write_report(watched, tmp_path / "report.html").read_text()
    assert '<section id="missing">' not in page
    assert len(body_of(page)) < 1_500_000
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections[1:-2] == ["training", "alarms", "distance", "shift", "quantiles", "moments", "health"]
    payload = payload_of(page)
    for key, panel in payload["panels"].items():
        chosen = payload["chosen"][panel["section"]]
        assert chosen in panel["choices"] or "" in panel["choices"], key
    assert payload["panels"]["shift-map-0"]["section"] == payload["panels"]["shift-1-critic"]["section"] == "shift"
    numbers = page[page.index('id="number-table"') :]
    for measure in ("shift/exact", "shift/exact_seconds", "effective_rank", "monitor/share"):
        assert f"<td>{measure}</td>" in numbers


def test_a_run_in_which_no_alarm_was_raised_says_so_in_a_sentence(tmp_path) -> None:
    page = one(tmp_path, [Record(0, "fc", "normality", 0.5)], alarms=["dead"])
    assert '<p class="lead">Alarms were watched in the run, and none was raised.</p>' in page
    assert '<section id="alarms">' in page, "a sentence is no section of plots, which begins a page on paper"
    assert "Alarms: no store" not in page


def test_text_of_alarms_cannot_become_markup(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(s, EVIL, "shift/" + EVIL, 0.5, estimator=EVIL, units=EVIL) for s in (0, 1)])
        store.write_alarms([Alarm(1, EVIL, None, EVIL, EVIL, math.nan, math.inf, EVIL, EVIL)])
    body = body_of(write_report(tmp_path, tmp_path / "report.html").read_text())
    assert body.count("<script") == body.count("</script>") == 3
    assert "<img" not in body


def test_text_from_stores_cannot_become_markup(tmp_path) -> None:
    records = [
        Record(s, EVIL, m, 0.5, 0.1, 8, units=EVIL, estimator=EVIL) for s in (0, 1) for m in ("normality", "mean")
    ]
    records += [Record(s, EVIL, f"quantile_{q}", 0.5) for s in (0, 1) for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    meta = {"method": EVIL, "command": EVIL, "config": {EVIL: EVIL, "model": EVIL}, "versions": {"torch": EVIL}}
    page = one(tmp_path, records, **meta)
    body = body_of(page)
    assert body.count("<script") == body.count("</script>") == 3
    assert "<img" not in body
    assert "&lt;/script&gt;" in body
    payload = re.search(r'id="payload">(.*?)</script>', page, re.DOTALL)[1]
    assert not set(payload) & set("<>&\u2028")
    assert list(payload_of(page)["panels"]["quantiles-0"]["choices"]) == [EVIL]


def test_json_holds_no_nan(tmp_path) -> None:
    page = one(tmp_path, [Record(s, "fc", "normality", v) for s, v in enumerate([0.1, math.nan, math.inf])])
    payload_of(page)  # json.loads would take NaN, so look for it
    assert not re.search(r"[:,\[](NaN|-?Infinity)", page[page.index('id="payload"') : page.index("plotly.js v")])


def test_a_run_of_ones_own_gets_what_it_has_and_is_told_what_is_missing(tmp_path) -> None:
    page = one(tmp_path, [Record(s, "fc", "normality", 0.5 - 0.1 * s, 0.01, 64) for s in range(3)])
    assert set(payload_of(page)["panels"]) == {"distance-0"}
    missing = page[page.index('<section id="missing">') :]
    assert "Accuracy and loss by step" in missing
    assert "Quantiles of a layer" in missing
    assert "Moments of a layer" in missing
    assert "Distance to N(0, I) by" not in missing
    for other in ("Alarms: no store says", "How far each layer moves", "Health of the layers", "What monitoring cost"):
        assert other in missing
    assert "best" not in page[page.index("<section") : page.index('<section id="numbers"')], (
        "there is nothing to compare"
    )
    assert "The layers of " in page
    assert not re.search(r">\s*(nan|None|undefined)\s*<", page)


def test_a_run_without_layers_shows_its_curves(tmp_path) -> None:
    page = one(tmp_path, [Record(s, "", "train/loss", 1.0 / (1 + s)) for s in range(5)])
    assert set(payload_of(page)["panels"]) == {"train-loss"}
    assert "Loss through training" in page


def test_one_measured_step_is_enough(tmp_path, make_records) -> None:
    page = one(tmp_path, make_records("per", 0, steps=range(1)))
    assert "One measured step." in page
    assert "At step 0" in page or "at step 0" in page


def test_the_title_can_be_given(single, tmp_path) -> None:
    assert "<h1>A &lt; B</h1>" in write_report([single], tmp_path / "x.html", title="A < B").read_text()


def test_a_folder_as_target_gets_a_report(single, tmp_path) -> None:
    assert write_report(single, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "report.html"
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["report.html"], "nothing else is left there"


def test_no_store_leaves_an_old_page_alone(tmp_path) -> None:
    (tmp_path / "old.html").write_text("old")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no run\.db in this folder or below it"):
        write_report(tmp_path / "empty", tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"


def test_a_file_that_is_no_store_is_an_error_that_names_it(tmp_path) -> None:
    (tmp_path / "run.db").write_text("not a database, but long enough to be one " * 40)
    with pytest.raises(StoreError, match=r"run\.db"):
        write_report(tmp_path, tmp_path / "report.html")


def test_a_store_is_read_while_it_is_being_written(tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, "fc", "normality", 0.5)])
        first = write_report(tmp_path, tmp_path / "report.html").read_text()
        store.write([Record(1, "fc", "normality", 0.4)])
        second = write_report(tmp_path, tmp_path / "report.html").read_text()
    assert "One measured step." in first
    assert "All 2 measured steps are drawn." in second


def test_deep_and_long_runs_are_thinned_and_say_so(tmp_path, make_records, monkeypatch) -> None:
    monkeypatch.setattr(parts, "BUDGET", 2000)
    page = one(tmp_path, make_records("batch", 0, layers=["a", "b"], steps=range(90)))
    assert "All 90 measured steps are drawn." in page, "the heat map has few numbers a step"
    assert "40 of 90 measured steps are drawn, evenly spread." in page
    payload = payload_of(page)
    x = payload["steps"][payload["panels"]["moments-0-mean"]["choices"]["a"]["data"][3]["x"]]
    steps = np.frombuffer(base64.b64decode(x["bdata"]), x["dtype"].replace("i", "<i"))
    assert (len(steps), steps[0], steps[-1]) == (40, 0, 89)


def test_the_wheel_ships_the_templates() -> None:
    import layershift.report.page as module

    folder = Path(module.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {
        "frame.html",
        "frame.css",
        "frame.js",
        "page.html",
        "plots.html",
    }
