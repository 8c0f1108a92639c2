"""Small photographs in the formats of multi-label data sets, written as their publishers write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def photograph(path: Path, *, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    """Of random coarse patches, so that JPEG keeps about what they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(256, size=(4, 5, 3), dtype=np.uint8)
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).save(path)
    return path


CATEGORIES = {1: "person", 2: "bicycle", 90: "toothbrush", 17: "cat"}
"""Ids with gaps, not in order, as COCO's."""


def write_coco(
    root: Path, train: Sequence[Sequence[int]], val: Sequence[Sequence[int]], *, year: int = 2017, **changes: Any
) -> Path:
    """COCO's folders, with these categories in each photograph."""
    for start, (part, sets) in enumerate({"train": train, "val": val}.items()):
        ids = [1000 * start + 7 * i + 9 for i in range(len(sets))]
        images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 40, "height": 32} for n in ids]
        for n, image in zip(ids, images, strict=True):
            photograph(root / f"{part}{year}" / str(image["file_name"]), seed=n)
        pairs = [(n, category) for n, categories in zip(ids, sets, strict=True) for category in categories]
        boxes = [
            {"id": i, "image_id": n, "category_id": c, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": i % 2}
            for i, (n, c) in enumerate(pairs)
        ]
        content = {
            "info": {"description": "small"},
            "images": images,
            "annotations": boxes,
            "categories": [{"id": n, "name": name, "supercategory": "thing"} for n, name in CATEGORIES.items()],
        }
        path = root / "annotations" / f"instances_{part}{year}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content | changes))
    return root


def write_voc(root: Path, parts: Mapping[str, Sequence[Sequence[tuple[str, int | None]]]]) -> Path:
    """VOC's folders; each photograph has objects of a class that are marked as difficult or not, or not marked."""
    home = root / "VOCdevkit" / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    number = 0
    for part, photographs in parts.items():
        names = []
        for objects in photographs:
            number += 1
            names.append(f"{number:06d}")
            photograph(home / "JPEGImages" / f"{names[-1]}.jpg", seed=number)
            things = "".join(
                f"<object><name>{name}</name><pose>Left</pose>"
                + ("" if difficult is None else f"<difficult>{difficult}</difficult>")
                + "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
                + "<part><name>head</name></part></object>"
                for name, difficult in objects
            )
            size = "<size><width>40</width><height>32</height><depth>3</depth></size>"
            text = f"<annotation><folder>VOC2007</folder>{size}{things}</annotation>"
            (home / "Annotations" / f"{names[-1]}.xml").write_text(text)
        (home / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
    return root
