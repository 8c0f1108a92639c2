"""The benchmarks' own arithmetic, their records, and the page that is made of them."""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from layershift.functional import directions, epps_pulley

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
EVIL = "</td></table><script>alert(1)</script> | <img src=x onerror=alert(2)>"


def module(name: str):
    """A module of the folder, which is no package and lies on the path only while this imports it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


floors, peers, table, timing = (module(name) for name in ("_floors", "_peers", "_table", "_timing"))
sweeps, side_by_side = module("_sweeps"), module("side_by_side")
RECORDS = table.load()


def row(**changes):
    """A row of a record, as JSON gives it."""
    made = {"function": "f", "shape": "(8,)", "size": 8, "device": "cpu", "ours": 2e-3, "peer": "p", "theirs": 1e-3}
    made |= {"ratio": 2.0, "quartiles": [1.5, 2.5], "n": 5, "floor": 1e-3, "floor_of": "bytes", "distance": 2.0}
    made |= {"operations": 3, "peer_operations": 1, "exponent": 1.0, "peer_exponent": 0.5, "absent": "", "note": ""}
    return made | {"why": ""} | changes


def record(rows=(), cases=()):
    """A record that holds these."""
    rates = {"GB/s by MiB": {"0.25": 60.0, "512": 20.0}, "GFLOP/s": 100.0, "seconds of a call": 1e-6}
    machine = {"cpu": "a CPU", "gpu": None, "threads": 2, "python": "3", "torch": "2"}
    made = {"benchmark": "side_by_side", "command": "python x", "date": "2026-01-02T03:04:05+00:00", "machine": machine}
    return made | {"versions": {"POT": "1.2"}, "rates": rates, "rows": list(rows), "cases": list(cases)}


def case(**changes):
    """A case of a record."""
    made = {"name": "c", "value": 2.0, "quartiles": [1.9, 2.1], "target": 1.0, "sense": "<=", "unit": "ratio", "n": 3}
    return made | {"detail": "", "met": False} | changes


def cells(markdown: str) -> list[list[str]]:
    """The rows of all tables of a page."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


class TestFloors:
    @given(st.floats(-2, 4), st.floats(1e-9, 1e3), st.lists(st.integers(1, 10**6), min_size=2, max_size=8, unique=True))
    def test_the_exponent_of_a_power_is_recovered(self, power, factor, sizes) -> None:
        found = floors.exponent(sizes, [factor * size**power for size in sizes])
        assert found == pytest.approx(power, abs=1e-6 + 1e-9 / math.log(max(sizes) / min(sizes)))

    @given(st.floats(1, 1e12))
    def test_rates_lie_between_those_that_were_measured(self, working) -> None:
        rates = floors.Rates({1000: 50.0, 10_000: 20.0, 10**6: 5.0}, 1.0, 1.0)
        assert 5.0 <= rates.bytes_a_second(working) <= 50.0
        assert rates.bytes_a_second(2 * working) <= rates.bytes_a_second(working) * (1 + 1e-12)

    def test_rates_at_and_between_measured_sizes(self) -> None:
        rates = floors.Rates({1000: 50.0, 10_000: 20.0, 10**6: 5.0}, 1.0, 1.0)
        assert [rates.bytes_a_second(size) for size in (1, 1000, 10_000, 10**6, 10**9)] == pytest.approx(
            [50, 50, 20, 5, 5]
        )
        assert rates.bytes_a_second(10**5) == pytest.approx(math.sqrt(20 * 5))

    def test_a_floor_is_the_longer_of_moving_and_computing(self) -> None:
        rates = floors.Rates({1: 100.0}, 10.0, 1.0)
        assert rates.floor(300.0) == floors.Floor(3.0, "bytes")
        assert rates.floor(300.0, operations=29.0).of == "bytes"
        assert rates.floor(300.0, operations=31.0) == floors.Floor(3.1, "operations")

    def test_what_is_moved_twice_is_as_fast_as_the_cache_that_holds_it(self) -> None:
        rates = floors.Rates({1000: 50.0, 10**6: 5.0}, 1.0, 1.0)
        assert rates.floor(10**6, working=1000).seconds == pytest.approx(10**6 / 50)

    def test_no_copy_is_faster_than_its_floor(self) -> None:
        rates = floors.measure_rates("cpu", quick=True)
        a, b = torch.ones(2**20), torch.ones(2**20)
        copying = floors.least(lambda: b.copy_(a), 0.05)
        assert copying > 0.5 * rates.floor(2 * 4 * 2**20).seconds > 0
        assert 0 < rates.call < 1e-3
        assert rates.products > 0

    def test_operations_are_counted_forward_and_backward(self) -> None:
        x = torch.ones(3)
        assert floors.operations_called(lambda: x.neg().neg()) == 2
        leaf = torch.ones(3, requires_grad=True)
        forward = floors.operations_called(lambda: leaf.exp().sum())
        assert floors.operations_called(lambda: leaf.exp().sum().backward()) > forward == 2


