"""Every public function of `layershift.functional` against the properties that its entry in the catalogue states."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties.catalogue import missing, pairs
from tests.properties.functional_entries import FUNCTIONAL, RESULTS
from tests.properties.properties import Properties

from layershift import functional


def test_the_catalogue_is_complete() -> None:
    assert not missing(functional, FUNCTIONAL, RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_what_a_function_of_the_catalogue_returns(name) -> None:
    returned = typing.get_type_hints(getattr(functional, RESULTS[name]))["return"]
    assert returned is getattr(functional, name)


@pytest.mark.parametrize("key", FUNCTIONAL)
@given(data=st.data())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_properties(key, data) -> None:
    Properties(functional, FUNCTIONAL, key).all(*data.draw(pairs(FUNCTIONAL[key])))
