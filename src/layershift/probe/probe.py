"""A network with a trained classifier at each of its layers."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from layershift._checks import check, check_choice, check_file, check_floating, check_items, check_path, check_type
from layershift.probe.cache import model_digest
from layershift.probe.features import Batches, Extractor, Features, device_of
from layershift.probe.heads import InternalClassifiers
from layershift.probe.outputs import OUTPUT, TASKS, LayerOutputs, Task, whole_file

Loss: TypeAlias = Literal["bce", "cross_entropy"]
LOSSES = ("bce", "cross_entropy")

_FORMAT = "layershift probe, version 1"
_FILE = "probe.pt"


class Probe:
    """A network with a trained classifier at each of its layers; `layershift.probe.fit` makes it.

    Args:
        model: the network, which is not changed.
        classifiers: those of its inner layers.
        task: "multi_label" or "single_label".
        labels: names of the K labels.
        loss: what the classifiers were trained with, see `label_probabilities`.
        head: where the network's own output is not over these labels, a classifier on the feature of the last inner
            layer that stands for it; else None.
        history: outputs on validation data by epoch, 0 before training.

    Attributes:
        layers: names of the inner layers in order of depth, and "output".

    Raises:
        ValueError: if an option is unknown or the labels are not K.
    """

    def __init__(
        self,
        model: nn.Module,
        classifiers: InternalClassifiers,
        *,
        task: Task,
        labels: Sequence[str],
        loss: Loss = "bce",
        head: nn.Linear | None = None,
        history: Mapping[int, LayerOutputs] | None = None,
    ) -> None:
        check_type("model", model, nn.Module, "a module")
        check_type("classifiers", classifiers, InternalClassifiers, "InternalClassifiers")
        check_choice("task", task, TASKS)
        check_choice("loss", loss, LOSSES)
        check_items("labels", list(labels) if isinstance(labels, str) else labels, str, "names of labels")
        check_type("head", head, (nn.Linear, type(None)), "a linear layer, or None")
        if history is not None:
            check_type("history", history, Mapping, "LayerOutputs by epoch")
            check_items("history", history, LayerOutputs, "LayerOutputs by epoch")
        check(len(labels) == classifiers.num_labels, "labels", f"{classifiers.num_labels} names", len(labels))
        self.model, self.classifiers, self.head = model, classifiers, head
        self.task: Task = task
        self.loss: Loss = loss
        self.labels = tuple(labels)
        self.layers = (*classifiers.layers, OUTPUT)
        self.history = dict(history or {})

    def predict(self, data: Batches, *, ids: Sequence[str] | None = None) -> LayerOutputs:
        """What the classifier of each layer says of each sample, from one pass over the data.

        Args:
            data: batches `(x, y)`.
            ids: names of the samples; their numbers if None.

        Returns:
            Tensors on the CPU, samples in the order of the data.

        Raises:
            TypeError: as `layershift.probe.features.Extractor`, for the rest too.
            ValueError: if there is no sample, or another number of `ids`.
        """
        if ids is not None:
            check_items("ids", ids, str, "names of samples")
        modules = {name: self.model.get_submodule(name) for name in self.classifiers.layers}
        extract = Extractor(
            self.model,
            modules,
            num_labels=len(self.labels),
            task=self.task,
            pool=self.classifiers.pool,
            output=self.head is None,
        )
        return self.outputs(extract.stream(data), ids=ids)

    @torch.no_grad()
    def outputs(self, batches: Iterable[Features], *, ids: Sequence[str] | None = None) -> LayerOutputs:
        """What the classifiers say of features that are there already.

        Args:
            batches: features of the inner layers, and the network's own output unless there is a `head`.
            ids: names of the samples; their numbers if None.
        """
        device = device_of(self.model)
        heads = [module.to(device) for module in (self.classifiers, self.head) if module is not None]
        probabilities, targets = [], []
        for batch in batches:
            features = batch.to(device).layers
            inner = label_probabilities(head_logits(heads, features), self.task, self.loss)
            if self.head is None:
                # The network's own scores are a softmax's, whatever its classifiers were trained with.
                own = label_probabilities(features[OUTPUT], self.task, "cross_entropy")
                inner = torch.cat([inner, own[None]])
            probabilities.append(inner.cpu())
            targets.append(batch.targets.cpu())
        n = sum(map(len, targets))
        names = tuple(map(str, range(n))) if ids is None else tuple(ids)
        table = torch.cat(probabilities, dim=1)
        return LayerOutputs(self.layers, table, torch.cat(targets), self.task, self.labels, names)

    def save(self, folder: str | Path) -> None:
        """Write the classifiers to `probe.pt` and the history to `epoch….npz`; the network is not written.

        Args:
            folder: made if it is not there.
        """
        check_path("folder", folder)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("epoch*.npz"):
            old.unlink()
        for epoch, outputs in self.history.items():
            outputs.save(folder / history_file(epoch))
        state: dict[str, Any] = {
            "format": _FORMAT,
            "features": {name: f.in_features for name, f in zip(self.layers, self._linear(), strict=False)},
            "pool": self.classifiers.pool,
            "task": self.task,
            "loss": self.loss,
            "labels": list(self.labels),
            "classifiers": self.classifiers.state_dict(),
            "head": None if self.head is None else self.head.state_dict(),
            "history": list(self.history),
            "model": model_digest(self.model),
        }
        with whole_file(folder / _FILE) as file:
            torch.save(state, file)

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> Probe:
        """Read what `save` wrote.

        Args:
            folder: of the files.
            model: the network that was probed, with the same weights, on any device.

        Returns:
            The probe, on the network's device.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a file is damaged or something else, or the network is another.
        """
        check_path("folder", folder)
        check_type("model", model, nn.Module, "a module")
        folder = Path(folder)
        state = load_state(folder / _FILE, _FORMAT, device_of(model))
        expected = "the network whose layers were probed, with the same weights"
        check(state["model"] == model_digest(model), "model", expected, f"another {type(model).__name__}")
        num_labels = len(state["labels"])
        classifiers = InternalClassifiers(state["features"], num_labels, pool=state["pool"]).to(device_of(model))
        classifiers.load_state_dict(state["classifiers"])
        head = None
        if state["head"] is not None:
            head = nn.Linear(list(state["features"].values())[-1], num_labels, device=device_of(model))
            head.load_state_dict(state["head"])
        history = {epoch: LayerOutputs.load(folder / history_file(epoch)) for epoch in state["history"]}
        task, labels, loss = state["task"], state["labels"], state["loss"]
        return cls(model, classifiers, task=task, labels=labels, loss=loss, head=head, history=history)

    def _linear(self) -> list[nn.Linear]:
        return [module for module in self.classifiers.classifiers if isinstance(module, nn.Linear)]


def head_logits(heads: Sequence[nn.Module], features: Mapping[str, Tensor]) -> Tensor:
    """What the internal classifiers say, and after them the head on the last layer's feature, if there is one.

    Returns:
        Shape `(L, N, K)`.
    """
    classifiers, *rest = heads
    assert isinstance(classifiers, InternalClassifiers)
    logits: Tensor = classifiers(features)
    for head in rest:
        logits = torch.cat([logits, head(features[classifiers.layers[-1]])[None]])
    return logits


def label_probabilities(logits: Tensor, task: Task, loss: Loss) -> Tensor:
    r"""The probabilities that logits stand for.

    | task | trained with | probabilities |
    | --- | --- | --- |
    | multi-label | `"bce"` | sigmoids |
    | single-label | `"bce"` | sigmoids divided by their sum over the labels |
    | single-label | `"cross_entropy"` | softmax |

    Args:
        logits: shape `(…, K)`.
        task: "multi_label" or "single_label".
        loss: "bce" or "cross_entropy".

    Returns:
        The shape of `logits`, float32.

    Example:
        >>> label_probabilities(torch.tensor([0.0, 0.0, 0.0]), "single_label", "bce")
        tensor([0.3333, 0.3333, 0.3333])
    """
    check_floating("logits", logits)
    check(logits.dim() >= 1, "logits", "shape (…, K)", logits)
    check_choice("task", task, TASKS)
    check_choice("loss", loss, LOSSES)
    logits = logits.float()
    if task == "multi_label":
        return logits.sigmoid()
    # The softmax of log-sigmoids are sigmoids over their sum, also where all of them are as good as 0.
    return (nn.functional.logsigmoid(logits) if loss == "bce" else logits).softmax(-1)


def history_file(epoch: int) -> str:
    """The name of the file with an epoch's outputs."""
    return f"epoch{epoch:04d}.npz"


def load_state(path: Path, kind: str, device: torch.device) -> dict[str, Any]:
    """Read plain data and tensors that `torch.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    check_file("path", path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:  # whose checksums torch.load does not read
                check(archive.testzip() is None, "path", "an archive without damage", path)
            file.seek(0)
            state = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # of many types, for the many ways in which a file can be damaged
            raise ValueError(f"path: expected a whole file of {kind}, got {path}: {error}") from error
    check(isinstance(state, dict) and state.get("format") == kind, "path", f"a file of {kind}", path)
    return state  # type: ignore[no-any-return]
