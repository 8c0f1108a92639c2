"""What the classifier of each layer says of each sample: the one table that everything about depth is computed from."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from layershift._checks import check, check_choice, check_file, check_items, check_path

Task: TypeAlias = Literal["single_label", "multi_label"]
TASKS = ("single_label", "multi_label")
OUTPUT = "output"
"""The name of the network's own output, which stands last."""

_FORMAT = "layershift layer outputs, version 1"
_DAMAGE = (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, OSError, NotImplementedError)


@dataclass(frozen=True, eq=False)
class LayerOutputs:
    """What the classifier of each layer says of each sample.

    A sample may have no label: its row of `targets` is False throughout, and it counts as correct in no layer, not even
    where nothing is predicted. Whoever averages over samples says what becomes of it.

    Attributes:
        layers: names in order of depth; the last is the network's own output, named "output".
        probabilities: shape `(L, N, K)`, float32; each between 0 and 1 by itself for "multi_label", a distribution over
            the labels for "single_label".
        targets: shape `(N, K)`, bool.
        task: "single_label" or "multi_label".
        labels: names of the K labels; "0", "1", … if they are unknown.
        ids: names of the N samples; "0", "1", … if they are unknown.

    Raises:
        TypeError: if a tensor has another dtype.
        ValueError: if shapes or numbers of names do not fit, or the last layer is not "output".

    Example:
        >>> p = torch.tensor([[[0.9, 0.2], [0.6, 0.3]], [[0.8, 0.7], [0.1, 0.3]]])
        >>> targets = torch.tensor([[True, True], [True, False]])
        >>> outputs = LayerOutputs(("conv", "output"), p, targets, "multi_label", ("cat", "dog"), ("a.jpg", "b.jpg"))
        >>> outputs.correct()
        tensor([[False,  True],
                [ True, False]])
    """

    layers: tuple[str, ...]
    probabilities: Tensor
    targets: Tensor
    task: Task
    labels: tuple[str, ...]
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        check_choice("task", self.task, TASKS)
        for argument, tensor, dtype in (
            ("probabilities", self.probabilities, torch.float32),
            ("targets", self.targets, torch.bool),
        ):
            if not isinstance(tensor, Tensor) or tensor.dtype != dtype:
                came = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise TypeError(f"{argument}: expected a tensor of {dtype}, got {came}")
        check(self.probabilities.dim() == 3, "probabilities", "shape (L, N, K)", self.probabilities)
        n_layers, *rest = self.probabilities.shape
        check(rest[1] > 0, "probabilities", "at least one label", self.probabilities)
        check(list(self.targets.shape) == rest, "targets", f"shape {tuple(rest)}", self.targets)
        for argument, names, number in (
            ("layers", self.layers, n_layers),
            ("labels", self.labels, rest[1]),
            ("ids", self.ids, rest[0]),
        ):
            check(isinstance(names, tuple), argument, "a tuple of names", type(names).__name__)
            check_items(argument, names, str, "a tuple of names")
            check(len(names) == number, argument, f"{number} names, as many as there are {argument}", len(names))
        last = self.layers[-1] if self.layers else None
        check(last == OUTPUT, "layers", f"the last to be {OUTPUT!r}", repr(last))
        check(len(set(self.layers)) == n_layers, "layers", "names that differ", self.layers)

    def predictions(self) -> Tensor:
        """The labels that each layer gives each sample.

        Returns:
            Shape `(L, N, K)`, bool: probabilities above one half for "multi_label"; for "single_label" the label of
            largest probability, of equal ones the first.

        Example:
            >>> p, targets = torch.tensor([[[0.3, 0.7]]]), torch.tensor([[False, True]])
            >>> LayerOutputs(("output",), p, targets, "single_label", ("0", "1"), ("0",)).predictions()
            tensor([[[False,  True]]])
        """
        if self.task == "multi_label":
            return self.probabilities > 0.5
        best = self.probabilities.argmax(-1, keepdim=True)
        return torch.zeros_like(self.probabilities, dtype=torch.bool).scatter(-1, best, True)

    def correct(self) -> Tensor:
        """Whether a layer gives a sample exactly its labels.

        Returns:
            Shape `(L, N)`, bool; False for samples without a label.
        """
        right = (self.predictions() == self.targets).all(-1)
        return right & self.targets.any(-1)

    def distributions(self) -> Tensor:
        """The paper's label distributions: probabilities divided by their sum over labels.

        Returns:
            Shape `(L, N, K)`; NaN where all probabilities are 0.
        """
        return self.probabilities / self.probabilities.sum(-1, keepdim=True)

    def save(self, path: str | Path) -> None:
        """Write a file of numpy's format `.npz`, without pickled objects; an interrupted write leaves no file.

        Args:
            path: of the file, written as it stands.
        """
        check_path("path", path)
        header = {
            "format": _FORMAT,
            "layers": self.layers,
            "task": self.task,
            "labels": self.labels,
            "ids": self.ids,
        }
        arrays: dict[str, Any] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),  # numpy's own strings lose trailing NULs
            "probabilities": self.probabilities.numpy(force=True),
            "targets": self.targets.numpy(force=True),
        }
        with whole_file(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> LayerOutputs:
        """Read what `save` wrote, on the CPU.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or something else.
        """
        check_file("path", path)
        with Path(path).open("rb") as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    check(archive.testzip() is None, "path", "an archive without damage", path)
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    header = json.loads(arrays["header"].tobytes())
                    check(header.pop("format") == _FORMAT, "path", _FORMAT, path)
                    task = header.pop("task")
                    probabilities, targets = (torch.from_numpy(arrays[key]) for key in ("probabilities", "targets"))
                names = {key: tuple(map(str, value)) for key, value in header.items()}
                return cls(probabilities=probabilities, targets=targets, task=task, **names)
            except _DAMAGE as error:
                raise ValueError(f"path: expected a file that LayerOutputs.save wrote, got {path}: {error}") from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name only when it is finished, in place of what was there.

    Raises:
        OSError: if it cannot be written; the message names it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "file"
        >>> with whole_file(path) as file:
        ...     written = file.write(b"all"), path.exists()
        >>> written, path.read_bytes()
        ((3, False), b'all')
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            yield file
        draft.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk is told without a name
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
