"""File formats: what the publishers wrote is read, what is damaged is named, what is dangerous is refused."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tests.train.data.formats import draw, idx, python2_pickle
from torchvision.datasets.mnist import read_image_file

from layershift.train.data import DataError
from layershift.train.data.formats import (
    parse_cifar10_binary,
    parse_cifar10_pickle,
    parse_cifar100_binary,
    parse_cifar100_pickle,
    parse_idx,
    parse_idx_pair,
)

HERE = Path("somewhere") / "file"


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=5)))
def test_idx_round_trip(array) -> None:
    assert torch.equal(parse_idx(HERE, idx(array)), torch.from_numpy(array))


def test_idx_equals_torchvision(tmp_path) -> None:
    images, _ = draw(5, (28, 28), 10, 0)
    (tmp_path / "x").write_bytes(idx(images))
    assert torch.equal(parse_idx(HERE, idx(images)), read_image_file(str(tmp_path / "x")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file of bytes"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 5]), r"not an idx file of bytes \(it starts with 00 00 0d 01\)"),
        (bytes([0, 0, 8, 3, 0, 0]), "not an idx file of bytes"),
        (idx(np.zeros((3, 4)))[:-1], "12 numbers announced, 11 found; fetch it again"),
        (idx(np.zeros((3, 4))) + b"x", "12 numbers announced, 13 found"),
        (bytes([0, 0, 8, 2]) + b"\xff" * 8 + b"1", "numbers announced, 1 found"),
    ],
)
def test_damaged_idx(content, message) -> None:
    with pytest.raises(DataError, match=f"somewhere.file: .*{message}"):
        parse_idx(HERE, content)


def test_images_and_labels_must_fit() -> None:
    files = [(HERE, idx(np.zeros((3, 28, 28)))), (HERE, idx(np.zeros(4)))]
    with pytest.raises(
        DataError, match=r"images of shape \(N, H, W\) and N labels in file, got \(3, 28, 28\) and \(4,\)"
    ):
        parse_idx_pair(files)


@pytest.mark.parametrize("layout", ["binary", "python 2", "python 3", "numpy 2"])
def test_cifar10_layouts_hold_the_same(layout) -> None:
    images, labels = draw(20, (3072,), 10, 0)
    table = {"data": images, "labels": labels.tolist(), "batch_label": "a", "filenames": ["b"] * 20}
    new = pickle.dumps(table, protocol=2)
    content = {
        "binary": np.concatenate([labels[:, None], images], 1).astype(np.uint8).tobytes(),
        "python 2": python2_pickle(images, labels.tolist(), b"labels"),
        "python 3": new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"),
        "numpy 2": new.replace(b"numpy.core.multiarray", b"numpy._core.multiarray"),
    }[layout]
    parse = parse_cifar10_binary if layout == "binary" else parse_cifar10_pickle
    x, y = parse([(HERE, content), (HERE, content)])
    assert torch.equal(x, torch.from_numpy(images).view(20, 3, 32, 32).repeat(2, 1, 1, 1))
    assert torch.equal(y, torch.from_numpy(labels).repeat(2))


def test_cifar100_labels_are_the_fine_ones() -> None:
    images, labels = draw(100, (3072,), 100, 0)
    binary = np.concatenate([labels[:, None] // 5, labels[:, None], images], 1).astype(np.uint8).tobytes()
    pickled = pickle.dumps({"data": images, "fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist()})
    for x, y in (parse_cifar100_binary([(HERE, binary)]), parse_cifar100_pickle([(HERE, pickled)])):
        assert torch.equal(x, torch.from_numpy(images).view(100, 3, 32, 32))
        assert torch.equal(y, torch.from_numpy(labels))


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_damaged_binary_batch(size) -> None:
    with pytest.raises(DataError, match=rf"{size} bytes are not records of 3073 bytes; fetch it again"):
        parse_cifar10_binary([(HERE, bytes(size))])


@given(st.integers(0, 60_000))
def test_a_truncated_pickle_is_named(length) -> None:
    images, labels = draw(20, (3072,), 10, 0)
    with pytest.raises(DataError, match=r"somewhere.file: not a batch of CIFAR \(.+\); fetch it again"):
        parse_cifar10_pickle([(HERE, python2_pickle(images, labels.tolist(), b"labels")[:length])])


@pytest.mark.parametrize("table", [{}, {"data": b"x"}, {"data": np.zeros((2, 3072)), "labels": [1]}, [1]])
def test_a_foreign_pickle_is_named(table) -> None:
    with pytest.raises(DataError, match="not a batch of CIFAR"):
        parse_cifar10_pickle([(HERE, pickle.dumps(table))])


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_calls_anything_else_is_refused(tmp_path) -> None:
    content = pickle.dumps({"data": Malicious(tmp_path / "owned"), "labels": []})
    with pytest.raises(DataError, match=re.escape("it calls for ") + r".*, which no batch needs"):
        parse_cifar10_pickle([(HERE, content)])
    assert not (tmp_path / "owned").exists()
    with pytest.raises(DataError, match=r"it calls for (posix|nt).system, which no batch needs"):
        parse_cifar10_pickle([(HERE, b"cposix\nsystem\n(S'true'\ntR.")])
