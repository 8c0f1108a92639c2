"""The page in a real Chromium without a network: numbers are read out of the plots that it drew."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import time

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.ui import Select

from layershift.monitor.alarm import Alarm
from layershift.monitor.store import Record, Store, open_store
from layershift.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = "</script><script>window.hacked = 1</script><b>fc</b><br><img src=x onerror='window.hacked = 2'>"


@pytest.fixture(scope="module")
def report(demo, tmp_path_factory):
    return write_report(demo, tmp_path_factory.mktemp("browser") / "report.html")


@pytest.fixture(scope="module")
def watched_report(watched, tmp_path_factory):
    return write_report(watched, tmp_path_factory.mktemp("browser") / "watched.html")


@pytest.fixture(params=["report", "watched_report"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def truth(demo):
    """The stores of each method as frames."""

    def frame(method, seed):
        with open_store(demo / method / f"seed{seed}" / "run.db") as store:
            return store.to_pandas()

    return {method: [frame(method, seed) for seed in range(3)] for method in ("vanilla", "batch", "unitization", "per")}


@pytest.fixture
def visit(chromium):
    """Open a page at a width and in a theme, and wait until every plot is drawn."""

    def go(path, *, width=1200, dark=False, mobile=False):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [theme, still]})
        for kind in ("browser", "performance"):
            chromium.get_log(kind)  # what earlier pages left
        chromium.get(path.as_uri())
        chromium.execute_script("localStorage.clear()")
        wait(chromium, "return document.documentElement.dataset.drawn === 'true'")
        return chromium

    yield go
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def wait(driver, script, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if driver.execute_script(script):
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {script}; console: {driver.get_log('browser')}")


# What Plotly drew, after its own unpacking: for every trace its role and its numbers.
DRAWN = """
const plain = (a) => a === undefined ? null : Array.from(a, (v) => ArrayBuffer.isView(v) || Array.isArray(v) ? plain(v)
    : typeof v === "number" && !Number.isFinite(v) ? null : v);
return document.getElementById(arguments[0])._fullData.map((t) => ({
    role: t.meta.role, name: t.name, x: plain(t.x), y: plain(t.y), z: plain(t.z), custom: plain(t.customdata),
    color: t.line && t.line.color }));
