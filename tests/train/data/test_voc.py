"""Photographs in VOC's format: difficult objects, parts, download, and what is wrong with files."""

from __future__ import annotations

import pytest
import torchvision.datasets
from tests.train.data.photographs import write_voc

from layershift.train.components import build_data
from layershift.train.config import Config
from layershift.train.data import DataError, VOC2007Data

TRAINVAL = [
    [("dog", 0), ("dog", 0), ("person", 0)],
    [("cat", 1)],
    [("tvmonitor", 1), ("tvmonitor", 0)],
    [("aeroplane", None)],
    [("sofa", 0), ("chair", 1)],
]
TEST = [[("bus", 0)], [("train", 1), ("car", 0)]]


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path, {"trainval": TRAINVAL, "test": TEST})


def voc(root, **options) -> VOC2007Data:
    return VOC2007Data(2, root=root, **{"image_size": 16, "val_size": 1, **options})


def sets(data: VOC2007Data, *parts: str) -> dict[str, set[str]]:
    data.setup()
    return {
        path: {name for name, y in zip(data.labels, row, strict=True) if y}
        for part in parts
        for path, row in zip(data.ids(part), data.parts[part][1], strict=True)
    }


def named(numbers, *labels: set[str]) -> dict[str, set[str]]:
    return {f"VOCdevkit/VOC2007/JPEGImages/{n:06d}.jpg": one for n, one in zip(numbers, labels, strict=True)}


def test_difficult_objects_do_not_count_unless_asked_for(root) -> None:
    data = voc(root)
    assert sets(data, "train", "val") == named(
        range(1, 6), {"dog", "person"}, set(), {"tvmonitor"}, {"aeroplane"}, {"sofa"}
    )
    assert sets(data, "test") == named([6, 7], {"bus"}, {"car"})
    data = voc(root, difficult=True)
    assert sets(data, "train", "val") == named(
        range(1, 6), {"dog", "person"}, {"cat"}, {"tvmonitor"}, {"aeroplane"}, {"sofa", "chair"}
    )
    assert len(sets(voc(root, unlabelled="drop"), "train", "val")) == 4


def test_classes_are_known_before_the_files(tmp_path) -> None:
    data = VOC2007Data(root=tmp_path)
    assert (len(data.labels), data.labels[0], data.labels[-1]) == (20, "aeroplane", "tvmonitor")
    assert data.sizes == {"in_channels": 3, "in_features": 3 * 224 * 224, "num_classes": 20}


def test_batches(root) -> None:
    data = voc(root)
    data.setup()
    images, targets = next(iter(data.train_dataloader()))
    assert (images.shape, targets.shape) == ((2, 3, 16, 16), (2, 20))


def test_absent_files_and_a_download(root, tmp_path, monkeypatch) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(DataError, match=r"voc2007: not found in .*empty. Put there VOCdevkit/VOC2007 with JPEGImages/"):
        voc(empty).setup()
    (root / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").unlink()
    with pytest.raises(DataError, match=r"Put there VOCdevkit/VOC2007 with .*ImageSets/Main/test.txt"):
        voc(root).setup()
    fetched = []

    def fetch(url, root, filename, md5):
        fetched.append((filename, md5))
        write_voc(root, {"trainval": TRAINVAL, "test": TEST})

    monkeypatch.setattr(torchvision.datasets.voc, "download_and_extract_archive", fetch)
    for _ in range(2):
        assert len(sets(voc(empty, download=True), "test")) == 2
    assert fetched == [
        ("VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
        ("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    ]


def test_damaged_annotations_are_named(root) -> None:
    path = root / "VOCdevkit/VOC2007/Annotations/000003.xml"
    text = path.read_text()
    path.write_text(text.replace("tvmonitor", "radio"))
    with pytest.raises(DataError, match=r"000003.xml: the class 'radio' is none of VOC's 20"):
        voc(root).setup()
    path.write_text(text[:-30])
    with pytest.raises(DataError, match=r"000003.xml: not an annotation of VOC \(.*\); unpack the archive again"):
        voc(root).setup()
    path.write_text(text.replace("name>", "title>"))
    with pytest.raises(DataError, match=r"000003.xml: not an annotation of VOC"):
        voc(root).setup()
    path.unlink()
    with pytest.raises(DataError, match=r"000003.xml: not an annotation of VOC"):
        voc(root).setup()


def test_options_by_configuration(root) -> None:
    options = {"image_size": 16, "difficult": True, "val_size": 1}
    data = build_data(Config(data="voc2007", data_root=str(root), data_options=options, batch_size=2))
    assert data.root == root
    assert data.difficult
    with pytest.raises(ValueError, match=r"data_options: expected options of VOC2007Data: .*scale.*, got sise"):
        build_data(Config(data="voc2007", data_options={"sise": 16}))
