"""Data sets in memory: files found in every layout, verified, split, preprocessed, augmented; and their errors."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
import torchvision.datasets
from lightning.pytorch import LightningDataModule

from layershift.train.data import (
    DATA,
    CIFAR10Data,
    CIFAR100Data,
    DataError,
    FashionMNISTData,
    ImageData,
    MNISTData,
    Whiten,
    contrast_normalize,
    crop_flip,
)


def rows(*parts: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(row) for x, _ in parts for row in x.flatten(1)[:, :60].tolist()]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["", "MNIST/raw", "mnist"])
def test_mnist_is_found_wherever_it_lies(write_idx, folder, packed) -> None:
    data = MNISTData(4, root=write_idx(folder, packed=packed), verify=False)
    data.setup()
    assert {name: tuple(x.shape) for name, (x, _) in data.parts.items()} == {
        "train": (50, 1, 28, 28), "val": (10, 1, 28, 28), "test": (20, 1, 28, 28)
    }  # fmt: skip
    assert data.sizes == {"in_channels": 1, "in_features": 784, "num_classes": 10}


def test_fashion_mnist_prefers_its_own_folder(write_idx) -> None:
    write_idx("")
    data = FashionMNISTData(4, root=write_idx("fashion-mnist", train=90), verify=False)
    data.setup()
    assert len(data.parts["train"][1]) == 75


@pytest.mark.parametrize("classes", [10, 100])
def test_both_layouts_of_cifar_hold_the_same(write_cifar, tmp_path, classes) -> None:
    make = CIFAR10Data if classes == 10 else CIFAR100Data
    both = []
    for layout in ("bin", "py"):
        both.append(make(4, root=write_cifar(layout, classes), verify=False))
        both[-1].setup()
    for name, (x, y) in both[0].parts.items():
        assert torch.equal(x, both[1].parts[name][0])
        assert torch.equal(y, both[1].parts[name][1])
    assert both[0].sizes == {"in_channels": 3, "in_features": 3072, "num_classes": classes}


def test_parts_are_disjoint_complete_and_stratified(write_cifar) -> None:
    data = CIFAR10Data(4, root=write_cifar(), verify=False)
    data.setup()
    assert {name: len(y) for name, (_, y) in data.parts.items()} == {"train": 90, "val": 10, "test": 20}
    seen = rows(*data.parts.values())
    assert len(set(seen)) == len(seen) == 120
    for _, y in data.parts.values():
        assert len(torch.bincount(y).unique()) == 1


def test_parts_do_not_depend_on_the_seed_and_small_ones_lie_in_large_ones(write_cifar) -> None:
    root = write_cifar()
    whole = CIFAR10Data(4, 0, root=root, verify=False)
    small = CIFAR10Data(4, 5, root=root, verify=False, train_size=20, val_size=10, test_size=10)
    whole.setup()
    small.setup()
    for name, size in {"train": 20, "val": 10, "test": 10}.items():
        images, labels = small.parts[name]
        assert torch.equal(images, whole.parts[name][0][:size])
        assert torch.bincount(labels).tolist() == [size // 10] * 10


def test_without_validation_everything_is_trained_on_and_nothing_can_be_chosen(write_cifar) -> None:
    root = write_cifar()
    split = CIFAR10Data(4, root=root, verify=False)
    whole = CIFAR10Data(4, root=root, verify=False, validation="none")
    split.setup()
    whole.setup()
    assert (split.held_out, whole.held_out) == (True, False)
    assert whole.val_dataloader() == []
    assert set(rows(whole.parts["train"])) == set(rows(split.parts["train"], split.parts["val"]))
    assert torch.equal(whole.parts["val"][0], split.parts["val"][0])
    assert torch.equal(whole.parts["test"][0], split.parts["test"][0])


def test_training_pixels_alone_standardise_on_the_fly(write_cifar) -> None:
    data = CIFAR10Data(4, root=write_cifar(), verify=False, augment=False)
    data.setup()
    assert data.parts["train"][0].dtype == torch.uint8
    std, mean = torch.std_mean(data.parts["train"][0].double(), (0, 2, 3), correction=0, keepdim=True)
    (images, _) = next(iter(data.test_dataloader()))
    torch.testing.assert_close(images, ((data.parts["test"][0].double() - mean) / std).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        data.probe(), ((data.parts["val"][0].double() - mean) / std).float(), rtol=1e-5, atol=1e-5
    )


def test_pixels_can_be_standardised_each_for_itself(write_cifar) -> None:
    data = CIFAR10Data(90, root=write_cifar(), verify=False, preprocessing="pixel", augment=False)
    data.setup()
    std, mean = torch.std_mean(next(iter(data.train_dataloader()))[0], 0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(3, 32, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(3, 32, 32), atol=1e-5, rtol=0)


def test_whitening_is_fitted_to_training_images(write_cifar) -> None:
    root = write_cifar()
    raw = CIFAR10Data(4, root=root, verify=False, image_size=4)
    data = CIFAR10Data(4, root=root, verify=False, image_size=4, preprocessing="gcn_zca", zca_epsilon=0.2)
    raw.setup()
    data.setup()
    whiten = Whiten.fit(contrast_normalize(raw.parts["train"][0]), epsilon=0.2)
    expected = whiten(contrast_normalize(raw.parts["test"][0]))
    torch.testing.assert_close(next(iter(data.test_dataloader()))[0], expected)
    assert data.sizes["in_features"] == 48


def test_training_batches_are_augmented_by_seed_epoch_and_image(write_cifar) -> None:
    root = write_cifar()

    def epoch(number: int, seed: int = 0) -> torch.Tensor:
        data = CIFAR10Data(10, seed, root=root, verify=False)
        data.setup()
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(epoch(3), epoch(3))
    assert not torch.equal(epoch(3), epoch(4))
    assert not torch.equal(epoch(3), epoch(3, seed=1))

    data = CIFAR10Data(10, root=root, verify=False)
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(3)
    order = torch.cat(list(loader.sampler))
    top, left, flip = data._crop_flip.draws(3)[:, order]
    standardised = data.prepare(data.parts["train"][0][order])
    assert torch.equal(epoch(3), crop_flip(standardised, top, left, flip.bool(), padding=4))


def test_evaluation_and_grey_images_are_not_augmented(write_cifar, write_idx) -> None:
    data = CIFAR10Data(10, root=write_cifar(), verify=False)
    data.setup()
    assert torch.equal(next(iter(data.val_dataloader()))[0], data.prepare(data.parts["val"][0]))
    grey = MNISTData(10, root=write_idx(), verify=False)
    grey.setup()
    images = torch.cat([x for x, _ in grey.train_dataloader()])
    assert sorted(rows((images, images))) == sorted(rows((grey.prepare(grey.parts["train"][0]),) * 2))


def test_two_processes_see_what_one_with_the_doubled_batch_sees(write_cifar) -> None:
    root = write_cifar()

    def batches(batch_size: int, rank: int, world: int, loader: str) -> list[tuple[torch.Tensor, ...]]:
        data = CIFAR10Data(batch_size, root=root, verify=False)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(strategy=strategy, global_rank=rank, world_size=world)
        data.setup()
        return list(getattr(data, loader)())

    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        one = batches(20, 0, 1, loader)
        two = zip(batches(10, 0, 2, loader), batches(10, 1, 2, loader), strict=True)
        for (x, y), ((x0, y0), (x1, y1)) in zip(one, two, strict=True):
            assert torch.equal(x, torch.cat([x0, x1]))
            assert torch.equal(y, torch.cat([y0, y1]))


def test_shrunk_images(write_idx) -> None:
    data = MNISTData(10, root=write_idx(), verify=False, image_size=14)
    data.setup()
    assert data.parts["train"][0].shape[1:] == (1, 14, 14)
    assert data.sizes["in_features"] == 196
    assert CIFAR10Data(image_size=16).padding == 2


@pytest.mark.parametrize("make", [MNISTData, FashionMNISTData, CIFAR10Data, CIFAR100Data])
def test_absent_files_are_one_error_with_the_remedy(make, tmp_path, monkeypatch) -> None:
    with pytest.raises(DataError, match=f"{make.title}: not found in .*; or run: python -c") as caught:
        make(root=tmp_path).setup()
    message = str(caught.value)
    for layout in make.layouts:
        assert all(name in message for name in (*layout.train, *layout.test, *filter(None, layout.folders)))
    monkeypatch.setattr(torchvision.datasets, make.source, lambda root, download: (root / "fetched").touch())
    exec(re.search(r'python -c "(.*)"', message)[1])  # the command of the message
    assert (tmp_path / "fetched").exists()


def test_download_fetches_what_is_absent_and_only_that(write_idx, tmp_path, monkeypatch) -> None:
    fetched = []
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda root, download: fetched.append(write_idx("MNIST/raw")))
    for _ in range(2):
        data = MNISTData(4, root=tmp_path, verify=False, download=True)
        data.setup()
        assert len(data.parts["train"][1]) == 50
    assert len(fetched) == 1


def test_a_download_that_fails_says_where_to_put_the_files(tmp_path, monkeypatch) -> None:
    def broken(root: object, download: bool) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", broken)
    with pytest.raises(DataError, match=r"download failed \(no route to host\). cifar10: not found in .* Put there"):
        CIFAR10Data(root=tmp_path, download=True).setup()


def test_files_other_than_the_published_ones_are_refused(write_idx, write_cifar) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: its content has the MD5 \w+, published is 6bbc9ace"):
        MNISTData(4, root=write_idx()).setup()
    with pytest.raises(
        DataError, match=r"data_batch_1: its content has the MD5 \w+, published is c99cafc1.*verify=False"
    ):
        CIFAR10Data(4, root=write_cifar("py")).setup()
    with pytest.raises(DataError, match=r"cifar100: 50000 train images are published, 300 found.*verify=False"):
        CIFAR100Data(4, root=write_cifar("bin", 100)).setup()


def test_damaged_files_are_named(write_idx, write_cifar) -> None:
    root = write_idx(packed=True)
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: not a readable file \(.*\); fetch it again"):
        MNISTData(4, root=root, verify=False).setup()
    path = write_cifar() / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(bytes([255]) + path.read_bytes()[1:])
    with pytest.raises(DataError, match="cifar10: a test label is 255, not from 0 to 9"):
        CIFAR10Data(4, root=root, verify=False).setup()


def test_the_environment_names_the_folder(write_idx, monkeypatch) -> None:
    monkeypatch.setenv("LAYERSHIFT_DATA", str(write_idx()))
    MNISTData(4, verify=False).setup()
    monkeypatch.delenv("LAYERSHIFT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert MNISTData().root.as_posix() == "/cache/layershift"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"validation": "test"}, "validation: expected one of 'split', 'none', got 'test'"),
        ({"preprocessing": "zca"}, "preprocessing: expected one of 'standard', 'pixel', 'gcn_zca'"),
        ({"zca_epsilon": -1.0}, "zca_epsilon: expected a number that is not negative, got -1.0"),
        ({"train_size": 9}, "train_size: expected at least 10, got 9"),
        ({"image_size": 33}, "image_size: expected from 1 to 32, got 33"),
        ({"batch_size": 91}, r"batch_size: expected at most 90 \(the training images\), got 91"),
        ({"train_size": 91}, "train_size: expected at most 90, got 91"),
        ({"val_size": 100}, "val_size: expected less than 100, got 100"),
        ({"test_size": 21}, "test_size: expected at most 20, got 21"),
    ],
)
def test_options_out_of_range(write_cifar, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        CIFAR10Data(**{"batch_size": 4, "root": write_cifar(), "verify": False, **options}).setup()


def test_data_by_name() -> None:
    images = {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "imagenet"}
    assert images <= set(DATA)
    assert all(issubclass(make, LightningDataModule) for make in DATA.values() if isinstance(make, type))


def test_images_of_ones_own_are_a_method(tmp_path) -> None:
    class Own(ImageData):
        title, in_channels, num_classes, side = "own", 1, 2, 4
        val_share, official = 0.5, {"train": 8, "test": 4}

        def read(self):
            x = torch.arange(12 * 16).view(12, 1, 4, 4).to(torch.uint8)
            return {"train": (x[:8], torch.arange(8) % 2), "test": (x[8:], torch.arange(4) % 2)}

    data = Own(2)
    data.setup()
    assert next(iter(data.train_dataloader()))[0].shape == (2, 1, 4, 4)
    with pytest.raises(NotImplementedError, match="Own has to say how its images are read"):
        super(Own, data).read()
