"""Easy, hard and confused: the definition, its options, and the order in which samples are shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.probe.difficulties import KINDS, difficulty


def table(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).T


def random(seed: int, layers: int = 6, n: int = 40) -> torch.Tensor:
    return torch.rand(layers, n, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**31), of=st.sampled_from(["layers", "pooled"]), low=st.floats(0, 0.5))
@settings(max_examples=40, deadline=None)
def test_the_table_of_the_definition(seed, of, low) -> None:
    """A naive twin: NumPy's quantiles, and one line a rule."""
    distances = random(seed)
    found = difficulty(distances, quantiles=(low, 1 - low), early=[0, 1], late=[4, 5], of=of)
    rows = distances.double().numpy()
    first, last = rows[[0, 1]].mean(0), rows[[4, 5]].mean(0)
    small = np.quantile(rows if of == "pooled" else first, low)
    large = np.quantile(rows if of == "pooled" else last, 1 - low)
    lowest = np.quantile(rows if of == "pooled" else last, low)
    for kind, e, t in zip(found.kinds, first, last, strict=True):
        near = any(abs(x - y) < 1e-12 for x, y in ((e, small), (t, large), (t, lowest)))
        if near:
            continue  # at a quantile itself rounding decides
        far = t >= large and t > lowest
        if e <= small:
            assert kind == ("easy" if not far else "confused" if t > e else "other")
        else:
            assert kind == ("hard" if far else "other")


def test_three_curves_as_in_the_paper() -> None:
    easy, hard, confused, usual = (
        [0.1] * 6,
        [0.9] * 5 + [0.5],
        [0.1, 0.1, 0.3, 0.6, 0.9, 0.9],
        [0.8, 0.7, 0.6, 0.4, 0.3, 0.2],
    )
    found = difficulty(table(easy, hard, confused, *[usual] * 5))
    assert found.kinds == ("easy", "hard", "confused", *["other"] * 5)
    assert found.counts() == {"easy": 1, "hard": 1, "confused": 1, "other": 5, "unknown": 0}
    assert (found.early_layers, found.late_layers) == ((0, 1), (4, 5))


def test_small_early_and_far_late_without_growth_is_not_confused() -> None:
    falls = [0.5, 0.4]
    found = difficulty(table(falls, *[[0.9, 0.1]] * 3, *[[0.9, 0.2]] * 4))
    assert found.kinds[0] == "other"


def test_layers_can_be_chosen_from_either_end() -> None:
    distances = random(0, layers=9)
    named = difficulty(distances, early=[0], late=[-2])
    assert (named.early_layers, named.late_layers) == ((0,), (7,))
    torch.testing.assert_close(named.late, distances[7].double())
    assert difficulty(distances).late_layers == (6, 7, 8)
    assert difficulty(random(0, layers=2)).early_layers == (0,)


def test_pooled_thresholds_are_one_pair() -> None:
    distances = random(1)
    limits = difficulty(distances, of="pooled", quantiles=(0.2, 0.8)).thresholds
    expected = torch.quantile(distances.flatten().double(), torch.tensor([0.2, 0.8], dtype=torch.float64)).tolist()
    assert [limits["small_early"], limits["large_early"]] == pytest.approx(expected)
    assert [limits["small_late"], limits["large_late"]] == pytest.approx(expected)


def test_samples_without_a_distance_are_unknown_and_move_no_threshold() -> None:
    distances = random(2)
    holed = torch.cat([distances, torch.full((6, 2), torch.nan)], 1)
    holed[3, -1] = 1e9
    found, without = difficulty(holed), difficulty(distances)
    assert found.kinds == (*without.kinds, "unknown", "unknown")
    assert found.thresholds == without.thresholds
    assert found.typical("unknown") == [40, 41]


def test_the_most_typical_come_first() -> None:
    found = difficulty(random(3, n=300))
    for kind in KINDS:
        places = found.typical(kind)
        assert [found.kinds[i] for i in places] == [kind] * len(places)
    both = found.early + found.late
    assert both[found.typical("easy")].tolist() == sorted(both[found.typical("easy")].tolist())
    assert both[found.typical("hard")].tolist() == sorted(both[found.typical("hard")].tolist(), reverse=True)
    growth = (found.late - found.early)[found.typical("confused")].tolist()
    assert growth == sorted(growth, reverse=True)
    assert found.typical("hard", 2) == found.typical("hard")[:2]


def test_equal_distances_are_all_easy() -> None:
    assert set(difficulty(torch.ones(4, 10)).kinds) == {"easy"}


def test_no_sample_at_all() -> None:
    assert difficulty(torch.empty(4, 0)).counts()["easy"] == 0


def test_messages_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"distances: expected two layers or more, got shape \(1, 5\)"):
        difficulty(torch.ones(1, 5))
    with pytest.raises(ValueError, match="quantiles: expected two numbers between 0 and 1, the lower first"):
        difficulty(torch.ones(2, 5), quantiles=(0.8, 0.2))
    with pytest.raises(ValueError, match=r"late: expected places of one layer or more, each from -3 to 2, got \(3,\)"):
        difficulty(torch.ones(3, 5), late=[3])
    with pytest.raises(ValueError, match="early: expected places of one layer or more"):
        difficulty(torch.ones(3, 5), early=[])
    with pytest.raises(ValueError, match="kind: expected one of 'easy'"):
        difficulty(torch.ones(3, 5)).typical("odd")
