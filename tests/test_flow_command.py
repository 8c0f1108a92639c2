"""Figures and theorems on batch normalisation, by the command."""

from __future__ import annotations

import json

import pytest

from layershift.cli import main


@pytest.mark.parametrize("what", [("--figure", "1"), ("--figure", "2"), ("--figure", "3"), ("--theorem", "5")])
def test_a_page_and_a_table_with_verdicts(what, tmp_path, capsys) -> None:
    assert main(["flow", *what, "--scale", "smoke", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "flow.json").read_text())
    assert (content["kind"], str(content["number"])) == (what[0][2:], what[1])
    said = " ".join(capsys.readouterr().out.split())
    for claim in content["claims"]:
        assert claim["claim"].split()[0] in said
    assert any(claim["holds"] is not None for claim in content["claims"])
    assert (tmp_path / "report.html").stat().st_size > 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --figure 1, 2 or 3, or --theorem 2, 4 or 5"),
        (["--figure", "1", "--theorem", "2"], "and not both"),
        (["--figure", "4"], "figure"),
    ],
)
def test_what_to_run_must_be_said(arguments, message, capsys) -> None:
    assert main(["flow", *arguments]) == 2
    assert message in capsys.readouterr().err
