"""The page about a probe: complete, closed to injected markup, patient with missing parts, and drawn by a browser."""

from __future__ import annotations

import base64
import json
import math
import re

import numpy as np
import pytest

from layershift.report.probe import write_probe_report
from layershift.report.probe.cards import groups
from layershift.report.probe.data import FORMAT, read_results

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&amp;%{x}\u2028"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LAYERS = ["conv1", "layer1", "layer2", "layer3", "output"]
LABELS = ["cat", "dog", "car", "bus", "person", "boat", "sofa"]
MEANS = [0.5, 0.45, 0.3, 0.22, 0.25]


def sample(key: str, kind: str, image: str | None = "gallery/0.png") -> dict:
    random = np.random.default_rng(len(key))
    shares = random.dirichlet(np.ones(len(LABELS)), len(LAYERS)).round(5).tolist()
    own = {"distributions": shares, "distances": [0.5, 0.4, None, 0.2, 0.1], "correct": [False] * 4 + [True]}
    return {"id": key, "kind": kind, "image": image, "target": [1, 3], **own}


def row(split: str, layer: str, mean: float | None, **more) -> dict:
    told = {"stderr": 0.01, "n": 90, "left_out": 0, "estimator": "exact transport"}
    return {"split": split, "layer": layer, "mean": mean, **told, **more}


def content() -> dict:
    """Made up, in the form of the schema."""
    pairs = list(zip(LAYERS, MEANS, strict=True))
    scores = {"accuracy_stderr": 0.05, "cf1": 0.5, "of1": 0.6, "of1_stderr": 0.02, "map": 0.7, "n": 90}
    over = [{"layer": k, "first": 0.01, "first_stderr": 0.01, "share": 0.02, "share_stderr": 0.01} for k in LAYERS[:-1]]
    exit_row = {"rule": {"kind": "label_count", "q": 0.9, "gamma": 0.75}, "n": 90, "accuracy": 0.62, "map": 0.71}
    exit_row |= {"accuracy_stderr": 0.05, "full_accuracy": 0.6, "full_map": 0.7, "difference": 0.02, "cost": 0.8}
    exit_row |= {"difference_stderr": 0.01, "shares": [0, 0.1, 0.1, 0.2, 0.6], "layers": LAYERS}
    course = {"epochs": [0, 5], "layers": ["conv1", "output"]}
    rows = sample("a", "easy")["distributions"]
    course["samples"] = [{"id": "v1", "target": [0], "distributions": [rows[:2], rows[2:4]]}]
    epochs = [row("val", k, m + 0.1 / (1 + e), epoch=e, other=None) for e in (0, 5) for k, m in pairs]
    return {
        "format": FORMAT,
        "written": "2026-01-02T03:04:05+00:00",
        "versions": {"layershift": "1", "torch": "2"},
        "about": {"title": "A probe", "model": "resnet18", "command": "layershift probe"},
        "task": "multi_label",
        "layers": LAYERS,
        "labels": LABELS,
        "main": "test",
        "splits": {"train": 200, "test": 90},
        "cost": {"largest": 1.0, "mean": 0.4},
        "methods": ["auto", "chebyshev"],
        "depth": [row(s, k, x, method=m) for s in ("train", "test") for m in ("auto", "chebyshev") for k, x in pairs],
        "scores": [{"split": "test", "layer": k, "accuracy": 1 - m, **scores} for k, m in pairs],
        "epochs": epochs,
        "adjacent": [row("val", k, 0.1, epoch=0, other=5) for k in LAYERS],
        "difficulty": {
            "counts": {"easy": 20, "hard": 18, "confused": 2, "other": 50, "unknown": 0},
            "thresholds": {"small_early": 0.3, "large_early": 0.6, "small_late": 0.1, "large_late": 0.4},
            "quantiles": [0.25, 0.75],
            "early": ["conv1"],
            "late": ["output"],
            "of": "layers",
        },
        "overthinking": {
            "rows": over,
            "accuracy": 0.6,
            "accuracy_stderr": 0.05,
            "ideal": 0.64,
            "ideal_stderr": 0.05,
            "n": 90,
            "left_out": 0,
        },
        "exits": [exit_row],
        "gallery": [sample("a", "easy"), sample("bb", "hard", None), sample("ccc", "confused")],
        "course": course,
    }


