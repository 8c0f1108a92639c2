"""Features of a frozen network: against a hook made by hand, and all that can be wrong with layers and labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layershift.probe.features import Extractor, label_table
from layershift.probe.layers import choose_layers, default_layers
from layershift.train.models import cifar_resnet, small_cnn


def extractor(model: nn.Module, layers=None, *, num_labels: int = 10, **options) -> Extractor:
    options = {"task": "single_label"} | options
    return Extractor(model, choose_layers(model, layers), num_labels=num_labels, **options)


def classes(n: int) -> torch.Tensor:
    return torch.arange(n) % 2


@pytest.mark.parametrize("pool", ["average", "flatten"])
@pytest.mark.parametrize("make", [lambda: cifar_resnet(8, width=4, in_channels=1), small_cnn])
def test_features_are_those_of_a_hook(make, pool) -> None:
    model, x = make(), torch.randn(6, 1, 8, 8)
    seen = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output.clone()}))
        for name, module in default_layers(model).items()
    ]
    with torch.no_grad():
        output = model.eval()(x)
    for handle in handles:
        handle.remove()
    features = extractor(model, pool=pool)(x, classes(6))
    assert list(features.layers) == [*default_layers(model), "output"]
    for name, value in seen.items():
        expected = value.mean((2, 3)) if pool == "average" else value.flatten(1)
        torch.testing.assert_close(features.layers[name], expected)
    torch.testing.assert_close(features.layers["output"], output)
    assert torch.equal(features.targets.int().argmax(1), classes(6))


def test_a_layer_that_works_in_place_changes_no_feature() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(20, 4)
    features = extractor(model, ["0", "1"], num_labels=2)(x, classes(20)).layers
    torch.testing.assert_close(features["0"], model[0](x).detach())
    torch.testing.assert_close(features["1"], features["0"].relu())
    assert (features["0"] < 0).any()


def test_the_network_is_left_as_it_was() -> None:
    model = cifar_resnet(8, width=4, in_channels=1)
    model.train()
    model.stage1.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    extract = extractor(model)
    one = extract(torch.randn(6, 1, 8, 8), classes(6))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(feature.requires_grad for feature in one.layers.values())
    assert torch.is_grad_enabled()
    for wrong in (torch.randn(6, 2, 8, 8), torch.full((6, 1, 8, 8), torch.nan)):
        with pytest.raises((RuntimeError, ValueError)):
            extract(wrong, classes(6))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_do_not_see_each_other() -> None:
    model = cifar_resnet(8, width=4, in_channels=1)
    extract = extractor(model)
    x, y = torch.randn(9, 1, 8, 8), classes(9)
    whole = extract(x, y)
    parts = list(extract.stream([(x[:4], y[:4]), (x[:0], y[:0]), (x[4:], y[4:])]))
    assert [len(part) for part in parts] == [4, 5]
    for name, feature in whole.layers.items():
        torch.testing.assert_close(torch.cat([part.layers[name] for part in parts]), feature)


def test_layers_come_in_the_order_of_their_calls() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.first(x))

    extract = extractor(Backwards(), ["last", "first"], num_labels=2)
    features = extract(torch.randn(2, 4), classes(2))
    assert list(features.layers) == ["first", "last", "output"]
    assert list(extract.in_order(features).layers) == ["first", "last"]


class Odd(nn.Module):
    """Its layers do what no layer of a classifier should."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.never, self.indices = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Identity()
        self.rows, self.pair, self.nan = nn.Identity(), nn.LSTM(4, 4, batch_first=True), nn.Identity()

    def forward(self, x):
        self.indices(x.argmax(1))
        self.rows(x.flatten())
        self.pair(x[:, None])
        self.nan(x / 0)
        return self.twice(self.twice(self.once(x)))


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("never", ValueError, "layers: expected layers that the network's forward calls, got 'never', which is never"),
        (
            "twice",
            ValueError,
            "layers: expected layers that are called once in a forward, got 'twice', which is",
        ),
        ("indices", TypeError, r"layer 'indices': expected an output with a floating point tensor, .*int64"),
        ("rows", ValueError, r"layer 'rows': expected an output of shape \(N, C\)"),
        ("nan", ValueError, "layer 'nan': expected finite features, got NaN or infinite ones"),
    ],
)
def test_odd_layers_are_named(layer, error, message) -> None:
    with pytest.raises(error, match=message):
        extractor(Odd(), [layer, "once"], num_labels=4)(torch.randn(3, 4), classes(3))


def test_of_a_tuple_the_first_tensor_counts() -> None:
    features = extractor(Odd(), "pair", num_labels=4)(torch.randn(3, 4), classes(3))
    assert features.layers["pair"].shape == (3, 4)


def test_a_row_for_each_sample() -> None:
    model = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1), nn.ReLU(), nn.Unflatten(0, (-1, 2)), nn.Flatten())
    with pytest.raises(ValueError, match=r"layer '2': expected a row for each of 3 samples, got shape \(6, 2\)"):
        extractor(model, "2", num_labels=4)(torch.randn(3, 4), classes(3))


def test_an_output_over_other_labels_is_refused() -> None:
    x, y = torch.randn(3, 1, 8, 8), classes(3)
    with pytest.raises(ValueError, match=r"model: expected an output for each of 4 labels, or output='head'"):
        extractor(small_cnn(), num_labels=4)(x, y)
    assert "output" not in extractor(small_cnn(), num_labels=4, output=False)(x, y).layers


@pytest.mark.parametrize(
    ("y", "task", "message"),
    [
        (torch.tensor([0, 3]), "single_label", r"y: expected classes from 0 to 2, got \[3\]"),
        (torch.tensor([0, -1]), "single_label", r"y: expected classes from 0 to 2, got \[-1\]"),
        (torch.tensor([0.0, 1.0]), "single_label", r"y: expected integers of shape \(N,\) for a single-label task"),
        (torch.eye(3), "single_label", r"y: expected integers of shape \(N,\) .* got torch.float32, \(3, 3\)"),
        (torch.tensor([0, 1]), "multi_label", r"y: expected shape \(N, 3\) for a multi-label task, got shape \(2,\)"),
        (torch.eye(4), "multi_label", r"y: expected shape \(N, 3\) .* got shape \(4, 4\)"),
        (torch.eye(3) * 2, "multi_label", r"y: expected zeros and ones, got \[2.0\]"),
        (torch.eye(3) * torch.nan, "multi_label", r"y: expected zeros and ones, got \[nan\]"),
    ],
)
def test_labels_are_checked(y, task, message) -> None:
    with pytest.raises(ValueError, match=message):
        label_table(y, 3, task)


def test_a_multi_label_sample_may_have_no_label() -> None:
    table = label_table(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 2, "multi_label")
    assert table.tolist() == [[False, False], [True, True]]


def test_data_are_batches_of_two_tensors() -> None:
    extract = extractor(small_cnn())
    x, y = torch.randn(3, 1, 8, 8), classes(3)
    for wrong in (x, (x,), (x, y, y), (x, "y"), {"x": x}):
        with pytest.raises(TypeError, match=r"data: expected batches \(x, y\) of two tensors, got"):
            list(extract.stream([wrong]))
    with pytest.raises(ValueError, match="data: expected as many labels as samples, 3, in a batch, got 2"):
        extract(x, y[:2])
    for empty in ([], [(x[:0], y[:0])]):
        with pytest.raises(ValueError, match="data: expected at least one sample, got none"):
            list(extract.stream(empty))
