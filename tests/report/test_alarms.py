"""Alarms in the report: every one at its place, told in words, and nothing claimed that no store shows."""

from __future__ import annotations

import numpy as np
import pytest

from layershift.monitor.alarm import Alarm
from layershift.monitor.store import Record, Store
from layershift.report import alarms, finding, style
from layershift.report.data import read_methods
from layershift.report.parts import Section


@pytest.fixture(scope="module")
def methods(watched):
    return read_methods([watched])


def make(tmp_path, found, **meta):
    with Store(tmp_path / "run.db") as store:
        store.write([Record(s, n, "mean", 1.0) for s in (0, 50, 100) for n in ("a", "b", "c")])
        store.write_alarms(found)
        for key, value in meta.items():
            store.set_meta(key, value)
    return read_methods([tmp_path])


def alarm(step, layer, kind="dead", **fields):
    return Alarm(step, layer, None, kind, "dead", 0.9, 0.5, f"{layer} is {kind}", "try this")._replace(**fields)


def test_every_alarm_is_a_sign_in_its_row_at_its_step(methods) -> None:
    section = alarms.section(methods)
    (panel,) = section.panels
    figure = panel.figures[""]
    rows = list(figure.layout.yaxis.ticktext)
    assert rows == ["block1.relu", "block2.relu", "block3.relu", "block4.norm", "block4.relu"], "as the network runs"
    shown = {(t.name, x, rows[round(y)]) for t in figure.data for x, y in zip(t.x, t.y, strict=True)}
    found = {(a.kind, a.step, a.layer) for m in methods for run in m.runs for a in run.alarms}
    assert shown == found
    assert len(found) == 6
    low, high = figure.layout.yaxis.range
    assert low > high, "the input at the top"
    assert figure.layout.xaxis.range[0] < 0 < 600 < figure.layout.xaxis.range[1], "the whole run"


def test_alarms_at_one_place_do_not_cover_each_other(methods) -> None:
    figure = alarms.timeline(methods[1], alarms.alarm_kinds(methods), ["block1.relu", "x", *methods[1].layers])
    here = [y for t in figure.data for x, y in zip(t.x, t.y, strict=True) if x == 90]
    assert np.ptp(here) == 0.5
    assert [round(y) for y in here] == [0, 0]


def test_kinds_have_signs_of_their_own_that_the_legend_shows(methods) -> None:
    section = alarms.section(methods)
    traces = {t.name: t.marker for t in section.panels[0].figures[""].data}
    characters = {symbol: (sign, code) for symbol, sign, code in alarms.SIGNS}
    assert [name for *_, name in section.signs] == ["dead", "collapsed", "exploding", "nonfinite", "own rule"]
    for sign, code, name in section.signs:
        assert characters[traces[name].symbol] == (sign, code)
        assert traces[name].color == code
    assert len({t.symbol for t in traces.values()}) == len(traces)
    assert not {code for *_, code in alarms.SIGNS} & set(style.COLOURS), "a colour is a method or a kind"


def test_the_text_of_an_alarm_shows_under_the_pointer(methods) -> None:
    figure = alarms.section(methods).panels[0].figures[""]
    text = next(t for t in figure.data if t.name == "collapsed").customdata[0]
    lines = text.split("<br>")
    assert lines[0] == "harsh, seed 0"
    assert " ".join(lines).startswith("harsh, seed 0 step 90: 'block1.relu' is collapsed To try: check that the inputs")
    assert max(map(len, lines)) <= 46


def test_the_table_says_what_to_try(methods) -> None:
    table = alarms.section(methods).table
    assert table.columns == ["Step", "Run", "Layer", "Kind", "Value", "Limit", "What to try"]
    steps = [int(row[0].replace(",", "")) for row in table.rows]
    assert steps == sorted(steps)
    row = table.rows[1]
    assert row[:6] == ["90", "harsh, seed 0", "block1.relu", "collapsed", "effective_rank 1.0004", "1.001"]
    assert row[6].startswith("check that the inputs differ")
    assert table.rows[-1][-1] == "–", "a rule of one's own without advice"


