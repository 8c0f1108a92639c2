"""VCL as a module: its parameters are there before the first step, for each unit of each layer, and in checkpoints."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import layershift as ls
from layershift.functional import variance_constancy
from layershift.nn import VarianceConstancy
from layershift.train.models import MODELS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3, stride=2), nn.Flatten(), nn.Linear(8, 2)
    )


X = torch.randn(16, 1, 7, 7, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_mean_over_units_of_each_layer() -> None:
    model, penalty = network(), VarianceConstancy(beta=0.5)
    with ls.regularize(model, penalty, layers=nn.Conv2d, weight=0.01, example=X[:1]) as handle:
        model(X)
        loss = handle.loss()
    first = model[0](X)
    second = model[3](model[1:3](first))
    expected = [variance_constancy(h.flatten(1), torch.tensor(0.5)).mean() for h in (first, second)]
    torch.testing.assert_close(loss, 0.01 * sum(expected))


def test_there_is_a_beta_for_each_channel_and_location_before_the_first_step() -> None:
    model, penalty = network(), VarianceConstancy()
    assert list(penalty.parameters()) == []
    ls.regularize(model, penalty, layers=nn.Conv2d, weight=0.01, example=X[:1])
    sizes = {name: tuple(p.shape) for name, p in penalty.named_parameters()}
    assert sizes == {"betas.0": (3 * 5 * 5,), "betas.3": (2 * 2 * 2,)}
    assert all((p == 1).all() and p.requires_grad for p in penalty.parameters())
    channels = VarianceConstancy(sample="position")
    ls.regularize(network(), channels, layers=nn.Conv2d, weight=0.01, example=X[:1])
    assert [len(p) for p in channels.parameters()] == [3, 2]


def test_the_papers_network_gets_the_papers_number_of_parameters() -> None:
    """350K for the 11-layer CNN (Joo et al. 2020, section 4.3.1): one for each location and channel."""
    penalty, example = VarianceConstancy(), torch.zeros(1, 3, 32, 32)
    ls.regularize(MODELS["cnn11"](), penalty, layers="*conv", weight=0.01, example=example)
    assert sum(p.numel() for p in penalty.parameters()) == 350_460


def test_the_example_leaves_no_trace() -> None:
    model = network()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    ls.regularize(model, VarianceConstancy(), layers=nn.Conv2d, weight=0.01, example=(X, torch.zeros(16)))
    assert [m.training for m in model] == [True, False, True, True, True, True]
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_beta_is_trained_with_the_network_and_goes_through_a_checkpoint() -> None:
    model, penalty = network(), VarianceConstancy()
    handle = ls.regularize(model, penalty, layers=nn.Conv2d, weight=1.0, example=X[:1])
    optimizer = torch.optim.SGD([*model.parameters(), *penalty.parameters()], lr=0.1)
    for _ in range(3):
        model(X)
        loss = handle.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.std() > 0 for p in penalty.parameters())
    file = io.BytesIO()
    torch.save(penalty.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for twin in (VarianceConstancy(), pickle.loads(pickle.dumps(penalty)), copy.deepcopy(penalty)):
        twin.load_state_dict(state)  # makes what it has not
        torch.testing.assert_close(dict(twin.named_parameters()), dict(penalty.named_parameters()), rtol=0, atol=0)
        assert repr(twin) == repr(penalty)
    inside = nn.ModuleDict({"penalty": VarianceConstancy()})
    inside.load_state_dict({f"penalty.{key}": value for key, value in state.items()})


def test_a_second_handle_keeps_what_was_trained() -> None:
    model, penalty = network(), VarianceConstancy()
    ls.regularize(model, penalty, layers="0", weight=1.0, example=X[:1]).remove()
    (first,) = penalty.parameters()
    ls.regularize(model, penalty, layers=nn.Conv2d, weight=1.0, example=X[:1]).remove()
    assert next(penalty.parameters()) is first
    ls.regularize(model, penalty, layers=nn.Conv2d, weight=1.0).remove()  # all known: no example is needed


def test_beta_below_its_bound_is_used_at_the_bound_and_can_return() -> None:
    x = torch.randn(10, 1, generator=torch.Generator().manual_seed(0))
    penalty = VarianceConstancy(1, min_beta=0.5)
    with torch.no_grad():
        penalty.betas["/"].fill_(-3.0)
    torch.testing.assert_close(penalty(x), variance_constancy(x, torch.tensor([0.5])).mean())
    first, second = x[0::2].var(0), x[1::2].var(0)
    for swap, upwards in ((x, bool(first > second + 0.5)), (x.roll(1, 0), bool(second > first + 0.5))):
        (gradient,) = torch.autograd.grad(penalty(swap), list(penalty.parameters()))
        assert (float(gradient) < 0) is upwards
        assert float(gradient) <= 0  # never further down
    assert bool(first > second + 0.5) or bool(second > first + 0.5)  # so that both cases were met


def test_alone_it_serves_one_layer() -> None:
    penalty, x = VarianceConstancy(12, dtype=torch.float64), torch.randn(20, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(penalty(x), variance_constancy(x.flatten(1), torch.ones(12).double()).mean())
    assert repr(penalty) == "VarianceConstancy(group_size=5, min_beta=0.001, sample='image', layers={'': 12})"


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="example: expected an example of the model's inputs, because Variance"):
        ls.regularize(network(), VarianceConstancy(), layers=nn.Conv2d, weight=0.01)
    with pytest.raises(RuntimeError, match="VarianceConstancy has no parameters for layer ''"):
        VarianceConstancy()(X)
    with pytest.raises(ValueError, match="x: expected 3 units in layer ''"):
        VarianceConstancy(3)(torch.zeros(10, 4))
    with pytest.raises(ValueError, match="x: expected at least 10 samples, two groups of 5"):
        VarianceConstancy(4)(torch.zeros(9, 4))
    with pytest.raises(ValueError, match=r"beta: expected at least min_beta, 0\.001, got 0"):
        VarianceConstancy(beta=0)
    model = network()
    model.forward = lambda x: nn.Sequential.forward(model[:6], x)
    model.add_module("spare", nn.ReLU())
    with pytest.raises(ValueError, match="layers: expected layers that run in a forward, got 'spare'"):
        ls.regularize(model, VarianceConstancy(), layers="spare", weight=0.01, example=X)
