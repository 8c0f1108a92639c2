"""Plain values: YAML that runs no code and knows numbers, differences in words, one mapping over another."""

from __future__ import annotations

import pytest

from layershift.train.config import Config
from layershift.train.values import differences, load_yaml, merged, save_yaml


def test_yaml_comes_back_and_runs_no_code(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    save_yaml(path, {"config": vars(Config().resolved()), "git_revision": None})
    assert load_yaml(path)["config"] == vars(Config().resolved())
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match=r"config.yaml: not a YAML file"):
        load_yaml(path)
    path.write_text("- 1")
    with pytest.raises(ValueError, match="expected a mapping, got list"):
        load_yaml(path)


def test_differences_are_named() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == [
        "b (asked for 2, found nothing)",
        "c (asked for nothing, found 3)",
    ]


def test_a_number_with_an_exponent_is_a_number(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1e-3\nb: 2.5E+2\nc: -1e5\nd: 1e\ne: e3\n")
    assert load_yaml(tmp_path / "a.yaml") == {"a": 1e-3, "b": 250.0, "c": -1e5, "d": "1e", "e": "e3"}


def test_one_mapping_lies_over_another() -> None:
    old = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merged(old, {"a": {"c": {"f": 4}, "b": None}, "e": {"g": 5}}) == {
        "a": {"c": {"d": 2, "f": 4}},
        "e": {"g": 5},
    }
    assert old == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merged(None, {"a": None}) == {}
