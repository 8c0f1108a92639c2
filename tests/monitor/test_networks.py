"""The monitor on networks as people have them: from model zoos, in half precision, with shared and frozen layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from layershift.measure import Moments
from layershift.monitor import Monitor


class Pair(Moments):
    """The mean difference between a layer's outputs now and before: a measure that compares."""

    needs_reference = True

    def update(self, x, y) -> None:
        super().update(x - y)


def mean_of(monitor: Monitor, layer: str, step: int = 0, measure: str = "mean") -> float:
    (record,) = [r for r in monitor.records() if (r.layer, r.measure, r.unit, r.step) == (layer, measure, None, step)]
    return record.value


def layers_of(monitor: Monitor) -> set[str]:
    return {r.layer for r in monitor.records() if r.layer}


def n_of(monitor: Monitor) -> set[int | None]:
    return {r.n for r in monitor.records() if r.layer}


def watch(model: nn.Module, **options) -> Monitor:
    return Monitor(model, **{"every": 1, "budget": None, "measures": ["moments", "normality"]} | options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_networks_of_torchvision(name) -> None:
    import torchvision

    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=3, **options).train()
    with watch(model) as monitor:
        with monitor.step(0):
            model(torch.randn(4, 3, 96, 96))
        leaves = {n for n, m in model.named_modules() if not list(m.children()) and not isinstance(m, nn.Dropout)}
        assert leaves - layers_of(monitor) <= {n for n, m in model.named_modules() if isinstance(m, nn.Identity)}
        assert n_of(monitor) <= {4, 8}  # the blocks of a ResNet call one ReLU twice
        assert 4 in n_of(monitor)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnet10t"])
def test_networks_of_timm(name) -> None:
    timm = pytest.importorskip("timm")
    options = {"img_size": 32} if name.startswith("vit") else {}
    model = timm.create_model(name, pretrained=False, num_classes=3, **options)
    with watch(model, layers=["blocks.*", "stages*", "layer*"][:1] if name.startswith("vit") else "*") as monitor:
        with monitor.step(0):
            model(torch.randn(4, 3, 32, 32))
        assert len(layers_of(monitor)) > 10
        assert n_of(monitor) == {4}


@pytest.mark.slow
def test_networks_of_transformers_whose_blocks_return_tuples_and_dictionaries() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(50, (3, 16))
    with watch(model, layers=["transformer.h.?", "transformer", "transformer.h.?.attn"]) as monitor:
        with monitor.step(0):
            hidden = model(tokens, output_hidden_states=True).hidden_states
        assert layers_of(monitor) >= {"transformer.h.0", "transformer.h.1", "transformer", "transformer.h.0.attn"}
        assert n_of(monitor) == {3}
        assert mean_of(monitor, "transformer.h.0") == pytest.approx(float(hidden[1].detach().mean()), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_single(dtype) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Identity())
    x = torch.randn(256, 8)
    with torch.autocast("cpu", dtype), watch(model, layers="1") as monitor:
        with monitor.step(0):
            y = model(x).detach()
        assert y.dtype == dtype
        assert mean_of(monitor, "1") == pytest.approx(float(y.double().mean()), rel=1e-5, abs=1e-7)
        assert mean_of(monitor, "1", measure="variance") == pytest.approx(float(y.double().var(correction=0)), rel=1e-5)


