"""What layers say: its shapes, what is derived from it, and its way to disk and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.probe.outputs import LayerOutputs, whole_file

NAME = st.text(max_size=5)


@st.composite
def outputs(draw) -> LayerOutputs:
    n_layers, n, k = draw(st.integers(1, 4)), draw(st.integers(0, 5)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    task = draw(st.sampled_from(["single_label", "multi_label"]))
    p = torch.rand(n_layers, n, k, generator=generator)
    if task == "single_label":
        p = p.softmax(-1)
    inner = draw(st.lists(NAME.filter(lambda name: name != "output"), min_size=4, max_size=4, unique=True))
    targets = torch.rand(n, k, generator=generator) < 0.5
    names = [tuple(draw(st.lists(NAME, min_size=size, max_size=size))) for size in (k, n)]
    return LayerOutputs((*inner[: n_layers - 1], "output"), p, targets, task, *names)


def made(**changes) -> LayerOutputs:
    arguments = {
        "layers": ("conv", "output"),
        "probabilities": torch.tensor([[[0.9, 0.2], [0.6, 0.3], [0.4, 0.1]], [[0.8, 0.7], [0.5, 0.3], [0.1, 0.0]]]),
        "targets": torch.tensor([[True, True], [True, False], [False, False]]),
        "task": "multi_label",
        "labels": ("cat", "dog"),
        "ids": ("a", "b", "c"),
    }
    return LayerOutputs(**(arguments | changes))


@given(outputs())
@settings(max_examples=20, deadline=None)
def test_a_round_trip_by_disk_changes_nothing(tmp_path_factory, before) -> None:
    path = tmp_path_factory.mktemp("outputs") / "outputs.npz"
    before.save(path)
    after = LayerOutputs.load(path)
    assert (after.layers, after.task, after.labels, after.ids) == (
        before.layers,
        before.task,
        before.labels,
        before.ids,
    )
    assert torch.equal(after.probabilities, before.probabilities)
    assert torch.equal(after.targets, before.targets)
    assert [file.name for file in path.parent.iterdir()] == ["outputs.npz"]


@given(outputs())
@settings(max_examples=20, deadline=None)
def test_predictions_and_correct_agree_with_a_loop(found) -> None:
    predictions, correct, distributions = found.predictions(), found.correct(), found.distributions()
    for layer in range(len(found.layers)):
        for i in range(len(found.ids)):
            p = found.probabilities[layer, i].tolist()
            expected = (
                [x > 0.5 for x in p] if found.task == "multi_label" else [j == p.index(max(p)) for j in range(len(p))]
            )
            assert predictions[layer, i].tolist() == expected
            assert bool(correct[layer, i]) == (expected == found.targets[i].tolist() and True in expected)
            np.testing.assert_allclose(distributions[layer, i], np.array(p) / sum(p), rtol=1e-5)


def test_a_sample_without_a_label_is_never_correct() -> None:
    found = made()
    assert not found.predictions()[:, 2].any()  # all its labels are predicted, so to speak
    assert found.correct().tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": "two_label"}, ValueError, "task: expected one of 'single_label', 'multi_label'"),
        (
            {"probabilities": torch.zeros(2, 3, 2).double()},
            TypeError,
            "probabilities: expected a tensor of torch.float32",
        ),
        ({"targets": torch.zeros(3, 2)}, TypeError, r"targets: expected a tensor of torch\.bool, got torch.float32"),
        ({"targets": [[True]]}, TypeError, r"targets: expected a tensor of torch\.bool, got list"),
        ({"probabilities": torch.zeros(3, 2)}, ValueError, r"probabilities: expected shape \(L, N, K\)"),
        ({"probabilities": torch.zeros(2, 3, 0)}, ValueError, "probabilities: expected at least one label"),
        ({"targets": torch.zeros(2, 2).bool()}, ValueError, r"targets: expected shape \(3, 2\), got shape \(2, 2\)"),
        ({"layers": ("output",)}, ValueError, "layers: expected 2 names"),
        ({"layers": ["conv", "output"]}, ValueError, "layers: expected a tuple of names, got list"),
        ({"layers": ("output", "conv")}, ValueError, "layers: expected the last to be 'output', got 'conv'"),
        ({"layers": ("output", "output")}, ValueError, "layers: expected names that differ"),
        ({"labels": ("cat",)}, ValueError, "labels: expected 2 names"),
        ({"ids": ("a", "b")}, ValueError, "ids: expected 3 names"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, message) -> None:
    with pytest.raises(error, match=message):
        made(**changes)


def test_a_damaged_file_is_told_from_a_missing_one(tmp_path) -> None:
    path = tmp_path / "outputs.npz"
    with pytest.raises(FileNotFoundError):
        LayerOutputs.load(path)
    made().save(path)
    whole = path.read_bytes()
    wrong = [b"", b"no archive", whole[: len(whole) // 2], whole[:-1]]
    for at in range(0, len(whole), 29):
        wrong.append(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    refused = 0
    for content in wrong:
        path.write_bytes(content)
        try:
            after = LayerOutputs.load(path)
        except ValueError as error:
            assert "path: expected a file that LayerOutputs.save wrote" in str(error)  # noqa: PT017
            refused += 1
        else:  # a byte that means nothing, such as a date
            assert torch.equal(after.probabilities, made().probabilities)
            assert torch.equal(after.targets, made().targets)
            assert after.ids == made().ids
    assert refused > len(wrong) / 2


def test_a_foreign_archive_is_refused(tmp_path) -> None:
    path = tmp_path / "outputs.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected a file that LayerOutputs\.save wrote"):
        LayerOutputs.load(path)
    np.savez(path, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"expected a file that LayerOutputs\.save wrote"):
        LayerOutputs.load(path)


def test_an_interrupted_write_leaves_what_was_there(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(b"af")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
