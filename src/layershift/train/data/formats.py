"""The files in which small images are published: idx, and CIFAR's binary and pickled batches."""

from __future__ import annotations

import _codecs
import io
import math
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layershift.train.data.files import DataError, Part

CIFAR_SHAPE = (3, 32, 32)
_UNSIGNED_BYTES = 8
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs.encode,
}
"""All that a pickled batch needs besides lists, strings and numbers."""


def parse_idx(path: Path, content: bytes) -> Tensor:
    """An array of bytes in the idx format: two zeros, 8 for bytes, the rank, the sizes, the numbers.

    Args:
        path: to name in an error.
        content: of the file, unpacked.

    Returns:
        uint8, of the shape that the file says.

    Raises:
        DataError: if the content is not that.

    References:
        Y. LeCun, C. Cortes, "The MNIST database", "The idx file format".

    Example:
        >>> parse_idx(Path("x"), bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]))
        tensor([5, 7], dtype=torch.uint8)
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTES]) or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path}: not an idx file of bytes (it starts with {content[:4].hex(' ')})")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    if len(content) - start != math.prod(shape):
        raise DataError(f"{path}: {math.prod(shape)} numbers announced, {len(content) - start} found; fetch it again")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).copy()).reshape(shape)


def parse_idx_pair(files: Sequence[tuple[Path, bytes]]) -> Part:
    """Images (N, 1, H, W) and labels (N,), from the two idx files of a part."""
    (path, _), (label_path, _) = files
    images, labels = (parse_idx(*file) for file in files)
    if images.dim() != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path}: expected images of shape (N, H, W) and N labels in {label_path.name}, "
            f"got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    return images.unsqueeze(1), labels.long()


def parse_cifar_binary(files: Sequence[tuple[Path, bytes]], *, label_bytes: int) -> Part:
    """Images (N, 3, 32, 32) and labels (N,), from records of labels, then a red, a green and a blue plane.

    Args:
        files: paths and contents.
        label_bytes: labels in a record, of which the last counts: 1 in CIFAR-10; 2 in CIFAR-100, the coarse one first.

    Raises:
        DataError: if a file does not hold whole records.
    """
    size = label_bytes + math.prod(CIFAR_SHAPE)
    for path, content in files:
        if not content or len(content) % size:
            raise DataError(f"{path}: {len(content)} bytes are not records of {size} bytes; fetch it again")
    records = torch.from_numpy(np.frombuffer(b"".join(c for _, c in files), np.uint8).copy()).view(-1, size)
    return records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE), records[:, label_bytes - 1].long()


def parse_cifar_pickle(files: Sequence[tuple[Path, bytes]], *, labels: str) -> Part:
    """Images (N, 3, 32, 32) and labels (N,), from pickled dictionaries.

    A pickle can name any function to be called. Here only those that make an array are known; a file that names another
    is refused, whether or not its checksum is looked at.

    Args:
        files: paths and contents.
        labels: the key of the labels.

    Raises:
        DataError: if a file is something else.
    """
    images, numbers = zip(*(_batch(path, content, labels) for path, content in files), strict=True)
    return torch.cat(images), torch.cat(numbers)


def _batch(path: Path, content: bytes, key: str) -> Part:
    try:
        found = _Restricted(io.BytesIO(content), encoding="latin1").load()
        images = np.asarray(found["data"], np.uint8).reshape(-1, *CIFAR_SHAPE)
        labels = np.asarray(found[key], np.int64).reshape(len(images))
    except Exception as error:  # whatever a pickle that is damaged may raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path}: not a batch of CIFAR ({reason}); fetch it again") from error
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.copy())


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it calls for {module}.{name}, which no batch needs")
        return _HARMLESS[module, name]


parse_cifar10_binary = partial(parse_cifar_binary, label_bytes=1)
parse_cifar100_binary = partial(parse_cifar_binary, label_bytes=2)
parse_cifar10_pickle = partial(parse_cifar_pickle, labels="labels")
parse_cifar100_pickle = partial(parse_cifar_pickle, labels="fine_labels")
