"""Theorems 2, 4 and 5 as experiments, the file they are written to, and the command's function."""

from __future__ import annotations

import json
import math

import pytest
import torch

from layershift.dynamics.experiments import run_flow
from layershift.dynamics.global_minimum import theorem5
from layershift.dynamics.many_neurons import theorem4
from layershift.dynamics.results import Claim, Curve, Experiment, Plot, claim_of, write_flow
from layershift.dynamics.two_flows import CASES, Case, random_covariance, random_problem, theorem2


def claim(experiment: Experiment, words: str):
    (found,) = [claim for claim in experiment.claims if words in claim.claim]
    return found


@pytest.mark.parametrize(("d", "condition"), [(2, 10.0), (50, 1e6)])
def test_the_covariance_has_its_condition_number(d, condition) -> None:
    values = torch.linalg.eigvalsh(random_covariance(d, condition))
    assert float(values[-1]) == pytest.approx(1)
    assert float(values[-1] / values[0]) == pytest.approx(condition, rel=1e-6)
    problem = random_problem(Case(d, condition, "tanh", "logistic"), d + 20)
    assert set(problem.y.tolist()) == {-1.0, 1.0}


def test_theorem_2_holds_and_its_print_needs_unit_lengths() -> None:
    found = theorem2(cases=CASES[:1], m=6, n=30, halvings=3)
    assert claim(found, "Both flows agree").value < 1e-6
    assert not claim(found, "as printed").holds
    assert claim(found, "as printed").value > 1e-3
    assert claim(found, "own rate").value < 1e-9
    assert claim(found, "first order").value == pytest.approx(1, abs=0.1)
    (plot,) = found.plots
    assert plot.curves[0].y[-1] <= 0.5, "over a time in which the loss halves"


def test_theorem_4_wider_is_nearer_and_the_energy_is_lost() -> None:
    found = theorem4(widths=(4, 16, 64), reference=256, times=(0.0, 1.0), n=32, step=0.05, seeds=3)
    for row in found.claims[:4]:
        assert row.n == 3
        assert row.value > 0
    assert claim(found, "dL/dt").holds
    assert claim(found, "never rises").holds
    assert claim(found, "W₂² between two times").holds
    distance = found.plots[0].curves[0]
    assert len(distance.y) == len(distance.error) == 3
    assert distance.y[2] < distance.y[0]


def test_theorem_5_starts_that_separate_reach_it_and_others_fail() -> None:
    found = theorem5(m=60, n=32, rate=0.1, steps=700, widths=(1, 16), grid=90, seeds=1)
    assert all(row.holds for row in found.claims[:-1])
    assert not found.claims[-1].holds, "one neuron is not the limit of many"
    assert found.claims[-1].note.endswith("1 neurons 0 of 1, 16 neurons 1 of 1.")
    assert "rounding" in claim(found, "± the first axis").note
    assert [ring.title for ring in found.rings] == [
        "a = 0, all directions",
        "within 15° of the second axis",
        "± the first axis",
    ]


def test_the_file_is_plain_json(tmp_path) -> None:
    row = Claim("it is so", "0", math.nan, None, 1, None)
    curve = Curve("line", torch.arange(3.0).tolist(), [1.0, math.inf, 2.0])
    plot = Plot("p", "title", "x", "y", [curve], "y")
    found = Experiment("figure", 1, "name", "says", {"sigma": (5.0, 1.0)}, [row], [plot])
    path = write_flow(tmp_path / "new", found, about={"command": "layershift flow"}, seconds=1.5)
    content = json.loads(path.read_text())
    assert content["claims"][0]["value"] is None
    assert content["plots"][0]["curves"][0]["y"] == [1.0, None, 2.0]
    assert content["settings"] == {"sigma": [5.0, 1.0]}
    assert [p.name for p in path.parent.iterdir()] == ["flow.json"]


def test_a_claim_has_mean_spread_and_number() -> None:
    row = claim_of("x", torch.tensor([1.0, 2.0, 3.0]), expected="2", holds=True)
    assert (row.value, row.spread, row.n) == (2.0, 1.0, 3)
    assert claim_of("x", [4.0], expected="4", holds=None).spread is None


@pytest.mark.parametrize(
    ("kind", "number"), [("figure", 1), ("figure", 2), ("figure", 3), ("theorem", 2), ("theorem", 4), ("theorem", 5)]
)
def test_every_experiment_runs_at_the_smallest_scale(kind, number, tmp_path) -> None:
    path = run_flow(**{kind: number}, scale="smoke", out=tmp_path)
    content = json.loads(path.read_text())
    assert (content["kind"], content["number"]) == (kind, number)
    assert content["about"]["command"].startswith(f"layershift flow --{kind} {number} --scale smoke")
    assert len(content["claims"]) >= 4
    again = json.loads(run_flow(**{kind: number}, scale="smoke", out=tmp_path / "again").read_text())
    for key in ("claims", "plots", "rings", "settings"):
        assert content[key] == again[key], "one seed, one result"


def test_run_flow_wants_one_of_both() -> None:
    with pytest.raises(ValueError, match="figure: expected a figure or a theorem, one of them"):
        run_flow(out="nowhere")
    with pytest.raises(ValueError, match="figure: expected a figure or a theorem, one of them"):
        run_flow(figure=1, theorem=2, out="nowhere")
    with pytest.raises(ValueError, match="theorem: expected one of 2, 4, 5, got 3"):
        run_flow(theorem=3, out="nowhere")
    with pytest.raises(ValueError, match="scale: expected one of 'smoke'"):
        run_flow(figure=1, scale="huge", out="nowhere")
