"""Tiny ImageNet: 110,000 coloured images of 64 × 64 in JPEG files, 200 classes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layershift._checks import import_extra
from layershift.train.data.files import DataError, Part
from layershift.train.data.images import ImageData
from layershift.train.data.photographs import read_image

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
WANTED = "the folder tiny-imagenet-200 with wnids.txt, train/ and val/"


class TinyImageNetData(ImageData):
    """200 classes of ImageNet: 90,000 to train, 10,000 to validate, 10,000 to test.

    Labels of the official test part are not public: its validation part is `test` here. Training images are padded by
    8, cut at random and mirrored. A smaller version of the same folders is read with `verify=False`; images of another
    size, such as 32 × 32, set `side` when they are read. Options are those of `ImageData`.

    References:
        Y. Le, X. Yang, "Tiny ImageNet visual recognition challenge", 2015,
        http://vision.stanford.edu/teaching/cs231n/reports/2015/pdfs/yle_project.pdf
    """

    title = "tiny_imagenet"
    in_channels, num_classes, side = 3, 200, 64
    val_share = 0.1
    official = {"train": 100_000, "test": 10_000}  # noqa: RUF012

    @property
    def folder(self) -> Path | None:
        """The folder of the images: the root, or one in it whose name begins with tiny-imagenet."""
        choices = [self.root, *sorted(self.root.glob("tiny-imagenet*"))]
        return next((path for path in choices if (path / "wnids.txt").is_file()), None)

    def read(self) -> dict[str, Part]:
        """The official parts."""
        folder = self.folder
        if folder is None:
            raise self.absent(WANTED)
        classes = {name: i for i, name in enumerate(sorted((folder / "wnids.txt").read_text().split()))}
        train = [(path, i) for name, i in classes.items() for path in _images(folder / "train" / name)]
        parts = {
            "train": _read(train, folder / "train"),
            "test": _read(_validation(folder / "val", classes), folder / "val"),
        }
        self.class_names = tuple(classes)
        self.side = parts["train"][0].shape[-1]
        return parts

    def fetch(self) -> None:
        """Download and unpack, one process at a time; the archive's MD5 is compared."""
        from filelock import FileLock

        utils = import_extra("torchvision.datasets.utils", extra="train")
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{self.title}.lock"):
            if self.folder is None:
                try:
                    utils.download_and_extract_archive(URL, self.root, md5=MD5)
                except (OSError, RuntimeError) as error:
                    raise DataError(f"{self.title}: the download failed ({error}). {self.absent(WANTED)}") from error


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))


def _validation(folder: Path, classes: dict[str, int]) -> list[tuple[Path, int]]:
    table = folder / "val_annotations.txt"
    try:
        names = dict(line.split("\t")[:2] for line in table.read_text().splitlines())
        return [(path, classes[names[path.name]]) for path in _images(folder / "images")]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{table}: not a table of images and their classes ({error})") from error


def _read(files: Sequence[tuple[Path, int]], folder: Path) -> Part:
    if not files:
        raise DataError(f"{folder}: no images; unpack the archive again")
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(_decode, (path for path, _ in files)))
    shape = images[0].shape
    for (path, _), image in zip(files, images, strict=True):
        if image.shape != shape or shape[1] != shape[2]:
            raise DataError(f"{path}: an image of {tuple(image.shape[1:])} among others of {tuple(shape[1:])}")
    return torch.stack(images), torch.tensor([label for _, label in files])


def _decode(path: Path) -> Tensor:
    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)