class TestPeers:
    def test_sigreg_is_the_epps_pulley_statistic(self) -> None:
        x, rows = torch.randn(50, 7), directions(7, 20)
        expected = 50 * epps_pulley(rows @ x.mT, t_max=3.0).mean() * peers.SIGREG_SCALE
        torch.testing.assert_close(peers.SIGReg()(x, rows.mT), expected)

    def test_sigreg_draws_unit_directions(self) -> None:
        torch.manual_seed(3)
        drawn = torch.randn(7, 20)
        torch.manual_seed(3)
        x = torch.linspace(-2, 2, 35).reshape(5, 7)
        expected = peers.SIGReg(20)(x, drawn / drawn.norm(dim=0))
        torch.manual_seed(3)
        torch.testing.assert_close(peers.SIGReg(20)(x), expected)

    def test_composer_hooks_give_its_four_numbers(self) -> None:
        see, x = peers.ComposerHooks(), torch.randn(4, 3, 9)
        see("layer", (x,), 2 * x)
        y = x.double().numpy()
        expected = {"l2_norm": np.linalg.norm(y, axis=-1), "average": y, "max": y.max(-1)}
        expected |= {"kurtosis": stats.kurtosis(y, axis=-1, fisher=False)}
        for name, values in expected.items():
            assert see.log[f"{name}/layer/input.0"] == pytest.approx(values.mean(), rel=1e-4)
        assert see.log["max/layer/output"] == pytest.approx(2 * y.max(-1).mean(), rel=1e-5)
        assert see.numbers == 8

    def test_histograms_hold_every_output(self) -> None:
        model, see = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.ReLU())), peers.HistogramHooks(bins=4)
        with peers.hooked(model, see):
            model(torch.randn(10, 3))
        assert {name: int(bins.sum()) for name, bins in see.log.items()} == {"0": 50, "1.0": 50}
        assert see.numbers == 8

    def test_hooks_leave_with_the_context(self) -> None:
        model = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
        with pytest.raises(RuntimeError, match="stop"), peers.hooked(model, peers.HistogramHooks()):
            raise RuntimeError("stop")
        assert not any(m._forward_hooks for m in model.modules())

    def test_a_peer_that_is_not_installed_is_none(self) -> None:
        assert peers.find("no_such_peer_of_ours") is None
        assert peers.find("scipy.stats") is stats
        assert peers.versions()["scipy"] == importlib.metadata.version("scipy")