def test_a_single_run_needs_no_column_of_runs_and_units_and_the_network_are_named(tmp_path) -> None:
    section = alarms.section(make(tmp_path, [alarm(50, "b", unit=7), alarm(100, "")]))
    assert section.table.columns[:2] == ["Step", "Layer"]
    assert [row[1] for row in section.table.rows] == ["b, unit 7", "network"]
    assert list(section.panels[0].figures[""].layout.yaxis.ticktext) == ["b", "network"]


def test_no_alarm_is_said_only_where_the_store_shows_that_somebody_looked(tmp_path) -> None:
    quiet = alarms.section(make(tmp_path / "quiet", [], alarms=["dead"]))
    assert isinstance(quiet, Section)
    assert quiet.lead == "Alarms were watched in the run, and none was raised."
    assert not quiet.panels
    unknown = alarms.section(make(tmp_path / "unknown", []))
    assert isinstance(unknown, str)
    assert 'alarms="warn"' in unknown
    both = alarms.section(read_methods([tmp_path]))
    assert both.lead == "Alarms were watched in 1 of 2 runs, and none was raised."


def test_the_caption_tells_who_was_watched(tmp_path) -> None:
    for name, found, meta in (("a", [alarm(50, "a")], {}), ("b", [], {"alarms": ["dead"]}), ("c", [], {})):
        make(tmp_path / name, found, method=name, started=name, **meta)
    section = alarms.section(read_methods([tmp_path]))
    assert section.caption == "1 alarm; alarms were watched in 2 of 3 runs; none was raised in b."
    assert [panel.title for panel in section.panels] == ["a"]


def test_very_many_alarms_are_cut_and_the_page_says_so(tmp_path) -> None:
    section = alarms.section(make(tmp_path, [alarm(step, "a") for step in range(700)]))
    (trace,) = section.panels[0].figures[""].data
    assert list(trace.x) == list(range(500)), "the earliest"
    assert len(section.table.rows) == 200
    assert "700 alarms" in section.caption
    assert "a plot draws the first 500 of a run; the table lists the first 200." in section.caption


def test_many_layers_keep_labels_that_have_room(tmp_path) -> None:
    names = [f"layer{k}" for k in range(90)]
    with Store(tmp_path / "run.db") as store:
        store.write([Record(0, name, "mean", 1.0) for name in names])
        store.write_alarms([alarm(0, name) for name in names])
    figure = alarms.section(read_methods([tmp_path])).panels[0].figures[""]
    assert figure.layout.height == 560
    shown = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    assert all(names[k] == text for k, text in shown.items())
    assert 20 < len(shown) < 40


def test_markup_in_alarms_stays_text(tmp_path) -> None:
    evil = "<script>alert(1)</script>%{x}"
    figure = alarms.section(make(tmp_path, [alarm(50, evil, evil, message=evil, advice=evil)])).panels[0].figures[""]
    assert figure.data[0].hovertemplate == "%{customdata}<extra></extra>"
    for text in (figure.data[0].name, figure.data[0].customdata[0].replace("<br>", " "), *figure.layout.yaxis.ticktext):
        assert "<" not in text


def test_the_finding_names_the_first_alarm(methods, tmp_path) -> None:
    said = finding.finding(methods)
    assert said.endswith("6\u00a0alarms, the first at step 90: layer block1.relu of harsh, seed 0 (dead).")
    single = finding.finding(make(tmp_path, [alarm(50, "", "own")], method="m"))
    assert single.endswith("1\u00a0alarm at step 50: the network of m (own).")


def test_signs_have_contrast_on_light_and_on_dark_paper() -> None:
    def luminance(code: str) -> float:
        channels = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for *_, code in alarms.SIGNS:
        for paper in ("#ffffff", "#14171c"):
            light, dark = sorted((luminance(code), luminance(paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 3.0, (code, paper)
