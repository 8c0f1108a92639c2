"""The fault suite in its short form, and the page that tells of its full form."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from random import Random

import pytest
from tests.faults import corrupt, full, samples
from tests.faults.damage import WAYS, damaged, other_value
from tests.faults.outcome import Counts, is_ours, judged, same
from tests.faults.table import FAULTS

from layershift._checks import check
from layershift.monitor.store import StoreError
from layershift.train.folder import RunFolder

LONG = {
    "killed training",
    "killed grid",
    "killed worker",
    "killed writer",
    "full disk",
    "two writers",
    "clock set back",
}
LONG |= {"NaN or infinity", "pickle in a file"}
MARKS = {"hostile names": [pytest.mark.slow, pytest.mark.browser]} | {name: [pytest.mark.slow] for name in LONG}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, [])) for name in FAULTS])
def test_nothing_fails_and_nothing_is_lost(name: str) -> None:
    counts = FAULTS[name].run(1, False)
    assert counts.tried > 0
    assert (counts.failed, counts.lost) == (0, 0), "\n".join(counts.notes)


def test_the_page_is_made_from_the_record() -> None:
    record = json.loads(full.RECORD.read_text(encoding="utf-8"))
    text = full.PAGE.read_text(encoding="utf-8")
    assert full.page(record, text) == text, "run: python -m tests.faults.full"
    assert [row["name"] for row in record["faults"]] == list(FAULTS)
    assert [row["what"] for row in record["faults"]] == [entry.what for entry in FAULTS.values()]
    assert all(row["failed"] == row["lost"] == 0 < row["tried"] for row in record["faults"])
    assert sum(row["tried"] for row in record["faults"] if row["name"].startswith("damaged")) >= 10_000


def error_of(action) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any error, to be judged)
        action()
    return caught.value


def test_whose_an_error_is() -> None:
    assert is_ours(error_of(lambda: check(False, "size", "a positive number", -1)), "size")
    assert not is_ours(error_of(lambda: check(False, "size", "a positive number", -1)), "depth")
    assert not is_ours(error_of(lambda: json.loads("{")))
    assert not is_ours(error_of(lambda: int("x")))
    assert not is_ours(error_of(lambda: {}["x"]))
    assert is_ours(error_of(lambda: Path("nowhere/at/all").read_bytes()), "nowhere/at/all")


def test_how_cases_are_counted() -> None:
    counts = Counts()
    for action, must in ((lambda: 1, False), (lambda: 1, True), (lambda: json.loads("{"), False)):
        with judged(counts, "a case", must_refuse=must):
            action()
    with judged(counts, "a case", "run.db"):
        samples.read_store(Path("nowhere/run.db"))
    with judged(counts, "a case"):
        raise AssertionError("wrong")
    assert (counts.right, counts.refused, counts.failed) == (1, 1, 3)
    assert (counts.tried, counts.survived) == (5, 2)
    assert "json.decoder.JSONDecodeError" in counts.notes[1]


@pytest.mark.parametrize("way", [*WAYS, "another value"])
def test_damage_changes_a_file_and_is_drawn_from_the_seed(way: str) -> None:
    ways, data = {way: {**WAYS, "another value": other_value}[way]}, json.dumps({"a": [1, {"b": "x" * 99}]}).encode()
    found = [damaged(data, Random(seed), ways=ways)[1] for seed in range(20)]
    assert all(other != data for other in found)
    assert found == [damaged(data, Random(seed), ways=ways)[1] for seed in range(20)]
    assert len(set(found)) > 3


def test_a_reader_that_lets_a_dependencys_error_through_is_found(monkeypatch) -> None:
    """The suite itself: a file that is read without care fails it."""

    def careless(folder: Path) -> samples.Sample:
        sample = samples.outputs(folder)

        def read() -> object:
            with zipfile.ZipFile(sample.file) as archive:
                return archive.namelist()

        return samples.Sample(sample.file, read)

    monkeypatch.setitem(corrupt.KINDS, "careless", corrupt.Kind(careless, 1000))
    counts = corrupt.corrupt("careless", 0, False)
    assert counts.failed > 0
    assert any("BadZipFile" in note for note in counts.notes)


def test_a_reader_that_changes_a_damaged_file_is_found(monkeypatch) -> None:
    def repairing(folder: Path) -> samples.Sample:
        sample = samples.store(folder)

        def read() -> object:
            try:
                return sample.read()
            except StoreError:
                sample.file.unlink()
                sample.file.touch()
                raise

        return samples.Sample(sample.file, read)

    monkeypatch.setitem(corrupt.KINDS, "repairing", corrupt.Kind(repairing, 1000))
    assert corrupt.corrupt("repairing", 0, False).lost > 0


def test_damage_that_checksums_would_show_must_be_noticed(monkeypatch) -> None:
    def blind(folder: Path) -> samples.Sample:
        sample = samples.outputs(folder)
        return samples.Sample(sample.file, sample.file.read_bytes)

    monkeypatch.setitem(corrupt.KINDS, "blind", corrupt.Kind(blind, 1000, sums=True))
    counts = corrupt.corrupt("blind", 0, False)
    assert counts.failed == counts.tried > 0
    monkeypatch.setitem(corrupt.KINDS, "blind", corrupt.Kind(blind, 1000))
    counts = corrupt.corrupt("blind", 0, False)
    assert (counts.altered, counts.survived) == (counts.tried, 0)


def test_a_run_that_was_killed_while_its_store_was_made_starts_again(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.describe(samples.CONFIG.identity(), "layershift train")
    folder.store.touch()
    assert folder.state() == "interrupted"
    folder.checkpoints.mkdir()
    folder.last.touch()  # there was more than that
    with pytest.raises(StoreError, match=r"run\.db: not a layershift store"):
        folder.state()
    folder.last.unlink()
    assert folder.claim(samples.CONFIG.identity(), resume=True, overwrite=False) == "new"
    assert not folder.store.exists()


def test_nan_is_equal_to_nan_and_types_count() -> None:
    assert same([float("nan"), {"a": (1, "x")}], [float("nan"), {"a": (1, "x")}])
    assert not same(1, 1.0)
    assert not same([1], [1, 2])
