"""Images with a table of labels: both ways to write labels, parts, and what is wrong with a table."""

from __future__ import annotations

import pytest
from tests.train.data.photographs import photograph

from layershift.train.data import DataError, ImageTableData

LINES = [
    ("train2017", "a.png", "cat;dog"),
    ("train2017", "b.png", ""),
    ("train2017", "c.png", " dog ; dog"),
    ("val2017", "d.png", "bird"),
    ("val2017", "e.png", "cat"),
]


@pytest.fixture
def root(tmp_path):
    for i, (split, file, _) in enumerate(LINES):
        photograph(tmp_path / split / file, seed=i)
    write(tmp_path, "split,file,labels", *(",".join(line) for line in LINES))
    return tmp_path


def write(root, *lines: str, encoding: str = "utf-8") -> None:
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding=encoding)


def table(root, batch_size: int = 1, **options) -> ImageTableData:
    given = {"image_size": 16, "file": "{split}/{file}", "val_size": 1, "workers": 0, **options}
    return ImageTableData(batch_size, root=root, **given)


def sets(data: ImageTableData, *parts: str) -> dict[str, set[str]]:
    return {
        path.split("/")[-1]: {name for name, y in zip(data.labels, row, strict=True) if y}
        for part in parts
        for path, row in zip(data.ids(part), data.parts[part][1], strict=True)
    }


ALL = {"a.png": {"cat", "dog"}, "b.png": set(), "c.png": {"dog"}, "d.png": {"bird"}, "e.png": {"cat"}}


def test_names_in_one_column(root) -> None:
    data = table(root)
    assert data.labels == ("bird", "cat", "dog")
    assert sets(data, "train", "val", "test") == ALL
    assert set(sets(data, "test")) == {"d.png", "e.png"}
    images, targets = next(iter(data.train_dataloader()))
    assert (images.shape, targets.shape) == ((1, 3, 16, 16), (1, 3))
    assert table(root, names=["dog", "cat", "bird", "fish"]).labels == ("dog", "cat", "bird", "fish")
    assert len(sets(table(root, unlabelled="drop"), "train", "val")) == 2


def test_zeros_and_ones_in_columns(root) -> None:
    rows = [f"{split},{file},{int('dog' in n)}, {int('cat' in n)},x" for split, file, n in LINES]
    write(root, "split,file,dog,cat,note", *rows, encoding="utf-8-sig")
    data = table(root, label_columns=["dog", "cat"])
    assert data.labels == ("dog", "cat")
    assert sets(data, "train", "val", "test") == {name: labels - {"bird"} for name, labels in ALL.items()}
    write(root, "split,file,dog,cat,note", *rows[:2], "train2017,c.png,yes,0,x")
    with pytest.raises(DataError, match="line 4 has 'yes' in the column 'dog', neither 0 nor 1"):
        table(root, label_columns=["dog", "cat"]).setup()


def test_three_parts_of_ones_own(root) -> None:
    write(root, "split,where,labels", "Training,train2017/a.png,x", "val,train2017/b.png,x|y", "test,val2017/d.png,y")
    data = table(root, file="{where}", separator="|")
    assert [data.ids(part) for part in ("train", "val", "test")] == [
        ("train2017/a.png",), ("train2017/b.png",), ("val2017/d.png",)
    ]  # fmt: skip
    whole = table(root, file="{where}", separator="|", validation="none")
    assert set(whole.ids("train")) == {"train2017/a.png", "train2017/b.png"}
    assert whole.ids("val") == data.ids("val")


def test_parts_that_are_drawn(root) -> None:
    for i in range(20):
        photograph(root / f"{i}.png", seed=i)
    write(root, "file,labels", *(f"{i}.png,{'even' if i % 2 == 0 else 'odd'}" for i in range(20)))
    first, other, more = (
        table(root, split=None, file="{file}", val_size=2, **options)
        for options in ({"seed": 3}, {"split_seed": 1}, {"test_size": 7})
    )
    assert [len(first.ids(part)) for part in ("train", "val", "test")] == [14, 2, 4]
    assert len({*first.ids("train"), *first.ids("val"), *first.ids("test")}) == 20
    again = table(root, split=None, file="{file}", val_size=2)
    assert [first.ids(part) for part in ("train", "val", "test")] == [
        again.ids(part) for part in ("train", "val", "test")
    ]
    assert set(other.ids("test")) != set(first.ids("test"))
    assert len(more.ids("test")) == 7
    for path, labels in sets(first, "train", "test").items():
        assert labels == {"even" if int(path[:-4]) % 2 == 0 else "odd"}


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["split,file", "train,a.png"], {}, "no column 'labels'; there are split, file"),
        (["file,labels", "a.png,x"], {"file": "{file}"}, "no column 'split'; there are file, labels"),
        (["split,labels", "train,x"], {}, "no column 'file'"),
        (["split,file,labels"], {}, "no line below the columns' names"),
        (["split,file,labels", "train2017,a.png"], {}, "line 2 does not have 3 columns"),
        (["split,file,labels", "train2017,a.png,x,y"], {}, "line 2 does not have 3 columns"),
        (["split,file,labels", "both,a.png,x"], {}, "line 2 has the part 'both', which is not train, val or test"),
        (["split,file,labels", "train2017,a.png,x"], {}, "names no images to train or none to test; split=None draws"),
        (["split,file,labels", "train2017,a.png,"], {}, "no line has a label in the column 'labels'"),
        (
            ["split,file,labels", "train2017,a.png,x", "val2017,d.png,z"],
            {"names": ["x", "y"]},
            "line 3 has the label 'z', none of x, y",
        ),
        (
            ["split,file,labels", "train2017,a.png,x", "train2017,a.png,y"],
            {},
            r"train2017/a.png stands in lines 2 and 3",
        ),
        (
            ["split,file,labels", "train2017,a.png,x", "val2017,z.png,x"],
            {},
            r"image_table: 1 of the 1 test images are not there, such as .*z.png",
        ),
    ],
)
def test_bad_tables(root, lines, options, message) -> None:
    write(root, *lines)
    with pytest.raises(DataError, match=message):
        table(root, **options).setup()


def test_no_table_and_no_text(root) -> None:
    with pytest.raises(DataError, match=r"image_table: not found in .* Put there the table other.csv and the images"):
        table(root, table="other.csv").setup()
    (root / "labels.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"labels.csv: not a CSV file in UTF-8"):
        table(root).setup()


def test_options_out_of_range(root) -> None:
    with pytest.raises(ValueError, match="separator: expected at least one character, got ''"):
        table(root, separator="")
    with pytest.raises(ValueError, match="names: expected None: label_columns are the names"):
        table(root, names=["a"], label_columns=["a"])
    with pytest.raises(ValueError, match="test_size: expected less than 5, got 5"):
        table(root, split=None, test_size=5).setup()
