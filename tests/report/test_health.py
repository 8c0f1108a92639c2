"""Health in the report: shares on a scale that reports share, and cells that show what was recorded."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layershift.monitor.store import Record, Store
from layershift.report import health
from layershift.report.data import read_methods


@pytest.fixture(scope="module")
def methods(watched):
    return read_methods([watched])


def one(tmp_path, records):
    with Store(tmp_path / "run.db") as store:
        store.write(records)
    return read_methods([tmp_path])


def test_the_cells_are_the_recorded_numbers(methods) -> None:
    section = health.section(methods)
    assert [panel.key for panel in section.panels] == [
        f"health-{k}-{measure}" for k in (0, 1) for measure in ("dead", "effective_rank")
    ]
    for panel in section.panels:
        _, k, measure = panel.key.split("-")
        values = panel.figures[""].data[0]
        expected = np.mean([run.levels[measure].to_numpy() for run in methods[int(k)].runs], axis=0).T
        np.testing.assert_allclose(values.customdata, expected, rtol=1e-5)
        if measure == "dead":
            assert (values.zmin, values.zmax) == (0.0, 1.0), "reports compare"
    assert [scale["name"] for scale in section.scales] == ["share of dead units", "effective rank, log scale"]


def test_saturation_is_shown_only_where_there_was_some(methods, tmp_path) -> None:
    assert "No unit was saturated at any measured step." in health.section(methods).caption
    rows = [Record(s, "a", m, 0.1 * s) for s in (0, 1) for m in ("dead", "saturated")]
    section = health.section(one(tmp_path, rows))
    assert [panel.title for panel in section.panels] == ["Dead units", "Saturated units"]
    assert "No unit" not in section.caption


def test_a_layer_that_is_wholly_dead_shows_its_share_and_not_that_it_is_constant(tmp_path) -> None:
    rows = [Record(s, "a", m, v) for s in (0, 1) for m, v in {"dead": 1.0, "variance": 0.0}.items()]
    (panel,) = health.section(one(tmp_path, rows)).panels
    (values,) = panel.figures[""].data
    np.testing.assert_array_equal(values.customdata, [[1.0, 1.0]])


def test_a_rank_that_is_not_a_number_has_a_colour_of_its_own(tmp_path) -> None:
    rows = [Record(s, "a", "effective_rank", v) for s, v in {0: 3.0, 1: math.nan}.items()]
    section = health.section(one(tmp_path, rows))
    assert [name for _, name in section.scales[0]["special"]] == ["not defined (samples are alike, or not finite)"]


def test_without_health_there_is_a_sentence_on_how_to_measure_it(tmp_path) -> None:
    told = health.section(one(tmp_path, [Record(0, "fc", "mean", 0.0)]))
    assert isinstance(told, str)
    assert '"health"' in told
