"""Small data sets in the real formats: idx, CIFAR's binary and pickled batches, folders of JPEG files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.train.data.formats import draw, idx, python2_pickle


@pytest.fixture
def write_idx(tmp_path: Path) -> Callable[..., Path]:
    def write(folder: str = "", *, packed: bool = False, train: int = 60, test: int = 20) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for seed, (name, n) in enumerate({"train": train, "t10k": test}.items()):
            images, labels = draw(n, (28, 28), 10, seed)
            for kind, array in {"images-idx3-ubyte": images, "labels-idx1-ubyte": labels}.items():
                content = gzip.compress(idx(array)) if packed else idx(array)
                (tmp_path / folder / f"{name}-{kind}{'.gz' if packed else ''}").write_bytes(content)
        return tmp_path

    return write


@pytest.fixture
def write_cifar(tmp_path: Path) -> Callable[..., Path]:
    def write(layout: str = "bin", classes: int = 10, each: int = 20) -> Path:
        names = {
            ("bin", 10): ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin"),
            ("py", 10): ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch"),
            ("bin", 100): ("cifar-100-binary", ["train.bin"], "test.bin"),
            ("py", 100): ("cifar-100-python", ["train"], "test"),
        }
        folder, train, test = names[layout, classes]
        (tmp_path / folder).mkdir(exist_ok=True)
        for seed, name in enumerate([*train, test]):
            n = each if classes == 10 else 3 * classes
            images, labels = draw(n, (3072,), classes, seed)
            if layout == "py":
                content = python2_pickle(images, labels.tolist(), b"labels" if classes == 10 else b"fine_labels")
            else:
                columns = [labels[:, None]] if classes == 10 else [labels[:, None] // 5, labels[:, None]]
                content = np.concatenate([*columns, images], axis=1).astype(np.uint8).tobytes()
            (tmp_path / folder / name).write_bytes(content)
        return tmp_path

    return write


@pytest.fixture
def write_photographs(tmp_path: Path) -> Callable[..., Path]:
    """Folders as ImageNet's: photographs of different sizes in three classes."""

    def write(train: int = 8, val: int = 3, side: int = 40) -> Path:
        generator = np.random.default_rng(0)
        for part, n in {"train": train, "val": val}.items():
            for name in ("n01", "n02", "n03"):
                (tmp_path / part / name).mkdir(parents=True)
                for i in range(n):
                    pixels = generator.integers(256, size=(side + i, side + 2 * i, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / part / name / f"{name}_{i}.JPEG")
        return tmp_path

    return write


@pytest.fixture
def write_tiny(tmp_path: Path) -> Callable[..., Path]:
    """Folders as tiny ImageNet's, with all its classes and few images."""

    def write(train: int = 3, side: int = 64) -> Path:
        root = tmp_path / "tiny-imagenet-200"
        generator = np.random.default_rng(0)
        names = [f"n{i:08d}" for i in range(200)]
        (root / "val" / "images").mkdir(parents=True)
        (root / "wnids.txt").write_text("\n".join(reversed(names)) + "\n")
        lines = []
        for k, name in enumerate(names):
            (root / "train" / name / "images").mkdir(parents=True)
            for i in range(train):
                pixels = generator.integers(256, size=(side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "train" / name / "images" / f"{name}_{i}.JPEG")
            grey = Image.fromarray(np.full((side, side), k, np.uint8))
            grey.save(root / "val" / "images" / f"val_{k}.JPEG")
            lines.append(f"val_{k}.JPEG\t{name}\t0\t0\t63\t63\n")
        (root / "val" / "val_annotations.txt").write_text("".join(lines))
        return tmp_path

    return write
