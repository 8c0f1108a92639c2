"""A pickle in a file that is loaded: it is refused, and what it would call is not called."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tests.faults import samples
from tests.faults.kills import CONFIG
from tests.faults.outcome import Counts, judged

from layershift.probe.cache import keep_features
from layershift.probe.early_exit import EarlyExit
from layershift.probe.outputs import LayerOutputs
from layershift.probe.probe import Probe
from layershift.train import train
from layershift.train.data.formats import parse_cifar10_pickle
from layershift.train.fit import read_checkpoint
from layershift.train.folder import folder_of
from layershift.train.models.torchvision_networks import _read
from layershift.train.restore import load_run


class Payload:
    """When unpickled, it calls something that makes a file."""

    def __init__(self, marker: Path, way: str) -> None:
        self.marker, self.way = marker, way

    def __reduce__(self) -> tuple[Any, ...]:
        calls = {
            "open": (open, (str(self.marker), "w")),
            "os.mkdir": (os.mkdir, (str(self.marker),)),
            "os.system": (os.system, (f"touch {self.marker}",)),
            "exec": (exec, (f"open({str(self.marker)!r}, 'w').close()",)),
            "eval": (eval, (f"open({str(self.marker)!r}, 'w').close()",)),
        }
        return calls[self.way]


WAYS = ("open", "os.mkdir", "os.system", "exec", "eval")


def forms(content: dict[str, Any], payload: Payload) -> dict[str, bytes]:
    """A file of PyTorch with a payload, in each form that it may have."""
    evil = {**content, "extra": payload}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(evil, new)
    torch.save(evil, old, _use_new_zipfile_serialization=False)
    return {"archive": new.getvalue(), "old form": old.getvalue(), "bare pickle": pickle.dumps(evil)}


def pickles(seed: int, full: bool) -> Counts:
    """Every place that loads a file, every form of the file, and several things to call."""
    random, counts = Random(f"pickles {seed}"), Counts()
    with tempfile.TemporaryDirectory(prefix="layershift-") as name:
        folder, marker = Path(name), Path(name) / "called"
        pickle.loads(pickle.dumps(Payload(marker, "os.mkdir")))
        assert marker.exists(), "a payload that does nothing would prove nothing"
        marker.rmdir()
        finished = folder_of(CONFIG, folder / "runs")
        train(CONFIG, folder / "runs")
        for way in WAYS if full else random.sample(WAYS, 2):
            for what, (file, names, load) in places(folder, finished.last, Payload(marker, way)).items():
                before = None if file is None else file.read_bytes()
                must = what != "features"  # which are made anew
                with judged(counts, f"{what}, {way}", names, must_refuse=must), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    load()
                if marker.exists():
                    counts.fail(f"{what}, {way}: the payload was called")
                    os.system(f"rm -rf {marker}")
                if file is not None and before is not None:
                    file.write_bytes(before)
    return counts


def places(folder: Path, last: Path, payload: Payload) -> dict[str, tuple[Path | None, str, Callable[[], Any]]]:
    """What loads a file: the file to restore afterwards, what the error must name, and the call."""
    made: dict[str, tuple[Path | None, str, Callable[[], Any]]] = {}
    model, classifiers = samples.network()
    Probe(model, classifiers, task="single_label", labels=("a", "b", "c")).save(folder)
    contents = {
        "checkpoint": {"config": samples.CONFIG.identity(), "state_dict": {}},
        "run": torch.load(last, weights_only=True),
        "probe": torch.load(folder / "probe.pt", weights_only=True),
    }

    def put(path: Path, data: bytes, load: Callable[[], Any]) -> Callable[[], Any]:
        def both() -> Any:
            path.write_bytes(data)
            return load()

        return both

    path = folder / "evil.pt"
    for form, data in forms(contents["checkpoint"], payload).items():
        made[f"read_checkpoint, {form}"] = (
            None,
            "evil.pt",
            put(path, data, lambda: read_checkpoint(path, samples.CONFIG.identity())),
        )
        made[f"weights of a network, {form}"] = (
            None,
            "evil.pt",
            put(path, data, lambda: _read(None, "resnet18", path)),
        )
    for form, data in forms(contents["run"], payload).items():
        made[f"load_run, {form}"] = (last, "last.ckpt", put(last, data, lambda: load_run(last.parent.parent)))
    for form, data in forms(contents["probe"], payload).items():
        file = folder / "probe.pt"
        made[f"Probe.load, {form}"] = (file, "probe.pt", put(file, data, lambda: Probe.load(folder, model)))
        made[f"EarlyExit.load, {form}"] = (None, "evil.pt", put(path, data, lambda: EarlyExit.load(path, model)))
    objects = np.empty(2, dtype=object)
    objects[:] = [payload, payload]
    arrays, array = io.BytesIO(), io.BytesIO()
    np.savez(arrays, header=objects, probabilities=objects, targets=objects)
    np.save(array, objects, allow_pickle=True)
    npz = folder / "evil.npz"
    made["LayerOutputs.load"] = (None, "evil.npz", put(npz, arrays.getvalue(), lambda: LayerOutputs.load(npz)))
    batch = pickle.dumps({"data": payload, "labels": [0]})
    made["a batch of CIFAR"] = (None, "data_batch", lambda: parse_cifar10_pickle([(folder / "data_batch", batch)]))
    made["features"] = (None, "", lambda: _features(folder / "features", array.getvalue()))
    return made


def _features(folder: Path, array: bytes) -> None:
    """Features that lie there, one of them with objects, and a manifest that vouches for it."""
    extract, data = samples.extractor()
    keep_features(extract, data, folder=folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["files"][0]
    (folder / entry["file"]).unlink()
    (folder / entry["file"]).write_bytes(array)
    entry["sha256"] = hashlib.sha256(array).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    kept = keep_features(extract, data, folder=folder)
    assert kept is not None
    assert all(torch.isfinite(value).all() for value in kept.layers.values())
