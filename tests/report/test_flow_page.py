"""The page about a figure or theorem: complete, closed to injected markup, and drawn and played by a browser."""

from __future__ import annotations

import base64
import json
import math
import re
import time

import numpy as np
import pytest

from layershift.report.flow import write_flow_page
from layershift.report.flow.data import FORMAT, read_flow
from layershift.report.flow.sections import finding

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&amp;%{x}\u2028"
ITERATIONS = [0, 10, 20, 30]


def content() -> dict:
    """Made up, in the form of the schema."""
    claims = [
        {
            "claim": "It moves",
            "expected": "10",
            "value": 10.02,
            "spread": 0.04,
            "n": 3,
            "holds": True,
            "note": "Pairs.",
        },
        {"claim": "It stays", "expected": "0", "value": 0.5, "spread": None, "n": 1, "holds": False, "note": ""},
        {"claim": "A number", "expected": "–", "value": None, "spread": None, "n": 0, "holds": None, "note": ""},
    ]
    lines = [
        {"name": "short", "x": [1, 10, 100], "y": [1.0, 0.1, None], "error": [0.1, 0.01, None], "look": "line"},
        {"name": "other", "x": [1, 10, 100], "y": [2.0, 0.2, 0.02], "error": None, "look": "points"},
        {"name": "law", "x": [1, 100], "y": [1.0, 0.01], "error": None, "look": "theory"},
    ]
    plot = {"key": "gap", "title": "Gap by width", "x_title": "neurons", "y_title": "gap", "curves": lines}
    turn = [[0.1 * k, 2.0, -1.5 + 0.1 * k] for k in range(4)]
    groups = {"short": turn, "long": [[1.0, 2.0]] * 4}
    ring = {"title": "with it", "iterations": ITERATIONS, "groups": groups}
    return {
        "format": FORMAT,
        "written": "2026-01-02T03:04:05+00:00",
        "versions": {"layershift": "1", "torch": "2"},
        "seconds": 12.5,
        "about": {"command": "layershift flow --figure 2", "scale": "laptop"},
        "kind": "figure",
        "number": 2,
        "title": "Speed and length",
        "statement": "Short neurons move faster.",
        "settings": {"rate": 0.005, "cases": ["one", "two"], "sigma": [5.0, 1.0]},
        "claims": claims,
        "plots": [plot | {"log": "xy", "note": "Bars are deviations."}],
        "rings": [ring, ring | {"title": "without", "groups": {"long": [[1.0]] * 4}}],
        "shown": [0, 20, 30],
    }


def page_of(folder, made: dict, *, whole: bool = False) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flow.json").write_text(json.dumps(made))
    page = write_flow_page(folder).read_text()
    return page if whole else re.sub(r"<script>\s*/\*\*\s*\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)


def payload_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)[1])


def unpacked(array) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]) if isinstance(array, dict) else array


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return page_of(tmp_path_factory.mktemp("flow"), content())


def test_every_part_is_there(page) -> None:
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert sections == ["verdicts", "directions-0", "directions-1", "motion", "curves-gap", "settings", "numbers"]
    payload = payload_of(page)
    rows = {f"ring-{r}-{k}" for r in (0, 1) for k in (0, 20, 30)}
    assert set(payload["panels"]) == rows | {"motion-0", "motion-1", "plot-gap"}
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert all(f'id="{key}"' in page for key in payload["panels"])
    assert list(payload["panels"]["motion-0"]["choices"]) == ["0", "10", "20", "30"]
    assert payload["chosen"]["motion"] == "0"
    assert not re.findall(r"https?://|@import|url\(|<img", page)


def test_the_verdicts_and_the_finding_say_what_the_claims_say(page) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "It moves Pairs. 10.020 ± 0.040 10 3 holds" in text
    assert "It stays 0.500 0 1 does not hold" in text
    assert "A number – – 0 –" in text
    assert "Of 2 claims 1 holds. “It stays” (0.500) does not." in text
    assert "Sigma 5, 1" in text
    assert "Cases one; two" in text
    assert "Took 12.5 s" in text


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([True, True], "Both claims hold."),
        ([True], "The claim holds."),
        ([True] * 3, "All 3 claims hold."),
        ([None], "No claim was judged."),
        ([False, False, True], "Of 3 claims 1 holds. “c” (2.00) and “c” (2.00) do not."),
    ],
)
def test_the_finding_counts(tmp_path, verdicts, expected) -> None:
    made = content() | {"claims": [{"claim": "c", "value": 2.0, "n": 1, "holds": holds} for holds in verdicts]}
    (tmp_path / "flow.json").write_text(json.dumps(made))
    assert finding(read_flow(tmp_path)) == expected


