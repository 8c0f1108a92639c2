"""Speeds of neurons in the report: what a monitor recorded, where there is a normaliser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import layershift as ls
from layershift.measure import Speeds
from layershift.report import speeds
from layershift.report.data import read_methods
from layershift.report.page import render


def record(path, *, measures, rate: float = 0.1) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    chosen = [Speeds(lr=optimizer) if measure == "speeds" else measure for measure in measures]
    with ls.Monitor(model, measures=chosen, store=path, every=1, budget=None) as monitor:
        for i in range(5):
            with monitor.step(i):
                optimizer.zero_grad()
                model(torch.randn(32, 4)).square().mean().backward()
                optimizer.step()


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speeds")
    record(folder / "run.db", measures=["moments", "speeds"])
    return read_methods([folder])


def test_the_cells_are_the_recorded_numbers(methods) -> None:
    section = speeds.section(methods)
    (run,) = methods[0].runs
    assert [panel.title for panel in section.panels] == ["Effective learning rate", "Turn between measured steps"]
    for panel, measure in zip(section.panels, ("effective_rate", "turn"), strict=True):
        values = panel.figures[""].data[0]
        assert list(values.y) == ["0", "3"], "layers that a normaliser follows"
        np.testing.assert_allclose(values.customdata, run.levels[measure].to_numpy().T, rtol=1e-5)
    assert list(section.panels[1].figures[""].data[0].x) == [1, 2, 3, 4], "nothing lies before the first step"


def test_the_page_has_it_and_does_not_ask_for_it(methods, tmp_path) -> None:
    assert '<section id="speeds"' in render(methods)
    record(tmp_path / "run.db", measures=["moments"])
    page = render(read_methods([tmp_path]))
    assert '<section id="speeds"' not in page
    assert "How fast neurons turn" not in page