def page_of(folder, made: dict, *, whole: bool = False) -> str:
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    (folder / "gallery" / "0.png").write_bytes(PIXEL)
    (folder / "probe.json").write_text(json.dumps(made))
    page = write_probe_report(folder).read_text()
    return page if whole else re.sub(r"<script>\s*/\*\*\s*\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)


def payload_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return page_of(tmp_path_factory.mktemp("probe"), content())


def test_every_part_is_there(page) -> None:
    sections = re.findall(r'<section id="(\w+)"', page)
    expected = ["depth", "layers", "epochs", "gallery", "samples", "course", "overthinking", "exits", "numbers"]
    assert sections == expected
    payload = payload_of(page)
    assert set(payload["panels"]) >= {"depth-0", "depth-1", "scores", "sample", "course-0", "course-1"}
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "a plot must not take the name of a section"
    assert all(f'id="{key}"' in page for key in payload["panels"])
    assert list(payload["panels"]["sample"]["choices"]) == ["easy: a", "hard: bb", "confused: ccc"]


def test_the_page_loads_nothing_from_elsewhere(page) -> None:
    assert not re.findall(
        r"https?://|<link(?! rel=\"icon\" href=\"data:)|@import|url\(|src=\"(?!data:image/png;base64,)", page
    )
    assert page.count("data:image/png;base64,") == 2
    assert "no picture" in page


def test_the_finding_is_put_together_from_the_numbers(page) -> None:
    text = re.search(r'<p class="finding">(.*?)</p>', page, re.DOTALL)[1].replace("\u00a0", " ")
    assert "On test the distance W to the target falls from 0.500 ± 0.010 at conv1 to 0.250 ± 0.010 at output" in text
    assert "it falls at 3 of 4 steps from layer to layer. The layer nearest to the targets is layer3" in text
    assert "From epoch 0 to 5 of the classifiers’ training it falls at 4 of 4 inner layers." in text
    assert "60.00 ± 5.00 % of samples are exactly right at the output; 4.00 % more" in text
    assert "Of 90 samples 20 are easy, 18 hard and 2 confused." in text
    assert "label count: q 0.9, gamma 0.75 has 62.00 % exactly right, 2.00 ± 1.00 points more" in text


def test_tables_hold_the_numbers(page) -> None:
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"layer3\s+78\.00 ± 5\.00\s+50\.00\s+60\.00 ± 2\.00\s+70\.00\s+0\.220 ± 0\.010", text)
    assert re.search(r"all of them\s+4\.00", text)
    assert re.search(r"full network\s+60\.00\s+70\.00\s+100", text)
    assert re.search(r"80\.0\s+\+2\.00 ± 1\.00\s+0 / 10 / 10 / 20 / 60", text)
    assert len(re.findall(r"<tr><td>", page)) == 2 * 2 * 5 + 4 * 5 + 10 + 5


def test_the_plot_has_the_numbers(page) -> None:
    payload = payload_of(page)
    trace = payload["panels"]["depth-0"]["choices"][""]["data"][1]
    assert np.frombuffer(base64.b64decode(trace["y"]["bdata"]), "f4") == pytest.approx(MEANS)
    bars = payload["panels"]["depth-0"]["data"][1]["error_y"]["array"]
    assert bars == pytest.approx([0.01] * 5)


def test_a_card_shows_the_targets_first_and_the_known_distances(tmp_path) -> None:
    page_of(tmp_path, content())
    (kind, _, (card,)), *_ = groups(read_results(tmp_path))
    assert (kind, card.target) == ("easy", ["dog", "bus"])
    assert [aim for _, _, aim, _ in card.names] == [True, True, False, False, False, False]
    assert len(card.dots) == 4
    assert [right for _, _, right, _ in card.dots] == [False, False, False, True]
    shares = sample("a", "easy")["distributions"]
    assert card.cells[0].opacity == pytest.approx(math.sqrt(shares[0][1]), abs=1e-3)
    heights = [y for _, y, _, _ in card.dots]
    assert heights == sorted(heights), "a smaller distance is lower"


PARTS = ("depth", "scores", "epochs", "adjacent", "difficulty", "overthinking", "exits", "gallery", "course", "about")