def test_circles_and_lines_have_the_numbers(page) -> None:
    panels, steps = payload_of(page)["panels"], payload_of(page)["steps"]
    neurons = panels["ring-0-20"]["choices"][""]["data"][2]
    assert unpacked(neurons["y"]) == pytest.approx(np.sin([0.2, 2.0, -1.3]), abs=1e-6)
    assert unpacked(steps[neurons["x"]]) == pytest.approx(np.cos([0.2, 2.0, -1.3]), abs=1e-6)
    moved = panels["motion-0"]["choices"]["30"]["data"][2]
    assert unpacked(moved["y"]) == pytest.approx(np.sin([0.3, 2.0, -1.2]), abs=1e-6)
    curve = panels["plot-gap"]["choices"][""]["data"][0]
    assert unpacked(curve["y"])[:2] == pytest.approx([1.0, 0.1])
    colours = [panels["plot-gap"]["data"][k] for k in range(3)]
    assert colours[0]["line"]["color"] == "#1E7FC2", "a group's colour"
    assert panels["ring-0-20"]["data"][2]["marker"]["color"].startswith("rgba(30,127,194,")
    assert colours[1]["marker"]["color"].startswith("rgba(0,158,115,"), "one that no group has"
    assert colours[2]["line"]["dash"] == "dash"
    assert panels["plot-gap"]["layout"]["xaxis"]["type"] == "log"


@pytest.mark.parametrize(
    "part", ["claims", "plots", "rings", "shown", "settings", "about", "versions", "statement", "seconds", "written"]
)
@pytest.mark.parametrize("gone", ["missing", None])
def test_a_part_that_is_missing_is_left_out(tmp_path, part, gone) -> None:
    made = content() | {part: None}
    if gone == "missing":
        del made[part]
    page = page_of(tmp_path, made)
    assert not re.search(r">\s*(nan|None|undefined)\s*<", page)
    named = {"claims": "verdicts", "plots": "curves-gap", "rings": "motion", "settings": "settings"}.get(part)
    assert named is None or f'<section id="{named}"' not in page


def evil(value):
    """Every text of a structure that is not a key of the schema, made hostile."""
    if isinstance(value, str):
        return EVIL + value
    if isinstance(value, dict):
        return {key: evil(inner) for key, inner in value.items()}
    return [evil(inner) for inner in value] if isinstance(value, list) else value


def hostile() -> dict:
    made = evil(content()) | {"format": FORMAT}
    for plot in made["plots"]:
        plot |= {"log": "xy", "key": "gap"}
    for ring in made["rings"]:
        ring["groups"] = {EVIL + name: lists for name, lists in ring["groups"].items()}
    return made


def test_text_cannot_become_markup(tmp_path) -> None:
    body = page_of(tmp_path, hostile())
    assert body.count("<script") == body.count("</script>") == 3
    assert "<img src=x" not in body
    payload = re.search(r'id="payload">(.*?)</script>', body, re.DOTALL)[1]
    assert not set(payload) & set("<>&\u2028")
    assert not re.search(r"[:,\[](NaN|-?Infinity)", payload)


def test_what_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"flow\.json: no results of a figure or theorem"):
        write_flow_page(tmp_path)
    for text, message in (
        ("{", "damaged, not JSON"),
        ("[]", "expected an object with the format"),
        (json.dumps({"format": FORMAT, "kind": "figure", "number": 1}), "expected something under 'title'"),
    ):
        (tmp_path / "flow.json").write_text(text)
        with pytest.raises(ValueError, match=rf"flow\.json: {message}"):
            write_flow_page(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["flow.json"]


def test_the_title_and_the_place_can_be_given(tmp_path) -> None:
    page_of(tmp_path, content())
    out = write_flow_page(tmp_path, tmp_path / "new" / "page.html", title="A < B")
    assert "<h1>A &lt; B</h1>" in out.read_text()
    assert "<h1>Figure 2: Speed and length</h1>" in (tmp_path / "report.html").read_text()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("unkind", [False, True])
def test_a_browser_draws_and_plays_it_without_an_error_or_a_request(chromium, tmp_path, unkind) -> None:
    page_of(tmp_path, hostile() if unkind else content())

    def wait(script: str) -> None:
        end = time.monotonic() + 30
        while not chromium.execute_script(script):
            assert time.monotonic() < end, (script, chromium.get_log("browser"))
            time.sleep(0.05)

    for width, theme in ((1200, "light"), (390, "dark")):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
        for kind in ("browser", "performance"):
            chromium.get_log(kind)  # what earlier pages left
        chromium.get((tmp_path / "report.html").as_uri())
        wait("return document.documentElement.dataset.drawn === 'true'")
        first = "return document.getElementById('motion-0')._fullData[2].y[0]"
        assert chromium.execute_script(first) == pytest.approx(0, abs=1e-6)
        chromium.execute_script("document.getElementById('play').click()")
        wait("return document.getElementById('frame-name').textContent === 'iteration 30'")
        wait("return document.getElementById('play').textContent.includes('Play')")
        assert chromium.execute_script(first) == pytest.approx(math.sin(0.3), abs=1e-6)
        slide = "const s = document.getElementById('frame'); s.value = 1; s.dispatchEvent(new Event('input'));"
        chromium.execute_script(slide)
        assert chromium.execute_script(first) == pytest.approx(math.sin(0.1), abs=1e-6)
        assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
        messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
        assert chromium.execute_script("return window.hacked === undefined")
        drawn = "return [...document.querySelectorAll('.plot')].map((p) => p.querySelectorAll('.main-svg').length > 0)"
        assert all(chromium.execute_script(drawn))
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
