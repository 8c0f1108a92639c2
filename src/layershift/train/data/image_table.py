"""Any folder of images with a table that names the labels of each."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, Unpack

import torch

from layershift._checks import check
from layershift.train.data.files import DataError
from layershift.train.data.multilabel import Labelled, MultiLabelPhotographs, PhotographOptions, targets_of

Row: TypeAlias = Mapping[str, str]
PARTS = ("train", "val", "test")


class ImageTableData(MultiLabelPhotographs):
    """Images in a folder and a CSV file with a line for each: its file, its labels, and perhaps its part.

    The labels stand in one column, as names between separators, or in a column for each label, as 0 or 1. A part's name
    begins with train, val or test (`train2017` will do). If a table has no test part, its val part is `test`, and `val`
    is cut from the training part; if it has no column of parts, both are drawn at random.

    Args:
        batch_size: samples in a training batch of one process.
        seed: of the order and of the augmentation.
        table: the CSV file, relative to the root, with a line of column names.
        file: where an image lies, relative to the root: text in which columns' names in braces stand for what the line
            says, such as `"{split}/{file}"`.
        label_column: the column of names.
        label_columns: the columns of zeros and ones, instead of `label_column`.
        separator: what stands between names.
        names: the labels, in order. By default those that occur, sorted; given, any other is an error.
        split: the column of parts; None if there is none, then a fifth of the images is for testing.
        split_seed: of the parts that are drawn.
        **options: of `MultiLabelPhotographs`.
    """

    title = "image_table"
    test_share = 0.2

    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 0,
        *,
        table: str = "labels.csv",
        file: str = "{file}",
        label_column: str = "labels",
        label_columns: Sequence[str] | None = None,
        separator: str = ";",
        names: Sequence[str] | None = None,
        split: str | None = "split",
        split_seed: int = 0,
        **options: Unpack[PhotographOptions],
    ) -> None:
        super().__init__(batch_size, seed, **options)
        check(len(separator) > 0, "separator", "at least one character", repr(separator))
        check(names is None or label_columns is None, "names", "None: label_columns are the names", names)
        self.table, self.file = table, file
        self.label_column, self.separator = label_column, separator
        self.label_columns = None if label_columns is None else tuple(label_columns)
        self.names = None if names is None else tuple(names)
        self.split, self.split_seed = split, split_seed

    @property
    def path(self) -> Path:
        """The table."""
        return self.root / self.table

    def read(self) -> dict[str, Labelled]:
        """The parts that the table names, or that are drawn."""
        rows = self._rows()
        paths = [str(self.root / self.file.format_map(row)) for row in rows]
        seen: dict[str, int] = {}
        for number, path in enumerate(paths, start=2):
            if path in seen:
                raise DataError(f"{self.path}: {path} stands in lines {seen[path]} and {number}")
            seen[path] = number
        if self.label_columns is None:
            sets = self._by_names(rows)
        else:
            self.label_names = self.label_columns
            sets = [self._by_columns(number, row) for number, row in enumerate(rows, start=2)]
        targets = targets_of(sets, len(self.label_names))
        chosen = self._drawn(len(rows)) if self.split is None else self._named(rows)
        return {part: ([paths[i] for i in lines], targets[lines]) for part, lines in chosen.items()}

    def _rows(self) -> list[Row]:
        if not self.path.is_file():
            raise self.absent(f"the table {self.table} and the images that it names")
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows: list[Row] = list(reader)
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{self.path}: not a CSV file in UTF-8 ({error})") from error
        there = reader.fieldnames or []
        wanted = self.label_columns or (self.label_column,)
        for column in (*wanted, *(() if self.split is None else (self.split,)), *_columns_of(self.file)):
            if column not in there:
                raise DataError(f"{self.path}: no column {column!r}; there are {', '.join(map(str, there))}")
        if not rows:
            raise DataError(f"{self.path}: no line below the columns' names")
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise DataError(f"{self.path}: line {number} does not have {len(there)} columns")
        return rows

    def _by_names(self, rows: Sequence[Row]) -> list[list[int]]:
        found = [[n.strip() for n in row[self.label_column].split(self.separator) if n.strip()] for row in rows]
        names = self.names or tuple(sorted({name for line in found for name in line}))
        if not names:
            raise DataError(f"{self.path}: no line has a label in the column {self.label_column!r}")
        numbers = {name: i for i, name in enumerate(names)}
        for line, labels in enumerate(found, start=2):
            if unknown := [name for name in labels if name not in numbers]:
                raise DataError(f"{self.path}: line {line} has the label {unknown[0]!r}, none of {', '.join(names)}")
        self.label_names = names
        return [[numbers[name] for name in labels] for labels in found]

    def _by_columns(self, number: int, row: Row) -> list[int]:
        values = [row[name].strip() for name in self.label_names]
        for name, value in zip(self.label_names, values, strict=True):
            if value not in ("0", "1"):
                raise DataError(f"{self.path}: line {number} has {value!r} in the column {name!r}, neither 0 nor 1")
        return [i for i, value in enumerate(values) if value == "1"]

    def _named(self, rows: Sequence[Row]) -> dict[str, list[int]]:
        assert self.split is not None
        chosen: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            value = row[self.split].strip()
            part = next((part for part in PARTS if value.lower().startswith(part)), None)
            if part is None:
                raise DataError(f"{self.path}: line {i + 2} has the part {value!r}, which is not train, val or test")
            chosen.setdefault(part, []).append(i)
        if "test" not in chosen and "val" in chosen:
            chosen["test"] = chosen.pop("val")
        if not {"train", "test"} <= set(chosen):
            raise DataError(
                f"{self.path}: the column {self.split!r} names no images to train or none to test; "
                "split=None draws the parts"
            )
        return chosen

    def _drawn(self, size: int) -> dict[str, list[int]]:
        test_size = self.wanted["test"] or max(round(self.test_share * size), 1)
        check(test_size < size, "test_size", f"less than {size}", test_size)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(self.split_seed)).tolist()
        return {"train": sorted(order[test_size:]), "test": sorted(order[:test_size])}


def _columns_of(template: str) -> list[str]:
    """The columns that a text names in braces."""
    from string import Formatter

    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]
