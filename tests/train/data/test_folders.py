"""Images in folders: tiny ImageNet in memory, ImageNet streamed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from torchvision.transforms import v2

from layershift.train.data import DataError, ImageNetData, TinyImageNetData


def test_tiny_imagenet_is_read_from_its_folders(write_tiny) -> None:
    data = TinyImageNetData(4, root=write_tiny(train=2, side=32), verify=False)
    data.setup()
    assert {name: tuple(x.shape) for name, (x, _) in data.parts.items()} == {
        "train": (200, 3, 32, 32), "val": (200, 3, 32, 32), "test": (200, 3, 32, 32)
    }  # fmt: skip
    assert data.sizes == {"in_channels": 3, "in_features": 3072, "num_classes": 200}
    assert data.padding == 4
    images, labels = data.parts["test"]
    grey = images.float().mean((1, 2, 3))
    assert torch.equal(grey.round().long(), labels)  # its images are as bright as their class says
    assert sorted(data.parts["val"][1].tolist()) == list(range(200))


def test_tiny_imagenet_of_other_numbers_is_not_the_published_one(write_tiny) -> None:
    root = write_tiny(train=1)
    with pytest.raises(DataError, match=r"tiny_imagenet: 100000 train images are published, 200 found.*verify=False"):
        TinyImageNetData(4, root=root).setup()


def test_damaged_folders_of_tiny_imagenet(write_tiny, tmp_path) -> None:
    with pytest.raises(DataError, match=r"tiny_imagenet: not found in .*Put there the folder tiny-imagenet-200"):
        TinyImageNetData(4, root=tmp_path).setup()
    folder = write_tiny(train=1, side=8) / "tiny-imagenet-200"
    data = TinyImageNetData(4, root=folder, verify=False)  # the folder itself will do
    path = folder / "train" / "n00000007" / "images" / "n00000007_0.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"n00000007_0.JPEG: not a readable image"):
        data.setup()
    Image.new("RGB", (9, 8)).save(path)
    with pytest.raises(DataError, match=re.escape("n00000007_0.JPEG: an image of (8, 9) among others of (8, 8)")):
        data.setup()
    table = folder / "val" / "val_annotations.txt"
    Image.new("RGB", (8, 8)).save(path)
    table.write_text(table.read_text().replace("val_3.JPEG", "val_x.JPEG"))
    with pytest.raises(
        DataError, match=r"val_annotations.txt: not a table of images and their classes \('val_3.JPEG'\)"
    ):
        data.setup()


def test_tiny_imagenet_is_downloaded_once(tmp_path, write_tiny, monkeypatch) -> None:
    asked = []
    utils = torchvision.datasets.utils
    monkeypatch.setattr(
        utils, "download_and_extract_archive", lambda url, root, md5: asked.append((url, md5)) or write_tiny()
    )
    for _ in range(2):
        TinyImageNetData(4, root=tmp_path, download=True).prepare_data()
    assert asked == [("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")]


def photographs(root, batch_size: int = 6, **options) -> ImageNetData:
    given = {"image_size": 16, "scales": (18, 30), "val_size": 6, "workers": 0, **options}
    return ImageNetData(batch_size, root=root, **given)


def test_photographs_are_split_scaled_and_cut(write_photographs) -> None:
    data = photographs(write_photographs())
    data.setup()
    assert {name: len(samples) for name, samples in data.parts.items()} == {"train": 18, "val": 6, "test": 9}
    assert data.sizes == {"in_channels": 3, "in_features": 768, "num_classes": 3}
    paths = [path for samples in data.parts.values() for path, _ in samples]
    assert len(set(paths)) == 33
    for samples in data.parts.values():
        assert torch.bincount(torch.tensor([label for _, label in samples])).tolist() == [len(samples) // 3] * 3
    for loader, n in ((data.train_dataloader(), 18), (data.val_dataloader(), 6), (data.test_dataloader(), 9)):
        images, labels = (torch.cat(tensors) for tensors in zip(*loader, strict=True))
        assert images.shape == (n, 3, 16, 16)
        assert labels.shape == (n,)
    assert data.probe().shape == (6, 3, 16, 16)
    assert torch.equal(data.probe(), next(iter(data.val_dataloader()))[0])


def test_photographs_are_standardised_like_torchvisions(write_photographs) -> None:
    data = photographs(write_photographs())
    probe = data.probe()
    steps = [v2.Resize(18), v2.CenterCrop(16), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    theirs = v2.Compose([*steps, v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    expected = torch.stack([theirs(Image.open(path).convert("RGB")) for path, _ in data.parts["val"]])
    assert torch.equal(probe, expected)


def test_the_shorter_side_is_uniform_over_the_scales(write_photographs) -> None:
    scale = ImageNetData(root=write_photographs(1, 1))._augmentation().transforms[0]
    image = Image.new("RGB", (500, 400))
    sides = torch.tensor([min(scale(image).size) for _ in range(300)])
    assert 256 <= sides.min() <= 265
    assert 471 <= sides.max() <= 480
    assert abs(sides.float().mean() - 368) < 4 * 225 / 12**0.5 / 300**0.5


def test_augmentation_follows_seed_and_epoch_whatever_the_workers(write_photographs) -> None:
    root = write_photographs()

    def epoch(number: int, *, seed: int = 0, workers: int = 0) -> torch.Tensor:
        data = photographs(root, seed=seed, workers=workers)
        data.setup()
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return torch.cat([x for x, _ in loader])

    first = epoch(1)
    torch.rand(7)
    assert torch.equal(epoch(1), first)
    assert torch.equal(epoch(1, workers=2), first)
    assert not torch.equal(epoch(2), first)
    assert not torch.equal(epoch(1, seed=1), first)


def test_reading_leaves_the_random_state_alone(write_photographs) -> None:
    data = photographs(write_photographs())
    data.setup()
    before = torch.get_rng_state()
    data.train_dataloader().dataset[torch.arange(3)]
    assert torch.equal(torch.get_rng_state(), before)


def test_whole_photographs_come_one_by_one(write_photographs) -> None:
    data = photographs(write_photographs(), whole=True)
    data.setup()
    shapes = {tuple(x.shape) for x, _ in data.test_dataloader()}
    assert shapes == {(1, 3, 40 + i, 40 + 2 * i) for i in range(3)}
    assert next(iter(data.val_dataloader()))[0].shape == (6, 3, 16, 16)


def test_without_validation_photographs_are_all_trained_on(write_photographs) -> None:
    data = photographs(write_photographs(), validation="none")
    data.setup()
    assert len(data.parts["train"]) == 24
    assert data.val_dataloader() == []
    assert not data.held_out


def test_absent_and_damaged_photographs(write_photographs, tmp_path) -> None:
    with pytest.raises(DataError, match=r"imagenet: not found in .* Put there train/CLASS/\*.JPEG .* python -c"):
        photographs(tmp_path).setup()
    with pytest.raises(DataError, match=r"ILSVRC2012_devkit_t12.tar.gz .*Put there train/CLASS"):
        photographs(tmp_path, download=True).setup()
    root = write_photographs()
    data = photographs(root)
    data.setup()
    path = data.parts["val"][0][0]
    with open(path, "r+b") as file:
        file.truncate(300)
    with pytest.raises(DataError, match=r"\.JPEG: not a readable image"):
        data.probe()
    (root / "val" / "n03").rename(root / "val" / "n04")
    with pytest.raises(DataError, match="train and val have other classes: n03, n04"):
        photographs(root).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"scales": (15, 30)}, r"scales: expected two lengths from 16 upwards, got \(15, 30\)"),
        ({"scales": (30, 20)}, r"scales: expected two lengths from 16 upwards, got \(30, 20\)"),
        ({"workers": -1}, "workers: expected a number that is not negative, got -1"),
        ({"validation": "test"}, "validation: expected one of 'split', 'none'"),
        ({"train_size": 19}, "train_size: expected at most 18, got 19"),
        ({"val_size": 24}, "val_size: expected less than 24, got 24"),
        ({"test_size": 10}, "test_size: expected at most 9, got 10"),
    ],
)
def test_options_out_of_range(write_photographs, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        photographs(write_photographs(), **options).setup()


def test_grey_photographs_have_three_channels(write_photographs) -> None:
    root = write_photographs()
    for path in (root / "train").rglob("*.JPEG"):
        Image.fromarray(np.full((40, 50), 128, np.uint8)).save(path)
    assert photographs(root).probe().shape == (6, 3, 16, 16)
