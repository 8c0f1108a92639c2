"""Keep the features of a frozen network: on disk, in memory, or not at all where they are too large."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layershift._checks import check
from layershift.probe.features import Batches, Extractor, Features, pair
from layershift.probe.outputs import whole_file

MEMORY_LIMIT = 2 * 2**30
"""Bytes of features that are kept in memory where no other limit is given."""
DISK_SHARE = 0.9
"""The share of the free disk that features may take."""
_MANIFEST = "manifest.json"
_FORMAT = "layershift features, version 1"


def keep_features(
    extract: Extractor,
    data: Batches,
    *,
    folder: str | Path | None = None,
    limit: int | None = None,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> Features | None:
    """The features of all samples, from one pass of the network over the data, or from an earlier one.

    With a folder they lie there, one `.npy` file a layer, and are mapped into memory. `manifest.json`, which is written
    last and takes its name when it is complete, holds each file's shape, dtype and SHA-256, and a fingerprint of the
    network's weights and modules, the layers, the pooling, the number of samples and the first batch. Features are used
    again where all this agrees. They are made anew where it does not, where a file is damaged, and where writing was
    interrupted. So data whose first batch is the same, but not the others, need another folder; and data that come in
    another order each time are never used again.

    Features that do not fit are not kept: None is returned, and a warning tells the sizes.

    Args:
        extract: the frozen network.
        data: batches `(x, y)`.
        folder: where to keep them; None keeps them in memory.
        limit: the most bytes; by default nine tenths of the free disk, or 2 GiB in memory. 0 keeps nothing, silently.
        tell: receives, after each batch, how many samples the network has seen, and how many there are.

    Returns:
        The features, on the CPU; or None.

    Raises:
        TypeError: if the data are no batches `(x, y)`.
        ValueError: if there are none, or another number than the data announced, or as `Extractor` does.
        OSError: if writing fails; the message names the folder, and nothing is left there.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> data = [(torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1]))] * 2
        >>> extract = Extractor(model, {"1": model[1]}, num_labels=2, task="single_label")
        >>> keep_features(extract, data, folder=tempfile.mkdtemp()).layers["1"].shape
        torch.Size([10, 3])
    """
    check(limit is None or limit >= 0, "limit", "a number of bytes, 0 or more", limit)
    if limit == 0:
        return None
    x, y = first_batch(data)
    n = count_samples(data)
    shapes = {name: (n, feature.shape[1]) for name, feature in extract(x[:2], y[:2]).layers.items()}
    if folder is None:
        allowed = MEMORY_LIMIT if limit is None else limit
        return _in_memory(extract, data, shapes, tell) if _fits(shapes, extract.num_labels, allowed, "memory") else None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    identity = fingerprint(extract, n, x, y)
    kept = _open(folder, identity, list(shapes))
    if kept is not None:
        tell(n, n)
        return kept
    _remove(folder)  # what is of no use need not take room
    free = int(DISK_SHARE * shutil.disk_usage(folder).free)
    allowed = free if limit is None else min(limit, free)
    fits = _fits(shapes, extract.num_labels, allowed, f"the folder {folder}")
    return _on_disk(extract, data, shapes, folder, identity, tell) if fits else None


def first_batch(data: Batches) -> tuple[Tensor, Tensor]:
    """Inputs and labels of the first batch that holds a sample.

    Raises:
        TypeError: if the data cannot be gone through again.
        ValueError: if there is no such batch.
    """
    if isinstance(data, Iterator):
        raise TypeError("data: expected batches that can be gone through again, such as a list, got an iterator")
    for batch in data:
        x, y = pair(batch)
        if len(x) > 0:
            return x, y
    raise ValueError("data: expected at least one sample, got none")


def count_samples(data: Batches) -> int:
    """How many samples there are, by their announcement where a `DataLoader` makes one, and else by going through them.

    Example:
        >>> count_samples(DataLoader(range(10), batch_size=4, drop_last=True))
        8
    """
    if isinstance(data, DataLoader) and data.batch_size is not None and isinstance(data.sampler, Sized):
        n = len(data.sampler)
        return n - n % data.batch_size if data.drop_last else n
    return sum(len(pair(batch)[0]) for batch in data)


def model_digest(model: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, the same on every device."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            digest.update(_bytes(value))
    return digest.hexdigest()


def fingerprint(extract: Extractor, n: int, x: Tensor, y: Tensor) -> str:
    """SHA-256 of all that features depend on, of the data the number of samples and the first batch."""
    facts: list[Any] = [model_digest(extract.model), repr(extract.model), list(extract.layers)]
    facts += [extract.pool, extract.task, extract.num_labels, extract.output, n]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for part in (x, y):
        digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
        digest.update(_bytes(part))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _fits(shapes: Mapping[str, tuple[int, int]], num_labels: int, allowed: int, where: str) -> bool:
    n = next(iter(shapes.values()))[0]
    needed = sum(4 * rows * size for rows, size in shapes.values()) + n * num_labels
    if needed > allowed:
        text = f"features take {needed:,} bytes, and {where} has room for {allowed:,}: they are not kept"
        warnings.warn(text, stacklevel=3)
    return needed <= allowed


def _batches(
    extract: Extractor, data: Batches, n: int, tell: Callable[[int, int], None]
) -> Iterator[tuple[int, Features]]:
    """Where each batch starts, and the batch, on the CPU."""
    start = 0
    for features in extract.stream(data):
        end = start + len(features)
        check(end <= n, "data", f"{n} samples, as counted before", "more")
        yield start, features.to(torch.device("cpu"))
        start = end
        tell(start, n)
    check(start == n, "data", f"{n} samples, as counted before", start)


def _in_memory(
    extract: Extractor, data: Batches, shapes: Mapping[str, tuple[int, int]], tell: Callable[[int, int], None]
) -> Features:
    n = next(iter(shapes.values()))[0]
    layers = {name: torch.empty(shape) for name, shape in shapes.items()}
    targets = torch.empty(n, extract.num_labels, dtype=torch.bool)
    for start, features in _batches(extract, data, n, tell):
        rows = slice(start, start + len(features))
        for name, value in features.layers.items():
            layers[name][rows] = value
        targets[rows] = features.targets
    return Features(layers, targets)


def _on_disk(
    extract: Extractor,
    data: Batches,
    shapes: Mapping[str, tuple[int, int]],
    folder: Path,
    identity: str,
    tell: Callable[[int, int], None],
) -> Features:
    n = next(iter(shapes.values()))[0]
    kinds = [(name, shape, "<f4") for name, shape in shapes.items()] + [("", (n, extract.num_labels), "|b1")]
    try:
        with ExitStack() as stack:
            files, offsets = [], []
            for i, (_, shape, dtype) in enumerate(kinds):
                file = stack.enter_context((folder / f"features-{i:03d}.npy").open("w+b"))
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                files.append(file)
                offsets.append(file.tell())
            # Written, not mapped: where the disk is full, writing says so, and a map kills the process.
            for _, features in _batches(extract, data, n, tell):
                for file, value in zip(files, [*features.layers.values(), features.targets], strict=True):
                    file.write(value.contiguous().numpy().tobytes())
            entries, arrays = [], []
            for file, offset, (name, shape, dtype) in zip(files, offsets, kinds, strict=True):
                file.flush()
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                entry = {"layer": name, "file": Path(file.name).name, "shape": shape, "dtype": dtype, "sha256": digest}
                entries.append(entry)
                # The open file, not its name, under which another process may be writing the same features.
                arrays.append(np.memmap(file, dtype, "c", offset, shape))
        manifest = {"format": _FORMAT, "fingerprint": identity, "files": entries}
        with whole_file(folder / _MANIFEST) as out:
            out.write(json.dumps(manifest, indent=2).encode())
    except BaseException as error:
        _remove(folder)
        if isinstance(error, OSError) and error.filename is None:  # a full disk is told without a name
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise
    return _features(entries, arrays)


def _open(folder: Path, identity: str, layers: list[str]) -> Features | None:
    """The features that lie in a folder, if they are these and whole."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if (manifest["format"], manifest["fingerprint"]) != (_FORMAT, identity):
            return None
        if [entry["layer"] for entry in manifest["files"]] != [*layers, ""]:  # names have no checksum of their own
            return None
        arrays = []
        for entry in manifest["files"]:
            with (folder / entry["file"]).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    return None
            arrays.append(np.load(folder / entry["file"], mmap_mode="c"))
        return _features(manifest["files"], arrays)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _features(entries: list[dict[str, Any]], arrays: list[Any]) -> Features:
    """Arrays, those of the layers and that of the targets, as tensors.

    They are mapped copy on write: PyTorch wants memory that it could write to, and nothing it writes reaches the file.
    """
    *layers, targets = map(torch.from_numpy, arrays)
    return Features({entry["layer"]: value for entry, value in zip(entries, layers, strict=False)}, targets)


def _remove(folder: Path) -> None:
    """Take away features, finished or not, and nothing else; the manifest first, so that no rest looks finished."""
    for path in [folder / _MANIFEST, *folder.glob("features-[0-9][0-9][0-9].npy")]:
        path.unlink(missing_ok=True)
