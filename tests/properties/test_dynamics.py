"""Every public function of `layershift.dynamics` against the properties that its entry in the catalogue states."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties.catalogue import missing, pairs
from tests.properties.dynamics_entries import APART, DYNAMICS, RESULTS
from tests.properties.properties import Properties

from layershift import dynamics


def test_the_catalogue_is_complete() -> None:
    assert not missing(dynamics, DYNAMICS, RESULTS, APART)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_what_a_function_of_the_catalogue_returns(name) -> None:
    returned = typing.get_type_hints(getattr(dynamics, RESULTS[name]))["return"]
    assert returned is getattr(dynamics, name)


@pytest.mark.parametrize("key", DYNAMICS)
@given(data=st.data())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_properties(key, data) -> None:
    Properties(dynamics, DYNAMICS, key).all(*data.draw(pairs(DYNAMICS[key])))