"""


def drawn(driver, key):
    return driver.execute_script(DRAWN, key)


def values(frame, layer, measure, column="value"):
    part = frame[(frame["layer"] == layer) & (frame["measure"] == measure) & frame["unit"].isna()]
    return part[column].to_numpy(float)


def test_there_is_no_error_and_no_request(visit, either) -> None:
    driver = visit(either)
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked, "the log has the page itself"
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert [url for url in asked if url.startswith("file:")] == [either.as_uri()]


def test_accuracy_in_the_plot_is_that_of_the_stores(visit, report, truth) -> None:
    driver = visit(report)
    lines = [t for t in drawn(driver, "val-accuracy") if t["role"] == "mean"]
    assert [t["name"] for t in lines] == list(truth)
    for line, frames in zip(lines, truth.values(), strict=True):
        mean = np.mean([100 * values(frame, "", "val/accuracy") for frame in frames], axis=0)
        np.testing.assert_allclose(line["y"], mean, rtol=1e-6)
        assert line["x"] == list(range(0, 601, 60))


def test_the_line_in_the_svg_passes_through_the_values(visit, report, truth) -> None:
    driver = visit(report)
    path, axis = driver.execute_script(
        """
        const plot = document.getElementById("val-accuracy");
        const line = [...plot.querySelectorAll(".trace path.js-line")].at(-1);
        return [line.getAttribute("d"), [plot._fullLayout.yaxis._length, plot._fullLayout.yaxis.range]];
        """
    )
    points = np.array(re.findall(r"(-?[\d.]+),(-?[\d.]+)", path), dtype=float)
    length, (low, high) = axis
    shown = low + (1 - points[:, 1] / length) * (high - low)
    mean = np.mean([100 * values(frame, "", "val/accuracy") for frame in truth["per"]], axis=0)
    assert abs(shown[-1] - mean[-1]) < 0.3  # a pixel is 0.3 points


ENDS = "const t = document.getElementById(arguments[0])._fullData[0]; return [t.zmin, t.zmax]"
LABELS = """
const texts = document.querySelectorAll(`#${arguments[0]} .ytick text`);
return [...texts].map((t) => [t.textContent, t.getBoundingClientRect().y]);
"""


def test_the_heat_maps_are_the_stores_distances_on_one_scale(visit, report, truth) -> None:
    driver = visit(report)
    ends = set()
    for k, frames in enumerate(truth.values()):
        (shown,) = drawn(driver, f"distance-{k}")
        for layer, row in zip(shown["y"], shown["custom"], strict=True):
            mean = np.mean([values(frame, layer, "normality") for frame in frames], axis=0)
            np.testing.assert_allclose(row, mean, rtol=1e-5)
        ends.add(tuple(driver.execute_script(ENDS, f"distance-{k}")))
        labels = sorted(driver.execute_script(LABELS, f"distance-{k}"), key=lambda pair: pair[1])
        assert [text for text, _ in labels] == shown["y"], "the input is at the top"
    assert len(ends) == 1


@pytest.mark.parametrize("layer", ["block0.norm", "block3.relu"])
def test_choosing_a_layer_changes_the_ribbons_and_the_moments(visit, report, truth, layer) -> None:
    driver = visit(report)
    for section in ("quantiles", "moments"):
        before = drawn(driver, "quantiles-1" if section == "quantiles" else "moments-1-variance")
        Select(driver.find_element("css selector", f"select[data-section={section}]")).select_by_value(layer)
        key = "quantiles-1" if section == "quantiles" else "moments-1-variance"
        assert drawn(driver, key) != before
    ribbon = {t["role"]: t["y"] for t in drawn(driver, "quantiles-1")}
    for role, q in {"5–95 % low": 0.05, "median": 0.5, "25–75 % high": 0.75}.items():
        mean = np.mean([values(frame, layer, f"quantile_{q}") for frame in truth["batch"]], axis=0)
        np.testing.assert_allclose(ribbon[role], mean, rtol=1e-5, atol=1e-6)
    moments = {t["role"]: t["y"] for t in drawn(driver, "moments-1-variance")}
    np.testing.assert_allclose(moments["layer"], values(truth["batch"][0], layer, "variance"), rtol=1e-6)
    assert len([v for v in moments["units"] if v is None]) == 6, "six units, a gap after each"


def test_the_common_scale_can_be_let_go(visit, report) -> None:
    driver = visit(report)
    ranges = "return [0, 1, 2, 3].map((k) => document.getElementById(`quantiles-${k}`)._fullLayout.yaxis.range)"
    assert len({tuple(r) for r in driver.execute_script(ranges)}) == 1
    driver.find_element("css selector", "input[data-scale=quantiles]").click()
    assert len({tuple(r) for r in driver.execute_script(ranges)}) == 4


INK = """
const style = (selector) => getComputedStyle(document.querySelector(selector));
return { paper: style("body").backgroundColor, text: style("h1").color, caption: style(".caption").color,
    tick: style("#val-accuracy .xtick text").fill, axis: style("#val-accuracy .ytitle").fill,
    label: style("#distance-0 .ytick text").fill, grid: style("#val-accuracy .gridlayer path").stroke };
