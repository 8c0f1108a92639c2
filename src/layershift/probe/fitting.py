"""Train a classifier at every layer of a frozen network, all of them in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from layershift._checks import (
    check,
    check_choice,
    check_count,
    check_items,
    check_number,
    check_seed,
    check_type,
    import_extra,
)
from layershift._seeds import derive_seed
from layershift.capture import LayerSelector, output_tensor
from layershift.probe.cache import fingerprint, first_batch, keep_features
from layershift.probe.features import Batches, Extractor, Features, device_of, frozen, pair
from layershift.probe.heads import POOLS, InternalClassifiers, Pool, classifier
from layershift.probe.layers import choose_layers
from layershift.probe.outputs import OUTPUT, TASKS, Task
from layershift.probe.probe import LOSSES, Loss, Probe
from layershift.probe.training import Training


def fit(
    model: nn.Module,
    data: Batches,
    *,
    layers: LayerSelector | None = None,
    val_data: Batches | None = None,
    task: Task | None = None,
    labels: Sequence[str] | None = None,
    pool: Pool = "average",
    epochs: int = 100,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    milestones: Sequence[int] = (40, 80),
    decay: float = 0.1,
    batch_size: int = 128,
    loss: Loss = "bce",
    output: Literal["network", "head"] = "network",
    cache: str | Path | None = None,
    cache_limit: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    record: Sequence[int] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Probe:
    r"""Train a fully connected classifier on the output of each inner layer, the network frozen and in evaluation mode.

    One pass of the network gives the features of all layers, see `layershift.probe.cache.keep_features`; on these the
    classifiers train side by side, each as if it were alone. Stochastic gradient descent minimises the sum over layers
    of the mean over samples and labels of the binary cross entropy, $-\tfrac1K\sum_k y_k\log\sigma(z_k)
    +(1-y_k)\log(1-\sigma(z_k))$. The defaults are the paper's. A multi-label sample without a label is trained on too:
    it says that no label applies.

    Features that fit neither memory nor disk are computed anew in each epoch; a warning tells so. Then a batch of the
    data is a batch of the training, in the data's order, and `batch_size` is of no effect.

    Args:
        model: the network; its mode, its weights and its statistics stay as they are.
        data: batches `(x, y)`, which can be gone through again, such as a `DataLoader` or a list. Samples are shuffled
            here, so the data need not be; to resume, they must come in the same order.
        layers: names of layers, also of blocks, or patterns or types, see `choose_layers`; by default `default_layers`.
        val_data: batches whose outputs are kept at the epochs of `record`.
        task: "single_label" with classes of shape `(N,)`, "multi_label" with zeros and ones of shape `(N, K)`; if None,
            by the shape of `y`.
        labels: names of the K labels; their numbers if None.
        pool: "average" over positions or tokens, or "flatten".
        epochs: passes over the features.
        learning_rate: at the start.
        momentum: of the gradient.
        weight_decay: of weights and biases.
        milestones: epochs after which the learning rate is multiplied by `decay`.
        decay: the factor.
        batch_size: samples of a step.
        loss: "bce", a sigmoid for each label; for single-label tasks also "cross_entropy", a softmax.
        output: where the outputs of layer "output" come from. "network": its own output, which must be over the same
            labels. "head": a classifier on the last inner layer's feature, trained like the others, for a network that
            was trained for other labels.
        cache: a folder for the features of `data` (in `train`) and `val_data` (in `val`); if None, they are kept in
            memory.
        cache_limit: the most bytes that each of the two may take; 0 keeps none.
        checkpoint: a folder where the state of the training is written, so seldom that it takes a twentieth of the
            time, and at the end.
        resume: go on from the checkpoint, if there is one; the result is as if nothing had happened.
        record: epochs at which outputs on `val_data` are kept, 0 being before training; by default 0 and the last one.
        seed: of initial weights and of the order of samples, on which all else depends.
        progress: show a progress bar.

    Returns:
        The network with its classifiers.

    Raises:
        TypeError: if data are no batches `(x, y)`, or a layer puts out no floating point tensor.
        ValueError: if an option is out of range; if data or labels do not fit, see `Extractor`; if the training
            diverges; if the checkpoint is damaged, or of another training.

    References:
        "Towards interpreting deep neural networks via understanding layer behaviors", section 6 and appendix E.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.randn(64, 4), torch.arange(64) % 2)]
        >>> probe = fit(model, data, epochs=2)
        >>> probe.layers, probe.predict(data).probabilities.shape
        (('1', 'output'), torch.Size([2, 64, 2]))
    """
    _check_options(epochs, learning_rate, momentum, weight_decay, milestones, decay, batch_size)
    check_choice("loss", loss, LOSSES)
    check_choice("output", output, ("network", "head"))
    check(not resume or checkpoint is not None, "checkpoint", "a folder to resume from", None)
    check_type("model", model, nn.Module, "a module")
    check_type("data", data, Iterable, "batches (x, y)")
    check_type("val_data", val_data, (Iterable, type(None)), "batches (x, y), or None")
    if isinstance(val_data, Sequence):  # a loader tells when it is gone through
        check(len(val_data) > 0, "val_data", "at least one sample", "none")
        pair(val_data[0], "val_data")
    check_choice("pool", pool, POOLS)
    check_seed("seed", seed)
    if cache_limit is not None:
        check_count("cache_limit", cache_limit, "a number of bytes, 0 or more", least=0)
    if labels is not None:
        check_items("labels", list(labels) if isinstance(labels, str) else labels, str, "names of labels")
        check(len(labels) > 0, "labels", "at least one name", labels)
    x, y = first_batch(data)
    if task is None:
        task = "multi_label" if y.dim() == 2 else "single_label"
    check_choice("task", task, TASKS)
    check(loss == "bce" or task == "single_label", "loss", "'bce' for a multi-label task", repr(loss))
    names = tuple(labels) if labels is not None else _numbers(model, x, y, task, output)
    extract = Extractor(
        model, choose_layers(model, layers), num_labels=len(names), task=task, pool=pool, output=output == "network"
    )
    first = extract(x[:2], y[:2])
    extract = extract.in_order(first)
    sizes = {name: first.layers[name].shape[1] for name in extract.layers}
    epochs_to_record = _recorded(record, epochs, val_data is not None)

    classifiers = InternalClassifiers(sizes, len(names), pool=pool, seed=seed)
    last = list(sizes)[-1]
    head = classifier(OUTPUT, sizes[last], len(names), seed) if output == "head" else None
    probe = Probe(model, classifiers, task=task, labels=names, loss=loss, head=head)

    folders = {part: None if cache is None else Path(cache) / part for part in ("train", "val")}
    with _bar(progress, "features") as tell:
        kept = keep_features(extract, data, folder=folders["train"], limit=cache_limit, tell=tell)
        val = None
        if val_data is not None and epochs_to_record:
            val = keep_features(extract, val_data, folder=folders["val"], limit=cache_limit, tell=tell)

    recipe = {
        "sizes": sizes, "labels": list(names), "task": task, "pool": pool, "loss": loss, "output": output, "seed": seed,
        "learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay, "decay": decay,
        "milestones": list(milestones), "batch_size": batch_size, "kept": kept is not None,
    }  # fmt: skip
    if checkpoint is not None:
        recipe["network and data"] = fingerprint(extract, -1 if kept is None else len(kept), x, y)

    training = Training(probe, recipe, None if checkpoint is None else Path(checkpoint))
    start = training.resume(epochs, epochs_to_record) if resume else 0

    def keep_outputs(epoch: int) -> None:
        if epoch in epochs_to_record and val_data is not None:
            chunks = extract.stream(val_data) if val is None else _chunks(val, torch.arange(len(val)), 1024)
            training.record(epoch, probe.outputs(chunks))

    with _bar(progress, "epochs") as tell:
        if start == 0:
            keep_outputs(0)
        # A plain loop, because this is all there is to do. On kept features Lightning's trainer was measured 6 to 40 %
        # slower a step, and the probe would need its extra.
        for epoch in range(start, epochs):
            rate = learning_rate * decay ** sum(epoch >= milestone for milestone in milestones)
            batches = extract.stream(data) if kept is None else _shuffled(kept, batch_size, derive_seed(seed, epoch))
            training.epoch(batches, rate)
            keep_outputs(epoch + 1)
            training.save(epoch + 1, always=epoch + 1 == epochs)
            tell(epoch + 1, epochs)
    return probe


def _check_options(
    epochs: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    milestones: Sequence[int],
    decay: float,
    batch_size: int,
) -> None:
    check_count("epochs", epochs, "a number of passes, 0 or more", least=0)
    check_number("learning_rate", learning_rate, "a positive number", above=0)
    check_number("momentum", momentum, "a number in [0, 1)", least=0, below=1)
    check_number("weight_decay", weight_decay, "a number, 0 or more", least=0)
    check_items("milestones", milestones, int, "epochs, 0 or more")
    check(all(milestone >= 0 for milestone in milestones), "milestones", "epochs, 0 or more", list(milestones))
    check_number("decay", decay, "a positive number", above=0)
    check_count("batch_size", batch_size, "a number of samples, 1 or more")


def _numbers(model: nn.Module, x: Tensor, y: Tensor, task: Task, output: str) -> tuple[str, ...]:
    """Numbers for labels without names: as many as columns of `y`, or as outputs of the network."""
    if task == "multi_label":
        check(y.dim() == 2, "y", "shape (N, K) for a multi-label task", y)
        return tuple(map(str, range(y.shape[1])))
    check(output == "network", "labels", "names of the labels for output='head' of a single-label task", None)
    with frozen(model):
        result = output_tensor(OUTPUT, model(x[:2].to(device_of(model))))
    return tuple(map(str, range(result.shape[-1])))


def _recorded(record: Sequence[int] | None, epochs: int, validated: bool) -> tuple[int, ...]:
    if record is None:
        return tuple(sorted({0, epochs})) if validated else ()
    check(validated or len(record) == 0, "val_data", "data to record outputs on", None)
    check_items("record", record, int, f"epochs from 0 to {epochs}")
    check(all(0 <= epoch <= epochs for epoch in record), "record", f"epochs from 0 to {epochs}", list(record))
    return tuple(sorted(set(record)))


def _shuffled(kept: Features, batch_size: int, seed: int) -> Iterator[Features]:
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))
    return _chunks(kept, order, batch_size)


def _chunks(kept: Features, order: Tensor, size: int) -> Iterator[Features]:
    return (kept.select(indices) for indices in torch.split(order, size))


@contextmanager
def _bar(progress: bool, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, if one is wanted, and a function that moves it."""
    if not progress:
        yield lambda *_: None
        return
    rich = import_extra("rich.progress", extra="watch")
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    with rich.Progress(*columns, rich.TimeElapsedColumn()) as display:
        bar = display.add_task(what, total=None)
        yield lambda done, total: display.update(bar, completed=done, total=total)
