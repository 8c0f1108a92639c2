"""Pascal VOC 2007: photographs with 20 kinds of objects, of which a photograph may show several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack
from xml.etree import ElementTree

from layershift._checks import import_extra
from layershift.train.data.files import DataError
from layershift.train.data.labels import VOC
from layershift.train.data.multilabel import Labelled, MultiLabelPhotographs, PhotographOptions, targets_of

FOLDER = "VOCdevkit/VOC2007"


class VOC2007Data(MultiLabelPhotographs):
    """The 5,011 photographs of `trainval` and the 4,952 of `test`, with the classes of the objects in them.

    The files lie as the official archives unpack, in `VOCdevkit/VOC2007`: `JPEGImages`, `Annotations` and
    `ImageSets/Main/trainval.txt` and `test.txt`; torchvision reads them. `val` is a tenth of `trainval`.

    A label is present if one of its objects is not marked as difficult. VOC leaves a difficult object out of its own
    evaluation; here a photograph whose only objects of a class are difficult counts as one without that class, unless
    `difficult` is true. Such photographs may have no label at all: `unlabelled` says what becomes of them.

    Args:
        batch_size: samples in a training batch of one process.
        seed: of the order and of the augmentation.
        difficult: count objects that are marked as difficult as well.
        download: let torchvision fetch the archives if the files are not there; their MD5 is compared.
        **options: of `MultiLabelPhotographs`.

    References:
        M. Everingham et al., "The Pascal visual object classes (VOC) challenge", 2010,
        https://doi.org/10.1007/s11263-009-0275-4
    """

    title = "voc2007"

    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 0,
        *,
        difficult: bool = False,
        download: bool = False,
        **options: Unpack[PhotographOptions],
    ) -> None:
        super().__init__(batch_size, seed, **options)
        self.difficult, self.download = difficult, download
        self.label_names = VOC

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the 20 classes."""
        return self.label_names

    def read(self) -> dict[str, Labelled]:
        """Both official parts."""
        return {"train": self._part("trainval"), "test": self._part("test")}

    def prepare_data(self) -> None:
        """Fetch the files, if that is wanted and they are not there."""
        if self.download and not (self.root / FOLDER / "ImageSets/Main/test.txt").is_file():
            from filelock import FileLock

            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{self.title}.lock"):
                for part in ("trainval", "test"):
                    self._files(part, download=True)

    def _files(self, part: str, *, download: bool = False) -> Any:
        reader = import_extra("torchvision.datasets", extra="train").VOCDetection
        try:
            return reader(self.root, "2007", part, download=download)
        except (OSError, RuntimeError) as error:
            raise self.absent(
                f"{FOLDER} with JPEGImages/, Annotations/ and ImageSets/Main/{part}.txt, as the archives "
                "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar unpack, or let torchvision fetch them with "
                f"download=True ({error})"
            ) from error

    def _part(self, part: str) -> Labelled:
        files = self._files(part)
        sets = [self._labels(Path(path), files.parse_voc_xml) for path in files.annotations]
        return [str(path) for path in files.images], targets_of(sets, len(VOC))

    def _labels(self, path: Path, parse: Any) -> set[int]:
        try:
            objects = parse(ElementTree.parse(path).getroot())["annotation"].get("object", [])
            names = [o["name"] for o in objects if self.difficult or not _marked(o)]
        except (OSError, ElementTree.ParseError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: not an annotation of VOC ({error}); unpack the archive again") from error
        if unknown := sorted(set(names) - set(VOC)):
            raise DataError(f"{path}: the class {unknown[0]!r} is none of VOC's 20")
        return {VOC.index(name) for name in names}


def _marked(thing: Mapping[str, Any]) -> bool:
    return bool(int(thing.get("difficult", 0)))
