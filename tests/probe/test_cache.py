"""Features that are kept: what is used again, what is made anew, and what is never taken for finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layershift.probe import cache
from layershift.probe.cache import count_samples, keep_features, model_digest
from layershift.probe.features import Extractor, Features
from layershift.probe.layers import default_layers


class Network(nn.Sequential):
    """Counts the samples it sees."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(nn.Linear(4, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 2))
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return super().forward(x)


def extractor(model: nn.Module, **options) -> Extractor:
    return Extractor(model, default_layers(model), num_labels=2, task="single_label", **options)


def batches(*sizes: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 4, generator=generator), torch.arange(n) % 2) for n in sizes]


def equal(first: Features, second: Features) -> bool:
    same = [torch.equal(value, second.layers[name]) for name, value in first.layers.items()]
    return all(same) and list(first.layers) == list(second.layers) and torch.equal(first.targets, second.targets)


DATA = batches(5, 5, 2)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(sum))
@settings(max_examples=15, deadline=None)
def test_memory_disk_and_stream_agree(tmp_path_factory, sizes) -> None:
    extract, data = extractor(Network()), batches(*sizes)
    parts = list(extract.stream(data))
    layers = {name: torch.cat([part.layers[name] for part in parts]) for name in parts[0].layers}
    expected = Features(layers, torch.cat([part.targets for part in parts]))
    folder = tmp_path_factory.mktemp("cache")
    assert equal(keep_features(extract, data), expected)
    assert equal(keep_features(extract, data, folder=folder), expected)
    assert equal(keep_features(extract, data, folder=folder), expected)  # read


def test_what_lies_there_is_used_again(tmp_path) -> None:
    model = Network()
    first = keep_features(extractor(model), DATA, folder=tmp_path)
    assert model.seen == 2 + 12  # two to learn the sizes
    told = []
    second = keep_features(extractor(model), DATA, folder=tmp_path, tell=lambda *numbers: told.append(numbers))
    assert model.seen == 2 + 12 + 2
    assert told == [(12, 12)]
    assert equal(first, second)
    second.layers["1"].zero_()  # reaches no file
    assert equal(first, keep_features(extractor(model), DATA, folder=tmp_path))


def test_files_are_numpys_and_the_manifest_tells_of_them(tmp_path) -> None:
    kept = keep_features(extractor(Network()), DATA, folder=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["layer"] for entry in manifest["files"]] == ["1", "3", "output", ""]
    for entry, value in zip(manifest["files"], [*kept.layers.values(), kept.targets], strict=True):
        array = np.load(tmp_path / entry["file"], allow_pickle=False)
        assert (list(array.shape), array.dtype.str) == (entry["shape"], entry["dtype"])
        assert np.array_equal(array, value.numpy())


def change_weights(model, data, options):
    model[0].weight.data[0, 0] += 1e-6


def change_statistics(model, data, options):
    model[2].running_mean += 1


def change_modules(model, data, options):
    model[1] = nn.ELU()


def change_pool(model, data, options):
    options["pool"] = "flatten"


def change_output(model, data, options):
    options["output"] = False


def change_number(model, data, options):
    data.append(data[-1])


def change_inputs(model, data, options):
    data[0] = (data[0][0] + 1, data[0][1])


def change_labels(model, data, options):
    data[0] = (data[0][0], 1 - data[0][1])


@pytest.mark.parametrize(
    "change",
    [
        change_weights, change_statistics, change_modules, change_pool, change_output, change_number, change_inputs,
        change_labels,
    ],
)  # fmt: skip
def test_features_of_anything_else_are_made_anew(tmp_path, change) -> None:
    model, data, options = Network(), list(DATA), {}
    keep_features(extractor(model), data, folder=tmp_path)
    change(model, data, options)
    expected = keep_features(extractor(model, **options), data)
    before = model.seen
    assert equal(keep_features(extractor(model, **options), data, folder=tmp_path), expected)
    assert model.seen == before + 2 + count_samples(data)
    assert len(list(tmp_path.glob("*.npy"))) == len(expected.layers) + 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["features-000.npy", "features-002.npy", "features-003.npy", "manifest.json"])
