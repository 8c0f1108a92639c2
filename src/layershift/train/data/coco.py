"""COCO: photographs of everyday scenes, 80 kinds of objects, of which a photograph may show any number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layershift.train.data.files import DataError
from layershift.train.data.multilabel import Labelled, MultiLabelPhotographs, targets_of

YEARS = (2017, 2014)


class CocoData(MultiLabelPhotographs):
    """COCO 2017 or 2014, or any set in its format: the labels of a photograph are the categories of its annotations.

    The files are `annotations/instances_train2017.json`, `annotations/instances_val2017.json` and the photographs in
    `train2017` and `val2017`, in the root or in a folder of it whose name begins with coco; those of 2014 have that
    year in their names. Labels of the official test part are not public: its validation part is `test` here, and `val`
    is a tenth of the training part. A label is present whether its annotation is of one object or of a crowd, and
    however small it is. Some photographs show none of the categories (1% of COCO 2017): `unlabelled` says what becomes
    of them. The annotations are read as JSON: torchvision's reader of COCO needs pycocotools, whose masks nothing here
    asks for. Options are those of `MultiLabelPhotographs`.

    References:
        T.-Y. Lin et al., "Microsoft COCO: common objects in context", 2014, https://arxiv.org/abs/1405.0312
    """

    title = "coco"

    def read(self) -> dict[str, Labelled]:
        """The official parts, the validation part as "test"."""
        found = [(home, year) for home in (self.root, *sorted(self.root.glob("coco*"))) for year in YEARS]
        for home, year in found:
            files = {part: home / "annotations" / f"instances_{part}{year}.json" for part in ("train", "val")}
            if all(file.is_file() for file in files.values()):
                break
        else:
            raise self.absent(
                "annotations/instances_train2017.json, annotations/instances_val2017.json and the images in train2017/ "
                "and val2017/, or those of 2014: the archives train2017.zip, val2017.zip and "
                "annotations_trainval2017.zip of https://cocodataset.org, unpacked; or a folder coco with these in it"
            )
        (train, names), (test, others) = (read_instances(file, home / f"{part}{year}") for part, file in files.items())
        if names != others:
            raise DataError(f"{home}: the annotations of train and val have other categories")
        self.label_names = names
        return {"train": train, "test": test}


def read_instances(file: Path, folder: Path) -> tuple[Labelled, tuple[str, ...]]:
    """Photographs and their sets of labels from a file of COCO's instances, and the labels' names.

    Labels are numbered in the order of the categories' ids, which have gaps in COCO.

    Args:
        file: the annotations, JSON.
        folder: of the photographs.

    Returns:
        Paths and targets in the order of the file's images; names.

    Raises:
        DataError: if the file is not of this format, or an annotation names an image or a category that it lacks.
    """
    try:
        content: Mapping[str, Any] = json.loads(file.read_bytes())
        categories = sorted((category["id"], str(category["name"])) for category in content["categories"])
        images = {image["id"]: image["file_name"] for image in content["images"]}
        pairs = [(a["image_id"], a["category_id"]) for a in content["annotations"]]
        paths = [str(folder / name) for name in images.values()]
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{file}: not a file of COCO's instances ({reason[:120]})") from error
    numbers = {category: i for i, (category, _) in enumerate(categories)}
    sets: dict[Any, set[int]] = {image: set() for image in images}
    for image, category in pairs:
        if category not in numbers:
            raise DataError(f"{file}: an annotation of image {image} has the category {category}, which is not listed")
        if image not in sets:
            raise DataError(f"{file}: an annotation is of image {image}, which is not listed")
        sets[image].add(numbers[category])
    return (paths, targets_of(sets.values(), len(categories))), tuple(name for _, name in categories)
