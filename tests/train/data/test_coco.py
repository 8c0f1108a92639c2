"""Photographs in COCO's format: labels, parts, views of a photograph, and what is wrong with files."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tests.train.data.photographs import photograph, write_coco
from torchvision.transforms import v2

from layershift.train.data import CocoData, DataError, MultiLabelPhotographs, targets_of, to_tensor

TRAIN = [[1], [2, 90], [], [17, 17, 1], [2], [1, 2, 17, 90], [90], [17], [1], [2]]
VAL = [[1, 2], [90], [17]]
NAMES = ("person", "bicycle", "cat", "toothbrush")  # by id


def coco(root, batch_size: int = 4, **options) -> CocoData:
    return CocoData(batch_size, root=root, **{"image_size": 16, "val_size": 3, "workers": 0, **options})


def sets(data: MultiLabelPhotographs, part: str) -> dict[str, set[str]]:
    data.setup()
    names = [{name for name, y in zip(data.labels, row, strict=True) if y} for row in data.parts[part][1]]
    return dict(zip(data.ids(part), names, strict=True))


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path, TRAIN, VAL)


def test_labels_are_the_categories_of_the_annotations(root) -> None:
    data = coco(root)
    assert data.labels == NAMES
    assert data.sizes == {"in_channels": 3, "in_features": 768, "num_classes": 4}
    assert {name: tuple(y.shape) for name, (_, y) in data.parts.items()} == {
        "train": (7, 4), "val": (3, 4), "test": (3, 4)
    }  # fmt: skip
    names = {1: "person", 2: "bicycle", 17: "cat", 90: "toothbrush"}
    expected = {f"train2017/{7 * i + 9:012d}.jpg": {names[c] for c in one} for i, one in enumerate(TRAIN)}
    assert sets(data, "train") | sets(data, "val") == expected
    assert sets(data, "test") == {
        f"val2017/{1000 + 7 * i + 9:012d}.jpg": {names[c] for c in one} for i, one in enumerate(VAL)
    }


@pytest.mark.parametrize(("folder", "year"), [("", 2014), ("coco256", 2017), ("coco", 2014)])
def test_other_places_and_years(tmp_path, folder, year) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    write_coco(tmp_path / folder, TRAIN, VAL, year=year)
    assert len(coco(tmp_path).ids("test")) == 3


def test_photographs_without_a_label_are_kept_or_dropped(root) -> None:
    kept, dropped = (coco(root, val_size=1, unlabelled=rule) for rule in ("keep", "drop"))
    whole = [set() in [*sets(data, "train").values(), *sets(data, "val").values()] for data in (kept, dropped)]
    assert whole == [True, False]
    assert [len(data.ids("train")) for data in (kept, dropped)] == [9, 8]
    write_coco(root, [[], []], VAL)
    with pytest.raises(DataError, match="coco: there are no train images"):
        coco(root, unlabelled="drop").setup()


def test_parts_do_not_depend_on_the_seed_and_nothing_is_held_out_on_demand(root) -> None:
    first, second, whole = coco(root), coco(root, seed=5), coco(root, validation="none")
    assert [first.ids(part) for part in ("train", "val", "test")] == [
        second.ids(part) for part in ("train", "val", "test")
    ]
    assert not set(first.ids("train")) & set(first.ids("val"))
    assert set(whole.ids("train")) == set(first.ids("train")) | set(first.ids("val"))
    assert (whole.val_dataloader(), whole.held_out, whole.ids("val")) == ([], False, first.ids("val"))
    assert coco(root, train_size=5, test_size=2).ids("train") == first.ids("train")[:5]


def test_evaluation_is_torchvisions(root) -> None:
    data = coco(root)
    data.setup()
    steps = [v2.Resize(18), v2.CenterCrop(16), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    theirs = v2.Compose([*steps, v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    expected = torch.stack([theirs(Image.open(path).convert("RGB")) for path in data.parts["val"][0]])
    assert torch.equal(data.probe(), expected)
    (images, targets), *rest = data.val_dataloader()
    assert rest == []
    assert torch.equal(images, expected)
    assert torch.equal(targets, data.parts["val"][1])
    images, targets = (torch.cat(tensors) for tensors in zip(*data.in_order("train"), strict=True))
    assert images.shape == (7, 3, 16, 16)
    assert torch.equal(targets, data.parts["train"][1])


def test_pixels_of_caffe_are_blue_first_and_lose_a_mean(tmp_path) -> None:
    red = Image.new("RGB", (5, 4), (200, 100, 50))
    pixels = v2.Compose(to_tensor("caffe"))(red)
    assert pixels.shape == (3, 4, 5)
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([50 - 103.939, 100 - 116.779, 200 - 123.68]))
    with pytest.raises(ValueError, match="pixels: expected one of 'imagenet', 'caffe', got 'tensorflow'"):
        to_tensor("tensorflow")


def test_augmentation_follows_seed_and_epoch_whatever_the_workers(root) -> None:
    def epoch(number: int, **options) -> torch.Tensor:
        data = coco(root, batch_size=7, **options)
        data.setup()
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return torch.cat([x for x, _ in loader])

    first = epoch(1)
    torch.rand(7)
    assert torch.equal(epoch(1), first)
    assert torch.equal(epoch(1, workers=1), first)
    assert not torch.equal(epoch(2), first)
    assert not torch.equal(epoch(1, seed=1), first)

    plain = coco(root, batch_size=7, augment=False)
    plain.setup()
    seen = {tuple(x.flatten().tolist()) for x in next(iter(plain.train_dataloader()))[0]}
    assert seen == {tuple(x.flatten().tolist()) for x in next(iter(plain.in_order("train")))[0]}


def test_two_processes_see_what_one_with_the_doubled_batch_sees(root) -> None:
    def batches(batch_size: int, rank: int, world: int, loader: str) -> list[tuple[torch.Tensor, ...]]:
        data = coco(root, batch_size)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        data.setup()
        return list(getattr(data, loader)())

    for loader in ("train_dataloader", "test_dataloader"):
        one = batches(4, 0, 1, loader)
        two = zip(batches(2, 0, 2, loader), batches(2, 1, 2, loader), strict=True)
        for whole, *halves in ((a, *b) for a, b in zip(one, two, strict=True)):
            for tensor, first, second in zip(whole, *halves, strict=True):
                assert torch.equal(tensor, torch.cat([first, second]))


def test_windows_have_the_areas_that_are_asked_for(root) -> None:
    window = coco(root, scale=(0.3, 0.6))._augmentation().transforms[0]
    image = Image.new("RGB", (300, 200))
    areas = torch.tensor([p["height"] * p["width"] for p in (window.make_params([image]) for _ in range(100))]) / 60000
    assert areas.min() > 0.28
    assert areas.max() < 0.62


def test_thumbnails(root) -> None:
    data = coco(root)
    images = data.images("test", [2, 0])
    assert (images.shape, images.dtype) == ((2, 3, 96, 96), torch.uint8)
    path = data.parts["test"][0][2]
    expected = v2.functional.pil_to_tensor(Image.open(path).convert("RGB").resize((120, 96), Image.Resampling.BILINEAR))
    assert (images[0].int() - expected[:, :, 12:108].int()).abs().max() <= 1
    assert data.images("test", []).shape == (0, 3, 96, 96)


def test_absent_files_are_one_error_that_says_what_to_put_where(root, tmp_path) -> None:
    with pytest.raises(DataError, match=r"coco: not found in .*nothing. Put there annotations/instances_tra"):
        coco(tmp_path / "nothing").setup()
    path = root / "train2017" / "000000000016.jpg"
    path.unlink()
    with pytest.raises(DataError, match=r"coco: 1 of the 10 train images are not there, such as .*000000000016.jpg"):
        coco(root).setup()


def test_a_truncated_photograph_is_named(root) -> None:
    data = coco(root)
    path = data.ids("val") and data.parts["val"][0][0]
    photograph(root / "big.jpg", size=(400, 300))
    with open(path, "wb") as file:
        file.write((root / "big.jpg").read_bytes()[:900])
    with pytest.raises(DataError, match=re.escape(path) + r": not a readable image \(.*truncated"):
        data.probe()
    with pytest.raises(DataError, match="not a readable image"):
        data.images("val", [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 9, "category_id": 5}]}, "image 9 has the category 5, which is not listed"),
        ({"annotations": [{"image_id": 3, "category_id": 1}]}, "an annotation is of image 3, which is not listed"),
        ({"annotations": [{"category_id": 1}]}, r"not a file of COCO's instances \(it lacks 'image_id'\)"),
        ({"categories": None}, r"not a file of COCO's instances \('NoneType' object is not iterable\)"),
    ],
)
def test_damaged_annotations(root, change, message) -> None:
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=message):
        coco(root).setup()


def test_annotations_that_are_cut_off_or_of_another_set(root) -> None:
    file = root / "annotations" / "instances_val2017.json"
    text = file.read_text()
    file.write_text(text[:-40])
    with pytest.raises(DataError, match=r"instances_val2017.json: not a file of COCO's instances"):
        coco(root).setup()
    file.write_text(text.replace("toothbrush", "comb"))
    with pytest.raises(DataError, match="the annotations of train and val have other categories"):
        coco(root).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 8}, r"batch_size: expected at most 7 \(the training images\), got 8"),
        ({"scale": (0.5, 0.1)}, r"scale: expected two parts in \(0, 1\], least first"),
        ({"scale": (0.0, 1.0)}, r"scale: expected two parts in \(0, 1\], least first"),
        ({"unlabelled": "negative"}, "unlabelled: expected one of 'keep', 'drop', got 'negative'"),
        ({"validation": "test"}, "validation: expected one of 'split', 'none'"),
        ({"workers": -1}, "workers: expected a number that is not negative"),
        ({"image_size": 0}, "image_size: expected at least 1, got 0"),
        ({"train_size": 8}, "train_size: expected at most 7, got 8"),
        ({"val_size": 10}, "val_size: expected less than 10, got 10"),
        ({"test_size": 4}, "test_size: expected at most 3, got 4"),
    ],
)
def test_options_out_of_range(root, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        coco(root, **options).setup()


def test_sets_as_zeros_and_ones() -> None:
    assert targets_of([[2, 2], (), {0, 1}], 3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 0]]
    with pytest.raises(NotImplementedError, match="MultiLabelPhotographs has to say how its photographs are read"):
        MultiLabelPhotographs().read()