def test_training_with_a_gradient_scaler_is_undisturbed() -> None:
    def train(monitored: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        with watch(model) as monitor:
            for i in range(4):
                x = torch.randn(16, 8)
                with monitor.step(i if monitored else 1 + i * monitor.every), torch.autocast("cpu", torch.float16):
                    loss = model(x).square().mean()
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        return model[0].weight.detach()

    torch.testing.assert_close(train(True), train(False), rtol=0, atol=0)


def test_the_parts_of_an_accumulated_step_are_measured_together() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(48, 4)
    with watch(model) as whole, whole.step(0):
        model(x)
    with watch(model) as monitor:
        with monitor.step(0):
            for part in x.split(16):
                model(part).sum().backward()
        assert n_of(monitor) == {48}
        found = {
            (r.measure, r.unit): (r.value, r.stderr) for r in monitor.records() if r.measure in ("mean", "variance")
        }
    with watch(model) as whole:
        with whole.step(0):
            model(x)
        for r in whole.records():
            if r.measure in ("mean", "variance"):
                assert found[r.measure, r.unit] == pytest.approx((r.value, r.stderr), rel=1e-5)


def test_frozen_layers_are_measured() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    with watch(model) as monitor:
        with monitor.step(0):
            model(torch.randn(8, 4)).sum().backward()
        assert layers_of(monitor) == {"0", "1", "2"}
    assert model[0].weight.grad is None


def test_a_shared_module_is_one_layer_and_sees_all_its_calls() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared)
    x = torch.randn(8, 4)
    with watch(model) as monitor:
        with monitor.step(0):
            model(x)
        assert layers_of(monitor) == {"0", "1", "2"}
        assert {r.layer: r.n for r in monitor.records() if r.measure == "mean"} == {"0": 8, "1": 16, "2": 8}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_count_once_in_both_ways_of_capture(reentrant) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=reentrant)

    model, x = Model(), torch.randn(8, 4, requires_grad=True)
    for options in ({"on": "batch"}, {"on": "probe", "probe": torch.randn(8, 4)}):
        with watch(model, **options) as monitor:
            with monitor.step(0):
                model(x).sum().backward()
            assert n_of(monitor) == {8}


class TestComparing:
    def test_each_step_is_compared_with_the_measured_one_before(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
        nn.init.zeros_(model[0].weight)
        with watch(model, measures=[Pair], on="probe", probe=torch.zeros(5, 2), every=2) as monitor:
            for i, bias in enumerate([1.0, 100.0, 3.0, -100.0, -4.0]):
                nn.init.constant_(model[0].bias, bias)
                with monitor.step(i):
                    pass
            found = {(r.layer, r.step): r.value for r in monitor.records() if (r.measure, r.unit) == ("mean", None)}
        # in place: what the linear layer computed, not what the activation made of it; and nothing at the first step
        assert found == {("0", 2): 2.0, ("0", 4): -7.0, ("1", 2): 2.0, ("1", 4): -3.0}

    def test_calls_of_a_shared_module_are_paired_in_order(self) -> None:
        shared = nn.Linear(1, 1, bias=False)
        model = nn.Sequential(shared, nn.Identity(), shared)
        with watch(model, layers="0", measures=[Pair], on="probe", probe=torch.ones(3, 1)) as monitor:
            for i, weight in enumerate([1.0, 2.0]):
                nn.init.constant_(shared.weight, weight)
                with monitor.step(i):
                    pass
            assert mean_of(monitor, "0", step=1) == pytest.approx(((2 - 1) + (4 - 1)) / 2)

    def test_a_step_that_fails_is_no_reference(self) -> None:
        model = nn.Sequential(nn.Linear(1, 1, bias=False))

        def run(step: int, weight: float, fail: bool = False) -> None:
            nn.init.constant_(model[0].weight, weight)
            with monitor.step(step):
                if fail:
                    raise KeyError(step)

        with watch(model, measures=[Pair], on="probe", probe=torch.ones(3, 1)) as monitor:
            run(0, 1.0)
            with pytest.raises(KeyError):
                run(1, 50.0, fail=True)
            run(2, 4.0)
            assert mean_of(monitor, "0", step=2) == 3

    def test_it_needs_a_frozen_batch(self) -> None:
        with pytest.raises(ValueError, match=r"on: expected 'probe' for a measure that compares steps.*got 'batch'"):
            watch(nn.Sequential(nn.Linear(2, 2)), measures=["moments", Pair])
