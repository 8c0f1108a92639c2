"""One bad argument at a time, of every constructor, forward, update and function: an error of ours names it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.properties import calls_of_modules, calls_of_rooms
from tests.properties.calls_of_rooms import OUTPUTS, PROBE, RECORD, TINY
from tests.properties.spoils import failures

import layershift as ls
from layershift.cli import main
from layershift.functional import zero_one_cost

CALLS = {
    **calls_of_modules.MODULES,
    **calls_of_modules.MEASURES,
    **calls_of_rooms.TOP,
    **calls_of_rooms.PROBES,
    **calls_of_rooms.OTHERS,
}
LEGAL = calls_of_modules.LEGAL | calls_of_rooms.LEGAL


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file of each kind, and bad ones."""
    place = tmp_path_factory.mktemp("files")
    with ls.monitor.Store(place / "run.db") as store:
        store.write([RECORD])
    OUTPUTS.save(place / "outputs.npz")
    PROBE.save(place / "probe")
    ls.probe.EarlyExit.from_probe(PROBE, ls.probe.LabelCount(0.8, 0.6)).save(place / "early.pt")
    ls.probe.write_results(place / "results", {"test": OUTPUTS}, zero_one_cost(3))
    ls.train.train(TINY, place / "runs")
    (place / "mine.yaml").write_text("extends: 1/table1")
    (place / "junk").write_bytes(b"\0\xff no file of ours" * 50)
    (place / "empty").touch()
    return place


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_argument_is_named(name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    wrong = list(failures(name, CALLS[name]._replace(legal=LEGAL.get(name, {}))))
    assert not wrong, "\n".join(wrong)


UNSPOILED = {
    "nn": "Folded LayerPenalty",
    "measure": "CriticDistance Estimate MultiLabelResult NeuronSpeeds ShiftBounds",
    "monitor": "Alarm Cost LayerWarning Record Sink StopTraining StoreError default_rules",
    "probe": "ExitOutput ExitPoint ExitSearch Exits Features Overthinking",
    "train": "METHODS Method RestoredRun Row Run RunError data models",
    "report": "",
    "integrations": "MLflowSink TransformersMonitor WandbSink",  # the checks of TensorBoardSink and of Monitor
    "watch": "",
}
"""Public names that take no argument, are errors, or hold what something else has returned and check nothing."""


@pytest.mark.parametrize("room", UNSPOILED)
def test_every_public_name_is_called_with_bad_arguments(room: str) -> None:
    called = {re.split(r"[. ]", name)[0] for name in CALLS}
    left = set(UNSPOILED[room].split())
    assert not left & called
    assert set(getattr(ls, room).__all__) <= called | left


def test_what_is_legal_is_said_of_calls_that_there_are() -> None:
    assert set(LEGAL) <= set(CALLS)


COMMANDS = [
    ([], 2, "expected a command, one of"),
    (["--nonsense"], 2, "nonsense"),
    (["demo", "--seeds", "many"], 2, "--seeds: "),
    (["demo", "--seeds", "0"], 1, "seeds: expected at least 1, got 0"),
    (["demo", "--methods", "nothing"], 2, "invalid choice: 'nothing'"),
    (["demo", "--out", "junk"], 1, "junk"),
    (["train", "--learning-rate", "nan"], 2, "--learning_rate: expected float, None, got nan"),
    (["train", "--batch-size", "2.5"], 2, "--batch_size: "),
    (["train", "--milestones", "[2]"], 2, "milestones: expected parts in"),
    (["train", "--out", "new", "--data", "nothing"], 1, "data: expected one of"),
    (["train", "--out", "new", "--model", "no.such.path"], 1, "model: expected one of"),
    (["train", "--recipe", "junk"], 2, "junk: not a YAML file"),
    (["train", "--recipe", "1/table9"], 2, "recipe: expected one of"),
    (
        ["train", "--out", "new", "--layers", "nothing", "--scale", "smoke"],
        1,
        "layers: expected a pattern that matches",
    ),
    (["recipes", "junk"], 2, "junk: not a YAML file"),
    (["reproduce"], 2, "name"),
    (["reproduce", "junk"], 2, "junk: not a YAML file"),
    (["reproduce", "1/table1", "--workers", "0", "--scale", "smoke"], 1, "workers: expected "),
    (["probe", "missing"], 1, "missing: no run here"),
    (["probe", "junk"], 1, "junk: no run here"),
    (["probe", "runs", "--epochs", "-1"], 1, "epochs: expected a number of passes"),
    (["probe", "runs", "--layers", "nothing"], 1, "layers: expected a pattern that matches a layer"),
    (["probe", "runs", "--embeddings", "junk"], 2, "--embeddings: expected a .npy file"),
    (["probe", "a", "b"], 2, "expected one folder of a run"),
    (["exits", "missing"], 2, "missing: expected the folder of a finished layershift probe"),
    (["exits", "junk"], 2, "junk: expected the folder"),
    (["exits", "runs", "--rules", "nothing"], 2, "invalid choice: 'nothing'"),
    (["flow", "--figure", "7"], 2, "invalid choice: 7"),
    (["flow", "--theorem", "2", "--seed", "-1"], 2, "seed: expected "),
    (["report", "missing"], 1, "missing: no such file or folder"),
    (["report", "junk"], 1, "junk: not a layershift store"),
    (["report", "empty"], 1, "empty: not a layershift store"),
    (["report", "run.db", "--out", "junk"], 1, "junk"),
    (["watch", "junk", "--once"], 1, "junk: not a layershift store"),
    (["watch", "missing", "--once"], 1, "missing: no such file"),
    (["watch", "run.db", "--every", "0"], 2, "--every: expected a positive number of seconds"),
    (["watch", "run.db", "--every", "soon"], 2, "--every: "),
]


@pytest.mark.parametrize(("arguments", "code", "message"), COMMANDS, ids=[" ".join(words) for words, *_ in COMMANDS])
@pytest.mark.filterwarnings("ignore")
def test_a_bad_command_line_is_told_in_one_line(
    arguments: list[str],
    code: int,
    message: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code, capsys.readouterr().err
    told = capsys.readouterr().err
    assert re.fullmatch(r"(.*\n)?layershift: error: [^\n]+\n", told), told
    assert message in told
    assert "Traceback" not in told
    assert "--debug shows where" not in told  # an error that nobody expected
