"""MNIST and Fashion-MNIST: 70,000 grey images of 28 × 28, ten classes."""

from __future__ import annotations

from layershift.train.data.files import Layout
from layershift.train.data.formats import parse_idx_pair
from layershift.train.data.labels import FASHION_MNIST
from layershift.train.data.published import PublishedImages


def _layout(folders: tuple[str, ...], *md5: str) -> tuple[Layout, ...]:
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    files = dict(zip(names, md5, strict=True))
    train, test = ({n: files[n] for n in half} for half in (names[:2], names[2:]))
    return (Layout(folders, train, test, parse_idx_pair),)


class MNISTData(PublishedImages):
    """Handwritten digits: 50,000 to train, 10,000 to validate, 10,000 to test; not augmented.

    The files are idx, packed or not, in the root, in `MNIST/raw` (torchvision's) or in `mnist`. Options are those of
    `ImageData`.

    References:
        Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998,
        https://doi.org/10.1109/5.726791
    """

    title = "mnist"
    source = "MNIST"
    in_channels, num_classes, side = 1, 10, 28
    val_share = 1 / 6
    augmented = False
    official = {"train": 60_000, "test": 10_000}  # noqa: RUF012
    layouts = _layout(
        ("MNIST/raw", "mnist", ""),
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )


class FashionMNISTData(PublishedImages):
    """Clothes in the format of MNIST: 50,000 to train, 10,000 to validate, 10,000 to test; not augmented.

    The files are idx, packed or not, in the root, in `FashionMNIST/raw` (torchvision's) or in `fashion-mnist`. Options
    are those of `ImageData`.

    References:
        H. Xiao et al., "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017,
        https://arxiv.org/abs/1708.07747
    """

    title = "fashion_mnist"
    source = "FashionMNIST"
    in_channels, num_classes, side = 1, 10, 28
    class_names = FASHION_MNIST
    val_share = 1 / 6
    augmented = False
    official = {"train": 60_000, "test": 10_000}  # noqa: RUF012
    layouts = _layout(
        ("FashionMNIST/raw", "fashion-mnist", ""),
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
