"""The base of photographs that each have any number of labels: parts, views and batches; subclasses read the files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from layershift._checks import check, check_choice, import_extra
from layershift.train.data.batches import EpochSampler
from layershift.train.data.files import DataError, data_root
from layershift.train.data.images import Validation
from layershift.train.data.photographs import ImageFiles, Pixels, middle, thumbnails, to_tensor
from layershift.train.data.split import SPLIT_SEED

Unlabelled: TypeAlias = Literal["keep", "drop"]
Labelled: TypeAlias = tuple[list[str], Tensor]
"""Paths of N photographs and their labels, (N, K), zeros and ones in float32."""

PROBE = 128
"""Photographs on which layers are measured, at most."""

FEW = 1000
"""Parts with fewer photographs are read without worker processes, which take longer to start than they save."""

_NO_BOX = 8 / 7
"""The shorter side in evaluation, as a multiple of the side that is cut out: 256 for 224."""


class PhotographOptions(TypedDict, total=False):
    """Options of `MultiLabelPhotographs` that its subclasses pass on."""

    root: str | Path | None
    train_size: int | None
    val_size: int | None
    test_size: int | None
    image_size: int
    scale: tuple[float, float]
    pixels: Pixels
    validation: Validation
    unlabelled: Unlabelled
    augment: bool
    workers: int | None


class MultiLabelPhotographs(LightningDataModule):
    """Photographs with sets of labels, in three disjoint parts; batches are images and targets (N, K), zeros and ones.

    In training a window of random area and shape is cut out, scaled to a square, and mirrored in half of the cases;
    otherwise the shorter side is scaled to 8/7 of the square's and the middle is cut out. `val` is cut at random from
    the official training part where the data have none of their own, the same for every seed. Order and augmentation
    depend on seed and epoch alone, whatever the number of workers; with several processes each gets its slice of the
    same global batch. The last, smaller training batch is left out.

    Args:
        batch_size: samples in a training batch of one process.
        seed: of the order and of the augmentation; the parts do not depend on it.
        root: the folder of the files; $LAYERSHIFT_DATA, or `layershift` in the user's cache, if None.
        train_size: take only so many photographs; likewise the two others.
        val_size: by default a tenth of the official training part.
        test_size: by default the whole official test part.
        image_size: side of the square that the network sees.
        scale: least and largest area of the training window, as parts of the photograph. From a quarter: of smaller
            windows many do not show what the labels name.
        pixels: what the network expects: "imagenet" (torchvision's) or "caffe", see `to_tensor`.
        validation: "none" trains on the validation photographs as well; see `ImageData`.
        unlabelled: a photograph without any label is kept, with an empty set, or dropped from its part.
        augment: cut training photographs at random; else as in evaluation.
        workers: processes that read; by default one for each core, at most eight, and none for small parts.

    Attributes:
        parts: after `setup`, for each part the paths of its files and their targets (N, K).
        labels: the names of the K labels; reads them from the files where these hold them.
        held_out: whether nothing is trained on validation photographs.

    Raises:
        ValueError: if an option is out of range.
        DataError: in `setup`, if files are absent or damaged; when it is read, if a photograph is.
    """

    task: ClassVar[Literal["multi_label"]] = "multi_label"
    title: ClassVar[str]
    in_channels: ClassVar[int] = 3
    val_share: ClassVar[float] = 0.1

    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 0,
        *,
        root: str | Path | None = None,
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        image_size: int = 224,
        scale: tuple[float, float] = (0.25, 1.0),
        pixels: Pixels = "imagenet",
        validation: Validation = "split",
        unlabelled: Unlabelled = "keep",
        augment: bool = True,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.wanted = {"train": train_size, "val": val_size, "test": test_size}
        sizes = {"batch_size": batch_size, "image_size": image_size}
        for name, size in (sizes | {f"{part}_size": size for part, size in self.wanted.items()}).items():
            check(size is None or size >= 1, name, "at least 1", size)
        check(len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1, "scale", "two parts in (0, 1], least first", scale)
        check_choice("pixels", pixels, ("imagenet", "caffe"))
        check_choice("validation", validation, ("split", "none"))
        check_choice("unlabelled", unlabelled, ("keep", "drop"))
        check(workers is None or workers >= 0, "workers", "a number that is not negative", workers)
        self.batch_size, self.seed, self.root = batch_size, seed, data_root(root)
        self.image_size, self.scale, self.pixels = image_size, (scale[0], scale[1]), pixels
        self.held_out, self.unlabelled, self.augment = validation == "split", unlabelled, augment
        self.workers = workers
        self.label_names: tuple[str, ...] = ()
        self.parts: dict[str, Labelled] = {}

    def read(self) -> dict[str, Labelled]:
        """The official parts, "train" and "test", and "val" if there is one; sets `label_names`."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its photographs are read")

    def absent(self, wanted: str) -> DataError:
        """The error of absent files: what is wanted, and where."""
        return DataError(f"{self.title}: not found in {self.root}. Put there {wanted}")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        self.setup()
        return self.label_names

    @property
    def sizes(self) -> dict[str, int]:
        """What a network must know of the data; `num_classes` is the number of labels."""
        features = self.in_channels * self.image_size**2
        return {"in_channels": self.in_channels, "in_features": features, "num_classes": len(self.labels)}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Read what the files say and split them, once."""
        if self.parts:
            return
        if self.trainer is None:
            self.prepare_data()
        official = {name: self._sound(name, *part) for name, part in self.read().items()}
        parts = self._divided(official)
        size = len(parts["train"][0])
        check(self.batch_size <= size, "batch_size", f"at most {size} (the training images)", self.batch_size)
        self.parts = parts

    def probe(self) -> Tensor:
        """Photographs on which layers are measured: the first of the validation part, always the same."""
        self.setup()
        paths, targets = self.parts["val"]
        return ImageFiles(paths, targets, self._evaluation())[torch.arange(min(len(paths), PROBE))][0]

    def ids(self, part: str) -> tuple[str, ...]:
        """Names of a part's photographs: their files, relative to the root."""
        self.setup()
        return tuple(Path(os.path.relpath(path, self.root)).as_posix() for path in self.parts[part][0])

    def images(self, part: str, indices: Sequence[int]) -> Tensor:
        """Small photographs to look at, as bytes, (n, 3, 96, 96)."""
        self.setup()
        paths = self.parts[part][0]
        return thumbnails([paths[i] for i in indices])

    def in_order(self, part: str) -> DataLoader[Any]:
        """Every photograph of a part once, in order, as in evaluation."""
        self.setup()
        return self._loader(part, None)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, augmented."""
        return self._loader("train", self.seed)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Every photograph once; no loader if nothing is held out."""
        return self._loader("val", None) if self.held_out else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Every photograph once."""
        return self._loader("test", None)

    def _loader(self, part: str, seed: int | None) -> DataLoader[Any]:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        paths, targets = self.parts[part]
        sampler = EpochSampler(len(paths), self.batch_size, seed, rank=rank, world=world)
        drawn = seed is not None and self.augment
        transform = self._augmentation() if drawn else self._evaluation()
        few = 0 if len(paths) < FEW else min(os.cpu_count() or 1, 8)
        return DataLoader(
            ImageFiles(paths, targets, transform, sampler, seed),
            sampler=sampler,
            batch_size=None,
            num_workers=few if self.workers is None else self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _augmentation(self) -> Any:
        v2 = import_extra("torchvision.transforms.v2", extra="train")
        window = v2.RandomResizedCrop(self.image_size, scale=self.scale)
        return v2.Compose([window, v2.RandomHorizontalFlip(), *to_tensor(self.pixels)])

    def _evaluation(self) -> Any:
        v2 = import_extra("torchvision.transforms.v2", extra="train")
        return v2.Compose([*middle(self.image_size, round(_NO_BOX * self.image_size)), *to_tensor(self.pixels)])

    def _sound(self, name: str, paths: list[str], targets: Tensor) -> Labelled:
        """A part whose files are there, with or without photographs that have no label."""
        lacking = [path for path in paths if not os.path.isfile(path)]
        if lacking:
            raise DataError(
                f"{self.title}: {len(lacking)} of the {len(paths)} {name} images are not there, such as {lacking[0]}; "
                "unpack the archive of the images again"
            )
        kept = torch.arange(len(paths)) if self.unlabelled == "keep" else targets.any(1).nonzero().flatten()
        if not len(kept):
            raise DataError(f"{self.title}: there are no {name} images")
        return [paths[i] for i in kept.tolist()], targets[kept]

    def _divided(self, official: Mapping[str, Labelled]) -> dict[str, Labelled]:
        train, test, wanted = official["train"], official["test"], self.wanted
        order, test_order = _shuffled(len(train[0])), _shuffled(len(test[0]))
        if "val" in official:
            val = official["val"]
            val_order = _shuffled(len(val[0]))[: wanted["val"]]
            both = [*train[0], *val[0]], torch.cat([train[1], val[1]])
            extra = [] if self.held_out else [len(train[0]) + i for i in val_order]
            chosen, rest = (val, val_order), [*order, *extra]
            train = both
        else:
            val_size = wanted["val"] or max(round(self.val_share * len(order)), 1)
            check(val_size < len(order), "val_size", f"less than {len(order)}", val_size)
            chosen, rest = (train, order[:val_size]), order[val_size:] + ([] if self.held_out else order[:val_size])
        for name, left in (("train", len(rest)), ("val", len(chosen[1])), ("test", len(test_order))):
            check((wanted[name] or 0) <= left, f"{name}_size", f"at most {left}", wanted[name])
        return {
            "train": _taken(train, rest[: wanted["train"]]),
            "val": _taken(*chosen),
            "test": _taken(test, test_order[: wanted["test"]]),
        }


def targets_of(sets: Iterable[Iterable[int]], num_labels: int) -> Tensor:
    """Sets of labels as zeros and ones.

    Args:
        sets: for each sample the numbers of its labels; of equal ones one counts.
        num_labels: K.

    Returns:
        Shape (N, K), float32.

    Example:
        >>> targets_of([{0, 2}, []], 3)
        tensor([[1., 0., 1.],
                [0., 0., 0.]])
    """
    chosen = [sorted(set(labels)) for labels in sets]
    targets = torch.zeros(len(chosen), num_labels)
    rows = [i for i, labels in enumerate(chosen) for _ in labels]
    targets[rows, [label for labels in chosen for label in labels]] = 1
    return targets


def _shuffled(size: int) -> list[int]:
    return torch.randperm(size, generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()


def _taken(part: Labelled, indices: Sequence[int]) -> Labelled:
    return [part[0][i] for i in indices], part[1][torch.tensor(indices, dtype=torch.long)]
