"""All tables of a probe into one folder of plain files, from which the report page is made."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from layershift._checks import (
    check,
    check_choice,
    check_count,
    check_file,
    check_floating,
    check_items,
    check_path,
    check_type,
    fail,
)
from layershift._version import __version__
from layershift.functional.label_transport import LabelMethod
from layershift.measure.multilabel import MultiLabelScores
from layershift.probe.depth import adjacent_table, depth_table, epoch_table, sample_distances
from layershift.probe.difficulties import difficulty
from layershift.probe.gallery import Images, gallery_of, rounded
from layershift.probe.outputs import LayerOutputs, whole_file
from layershift.probe.over_thinking import overthinking

FORMAT = "layershift probe, version 1"


def write_results(
    folder: str | Path,
    outputs: Mapping[str, LayerOutputs],
    cost: Tensor,
    *,
    history: Mapping[int, LayerOutputs] | None = None,
    exits: Sequence[Mapping[str, Any]] | None = None,
    images: Images | None = None,
    about: Mapping[str, Any] | None = None,
    methods: Sequence[LabelMethod] = ("auto", "chebyshev", "jensen_shannon"),
    main: str | None = None,
    each: int = 6,
    history_samples: int | None = 1000,
    quantiles: tuple[float, float] = (0.25, 0.75),
    early: Sequence[int] | None = None,
    late: Sequence[int] | None = None,
) -> Path:
    """Compute every table about depth and write it, with the outputs and the gallery's pictures.

    The folder gets `probe.json`, whose content `layershift.report.probe.data` documents, `outputs/NAME.npz` and
    `outputs/epochE.npz`, and `gallery/*.png`.

    Args:
        folder: where to write; made if it does not exist.
        outputs: what the layers say, by the name of the data: "train", "val", "test". They share layers and labels.
        cost: costs between labels, shape `(K, K)`.
        history: outputs by epoch of the classifiers' training.
        exits: rows about early exits, each with the keys of the table's columns.
        images: the samples' images, by id, for the gallery; see `gallery_of`.
        about: what was probed, on which data, by which command: shown on the page.
        methods: distances; the first is the one that difficulty and epochs go by.
        main: the data that difficulty, over-thinking and gallery are about; "test" or the last one if None.
        each: how many samples of a kind the gallery shows.
        history_samples: at most so many samples of the history, evenly spread, are compared with their targets and from
            epoch to epoch; all if None. Between epochs both sides have mass on all labels, and each recorded epoch
            has as many distances as there are layers.
        quantiles: see `difficulty`.
        early: see `difficulty`.
        late: see `difficulty`.

    Returns:
        Where `probe.json` lies.

    Raises:
        ValueError: if the outputs do not fit each other, or an option does not fit.

    Example:
        >>> import tempfile
        >>> p = torch.rand(3, 8, 4, generator=torch.Generator().manual_seed(0))
        >>> targets = torch.eye(4, dtype=torch.bool).repeat(2, 1)
        >>> names, ids = tuple("abcd"), tuple(map(str, range(8)))
        >>> outputs = LayerOutputs(("conv1", "conv2", "output"), p, targets, "multi_label", names, ids)
        >>> path = write_results(tempfile.mkdtemp(), {"test": outputs}, 1 - torch.eye(4))
        >>> path.name, sorted(json.loads(path.read_text()))[:4]
        ('probe.json', ['about', 'adjacent', 'cost', 'depth'])
    """
    check_path("folder", folder)
    folder = Path(folder)
    main = _checked(outputs, history, methods, main)
    check_floating("cost", cost)
    check_count("each", each, "a number of samples, 0 or more", least=0)
    check_type("about", about, (Mapping, type(None)), "facts by name, or None")
    if exits is not None:
        check_items("exits", exits, Mapping, "rows, each a mapping")
    if history_samples is not None:
        check_count("history_samples", history_samples, "a number of samples, 1 or more, or None")
    few = {epoch: _evenly(own, history_samples) for epoch, own in (history or {}).items()}
    shown = outputs[main]
    found = {name: {m: sample_distances(own, cost, method=m) for m in methods} for name, own in outputs.items()}
    kinds = None
    if len(shown.layers) > 1:
        kinds = difficulty(found[main][methods[0]], quantiles=quantiles, early=early, late=late)
    for name, own in [*outputs.items(), *((f"epoch{epoch}", own) for epoch, own in (history or {}).items())]:
        own.save(folder / "outputs" / f"{name}.npz")
    everything: dict[str, Any] = {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"layershift": __version__, "torch": str(torch.__version__)},
        "about": dict(about or {}),
        "task": shown.task,
        "layers": shown.layers,
        "labels": shown.labels,
        "main": main,
        "splits": {name: len(own.targets) for name, own in outputs.items()},
        "cost": {"largest": float(cost.max()), "mean": _mean_cost(cost)},
        "methods": methods,
        "depth": [
            {"split": name, "method": method, **row._asdict()}
            for name, own in outputs.items()
            for method in methods
            for row in depth_table(own, cost, method=method, distances=found[name][method])
        ],
        "scores": [row for name, own in outputs.items() for row in score_rows(name, own)],
        "epochs": [row._asdict() for row in epoch_table(few, cost, method=methods[0])],
        "adjacent": [row._asdict() for row in adjacent_table(few, cost, method=methods[0])],
        "exits": [dict(row) for row in exits or ()],
    }
    if kinds is not None:
        everything["difficulty"] = {
            "counts": kinds.counts(),
            "thresholds": kinds.thresholds,
            "quantiles": kinds.quantiles,
            "early": [shown.layers[k] for k in kinds.early_layers],
            "late": [shown.layers[k] for k in kinds.late_layers],
            "of": kinds.of,
        }
        everything["gallery"] = gallery_of(
            shown, found[main][methods[0]], kinds, each=each, folder=folder, images=images
        )
    if bool(shown.targets.any()):
        over = overthinking(shown)
        everything["overthinking"] = asdict(over) | {"rows": [row._asdict() for row in over.rows]}
    if history:
        everything["course"] = _course(history)
    path = folder / "probe.json"
    _write(path, everything)
    return path


def replace_exits(folder: str | Path, exits: Sequence[Mapping[str, Any]]) -> Path:
    """Put other rows about early exits into a folder that `write_results` wrote.

    Args:
        folder: where `probe.json` lies.
        exits: the rows.

    Returns:
        Where `probe.json` lies.

    Raises:
        FileNotFoundError: if there is none.
    """
    check_path("folder", folder)
    check_items("exits", exits, Mapping, "rows, each a mapping")
    path = Path(folder) / "probe.json"
    check_file("folder", path)
    content = _read(path)
    content["exits"] = [dict(row) for row in exits]
    _write(path, content)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        fail("folder", "one that write_results wrote", f"{path}: {error}")
    check(isinstance(content, dict), "folder", "one that write_results wrote", path)
    return dict(content)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(_plain(content), allow_nan=False, indent=1).encode())


def score_rows(name: str, outputs: LayerOutputs) -> list[dict[str, Any]]:
    """Accuracy, CF1, OF1 and mAP of every layer.

    Args:
        name: of the data.
        outputs: what the layers' classifiers say.

    Returns:
        A row a layer; for a single label the sets are those of the most probable one.
    """
    rows = []
    said = outputs.predictions()
    for k, layer in enumerate(outputs.layers):
        metric = MultiLabelScores(len(outputs.labels))
        if len(outputs.targets):
            metric.update(outputs.probabilities[k], outputs.targets, said[k])
        result = metric.compute()
        values = {key: float(estimate.value) for key, estimate in result._asdict().items()}
        errors = {f"{key}_stderr": float(getattr(result, key).stderr) for key in ("accuracy", "of1")}
        rows.append({"split": name, "layer": layer, **values, **errors, "n": len(outputs.targets)})
    return rows


def _checked(
    outputs: Mapping[str, LayerOutputs],
    history: Mapping[int, LayerOutputs] | None,
    methods: Sequence[str],
    main: str | None,
) -> str:
    check_type("outputs", outputs, Mapping, "LayerOutputs by the name of the data")
    check_items("outputs", outputs, LayerOutputs, "LayerOutputs by the name of the data")
    if history is not None:
        check_type("history", history, Mapping, "LayerOutputs by epoch")
        check_items("history", history, LayerOutputs, "LayerOutputs by epoch")
    check_items("methods", methods, str, "names of distances")
    for method in methods:
        check_choice("methods", method, get_args(LabelMethod))
    check(len(outputs) > 0, "outputs", "outputs on at least one set of data", "none")
    check(len(methods) > 0, "methods", "at least one distance", "none")
    for name in outputs:
        right = re.fullmatch(r"\w[\w.-]*", name) is not None
        check(right, "outputs", "names of letters, digits, '_', '-' and '.', which become names of files", repr(name))
    main = ("test" if "test" in outputs else list(outputs)[-1]) if main is None else main
    check_type("main", main, str, "a name among the outputs")
    check(main in outputs, "main", "one of " + ", ".join(map(repr, outputs)), repr(main))
    like = outputs[main]
    for argument, group in (("outputs", outputs), ("history", history or {})):
        for key, own in group.items():
            same = (own.layers, own.labels, own.task) == (like.layers, like.labels, like.task)
            check(same, argument, f"the layers, labels and task of {main!r}", f"others at {key!r}")
    return main


def _evenly(outputs: LayerOutputs, limit: int | None) -> LayerOutputs:
    """At most so many samples, evenly spread."""
    n = len(outputs.targets)
    if limit is None or n <= limit:
        return outputs
    check_count("history_samples", limit, "a number of samples, 1 or more, or None")
    kept = [k * n // limit for k in range(limit)]
    p, targets = outputs.probabilities[:, kept], outputs.targets[kept]
    return replace(outputs, probabilities=p, targets=targets, ids=tuple(outputs.ids[i] for i in kept))


def _mean_cost(cost: Tensor) -> float:
    """Over pairs of different labels."""
    pairs = len(cost) * (len(cost) - 1)
    return float(cost.sum() / pairs) if pairs else 0.0


def _course(history: Mapping[int, LayerOutputs], samples: int = 4, epochs: int = 6) -> dict[str, Any]:
    """A few samples' label distributions through epochs, at the first, the middle and the last layer."""
    steps = sorted(history)
    steps = sorted({steps[round(k * (len(steps) - 1) / max(epochs - 1, 1))] for k in range(epochs)})
    last = history[steps[-1]]
    labelled = last.targets.any(1).nonzero().flatten().tolist()
    chosen = sorted(
        {labelled[k * (len(labelled) - 1) // max(samples - 1, 1)] for k in range(samples)} if labelled else ()
    )
    layers = sorted({0, (len(last.layers) - 1) // 2, len(last.layers) - 1})
    tables = {step: history[step].distributions() for step in steps}
    return {
        "epochs": steps,
        "layers": [last.layers[k] for k in layers],
        "samples": [
            {
                "id": last.ids[i],
                "target": last.targets[i].nonzero().flatten().tolist(),
                "distributions": [[rounded(tables[step][k, i]) for step in steps] for k in layers],
            }
            for i in chosen
        ],
    }


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, tensors numbers, everything strange its text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    return value if value is None or isinstance(value, str | int | bool) else str(value)
