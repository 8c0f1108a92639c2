"""The base of all data sets of small images: they lie in memory, on the device that trains, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layershift._checks import check, check_choice
from layershift.train.data.augment import CropFlip
from layershift.train.data.batches import Transform, batches
from layershift.train.data.files import DataError, Part, data_root
from layershift.train.data.preprocess import CHUNK, Standardize, Whiten, contrast_normalize, shrink, stretch
from layershift.train.data.split import stratified_order

Validation: TypeAlias = Literal["split", "none"]
Preprocessing: TypeAlias = Literal["standard", "pixel", "gcn_zca"]

PROBE = 512
"""Images on which layers are measured, at most."""

EVALUATION = 512
"""Images in a batch of evaluation, at most."""

PADDING = 8
"""A side is this many times as long as the padding of `CropFlip`: 4 of 32."""


class ImageData(LightningDataModule):
    """Small images with labels, in three disjoint parts; batches are cut, standardised and augmented on the device.

    The official test part is `test`; it serves the final number only. `val` is cut from the official training part, and
    `train` is the rest. The cut is stratified and the same for every seed. The last, smaller training batch is left
    out; the order of the others, and what augmentation does to an image, depend on the seed and the epoch alone. With
    several processes each gets its slice of the same global batch of `batch_size` times their number.

    Args:
        batch_size: samples in a training batch of one process.
        seed: of the order and of the augmentation; the parts do not depend on it.
        root: the folder of the files; $LAYERSHIFT_DATA, or `layershift` in the user's cache, if None.
        download: fetch the files if they are not there.
        verify: compare files with their published checksums and numbers of images.
        train_size: take only so many images, with their share of each class; likewise the two others.
        val_size: by default a share of the official training part, stated by each class.
        test_size: by default the whole official test part.
        image_size: shrink the images to this side, once.
        validation: "none" trains on the validation images as well, as most papers do for the number that they print.
            There is then no validation loader, `held_out` is False, and nothing can be chosen: choose with "split",
            then train again with "none". `parts["val"]` remains, for `probe`.
        preprocessing: "standard" subtracts the training part's mean of each channel and divides by its standard
            deviation; "pixel" does so for each pixel; "gcn_zca" normalises the contrast of each image and whitens.
        zca_epsilon: what is added to the eigenvalues in whitening.
        augment: augment training images as the papers do; by class, nothing for grey images.

    Attributes:
        parts: after `setup`, for each part its images, as bytes unless they are whitened, and its labels.
        prepare: from the images of a part to what the network sees.
        held_out: whether nothing is trained on validation images.

    Raises:
        ValueError: if an option is out of range.
        DataError: in `setup`, if files are absent or damaged.
    """

    task: ClassVar[Literal["classification", "multi_label"]] = "classification"
    title: ClassVar[str]
    in_channels: ClassVar[int]
    num_classes: ClassVar[int]
    val_share: ClassVar[float]
    augmented: ClassVar[bool] = True
    official: ClassVar[dict[str, int]]
    side: int
    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        batch_size: int = 128,
        seed: int = 0,
        *,
        root: str | Path | None = None,
        download: bool = False,
        verify: bool = True,
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        image_size: int | None = None,
        validation: Validation = "split",
        preprocessing: Preprocessing = "standard",
        zca_epsilon: float = 0.1,
        augment: bool = True,
    ) -> None:
        super().__init__()
        check(batch_size >= 1, "batch_size", "at least 1", batch_size)
        check_choice("validation", validation, ("split", "none"))
        check_choice("preprocessing", preprocessing, ("standard", "pixel", "gcn_zca"))
        check(zca_epsilon >= 0, "zca_epsilon", "a number that is not negative", zca_epsilon)
        self.wanted = {"train": train_size, "val": val_size, "test": test_size}
        for name, size in self.wanted.items():
            check(size is None or size >= self.num_classes, f"{name}_size", f"at least {self.num_classes}", size)
        check(image_size is None or 1 <= image_size <= self.side, "image_size", f"from 1 to {self.side}", image_size)
        self.batch_size, self.seed = batch_size, seed
        self.root, self.download, self.verify = data_root(root), download, verify
        self.image_size, self.validation = image_size, validation
        self.preprocessing, self.zca_epsilon = preprocessing, zca_epsilon
        self.augment = augment and self.augmented
        self.held_out = validation == "split"
        self.parts: dict[str, Part] = {}
        self.prepare: nn.Module = nn.Identity()

    def read(self) -> dict[str, Part]:
        """The official parts, "train" and "test": images as bytes (N, C, H, W), and labels (N,)."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its images are read")

    def fetch(self) -> None:
        """Bring the files to `root`, if they are not there."""

    def absent(self, wanted: str) -> DataError:
        """The error of absent files: what is wanted, where, and which command fetches it."""
        name = type(self).__name__
        command = (
            f"from layershift.train.data import {name}; {name}(root={str(self.root)!r}, download=True).prepare_data()"
        )
        return DataError(f'{self.title}: not found in {self.root}. Put there {wanted}; or run: python -c "{command}"')

    @property
    def in_features(self) -> int:
        """Numbers of an image."""
        return self.in_channels * (self.image_size or self.side) ** 2

    @property
    def sizes(self) -> dict[str, int]:
        """What a network must know of the data."""
        return {"in_channels": self.in_channels, "in_features": self.in_features, "num_classes": self.num_classes}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where no names are known, or not before the files are read."""
        return self.class_names or tuple(map(str, range(self.num_classes)))

    def prepare_data(self) -> None:
        """Fetch the files, if that is wanted; Lightning calls this in one process of each machine."""
        if self.download:
            self.fetch()

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Read, split and preprocess, once; and go to the trainer's device."""
        device = self.trainer.strategy.root_device if self.trainer is not None else None
        if not self.parts:
            if self.trainer is None:
                self.prepare_data()
            self.parts = self.load(device or torch.device("cpu"))
            size = len(self.parts["train"][1])
            check(self.batch_size <= size, "batch_size", f"at most {size} (the training images)", self.batch_size)
            if self.augment:
                self._crop_flip = CropFlip(size, padding=self.padding, seed=self.seed)
        if device is not None:
            self.parts = {name: (x.to(device), y.to(device)) for name, (x, y) in self.parts.items()}
            self.prepare.to(device)

    @property
    def padding(self) -> int:
        """Zeros around an image, of which random crops are cut."""
        return max((self.image_size or self.side) // PADDING, 1)

    def load(self, device: torch.device) -> dict[str, Part]:
        """The three parts, preprocessed on a device; sets `prepare`."""
        official = {name: self._sound(name, *part) for name, part in self.read().items()}
        if self.image_size is not None:
            official = {name: (shrink(x, self.image_size), y) for name, (x, y) in official.items()}
        chosen = self._split(official["train"][1], official["test"][1])
        parts = {}
        for name, indices in chosen.items():
            images, labels = official["test" if name == "test" else "train"]
            parts[name] = images[indices].to(device), labels[indices].to(device)
        if self.preprocessing == "gcn_zca":
            return self._whitened(parts)
        self.prepare = Standardize.fit(parts["train"][0], each_pixel=self.preprocessing == "pixel")
        return parts

    def probe(self) -> Tensor:
        """Images on which layers are measured: the first of the validation part, always the same."""
        self.setup()
        return self.prepare(self.parts["val"][0][:PROBE])  # type: ignore[no-any-return]

    def ids(self, part: str) -> tuple[str, ...]:
        """Names of a part's images: the part and a number."""
        self.setup()
        return tuple(f"{part}/{i}" for i in range(len(self.parts[part][1])))

    def images(self, part: str, indices: Sequence[int]) -> Tensor:
        """Images to look at, as bytes, (n, C, H, W): as they were read, or, where a part holds floats, `stretch`ed."""
        self.setup()
        chosen = self.parts[part][0][torch.tensor(indices, dtype=torch.long)].cpu()
        return chosen if chosen.dtype == torch.uint8 else stretch(chosen)

    def in_order(self, part: str) -> DataLoader[Any]:
        """Every image of a part once, in order, as in evaluation."""
        self.setup()
        return self._loader(part, EVALUATION, None, self._transform)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, augmented."""
        return self._loader("train", self.batch_size, self.seed, self._train_transform)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Every image once; no loader if nothing is held out."""
        return self._loader("val", EVALUATION, None, self._transform) if self.held_out else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Every image once."""
        return self._loader("test", EVALUATION, None, self._transform)

    def _loader(self, part: str, batch_size: int, seed: int | None, transform: Transform) -> DataLoader[Any]:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return batches(self.parts[part], batch_size, seed, transform=transform, rank=rank, world=world)

    def _transform(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:  # noqa: ARG002
        return self.prepare(images)  # type: ignore[no-any-return]

    def _train_transform(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        images = self.prepare(images)
        return self._crop_flip(images, indices, epoch) if self.augment else images

    def _sound(self, name: str, images: Tensor, labels: Tensor) -> Part:
        expected = self.official[name]
        if self.verify and len(labels) != expected:
            raise DataError(
                f"{self.title}: {expected} {name} images are published, {len(labels)} found; "
                "fetch the files again, or read them as they are with verify=False"
            )
        check((self.image_size or 1) <= self.side, "image_size", f"from 1 to {self.side}", self.image_size)
        shape = (self.in_channels, self.side, self.side)
        if images.shape[1:] != shape:
            raise DataError(f"{self.title}: {name} images are {tuple(images.shape[1:])}, not {shape}")
        if int(labels.min()) < 0 or int(labels.max()) >= self.num_classes:
            raise DataError(
                f"{self.title}: a {name} label is {int(labels.max())}, not from 0 to {self.num_classes - 1}"
            )
        return images, labels

    def _split(self, train: Tensor, test: Tensor) -> dict[str, Tensor]:
        order, wanted = stratified_order(train), self.wanted
        val_size = wanted["val"] or max(round(self.val_share * len(train)), self.num_classes)
        left = len(train) - (val_size if self.held_out else 0)
        train_size, test_size = wanted["train"] or left, wanted["test"] or len(test)
        check(val_size < len(train), "val_size", f"less than {len(train)}", val_size)
        check(train_size <= left, "train_size", f"at most {left}", train_size)
        check(test_size <= len(test), "test_size", f"at most {len(test)}", test_size)
        rest = torch.cat([order[val_size:], order[:val_size]])
        return {"train": rest[:train_size], "val": order[:val_size], "test": stratified_order(test)[:test_size]}

    def _whitened(self, parts: dict[str, Part]) -> dict[str, Part]:
        floats = {name: (contrast_normalize(images), labels) for name, (images, labels) in parts.items()}
        whiten = Whiten.fit(floats["train"][0], epsilon=self.zca_epsilon)
        return {n: (torch.cat([whiten(c) for c in torch.split(x, CHUNK)]), y) for n, (x, y) in floats.items()}