class TestRows:
    def job(self, **changes):
        options = {"shape": "(8,)", "size": 8, "ours": {"f": lambda: None}, "peers": {"p": lambda: None}}
        options |= {"floor": sweeps.always(floors.Floor(0.5, "bytes")), "part": ("its part", lambda: None)}
        return sweeps.Job(**options | changes)

    def rows(self, job, **seconds):
        times = {name.replace("_", " "): timing.Times(values) for name, values in seconds.items()}
        setup = sweeps.Setup("cpu", floors.Rates({1: 1.0}, 1.0, 1e-9))
        return list(side_by_side.rows_of(job, times, setup))

    def test_a_ratio_is_formed_within_a_round(self) -> None:
        (made,) = self.rows(self.job(), f=[1.0, 10.0, 3.0], p=[1.0, 5.0, 1.0], its_part=[0.5, 5.0, 1.5])
        assert (made.ratio, made.ours, made.theirs, made.n) == (2.0, 3.0, 1.0, 3)
        assert made.distance == 6.0
        assert made.why == "its part takes 50% of ours"

    def test_an_absent_peer_has_a_row_that_says_so(self) -> None:
        job = self.job(peers={"p": "p is not installed"}, part=None)
        (made,) = self.rows(job, f=[1.0, 2.0])
        assert (made.theirs, made.ratio, made.absent) == (None, None, "p is not installed")

    def test_growth_is_that_of_a_function_beside_its_peer(self) -> None:
        base = side_by_side.Row("f", "", 1, "cpu", 1.0, "p", 1.0, 1.0, (1.0, 1.0), 3, 1.0, "bytes", 1.0)
        made = [
            side_by_side.replace(base, size=size, peer=peer, ours=size**1.5, theirs=theirs)
            for size in (10, 100, 1000)
            for peer, theirs in (("p", float(size**2)), ("q", None))
        ]
        for found in side_by_side.grown(made):
            assert found.exponent == pytest.approx(1.5)
            assert found.peer_exponent == (None if found.peer == "q" else pytest.approx(2.0))

    def test_what_calls_cost_is_told_where_it_matters(self) -> None:
        assert (
            side_by_side.called(100, 2, 1e-3, 1e-6)
            == "calling its 100 operations takes 10% of ours or more; the peer's are 2"
        )
        assert side_by_side.called(10, 2, 1e-3, 1e-6) == ""
        assert side_by_side.called(None, 2, 1e-3, 1e-6) == ""

    @pytest.mark.parametrize(("seconds", "repeats", "rounds"), [(0.0, 30, 5), (0.0, 3, 3), (60.0, 7, 7)])
    def test_rounds_follow_the_time_there_is(self, seconds, repeats, rounds) -> None:
        times = side_by_side.timed(self.job(), seconds=seconds, repeats=repeats)
        assert {name: len(t.seconds) for name, t in times.items()} == {"f": rounds, "p": rounds, "its part": rounds}

    def test_targets_are_of_the_functions_that_were_promised(self) -> None:
        times = {name: timing.Times([1.0, 2.0, 3.0]) for name in ("PER", "emd", "its part")}
        job = self.job(ours={"PER": lambda: None, "emd": lambda: None})
        (judged,) = side_by_side.near_floor(job, times, "cpu")
        assert (judged.name, judged.value, judged.target, judged.met) == ("PER / floor, (8,)", 4.0, 1.5, False)
        assert judged.why == "its part takes 100% of ours"
        assert next(side_by_side.near_floor(job, times, "cuda")).target is None


class TestRecords:
    @pytest.mark.parametrize("made", RECORDS, ids=lambda r: r["benchmark"])
    def test_a_record_says_what_it_is_of(self, made) -> None:
        assert made["command"].startswith("python benchmarks/")
        assert {"cpu", "gpu", "threads", "python", "torch"} <= set(made["machine"])
        assert made["cases"]
        for given_case in made["cases"]:
            fields = {k: v for k, v in given_case.items() if k != "met"}
            assert timing.Case(**fields).met == given_case["met"]
            low, high = given_case["quartiles"] or (given_case["value"],) * 2
            assert low <= given_case["value"] <= high

    def test_a_case_carries_its_reason_into_the_record(self, tmp_path) -> None:
        times = timing.Times([2.0, 3.0, 4.0])
        made = timing.judged("a / b", times, 1.5, why="the floor is 1.8")
        timing.report("x", [made], tmp_path / "x.json", extra={"rows": [1]})
        written = json.loads((tmp_path / "x.json").read_text())
        assert (written["cases"][0]["why"], written["rows"]) == ("the floor is 1.8", [1])


