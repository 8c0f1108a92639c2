"""Every public function of `functional` and `dynamics` against the properties that its catalogue entry states."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties.catalogue import missing, pairs
from tests.properties.dynamics_entries import APART, DYNAMICS
from tests.properties.dynamics_entries import RESULTS as OF_DYNAMICS
from tests.properties.functional_entries import FUNCTIONAL
from tests.properties.functional_entries import RESULTS as OF_FUNCTIONAL
from tests.properties.properties import Properties

from layershift import dynamics, functional

ROOMS = {
    "functional": (functional, FUNCTIONAL, OF_FUNCTIONAL, {}),
    "dynamics": (dynamics, DYNAMICS, OF_DYNAMICS, APART),
}


@pytest.mark.parametrize("room", ROOMS)
def test_the_catalogue_is_complete(room) -> None:
    assert not missing(*ROOMS[room])


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in ROOMS for name in ROOMS[room][2]])
def test_results_are_what_a_function_of_the_catalogue_returns(room, name) -> None:
    module, _, results, _ = ROOMS[room]
    assert typing.get_type_hints(getattr(module, results[name]))["return"] is getattr(module, name)


@pytest.mark.parametrize(("room", "key"), [(room, key) for room in ROOMS for key in ROOMS[room][1]])
@given(data=st.data())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_properties(room, key, data) -> None:
    module, entries, *_ = ROOMS[room]
    Properties(module, entries, key).all(*data.draw(pairs(entries[key])))
