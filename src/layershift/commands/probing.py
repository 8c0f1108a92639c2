"""Read a trained network by depth: `probe`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershift.commands.exiting import exit_row, rules_for, save_exits, search_rule
from layershift.commands.words import UsageError, command_of, say

if TYPE_CHECKING:
    from torch import Tensor

    from layershift.commands.subject import Subject
    from layershift.functional.label_transport import LabelMethod
    from layershift.probe import LayerOutputs, Probe
    from layershift.train.config import ScaleName

EPOCHS: Mapping[str, int] = {"smoke": 4, "laptop": 40, "paper": 100}
"""Passes over the features, by scale; the learning rate falls after four and after eight tenths of them."""

RECORDED = 20
"""Epochs at which outputs are kept, about."""


def probe(
    *,
    words: list[str],
    out: Path,
    scale: ScaleName,
    checkpoint: str,
    layers: list[str],
    output: str,
    pool: str,
    loss: str,
    epochs: int | None,
    learning_rate: float,
    batch_size: int,
    seed: int,
    cost: str | None,
    embeddings: Path | None,
    methods: list[LabelMethod],
    cache: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Read a trained network by depth: a classifier at every layer, and what each layer knows of the labels.

    The folder OUT gets tables (probe.json), the layers' outputs, trained classifiers and report.html. Without the
    folder of a run, model=… and data=… say what is probed, as layershift train has them. An interrupted probe goes on.
    """
    from layershift.commands.subject import find_subject
    from layershift.probe import fit, write_results
    from layershift.report.probe import write_probe_report

    folders, changes = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    if len(folders) > 1:
        raise UsageError(f"expected one folder of a run, got {', '.join(folders)}")
    run = Path(folders[0]) if folders else None
    subject = find_subject(run, changes, checkpoint=checkpoint)
    options: dict[str, Any] = {
        "layers": layers,
        "output": output,
        "pool": pool,
        "loss": loss,
        "scale": scale,
        "epochs": epochs,
    }
    options |= {"learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    chosen = {"run": None if run is None else str(run), "changes": changes, "checkpoint": checkpoint, **options}
    if _claimed(out, chosen, overwrite=overwrite):
        say("This probe was finished already.")
    data, passes = subject.data, EPOCHS[scale] if epochs is None else epochs
    found = fit(
        subject.model,
        data.in_order("train"),
        val_data=data.in_order("val"),
        layers=layers or None,
        task=subject.task,
        labels=data.labels,
        pool=pool,  # type: ignore[arg-type]
        epochs=passes,
        learning_rate=learning_rate,
        milestones=(round(0.4 * passes), round(0.8 * passes)),
        batch_size=batch_size,
        loss=loss,  # type: ignore[arg-type]
        output=output,  # type: ignore[arg-type]
        cache=out / "features" if cache else None,
        checkpoint=out / "training",
        resume=True,
        record=range(0, passes + 1, max(passes // RECORDED, 1)),
        seed=seed,
        progress=not quiet,
    )
    outputs = {part: found.predict(data.in_order(part), ids=data.ids(part)) for part in ("train", "val", "test")}
    between, kind = _costs(data.labels, outputs["train"].targets, cost, embeddings)
    shares = _shares(found, subject)
    searches = [search_rule(outputs["val"], rule, "accuracy", None, shares) for rule in rules_for(subject.task)]
    rows = [exit_row(outputs["test"], search, shares) for search in searches]
    found.save(out / "probe")
    write_results(
        out,
        outputs,
        between,
        history=found.history,
        exits=rows,
        images=lambda name: _image(subject, outputs["test"], name),
        about={
            "title": f"{subject.config.model} on {subject.config.data}, by depth",
            "network": subject.name,
            "data": subject.config.data,
            "cost of labels": kind,
            "classifiers": f"{passes} epochs at rate {learning_rate:g}, {loss}, {pool} pooling, seed {seed}",
            "command": command_of(sys.argv),
        },
        methods=methods,
    )
    save_exits(out, shares, searches)
    _say_layers(out)
    say(f"Open {write_probe_report(out)} in a browser; layershift exits {out} chooses where to stop.")


def _claimed(out: Path, chosen: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Take a folder for a probe; whether an earlier one came to its end there.

    Raises:
        RunError: if the folder holds another probe, or something else.
    """
    from layershift.train.folder import RunError
    from layershift.train.values import differences, load_yaml, save_yaml

    path = out / "probe.yaml"
    if overwrite and path.exists():
        for name in ("features", "training", "outputs", "gallery", "probe"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("probe.yaml", "probe.json", "exits.json", "report.html"):
            (out / name).unlink(missing_ok=True)
    if path.exists():
        if different := differences(chosen, load_yaml(path)):
            raise RunError(
                f"{out}: holds another probe: {', '.join(different)}; choose another folder (--out), or --overwrite"
            )
        return (out / "probe.json").exists()
    out.mkdir(parents=True, exist_ok=True)
    save_yaml(path, chosen)
    return False


def _costs(labels: Sequence[str], targets: Tensor, cost: str | None, embeddings: Path | None) -> tuple[Tensor, str]:
    """Costs between labels, and in words where they come from."""
    import numpy as np
    import torch

    from layershift.probe import cost_between

    vectors = None
    if embeddings is not None:
        try:
            vectors = torch.from_numpy(np.load(embeddings, allow_pickle=False)).float()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--embeddings: expected a .npy file of shape (K, d), got {embeddings} ({error})"
            ) from error
    try:
        if cost is None:
            try:
                found = cost_between(labels, "embeddings", embeddings=vectors), "embeddings"
            except ValueError:
                if vectors is not None:
                    raise
                found = cost_between(labels, "zero_one"), "zero_one"
        else:
            found = cost_between(labels, cost, embeddings=vectors, targets=targets), cost  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from error
    words = {
        "embeddings": "squared distance of word vectors" + (f" ({embeddings})" if embeddings else " (GloVe)"),
        "cooccurrence": "one less the Jaccard index of training samples",
        "zero_one": "1 between different labels",
    }
    return found[0], words[found[1]]


def _shares(found: Probe, subject: Subject) -> dict[str, float] | None:
    """The share of the network's operations up to each layer; None for a network that cannot be cut there."""
    from layershift.probe import exit_costs

    try:
        return exit_costs(found, subject.data.probe()[:1])
    except ValueError as error:
        say(f"No network that stops early can be made of this one: {error}", error=True)
        return None


def _image(subject: Subject, test: LayerOutputs, name: str) -> Tensor:
    return subject.data.images("test", [test.ids.index(name)])[0]


def _say_layers(out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    content = json.loads((out / "probe.json").read_text(encoding="utf-8"))
    scores = {row["layer"]: row for row in content["scores"] if row["split"] == "test"}
    method = content["methods"][0]
    distances = {row["layer"]: row for row in content["depth"] if (row["split"], row["method"]) == ("test", method)}
    table = Table("layer", "W to the target", "accuracy, %", "CF1, %", "OF1, %", "mAP, %")
    for column in table.columns[1:]:
        column.justify = "right"
    for layer in content["layers"]:
        score, distance = scores[layer], distances[layer]
        shown = [f"{distance['mean']:.4f} ± {distance['stderr']:.4f}"]
        shown.append(f"{100 * score['accuracy']:.2f} ± {100 * score['accuracy_stderr']:.2f}")
        table.add_row(
            layer, *shown, *("–" if score[k] is None else f"{100 * score[k]:.2f}" for k in ("cf1", "of1", "map"))
        )
    console = Console()
    console.print(table)
    n = content["splits"]["test"]
    console.print(f"Test data, n = {n}; mean ± standard error over samples; distance: {method}.", highlight=False)