@pytest.mark.parametrize("part", [*PARTS, "cost", "methods", "splits", "main", "versions", "task", "written"])
@pytest.mark.parametrize("gone", ["missing", None, "empty"])
def test_a_part_that_is_missing_is_left_out(tmp_path, part, gone) -> None:
    made = content()
    empty = type(made[part])()
    if gone == "missing":
        del made[part]
    else:
        made[part] = None if gone is None else empty
    page = page_of(tmp_path, made)
    assert not re.search(r">\s*(nan|None|undefined)\s*<", page)
    if part in ("gallery", "overthinking", "exits", "course"):
        assert f'<section id="{part}"' not in page


def test_names_alone_make_a_page(tmp_path) -> None:
    page = page_of(tmp_path, {key: content()[key] for key in ("format", "layers", "labels")})
    assert "5 layers probed; there are no numbers yet." in page
    assert re.findall(r'<section id="(\w+)"', page) == ["numbers"]


def evil(value):
    """Every text of a structure that is not a key of the schema, made hostile."""
    if isinstance(value, str):
        return EVIL + value
    if isinstance(value, dict):
        return {key: evil(inner) for key, inner in value.items()}
    return [evil(inner) for inner in value] if isinstance(value, list) else value


def test_text_cannot_become_markup(tmp_path) -> None:
    made = evil(content()) | {"format": FORMAT}
    made["splits"] = {EVIL: 3}
    made["about"][EVIL] = EVIL
    body = page_of(tmp_path, made)
    assert body.count("<script") == body.count("</script>") == 3
    assert "<img src=x" not in body
    assert "&lt;/script&gt;" in body
    payload = re.search(r'id="payload">(.*?)</script>', body, re.DOTALL)[1]
    assert not set(payload) & set("<>&\u2028")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "gallery/none.png", "gallery/text.png", "gallery"])
def test_pictures_outside_the_folder_or_of_another_kind_are_not_shown(tmp_path, name) -> None:
    (tmp_path / "secret.png").write_bytes(PIXEL)
    folder = tmp_path / "probe"
    (folder / "gallery").mkdir(parents=True)
    (folder / "gallery" / "text.png").write_text("<svg onload=alert(1)>")
    page = page_of(folder, content() | {"gallery": [sample("a", "easy", name)]})
    assert "data:image/png" not in page
    assert "no picture" in page


def test_json_holds_no_nan(tmp_path) -> None:
    made = content()
    made["depth"][3]["mean"] = made["epochs"][2]["mean"] = made["scores"][1]["map"] = None
    page = page_of(tmp_path, made)
    assert not re.search(r"[:,\[](NaN|-?Infinity)", page[page.index('id="payload"') :])


def test_what_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"probe\.json: no results of a probe"):
        write_probe_report(tmp_path)
    for text, message in (
        ("{", "damaged, not JSON"),
        ("[]", "expected an object with the format"),
        (json.dumps({"format": FORMAT, "layers": []}), "expected a list of names under 'layers'"),
    ):
        (tmp_path / "probe.json").write_text(text)
        with pytest.raises(ValueError, match=rf"probe\.json: {message}"):
            write_probe_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


def test_the_title_and_the_place_can_be_given(tmp_path) -> None:
    page_of(tmp_path, content())
    out = write_probe_report(tmp_path, tmp_path / "new" / "page.html", title="A < B")
    assert out == tmp_path / "new" / "page.html"
    assert "<h1>A &lt; B</h1>" in out.read_text()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("hostile", [False, True])
def test_a_browser_draws_it_without_an_error_or_a_request(chromium, tmp_path, hostile) -> None:
    import time

    made = evil(content()) | {"format": FORMAT} if hostile else content()
    page_of(tmp_path, made)
    for width, theme in ((1200, "light"), (390, "dark")):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
        for kind in ("browser", "performance"):
            chromium.get_log(kind)  # what earlier pages left
        chromium.get((tmp_path / "report.html").as_uri())
        end = time.monotonic() + 30
        while not chromium.execute_script("return document.documentElement.dataset.drawn === 'true'"):
            assert time.monotonic() < end, chromium.get_log("browser")
            time.sleep(0.05)
        assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
        messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
        assert chromium.execute_script("return window.hacked === undefined")
        drawn = "return [...document.querySelectorAll('.plot')].map((p) => p.querySelectorAll('.main-svg').length > 0)"
        assert all(chromium.execute_script(drawn))
    means = (
        chromium.execute_script("return Array.from(document.getElementById('depth-0')._fullData[0].y)")
        if not hostile
        else MEANS
    )
    assert means == pytest.approx(MEANS)
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
