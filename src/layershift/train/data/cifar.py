"""CIFAR-10 and CIFAR-100: 60,000 coloured images of 32 × 32, ten or a hundred classes."""

from __future__ import annotations

from layershift.train.data.files import Layout
from layershift.train.data.formats import (
    parse_cifar10_binary,
    parse_cifar10_pickle,
    parse_cifar100_binary,
    parse_cifar100_pickle,
)
from layershift.train.data.labels import CIFAR10, CIFAR100
from layershift.train.data.published import PublishedImages


class CIFAR10Data(PublishedImages):
    """Ten classes of animals and vehicles: 45,000 to train, 5,000 to validate, 10,000 to test.

    Training images are padded by 4, cut at random and mirrored (`CropFlip`). The files are torchvision's (pickled
    batches) or the binary ones. Options are those of `ImageData`.

    References:
        A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
        https://www.cs.toronto.edu/~kriz/cifar.html
    """

    title = "cifar10"
    source = "CIFAR10"
    in_channels, num_classes, side = 3, 10, 32
    class_names = CIFAR10
    val_share = 0.1
    official = {"train": 50_000, "test": 10_000}  # noqa: RUF012
    layouts = (
        Layout(
            ("cifar-10-batches-py", ""),
            {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            {"test_batch": "40351d587109b95175f43aff81a1287e"},
            parse_cifar10_pickle,
        ),
        Layout(
            ("cifar-10-batches-bin", ""),
            {
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            },
            {"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"},
            parse_cifar10_binary,
        ),
    )


class CIFAR100Data(PublishedImages):
    """A hundred classes, 500 training images of each: 45,000 to train, 5,000 to validate, 10,000 to test.

    Training images are padded by 4, cut at random and mirrored (`CropFlip`). The files are torchvision's (pickled) or
    the binary ones, of which no checksums are published: their number of images is compared. Labels are the fine ones.
    Options are those of `ImageData`.

    References:
        A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
        https://www.cs.toronto.edu/~kriz/cifar.html
    """

    title = "cifar100"
    source = "CIFAR100"
    in_channels, num_classes, side = 3, 100, 32
    class_names = CIFAR100
    val_share = 0.1
    official = {"train": 50_000, "test": 10_000}  # noqa: RUF012
    layouts = (
        Layout(
            ("cifar-100-python", ""),
            {"train": "16019d7e3df5f24257cddd939b257f8d"},
            {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            parse_cifar100_pickle,
        ),
        Layout(("cifar-100-binary", ""), {"train.bin": None}, {"test.bin": None}, parse_cifar100_binary),
    )