class TestPage:
    def test_every_promise_stands_on_it_once_and_what_was_missed_first(self) -> None:
        rows = table.promised(RECORDS)
        expected = sorted((r["benchmark"], c["name"]) for r in RECORDS for c in r["cases"] if c["target"] is not None)
        assert sorted((cells[0], cells[1]) for cells in rows) == expected
        verdicts = [cells[6] for cells in rows]
        assert verdicts == sorted(verdicts)
        assert set(verdicts) == {"**missed**", "met"}
        page = table.page(RECORDS)
        assert all(page.count(f"| {cells[0]} | {cells[1]} |") == 1 for cells in rows)

    def test_a_case_without_a_target_stands_on_it_as_well(self) -> None:
        found = {cells[0] for cells in cells_of_other_tables()}
        assert {c["name"] for r in RECORDS for c in r["cases"] if c["target"] is None} <= found

    def test_a_reason_quotes_the_record(self) -> None:
        made = copy.deepcopy(next(r for r in RECORDS if r["benchmark"] == "per"))
        missed = next(c for c in made["cases"] if c["name"] == "projections / exact, (128, 650)")
        floor = next(c for c in made["cases"] if c["name"] == "projections / x.mean(), (128, 650)")
        floor["value"] = 7.77
        missed["value"], missed["quartiles"] = 5.0, [4.0, 6.0]
        assert table.why(made, missed) == "were the penalty `x.mean()`, it would be 7.77"
        made["cases"].remove(floor)
        assert table.why(made, missed) == table.NO_REASON
        assert table.why(made, missed | {"why": "its own"}) == "its own"
        assert table.why(made, missed | {"quartiles": [4.0, 21.0]}).endswith("; the target lies within the quartiles")

    def test_every_reason_belongs_to_a_case(self) -> None:
        for benchmark, start in table.REASONS:
            made = next(r for r in RECORDS if r["benchmark"] == benchmark)
            missed = [c for c in made["cases"] if c["name"].startswith(start) and c["met"] is False]
            assert all(table.why(made, c).removesuffix("; the target lies within the quartiles") for c in missed)
            assert all(table.NO_REASON not in table.why(made, c) for c in missed)

    def test_rounding_does_not_hide_a_miss(self) -> None:
        assert table.value(case(value=1.0046)) == "1.0046"
        assert table.value(case(value=1.0, met=True)) == "1"

    @pytest.mark.parametrize(
        ("changes", "verdict", "remark"),
        [
            ({"ratio": 2.0, "quartiles": [1.5, 2.5], "why": "because"}, "**slower**", "because"),
            ({"ratio": 2.0, "quartiles": [1.5, 2.5]}, "**slower**", "no reason shown yet"),
            ({"ratio": 1.1, "quartiles": [0.9, 1.3], "why": "w"}, "**slower**, within the spread", "w"),
            ({"ratio": 0.5, "quartiles": [0.4, 0.6], "note": "n"}, "faster", "n"),
            ({"theirs": None, "ratio": None, "quartiles": None, "absent": "not here"}, "absent", "not here"),
        ],
    )
    def test_a_row_says_who_is_faster_and_why(self, changes, verdict, remark) -> None:
        shown = dict(zip(table.COMPARED_HEADER, table.compared(row(**changes)), strict=True))
        assert (shown["verdict"], shown["remark"]) == (verdict, remark)
        page = table.page([record([row(**changes)])])
        assert f"| {verdict} |" in page.split("## Side by side")[1]

    def test_the_overview_holds_the_largest_sizes(self) -> None:
        rows = [row(size=size, peer=peer) for peer in "pq" for size in (8, 32, 16)]
        assert [(r["peer"], r["size"]) for r in table.largest(rows)] == [("p", 32), ("q", 32)]

    def test_without_a_comparison_it_says_so(self) -> None:
        assert table.NOT_YET in table.page([record(cases=[case()])])

    @pytest.mark.parametrize(
        ("seconds", "text"), [(2.5, "2.5 s"), (0.0025, "2.5 ms"), (2.5e-7, "0.25 µs"), (1e-3, "1 ms")]
    )
    def test_durations_have_the_unit_that_fits(self, seconds, text) -> None:
        assert table.duration(seconds).replace("\u00a0", " ") == text

    def test_hostile_names_stay_in_their_cells(self) -> None:
        page = table.page([record([row(function=EVIL, why=EVIL)], [case(name=EVIL, why=EVIL)])])
        assert "<script" not in page
        widths = {len(line) for line in cells(page.split("## Side by side")[1].split("###")[1])}
        assert widths == {len(table.COMPARED_HEADER)}


