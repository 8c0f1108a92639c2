"""ImageNet: 1.28 million photographs in files, a thousand classes; read, scaled and cut by worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from layershift._checks import check, check_choice, import_extra
from layershift.train.data.batches import EpochSampler
from layershift.train.data.files import DataError, data_root
from layershift.train.data.images import Validation
from layershift.train.data.photographs import ImageFiles, middle, thumbnails, to_tensor
from layershift.train.data.split import stratified_order

PROBE = 128
VAL_SHARE = 0.04

Sample = tuple[str, int]


class ImageNetData(LightningDataModule):
    """Photographs of ImageNet 2012, or of any folder of the same layout: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`.

    The official validation part is `test`; `val` is 4% of the training part, stratified, the same for every seed. In
    training the shorter side is scaled to a random length, a window is cut at random and mirrored in half of the cases;
    otherwise the shorter side is scaled to the shortest of these lengths and the middle is cut out. Order and
    augmentation depend on seed and epoch alone, whatever the number of workers; with several processes each gets its
    slice of the same global batch.

    Args:
        batch_size: samples in a training batch of one process.
        seed: of the order and of the augmentation; the parts do not depend on it.
        root: the folder of the files; $LAYERSHIFT_DATA, or `layershift` in the user's cache, if None.
        download: unpack the official archives, which must lie in `root`: nobody may pass them on.
        train_size: take only so many images, with their share of each class; likewise the two others.
        val_size: by default 4% of the official training part.
        test_size: by default the whole official validation part.
        image_size: side of the window.
        scales: shortest and longest length of the shorter side.
        validation: "none" trains on the validation images as well; see `ImageData`.
        whole: test images come one by one, whole and in their own size, as `multi_scale_crops` and
            `fully_convolutional` want them.
        workers: processes that read; by default one for each core, at most eight.

    Attributes:
        parts: after `setup`, for each part its files with their labels.
        held_out: whether nothing is trained on validation images.

    Raises:
        ValueError: if an option is out of range.
        DataError: in `setup`, if files are absent or damaged.

    References:
        O. Russakovsky et al., "ImageNet large scale visual recognition challenge", 2015, https://arxiv.org/abs/1409.0575
        K. Simonyan, A. Zisserman, "Very deep convolutional networks", 2015, section 3.1, scale jittering,
        https://arxiv.org/abs/1409.1556
    """

    task: ClassVar[Literal["classification"]] = "classification"
    in_channels: ClassVar[int] = 3

    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 0,
        *,
        root: str | Path | None = None,
        download: bool = False,
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        image_size: int = 224,
        scales: tuple[int, int] = (256, 480),
        validation: Validation = "split",
        whole: bool = False,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        check(batch_size >= 1, "batch_size", "at least 1", batch_size)
        check_choice("validation", validation, ("split", "none"))
        check(1 <= image_size <= scales[0] <= scales[1], "scales", f"two lengths from {image_size} upwards", scales)
        check(workers is None or workers >= 0, "workers", "a number that is not negative", workers)
        self.batch_size, self.seed = batch_size, seed
        self.root, self.download = data_root(root), download
        self.wanted = {"train": train_size, "val": val_size, "test": test_size}
        self.image_size, self.scales, self.whole = image_size, (scales[0], scales[1]), whole
        self.held_out = validation == "split"
        self.workers = min(os.cpu_count() or 1, 8) if workers is None else workers
        self.classes: list[str] = []
        self.parts: dict[str, list[Sample]] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """What a network must know of the data; looks at the folders."""
        self.setup()
        features = self.in_channels * self.image_size**2
        return {"in_channels": self.in_channels, "in_features": features, "num_classes": len(self.classes)}

    def prepare_data(self) -> None:
        """Let torchvision verify and unpack the archives, if that is wanted."""
        if self.download:
            from filelock import FileLock

            datasets = import_extra("torchvision.datasets", extra="train")
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".imagenet.lock"):
                try:
                    for split in ("train", "val"):
                        datasets.ImageNet(self.root, split)
                except (OSError, RuntimeError) as error:
                    raise DataError(f"imagenet: {error}. {self._absent()}") from error

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Find the files and split them, once."""
        if self.parts:
            return
        if self.trainer is None:
            self.prepare_data()
        train, test = self._samples("train"), self._samples("val")
        labels = torch.tensor([label for _, label in train])
        order = stratified_order(labels).tolist()
        val_size = self.wanted["val"] or max(round(VAL_SHARE * len(train)), 1)
        left = len(train) - (val_size if self.held_out else 0)
        check(val_size < len(train), "val_size", f"less than {len(train)}", val_size)
        train_size, test_size = self.wanted["train"] or left, self.wanted["test"] or len(test)
        check(train_size <= left, "train_size", f"at most {left}", train_size)
        check(test_size <= len(test), "test_size", f"at most {len(test)}", test_size)
        test_order = stratified_order(torch.tensor([label for _, label in test])).tolist()
        self.parts = {
            "train": [train[i] for i in (*order[val_size:], *order[:val_size])[:train_size]],
            "val": [train[i] for i in order[:val_size]],
            "test": [test[i] for i in test_order[:test_size]],
        }

    def probe(self) -> Tensor:
        """Images on which layers are measured: the first 128 of the validation part, always the same."""
        self.setup()
        files = self._files(self.parts["val"][:PROBE], self._evaluation())
        return files[torch.arange(len(files))][0]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, which are those of their folders; looks at them."""
        self.setup()
        return tuple(self.classes)

    def ids(self, part: str) -> tuple[str, ...]:
        """Names of a part's images: their files, relative to the root."""
        self.setup()
        return tuple(Path(path).relative_to(self.root).as_posix() for path, _ in self.parts[part])

    def images(self, part: str, indices: Sequence[int]) -> Tensor:
        """Small images to look at, as bytes, (n, 3, 96, 96)."""
        self.setup()
        return thumbnails([self.parts[part][i][0] for i in indices])

    def in_order(self, part: str) -> DataLoader[Any]:
        """Every image of a part once, in order, as in evaluation."""
        self.setup()
        return self._loader(part, self.batch_size, None)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, augmented."""
        return self._loader("train", self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Every image once; no loader if nothing is held out."""
        return self._loader("val", self.batch_size, None) if self.held_out else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Every image once."""
        if self.whole:
            return self._loader("test", 1, None, whole=True)
        return self._loader("test", self.batch_size, None)

    def _loader(self, part: str, batch_size: int, seed: int | None, *, whole: bool = False) -> DataLoader[Any]:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        samples = self.parts[part]
        sampler = EpochSampler(len(samples), batch_size, seed, rank=rank, world=world)
        transform = self._evaluation(whole=whole) if seed is None else self._augmentation()
        return DataLoader(
            self._files(samples, transform, sampler, seed),
            sampler=sampler,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _files(self, samples: Sequence[Sample], transform: Callable[[Any], Tensor], *draws: Any) -> ImageFiles:
        labels = torch.tensor([label for _, label in samples])
        return ImageFiles([path for path, _ in samples], labels, transform, *draws)

    def _augmentation(self) -> Callable[[Any], Tensor]:
        v2 = import_extra("torchvision.transforms.v2", extra="train")
        shortest, longest = self.scales
        scale = v2.RandomShortestSize(list(range(shortest, longest + 1)))
        return v2.Compose([scale, v2.RandomCrop(self.image_size), v2.RandomHorizontalFlip(), *to_tensor()])  # type: ignore[no-any-return]

    def _evaluation(self, *, whole: bool = False) -> Callable[[Any], Tensor]:
        v2 = import_extra("torchvision.transforms.v2", extra="train")
        cut = [] if whole else middle(self.image_size, self.scales[0])
        return v2.Compose([*cut, *to_tensor()])  # type: ignore[no-any-return]

    def _samples(self, part: str) -> list[Sample]:
        datasets = import_extra("torchvision.datasets", extra="train")
        try:
            found = datasets.ImageFolder(self.root / part)
        except FileNotFoundError as error:
            raise DataError(self._absent()) from error
        if self.classes and found.classes != self.classes:
            different = sorted(set(found.classes) ^ set(self.classes))
            raise DataError(f"{self.root}: train and val have other classes: {', '.join(different[:5])}")
        self.classes = found.classes
        return found.samples  # type: ignore[no-any-return]

    def _absent(self) -> str:
        command = "from layershift.train.data import ImageNetData as I; "
        command += f"I(root={str(self.root)!r}, download=True).prepare_data()"
        return (
            f"imagenet: not found in {self.root}. Put there train/CLASS/*.JPEG and val/CLASS/*.JPEG; or the archives "
            "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from image-net.org, and "
            f'unpack them: python -c "{command}"'
        )