@pytest.mark.parametrize(
    "damage",
    [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_text("")],
)
def test_damaged_features_are_made_anew(tmp_path, name, damage) -> None:
    model = Network()
    expected = keep_features(extractor(model), DATA, folder=tmp_path)
    expected = Features({key: value.clone() for key, value in expected.layers.items()}, expected.targets.clone())
    damage(tmp_path / name)
    before = model.seen
    assert equal(keep_features(extractor(model), DATA, folder=tmp_path), expected)
    assert model.seen == before + 2 + 12
    before = model.seen
    assert equal(keep_features(extractor(model), DATA, folder=tmp_path), expected)
    assert model.seen == before + 2


class Breaking(list):
    """Data that fail in the last batch, once."""

    def __init__(self, data, error: BaseException) -> None:
        super().__init__(data)
        self.error, self.passes = error, 0

    def __iter__(self):
        self.passes += 1
        for i, batch in enumerate(super().__iter__()):
            if i == 2 and self.passes == 3:  # the first pass counts, the second only begins
                raise self.error
            yield batch


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_was_interrupted_does_not_look_finished(tmp_path, error) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    model, data = Network(), Breaking(DATA, error)
    with pytest.raises(type(error)):
        keep_features(extractor(model), data, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert keep_features(extractor(model), data, folder=tmp_path) is not None


def test_a_killed_writer_leaves_no_manifest(tmp_path, monkeypatch) -> None:
    model = Network()

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_remove", lambda folder: None)  # nothing is cleaned up
        patch.setattr(cache.hashlib, "file_digest", killed)
        with pytest.raises(SystemExit):
            keep_features(extractor(model), DATA, folder=tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    assert len(list(tmp_path.glob("*.npy"))) == 4
    before = model.seen
    keep_features(extractor(model), DATA, folder=tmp_path)
    assert model.seen == before + 2 + 12


def test_too_large_features_are_not_kept(tmp_path, monkeypatch) -> None:
    extract = extractor(Network())
    needed = 12 * (4 * (3 + 3 + 2) + 2)
    for folder in (None, tmp_path):
        assert keep_features(extract, DATA, folder=folder, limit=needed) is not None
        with pytest.warns(UserWarning, match=f"features take {needed} bytes, and .* has room for {needed - 1}:"):
            assert keep_features(extract, batches(12, seed=1), folder=folder, limit=needed - 1) is None
        assert keep_features(extract, DATA, folder=folder, limit=0) is None
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 600, 400))
    with pytest.warns(UserWarning, match="the folder .* has room for 360"):
        assert keep_features(extract, DATA, folder=tmp_path) is None
    with pytest.raises(ValueError, match="limit: expected a number of bytes, 0 or more, got -1"):
        keep_features(extract, DATA, limit=-1)


def test_samples_are_counted_without_loading_where_a_loader_tells() -> None:
    class Unread(TensorDataset):
        def __getitem__(self, index):
            raise AssertionError

    data = Unread(torch.zeros(10, 4), torch.zeros(10))
    assert count_samples(DataLoader(data, batch_size=4)) == 10
    assert count_samples(DataLoader(data, batch_size=4, drop_last=True, shuffle=True)) == 8
    assert count_samples(DATA) == 12
    own = DataLoader(TensorDataset(torch.zeros(10, 4), torch.zeros(10)), batch_sampler=[[0, 1], [2]])
    assert count_samples(own) == 3


def test_another_number_than_announced_is_an_error(tmp_path) -> None:
    data = TensorDataset(torch.zeros(10, 4), torch.zeros(10).long())

    def collated(change):
        return DataLoader(data, 5, collate_fn=lambda items: tuple(map(torch.stack, zip(*change(items), strict=True))))

    for folder in (None, tmp_path):
        with pytest.raises(ValueError, match="data: expected 10 samples, as counted before, got 8"):
            keep_features(extractor(Network()), collated(lambda items: items[:-1]), folder=folder)
    with pytest.raises(TypeError, match="data: expected batches that can be gone through again"):
        keep_features(extractor(Network()), iter(DATA))
    with pytest.raises(ValueError, match="data: expected 10 samples, as counted before, got more"):
        keep_features(extractor(Network()), collated(lambda items: items + items[:1]))


def test_a_digest_is_of_every_weight_and_statistic() -> None:
    model = Network()
    before = model_digest(model)
    assert model_digest(Network()) != before
    assert model_digest(model.train()) == before
    for change in (lambda: model[4].bias.data.add_(1e-6), lambda: model[2].running_var.add_(1e-6)):
        change()
        assert model_digest(model) != before
        before = model_digest(model)
    model.bfloat16()
    assert model_digest(model) != before