"""


def contrast(a: str, b: str) -> float:
    def luminance(rgb: str) -> float:
        channels = [int(c) / 255 for c in re.findall(r"\d+", rgb)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_the_theme_is_the_systems_until_the_button_changes_page_and_plots(visit, report, dark) -> None:
    driver = visit(report, dark=dark)
    first = driver.execute_script(INK)
    driver.find_element("id", "theme").click()
    second = driver.execute_script(INK)
    assert contrast(first["paper"], second["paper"]) > 10
    assert (contrast(first["paper"], "rgb(0,0,0)") < 2) is dark
    for inks in (first, second):
        for name in ("text", "tick", "axis", "caption", "label"):
            assert contrast(inks[name], inks["paper"]) > 4.5, name
        assert 1.05 < contrast(inks["grid"], inks["paper"]) < 2
    driver.refresh()
    wait(driver, "return document.documentElement.dataset.drawn === 'true'")
    assert driver.execute_script(INK) == second, "the choice is kept"
    driver.execute_script("localStorage.clear()")


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_reaches_over_the_edge_of_the_screen(visit, either, width) -> None:
    driver = visit(either, width=width, mobile=width < 700)
    driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    boxes = driver.execute_script(
        """
        return [...document.querySelectorAll(".plot")].map((plot) =>
            [plot.id, plot.getBoundingClientRect().right, plot._fullLayout.width, plot.clientWidth]);
        """
    )
    assert len(boxes) == (27 if either.name == "report.html" else 3 + 1 + 2 + (2 + 6) + 2 + 8 + 4)
    for key, right, drawn_width, room in boxes:
        assert right <= width, key
        assert abs(drawn_width - room) <= 1, key


FITS = """
const plot = document.getElementById("distance-0");
return Math.abs(plot._fullLayout.width - plot.clientWidth) <= 1"""


def test_plots_follow_the_window(visit, report) -> None:
    driver = visit(report, width=1200)
    size = {"width": 500, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait(driver, FITS + "&& plot.clientWidth < 500", 5)


def test_no_label_of_a_plot_is_cut_or_covers_another(visit, either) -> None:
    for width in (360, 1200):
        driver = visit(either, width=width, mobile=width < 700)
        cut = driver.execute_script(
            """
            const bad = [];
            for (const plot of document.querySelectorAll(".plot")) {
              const frame = plot.getBoundingClientRect();
              for (const axis of ["xtick", "ytick"]) {
                const boxes = [...plot.querySelectorAll(`.${axis} text`)].map((t) => t.getBoundingClientRect());
                boxes.forEach((b, i) => {
                  const inside = b.left > frame.left - 1 && b.right < frame.right + 1 && b.bottom < frame.bottom + 1;
                  if (!inside) bad.push([plot.id, axis, "cut"]);
                  boxes.slice(i + 1).forEach((c) => {
                    const over = Math.min(b.right, c.right) - Math.max(b.left, c.left);
                    const down = Math.min(b.bottom, c.bottom) - Math.max(b.top, c.top);
                    if (over > 1 && down > 3) bad.push([plot.id, axis, "overlap"]);
                  });
                });
              }
            }
            return bad;
            """
        )
        assert cut == [], width


def test_on_paper_it_is_light_whole_and_one_section_a_page(visit, report) -> None:
    driver = visit(report, dark=True)
    paper = driver.execute_script(
        """
        dispatchEvent(new Event("beforeprint"));
        const edge = document.querySelector("main").getBoundingClientRect().right;
        const over = (plot) => plot.querySelector(".main-svg").getBoundingClientRect().right - edge;
        const state = [...document.querySelectorAll(".plot")].map((plot) => [plot.id, over(plot)]);
        dispatchEvent(new Event("afterprint"));
        return state;
        """
    )
    assert all(over <= 1 for _, over in paper), paper
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    inks = driver.execute_script(INK)
    assert inks["paper"] == "rgb(255, 255, 255)"
    assert contrast(inks["tick"], inks["paper"]) > 4.5
    breaks = "return [...document.querySelectorAll('section')].map((s) => [s.id, getComputedStyle(s).breakBefore])"
    apart = [name for name, kind in driver.execute_script(breaks) if kind == "page"]
    assert apart == ["training", "distance", "quantiles", "moments", "numbers"]
    assert not driver.find_element("id", "theme").is_displayed()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 6
    wait(driver, FITS, 5)


def test_names_from_a_store_stay_text(visit, tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        for s in range(3):
            store.write(
                [Record(s, EVIL, m, 0.5 + s, 0.1, 8, estimator=EVIL) for m in ("normality", "mean", "variance")]
            )
            store.write([Record(s, EVIL, f"quantile_{q}", q + s) for q in (0.05, 0.25, 0.5, 0.75, 0.95)])
            store.write([Record(s, "", "train/loss", 1.0)])
        store.set_meta("method", EVIL)
        store.set_meta("config", {EVIL: EVIL})
    driver = visit(write_report(tmp_path, tmp_path / "report.html"))
    assert driver.execute_script("return window.hacked") is None
    assert driver.execute_script("return document.querySelectorAll('main img').length") == 0
    assert driver.execute_script("return document.querySelector('select').selectedOptions[0].value") == EVIL
    tick = driver.execute_script("return document.querySelector('#distance-0 .ytick text').textContent")
    start, end = tick.split("…")
    assert EVIL.startswith(start)
    assert EVIL.endswith(end)
    driver.execute_script("document.getElementById('distance-0').scrollIntoView({ block: 'center' })")
    ActionChains(driver).move_to_element(driver.find_element("css selector", "#distance-0 .nsewdrag")).perform()
    wait(driver, "return document.querySelector('#distance-0 .hoverlayer text') !== null", 5)
    hover = driver.execute_script("return document.querySelector('#distance-0 .hoverlayer').textContent")
    assert EVIL in hover
    assert "1.5" in hover
    assert driver.execute_script("return window.hacked") is None
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_faults_have_their_colours_in_the_plot_and_in_the_legend(visit, tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(s, n, "normality", 0.5 + s) for s in range(4) for n in ("a", "b")])
        store.write(
            [Record(3, "a", "normality", math.nan), Record(2, "b", "variance", 0.0), Record(0, "b", "variance", 1.0)]
        )
    driver = visit(write_report(tmp_path, tmp_path / "report.html"))
    states = drawn(driver, "distance-0")[1]
    assert states["z"] == [[None, None, None, 2], [None, None, 1, 1]]
    assert "Not finite: " in driver.find_element("css selector", ".finding").text
    assert "not finite" in driver.find_element("css selector", ".scale").text


@pytest.fixture(scope="module")
def watched_truth(watched):
    """The stores of each method as frames, and the alarms of all."""
    frames, alarms = {}, []
    for method in ("gentle", "harsh"):
        for seed in range(2):
            with open_store(watched / method / f"seed{seed}" / "run.db") as store:
                frames.setdefault(method, []).append(store.to_pandas())
                alarms += store.alarms()
    return frames, alarms


def choose_layer(driver, section, layer):
    Select(driver.find_element("css selector", f"select[data-section={section}]")).select_by_value(layer)


@pytest.mark.parametrize("layer", ["block0.norm", "head.norm"])
def test_shift_in_the_plots_is_that_of_the_stores(visit, watched_report, watched_truth, layer) -> None:
    driver = visit(watched_report)
    choose_layer(driver, "shift", layer)
    fields = {"estimate": "value", "bracket low": "lower", "bracket high": "upper"}
    for k, frames in enumerate(watched_truth[0].values()):
        for name in ("sliced", "exact", "critic"):
            shown = {t["role"]: t for t in drawn(driver, f"shift-{k}-{name}")}
            assert shown["estimate"]["x"] == list(range(15, 601, 15))
            mean = {
                role: np.mean([values(f, layer, f"shift/{name}", field) for f in frames], axis=0)
                for role, field in fields.items()
            }
            for role in fields if name != "critic" else ("estimate", "bracket high"):
                np.testing.assert_allclose(shown[role]["y"], mean[role], rtol=1e-5)
            errors = [values(f, layer, f"shift/{name}", "stderr") for f in frames]
            error = np.sqrt(np.sum(np.square(errors), axis=0)) / len(frames)
            band = np.subtract(shown["standard error high"]["y"], shown["standard error low"]["y"])
            np.testing.assert_allclose(band, 2 * error, rtol=1e-3)


AXES = """
return arguments[0].map((key) => {
    const axis = document.getElementById(key)._fullLayout.yaxis;
    return [axis.type, axis.range.join(), axis.title.text];
});
"""


def test_the_axes_of_shift_mix_nothing_and_can_be_let_go(visit, watched_report) -> None:
    driver = visit(watched_report)
    keys = [f"shift-{k}-{name}" for k in (0, 1) for name in ("sliced", "exact", "critic")]
    axes = dict(zip(keys, driver.execute_script(AXES, keys), strict=True))
    assert {kind for kind, *_ in axes.values()} == {"log"}
    assert len({ends for key, (_, ends, _) in axes.items() if not key.endswith("critic")}) == 1
    assert axes["shift-0-critic"][1] == axes["shift-1-critic"][1] != axes["shift-0-exact"][1]
    assert axes["shift-0-critic"][2] == "K·W1, K unknown, log scale"
    driver.find_element("css selector", "input[data-scale=shift]").click()
    free = dict(zip(keys, driver.execute_script(AXES, keys), strict=True))
    assert len({ends for _, ends, _ in free.values()}) == 6
    ticks = "return document.querySelectorAll(`#${arguments[0]} .ytick`).length"
    assert all(driver.execute_script(ticks, key) >= 2 for key in keys)
    labels = sorted(driver.execute_script(LABELS, "shift-map-0"), key=lambda pair: pair[1])
    assert labels[0][0] == "block0.norm", "the overview keeps its rows"
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_ribbon_in_the_svg_spans_the_bracket(visit, watched_report, watched_truth) -> None:
    driver = visit(watched_report)
    choose_layer(driver, "shift", "block2.norm")
    path, length, (low, high) = driver.execute_script(
        """
        const plot = document.getElementById("shift-1-exact");
        const axis = plot._fullLayout.yaxis;
        return [plot.querySelector(".trace path.js-fill").getAttribute("d"), axis._length, axis.range];
        """
    )
    y = np.array(re.findall(r"-?[\d.]+,(-?[\d.]+)", path), dtype=float)
    shown = 10 ** (low + (1 - y / length) * (high - low))
    pixel = 10 ** ((high - low) / length)
    ends = [
        np.mean([values(f, "block2.norm", "shift/exact", end) for f in watched_truth[0]["harsh"]], axis=0)
        for end in ("lower", "upper")
    ]
    assert min(ends[0]) / pixel < min(shown) < min(ends[0]) * pixel
    assert max(ends[1]) / pixel < max(shown) < max(ends[1]) * pixel


def test_the_overviews_are_the_stores_numbers(visit, watched_report, watched_truth) -> None:
    driver = visit(watched_report)
    for k, frames in enumerate(watched_truth[0].values()):
        for key, measure in (("shift-map-{}", "shift/sliced"), ("health-{}-dead", "dead")):
            shown = drawn(driver, key.format(k))[0]
            for layer, row in zip(shown["y"], shown["custom"], strict=True):
                mean = np.mean([values(frame, layer, measure) for frame in frames], axis=0)
                np.testing.assert_allclose(row, mean, rtol=1e-5, atol=1e-7)


def test_alarms_stand_in_the_plot_and_in_the_table(visit, watched_report, watched_truth) -> None:
    driver = visit(watched_report)
    alarms = watched_truth[1]
    rows = [text for text, _ in sorted(driver.execute_script(LABELS, "alarms-1"), key=lambda pair: pair[1])]
    shown = {
        (t["name"], step, rows[round(y)])
        for t in drawn(driver, "alarms-1")
        for step, y in zip(t["x"], t["y"], strict=True)
    }
    assert shown == {(a.kind, a.step, a.layer) for a in alarms}
    cells = driver.execute_script(
        "return [...document.querySelectorAll('.listed tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    assert [(row[0], row[2], row[3], row[6]) for row in cells] == [
        (str(a.step), a.layer, a.kind, a.advice or "–") for a in alarms
    ]


HOVER = "const box = document.querySelector('#alarms-0 .hoverlayer .hovertext'); "
EDGES = """
const box = document.querySelector('#alarms-0 .hoverlayer .hovertext').getBoundingClientRect();
const frame = document.getElementById('alarms-0').getBoundingClientRect();
return [box.left - frame.left, frame.right - box.right];
"""


def test_an_alarms_text_shows_under_the_pointer_and_stays_text(visit, tmp_path) -> None:
    with Store(tmp_path / "run.db") as store:
        store.write([Record(s, EVIL, f"shift/{EVIL}", 0.5 + s, 0.1, 8, estimator=EVIL) for s in range(3)])
        store.write([Record(s, EVIL, "dead", 0.5) for s in range(3)])
        store.write_alarms([Alarm(1, EVIL, None, EVIL, EVIL, 0.5, 0.1, EVIL, f"{EVIL} %{{x}}")])
        store.set_meta("alarms", [EVIL])
    driver = visit(write_report(tmp_path, tmp_path / "report.html"), width=700)
    made = "return document.querySelectorAll('main img, main script, main b:not(.ramp > b)').length"
    assert driver.execute_script(made) == 0
    driver.execute_script("document.getElementById('alarms-0').scrollIntoView({ block: 'center' })")
    point = driver.find_element("css selector", "#alarms-0 .points path")
    ActionChains(driver).move_to_element(point).perform()
    wait(driver, HOVER + "return box !== null", 5)
    hover = driver.execute_script(HOVER + "return box.textContent").replace(" ", "")
    assert hover == f"{EVIL}To try: {EVIL} %{{x}}".replace(" ", "")
    assert min(driver.execute_script(EDGES)) > -1, "the box is inside the plot"
    row = driver.execute_script("return [...document.querySelector('.listed tbody tr').cells].map((c) => c.innerText)")
    assert row == ["1", EVIL, EVIL, f"{EVIL} 0.5", "0.1", f"{EVIL} %{{x}}"]
    assert driver.execute_script("return window.hacked") is None
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_watched_run_prints_a_section_a_page(visit, watched_report) -> None:
    driver = visit(watched_report)
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 11


def test_the_numbers_can_be_filtered(visit, report) -> None:
    driver = visit(report)
    driver.execute_script("document.querySelector('#numbers details').open = true")
    driver.find_element("id", "filter").send_keys("block1.relu kurtosis")
    shown = driver.execute_script(
        """
        const rows = [...document.querySelectorAll("#number-table tbody tr")];
        return rows.filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
        """
    )
    assert shown == ["vanilla", "batch", "unitization", "per"]


def test_the_numbers_are_saved_with_all_their_digits(visit, report, truth) -> None:
    driver = visit(report)
    text = driver.execute_async_script(
        """
        const done = arguments[0];
        URL.createObjectURL = (blob) => { blob.text().then(done); return "data:,"; };
        document.getElementById("csv").click();
        """
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 504
    row = next(r for r in rows if (r["method"], r["layer"], r["measure"]) == ("batch", "network", "test/accuracy"))
    finals = [values(frame, "", "test/accuracy")[-1] for frame in truth["batch"]]
    assert float(row["mean"]) == pytest.approx(np.mean(finals), rel=1e-12)
    assert (row["runs"], row["samples"]) == ("3", "360")
