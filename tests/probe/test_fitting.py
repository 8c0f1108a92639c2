"""Training the classifiers: against a loop written out, all at once against one alone, resumed against not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layershift._seeds import derive_seed
from layershift.probe.features import Extractor
from layershift.probe.fitting import fit
from layershift.probe.heads import InternalClassifiers
from layershift.probe.layers import default_layers
from layershift.probe.outputs import LayerOutputs
from layershift.probe.probe import Probe, label_probabilities
from layershift.probe.training import Training, label_loss
from layershift.train.models import small_cnn

LAYERS = ("block1.relu", "block2.relu", "block3.relu", "block4.relu")


def network() -> nn.Sequential:
    """Maps of 4 × 4 to three labels."""
    return small_cnn(1, 3, widths=(4, 4, 6, 6), norm="batch", seed=0)


def batches(n: int = 40, *, multi: bool = False, size: int = 16, seed: int = 0) -> list:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 1, 4, 4, generator=generator) + y[:, None, None, None]
    if multi:  # a label of its own, and another now and then; every seventh sample has none
        y = nn.functional.one_hot(y, 3) | (torch.rand(n, 3, generator=generator) < 0.2)
        y[::7] = 0
    return list(zip(x.split(size), y.split(size), strict=True))


SHORT = {"epochs": 4, "batch_size": 8, "milestones": (2,), "learning_rate": 0.1}


def weights(probe: Probe) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in probe.classifiers.state_dict().items()}


def assert_same(first: Probe, second: Probe, **tolerance) -> None:
    for name, value in weights(first).items():
        torch.testing.assert_close(weights(second)[name], value, **(tolerance or {"rtol": 0, "atol": 0}))


def written_out(model, data, layer: str, *, multi: bool, softmax: bool = False, pool: str = "average") -> nn.Linear:
    """One classifier, with a hook and a loop of its own."""
    seen: list[torch.Tensor] = []
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    h = seen[0].mean((2, 3)) if pool == "average" else seen[0].flatten(1)
    target = y.float() if multi else nn.functional.one_hot(y, 3).float()
    linear = nn.Linear(h.shape[1], 3)
    (start,) = InternalClassifiers({layer: h.shape[1]}, 3, seed=5).classifiers
    linear.load_state_dict(start.state_dict())
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], 0.1)
    for epoch in range(4):
        order = torch.randperm(len(h), generator=torch.Generator().manual_seed(derive_seed(5, epoch)))
        for indices in order.split(8):
            z, t = linear(h[indices]), target[indices]
            if softmax:
                loss = -(z.log_softmax(1) * t).sum(1).mean()
            else:
                loss = -(t * z.sigmoid().log() + (1 - t) * (1 - z.sigmoid()).log()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return linear


@pytest.mark.parametrize("pool", ["average", "flatten"])
@pytest.mark.parametrize(("multi", "loss"), [(True, "bce"), (False, "bce"), (False, "cross_entropy")])
def test_each_classifier_is_what_a_loop_of_its_own_gives(multi, loss, pool) -> None:
    model, data = network(), batches(multi=multi)
    probe = fit(model, data, pool=pool, loss=loss, seed=5, **SHORT)
    assert probe.layers == (*LAYERS, "output")
    for layer, trained in zip(LAYERS, probe.classifiers.classifiers, strict=True):
        expected = written_out(model, data, layer, multi=multi, softmax=loss == "cross_entropy", pool=pool)
        torch.testing.assert_close(trained.weight, expected.weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(trained.bias, expected.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_all_at_once_is_as_one_alone(loss) -> None:
    model, data = network(), batches()
    together = fit(model, data, loss=loss, **SHORT)
    for i, layer in enumerate(LAYERS):
        alone = fit(model, data, layers=layer, loss=loss, **SHORT)
        torch.testing.assert_close(alone.classifiers.classifiers[0].weight, together.classifiers.classifiers[i].weight)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_a_sum_of_means(n_layers, n, k) -> None:
    logits = torch.randn(n_layers, n, k, dtype=torch.float64)
    targets = torch.rand(n, k) < 0.5
    bce = sum(nn.functional.binary_cross_entropy(z.sigmoid(), targets.double()) for z in logits)
    torch.testing.assert_close(label_loss(logits, targets, "bce"), bce)
    classes = torch.randint(k, (n,))
    table = nn.functional.one_hot(classes, k).bool()
    expected = sum(nn.functional.cross_entropy(z, classes) for z in logits)
    torch.testing.assert_close(label_loss(logits, table, "cross_entropy"), expected)


def test_probabilities_are_sigmoids_or_distributions() -> None:
    z = torch.tensor([[1.0, -2.0, 0.5], [-200.0, -201.0, -202.0]])
    torch.testing.assert_close(label_probabilities(z, "multi_label", "bce"), z.sigmoid())
    torch.testing.assert_close(label_probabilities(z, "single_label", "cross_entropy"), z.softmax(1))
    shares = label_probabilities(z, "single_label", "bce")
    torch.testing.assert_close(shares[0], z[0].sigmoid() / z[0].sigmoid().sum())
    exact = z[1].double().sigmoid()  # 0 in float32
    torch.testing.assert_close(shares[1], (exact / exact.sum()).float())


def test_predictions_are_the_classifiers_and_the_networks_own() -> None:
    model, data = network(), batches()
    probe = fit(model, data, labels=["a", "b", "c"], **SHORT)
    found = probe.predict(data, ids=[f"sample {i}" for i in range(40)])
    assert (found.layers, found.labels, found.ids[39]) == ((*LAYERS, "output"), ("a", "b", "c"), "sample 39")
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    features = Extractor(model, default_layers(model), num_labels=3, task="single_label")(x, y).layers
    expected = probe.classifiers(features).sigmoid()
    torch.testing.assert_close(found.probabilities[:-1], expected / expected.sum(-1, keepdim=True))
    torch.testing.assert_close(found.probabilities[-1], model.eval()(x).softmax(1).detach())
    assert torch.equal(found.targets.int().argmax(1), y)
    assert not found.probabilities.requires_grad
    with pytest.raises(ValueError, match="ids: expected 40 names"):
        probe.predict(data, ids=["one"])


def test_of_several_labels_the_network_gives_sigmoids() -> None:
    model, data = network(), batches(multi=True)
    found = fit(model, data, **SHORT).predict(data)
    assert found.task == "multi_label"
    x = torch.cat([x for x, _ in data])
    torch.testing.assert_close(found.probabilities[-1], model.eval()(x).sigmoid().detach())
    assert not found.targets[::7].any()
    assert not found.correct()[:, ::7].any()


def test_classifiers_learn_what_is_there_to_learn() -> None:
    data = batches(120)
    probe = fit(network(), data, epochs=60, learning_rate=0.5, milestones=(), val_data=data, record=[0, 60])
    before, after = (probe.history[epoch].correct().float().mean(1)[:-1] for epoch in (0, 60))
    assert (after[:2] > 0.85).all()  # random layers lose what tells the labels apart
    assert (after > before + 0.3).all()
    assert torch.equal(probe.history[0].probabilities[-1], probe.history[60].probabilities[-1])


def test_the_network_stays_as_it_was() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, batches(), val_data=batches(seed=1), **SHORT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_seeds_determine_everything() -> None:
    model, data = network(), batches()
    state = torch.get_rng_state()
    first = fit(model, data, seed=1, **SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert_same(first, fit(model, data, seed=1, **SHORT))
    with pytest.raises(AssertionError):
        assert_same(first, fit(model, data, seed=2, **SHORT))


def test_the_cache_changes_nothing_and_is_used_again(tmp_path) -> None:
    model, data, val = network(), batches(), batches(seed=1)
    expected = fit(model, data, val_data=val, **SHORT)
    for _ in range(2):
        probe = fit(model, data, val_data=val, cache=tmp_path, **SHORT)
        assert_same(expected, probe)
        assert torch.equal(expected.history[4].probabilities, probe.history[4].probabilities)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]
    assert (tmp_path / "train" / "manifest.json").exists()


def test_streamed_batches_are_the_datas(monkeypatch) -> None:
    model, data = network(), batches(size=8)
    streamed = fit(model, data, cache_limit=0, val_data=data, **(SHORT | {"batch_size": 3}))
    # As the kept features, where a shuffle changes nothing.
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))
    kept = fit(model, data, val_data=data, **SHORT)
    assert_same(streamed, kept, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(streamed.history[4].probabilities, kept.history[4].probabilities, rtol=1e-4, atol=1e-6)


def interrupt_after(monkeypatch, epochs: int) -> None:
    """The training is interrupted in an epoch, once some are done."""
    whole, done = Training.epoch, []

    def epoch(self, features, rate) -> None:
        if len(done) == epochs:
            raise KeyboardInterrupt
        done.append(rate)
        whole(self, features, rate)

    monkeypatch.setattr(Training, "epoch", epoch)


@pytest.mark.parametrize("done", [0, 1, 3])
@pytest.mark.parametrize("options", [{}, {"cache_limit": 0}, {"output": "head"}])
def test_a_resumed_training_is_as_an_uninterrupted_one(tmp_path, monkeypatch, done, options) -> None:
    model, data, val = network(), batches(multi=True), batches(seed=1, multi=True)
    options = {"val_data": val, "record": [0, 2, 3, 4]} | SHORT | options
    expected = fit(model, data, **options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, done)
        with pytest.raises(KeyboardInterrupt):
            fit(model, data, checkpoint=tmp_path, **options)
    rates = []
    whole = Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda self, b, rate: (rates.append(rate), whole(self, b, rate)))
    resumed = fit(model, data, checkpoint=tmp_path, resume=True, **options)
    assert len(rates) <= 4
    assert done == 0 or len(rates) < 4
    assert_same(expected, resumed)
    assert sorted(resumed.history) == [0, 2, 3, 4]
    for epoch, outputs in expected.history.items():
        assert torch.equal(outputs.probabilities, resumed.history[epoch].probabilities)
    rates.clear()
    assert_same(expected, fit(model, data, checkpoint=tmp_path, resume=True, **options))
    assert rates == []


def test_more_epochs_may_follow(tmp_path) -> None:
    model, data = network(), batches()
    fit(model, data, checkpoint=tmp_path, **(SHORT | {"epochs": 2}))
    assert_same(fit(model, data, **SHORT), fit(model, data, checkpoint=tmp_path, resume=True, **SHORT))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.2}, "checkpoint: expected one of a training with learning_rate 0.2, got 0.1"),
        ({"seed": 3}, "checkpoint: expected one of a training with seed 3, got 0"),
        ({"layers": "block1.relu"}, "checkpoint: expected one of a training with sizes"),
        ({"epochs": 1}, "checkpoint: expected one of at most 1 epochs, got 4"),
        ({"val_data": batches(), "record": [1]}, "checkpoint: expected one that recorded epoch 1"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(tmp_path, change, message) -> None:
    model, data = network(), batches()
    fit(model, data, checkpoint=tmp_path, **SHORT)
    with pytest.raises(ValueError, match=message):
        fit(model, data, checkpoint=tmp_path, resume=True, **(SHORT | change))
    for other in (small_cnn(1, 3, widths=(4, 4, 6, 6), norm="batch", seed=1), model):
        with pytest.raises(ValueError, match="a training with network and data"):
            fit(other, batches(seed=int(other is model)), checkpoint=tmp_path, resume=True, **SHORT)


def test_a_damaged_checkpoint_is_told(tmp_path) -> None:
    model, data = network(), batches()
    fit(model, data, checkpoint=tmp_path, **SHORT)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    weight = whole.find(torch.load(path, weights_only=True)["heads"][0]["classifiers.0.weight"].numpy().tobytes())
    flipped = whole[: weight + 2] + bytes([whole[weight + 2] ^ 1]) + whole[weight + 3 :]
    for content in (b"", b"nothing", whole[: len(whole) // 2], flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"path: expected a whole file of layershift probe checkpoint, .*check"):
            fit(model, data, checkpoint=tmp_path, resume=True, **SHORT)
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match="path: expected a file of layershift probe checkpoint"):
        fit(model, data, checkpoint=tmp_path, resume=True, **SHORT)


KILLED = """
import sys
from tests.probe.test_fitting import SHORT, batches, fit, network
fit(network(), batches(), checkpoint=sys.argv[1], cache=sys.argv[2], resume=True, **(SHORT | {"epochs": 3000}))
"""


@pytest.mark.slow
def test_a_killed_training_is_resumed(tmp_path) -> None:
    folder = tmp_path / "checkpoint"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(tmp_path / "cache")])
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    assert process.poll() is None, "the training ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"]
    assert 0 < done < 3000
    options = SHORT | {"epochs": done + 20}
    resumed = fit(network(), batches(), checkpoint=folder, cache=tmp_path / "cache", resume=True, **options)
    assert_same(fit(network(), batches(), **options), resumed)


@pytest.mark.parametrize("options", [{}, {"output": "head"}, {"loss": "cross_entropy", "pool": "flatten"}])
def test_a_probe_comes_back_from_disk(tmp_path, options) -> None:
    model, data = network(), batches()
    options = {"labels": "abc", "val_data": data, "record": [0, 3]} | options
    probe = fit(model, data, **SHORT, **options)
    probe.save(tmp_path)
    probe.save(tmp_path)  # again, over what is there
    again = Probe.load(tmp_path, model)
    assert (again.layers, again.task, again.loss) == (probe.layers, "single_label", probe.loss)
    assert again.labels == ("a", "b", "c")
    assert torch.equal(again.predict(data).probabilities, probe.predict(data).probabilities)
    assert sorted(again.history) == [0, 3]
    assert torch.equal(again.history[3].probabilities, probe.history[3].probabilities)
    with pytest.raises(ValueError, match="model: expected the network whose layers were probed"):
        Probe.load(tmp_path, small_cnn(1, 3, widths=(4, 4, 6, 6), norm="batch", seed=1))
    (tmp_path / "probe.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="path: expected a whole file of layershift probe, version 1"):
        Probe.load(tmp_path, model)
    with pytest.raises(FileNotFoundError):
        Probe.load(tmp_path / "nowhere", model)


def test_a_head_stands_for_an_output_over_other_labels() -> None:
    model, data = network(), batches(multi=True)
    two = [(x, y[:, :2]) for x, y in data]
    with pytest.raises(ValueError, match=r"model: expected an output for each of 2 labels, or output='head'"):
        fit(model, two, **SHORT)
    probe = fit(model, two, output="head", val_data=two, **(SHORT | {"epochs": 60}))
    assert probe.head is not None
    assert probe.head.weight.shape == (2, 6)
    found = probe.predict(two)
    assert found.layers[-1] == "output"
    # It sees what the last classifier sees, and differs by its initial weights alone, which are forgotten.
    torch.testing.assert_close(found.probabilities[-1], found.probabilities[-2], rtol=0, atol=0.2)
    assert torch.equal(found.probabilities, probe.history[60].probabilities)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "epochs: expected a number of passes"),
        ({"learning_rate": 0}, "learning_rate: expected a positive number, got 0"),
        ({"momentum": 1.0}, r"momentum: expected a number in \[0, 1\)"),
        ({"weight_decay": -1}, "weight_decay: expected a number, 0 or more"),
        ({"milestones": [-1]}, "milestones: expected epochs"),
        ({"decay": 0}, "decay: expected a positive number"),
        ({"batch_size": 0}, "batch_size: expected a number of samples"),
        ({"loss": "mse"}, "loss: expected one of 'bce', 'cross_entropy', got 'mse'"),
        ({"output": "none"}, "output: expected one of 'network', 'head'"),
        ({"task": "other"}, "task: expected one of 'single_label', 'multi_label'"),
        ({"task": "multi_label"}, r"y: expected shape \(N, K\) for a multi-label task, got shape \(16,\)"),
        ({"resume": True}, "checkpoint: expected a folder to resume from, got None"),
        ({"record": [1]}, "val_data: expected data to record outputs on, got None"),
        ({"val_data": batches(), "record": [5]}, r"record: expected epochs from 0 to 4, got \[5\]"),
        ({"labels": ["a", "b"]}, "model: expected an output for each of 2 labels"),
        ({"labels": ["a", "b"], "output": "head"}, "y: expected classes from 0 to 1, got"),
        ({"labels": list("abcd")}, "model: expected an output for each of 4 labels"),
        ({"output": "head"}, "labels: expected names of the labels for output='head' of a single-label task"),
        ({"layers": "none"}, "layers: expected a pattern that matches a layer"),
    ],
)
def test_options_are_checked(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit(network(), batches(), **(SHORT | change))


def test_a_softmax_is_for_one_label() -> None:
    with pytest.raises(ValueError, match="loss: expected 'bce' for a multi-label task, got 'cross_entropy'"):
        fit(network(), batches(multi=True), loss="cross_entropy", **SHORT)


@pytest.mark.parametrize("options", [{}, {"cache_limit": 0}])
def test_bad_data_are_told_wherever_they_stand(options) -> None:
    good = batches()
    x, y = good[-1]
    nan = x.clone()
    nan[3] = torch.nan
    for last, error, message in (
        ((nan, y), ValueError, "layer 'block1.relu': expected finite features, got NaN or infinite ones"),
        ((x, y + 3), ValueError, "y: expected classes from 0 to 2, got"),
        ((x, y[:3]), ValueError, "data: expected as many labels as samples"),
        ((x,), TypeError, r"data: expected batches \(x, y\) of two tensors"),
    ):
        with pytest.raises(error, match=message):
            fit(network(), [*good[:-1], last], **SHORT, **options)
    with pytest.raises(ValueError, match="data: expected at least one sample, got none"):
        fit(network(), [], **SHORT, **options)
    with pytest.raises(TypeError, match="data: expected batches that can be gone through again"):
        fit(network(), iter(good), **SHORT, **options)


def test_divergence_is_told() -> None:
    data = [(x * 1e18, y) for x, y in batches()]
    with pytest.raises(ValueError, match="learning_rate: expected one with which the classifier of layer 'block"):
        fit(small_cnn(1, 3, widths=(4, 4, 6, 6), seed=0), data, **(SHORT | {"learning_rate": 1e30}))


def test_progress_is_shown(capsys) -> None:
    pytest.importorskip("rich")
    quiet = fit(network(), batches(), **SHORT)
    assert capsys.readouterr().out == ""
    assert_same(quiet, fit(network(), batches(), progress=True, **SHORT))
    shown = capsys.readouterr().out
    assert "features" in shown
    assert "40/40" in shown
    assert "4/4" in shown


def test_the_defaults_are_the_papers() -> None:
    rates = []
    whole = Training.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "epoch", lambda self, b, rate: (rates.append((self, rate)), whole(self, b, rate)))
        fit(network(), batches(8))
    assert [rate for _, rate in rates] == pytest.approx([0.01] * 40 + [0.001] * 40 + [0.0001] * 20)
    group = rates[0][0].optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], rates[0][0].recipe["batch_size"]) == (0.9, 1e-4, 128)


def test_outputs_of_any_epoch_are_layer_outputs() -> None:
    probe = fit(network(), batches(), val_data=batches(7, seed=1), record=[0, 1], **SHORT)
    assert {type(outputs) for outputs in probe.history.values()} == {LayerOutputs}
    assert probe.history[1].probabilities.shape == (5, 7, 3)
