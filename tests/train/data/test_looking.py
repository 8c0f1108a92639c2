"""Names of classes, and images to look at, of the data sets whose samples have one label each."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from layershift.train.data import (
    DATA,
    CIFAR10Data,
    CIFAR100Data,
    DataError,
    DigitsData,
    FashionMNISTData,
    ImageNetData,
    MNISTData,
    TinyImageNetData,
    thumbnails,
)
from layershift.train.data.preprocess import stretch


@pytest.mark.parametrize("make", [DigitsData, MNISTData, FashionMNISTData, CIFAR10Data, CIFAR100Data])
def test_every_class_has_a_name_of_its_own(make) -> None:
    assert len(set(make().labels)) == make.num_classes


def test_data_with_several_labels_by_name() -> None:
    several = {name for name, make in DATA.items() if getattr(make, "task", "") == "multi_label"}
    assert several == {"digit_pairs", "coco", "voc2007", "image_table"}


def test_names() -> None:
    assert DigitsData().labels == MNISTData().labels == tuple("0123456789")
    assert FashionMNISTData().labels[9] == "Ankle boot"
    assert CIFAR10Data().labels[3] == "cat"
    assert CIFAR100Data().labels[99] == "worm"


def test_names_that_the_files_hold(write_tiny, write_photographs, tmp_path) -> None:
    tiny = TinyImageNetData(4, root=write_tiny(train=2, side=8), verify=False)
    tiny.setup()
    assert tiny.labels[:2] == ("n00000000", "n00000001")
    photographs = ImageNetData(4, root=write_photographs(), image_size=16, scales=(18, 20), workers=0)
    assert photographs.labels == ("n01", "n02", "n03")
    assert photographs.ids("test")[0].startswith("val/n0")
    assert photographs.images("test", [0, 2]).shape == (2, 3, 96, 96)
    images, labels = next(iter(photographs.in_order("val")))
    assert torch.equal(images, photographs.probe())
    assert labels.tolist() == [label for _, label in photographs.parts["val"]]


def test_images_as_they_were_read(write_cifar) -> None:
    data = CIFAR10Data(4, root=write_cifar(), verify=False)
    data.setup()
    assert torch.equal(data.images("test", [5, 0]), data.parts["test"][0][[5, 0]])
    assert data.ids("test")[-1] == "test/19"
    assert torch.equal(next(iter(data.in_order("train")))[0], data.prepare(data.parts["train"][0]))


def test_standardised_digits_can_be_looked_at() -> None:
    data = DigitsData()
    images = data.images("train", range(50)).flatten(1).double()
    known = torch.from_numpy(load_digits().data)
    known = known / known.amax(1, keepdim=True) * 255
    assert torch.cdist(images, known, p=torch.inf).amin(1).max() < 0.51  # rounded


def test_an_image_of_one_number_is_black() -> None:
    assert stretch(torch.full((1, 1, 2, 2), 3.0)).tolist() == [[[[0, 0], [0, 0]]]]


def test_thumbnails_of_files(tmp_path) -> None:
    Image.new("RGB", (300, 200), (10, 20, 30)).save(tmp_path / "a.png")
    images = thumbnails([str(tmp_path / "a.png")], side=7)
    assert images.shape == (1, 3, 7, 7)
    assert images[0, :, 0, 0].tolist() == [10, 20, 30]
    with pytest.raises(DataError, match=r"b.png: not a readable image"):
        thumbnails([str(tmp_path / "b.png")])