def cells_of_other_tables() -> list[list[str]]:
    page = table.page(RECORDS)
    return cells(page.split("## Side by side")[1])


class Tags(HTMLParser):
    """Tags, attributes and the text of table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "td":
            self.cells[-1] += data


class TestHtml:
    def test_it_escapes_what_it_shows(self) -> None:
        made = record([row(function=EVIL, absent=EVIL)], [case(name=EVIL, detail=EVIL)])
        made["machine"]["cpu"] = made["versions"]["POT"] = EVIL
        found = Tags(table.html([made]))
        assert found.tags.count("script") == 1
        assert "img" not in found.tags
        assert not any(name.startswith("on") for name, _ in found.attributes)
        assert sum(EVIL in cell for cell in found.cells) >= 4

    def test_it_holds_every_row_and_asks_nothing_of_the_network(self) -> None:
        rows = [row(size=size, shape=f"({size},)") for size in (8, 16)]
        found = Tags(table.html([record(rows, [case(name="a case")])]))
        assert {"(8,)", "(16,)", "a case", "slower", "missed"} <= {cell.strip() for cell in found.cells}
        assert [value for name, value in found.attributes if name in ("src", "href")] == ["data:,"]

    def test_one_command_writes_it(self, tmp_path) -> None:
        command = [sys.executable, str(BENCHMARKS / "_table.py"), "--html", str(tmp_path / "new" / "page.html")]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
        text = (tmp_path / "new" / "page.html").read_text()
        promised = Tags(text).cells
        assert all(c["name"] in promised for r in RECORDS for c in r["cases"] if c["target"] is not None)


def run_quickly(out: Path, *arguments: str, **environment: str) -> dict:
    command = [sys.executable, str(BENCHMARKS / "side_by_side.py"), "--quick", *arguments, "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, env={**os.environ, **environment})
    return json.loads(out.read_text())


@pytest.mark.slow
def test_a_quick_run_compares_everything(tmp_path) -> None:
    made = run_quickly(tmp_path / "quick.json")
    rows = made["rows"]
    promised = {name for name in side_by_side.NEAR_FLOOR if "compiled" not in name}
    functions = {r["function"].split(",")[0] for r in rows}
    assert functions == promised | {"sinkhorn", "sinkhorn_divergence", "emd", "Monitor"}
    for key in {(r["function"], r["peer"]) for r in rows}:
        sweep = [r for r in rows if (r["function"], r["peer"]) == key]
        assert len({r["size"] for r in sweep}) >= 4, key
        assert len({r["exponent"] for r in sweep}) == 1, key
    for r in rows:
        assert r["floor"] > 0, r
        assert r["ours"] > 0, r
        assert r["distance"] == pytest.approx(r["ours"] / r["floor"])
        assert (r["theirs"] is None) == bool(r["absent"]), r
    assert made["rates"]["GFLOP/s"] > 0
    assert "NaN" not in (tmp_path / "quick.json").read_text()
    page = table.page([made])
    assert all(f"### {r['function']}" in page for r in rows)


@pytest.mark.slow
def test_without_a_compiler_the_rows_say_so(tmp_path) -> None:
    hidden = {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    rows = run_quickly(tmp_path / "quick.json", "--only", "compiled", **hidden)["rows"]
    assert {r["peer"] for r in rows} == {f"torch {n}, compiled" for n in ("BatchNorm2d", "GroupNorm", "LayerNorm")}
    assert all(r["absent"].startswith("torch.compile does not work here: ") for r in rows)
    assert {r["function"] for r in rows} == {"Unitization2d", "BatchNorm2d"}
