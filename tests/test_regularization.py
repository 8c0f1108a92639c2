"""The handle of `regularize` against penalties that are written out, in every way a model is run."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import layershift as ls
from layershift.functional import per


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 2))


def written_out(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    first = model[:2](x)
    return per(first).mean() + per(model[2:4](first)).mean()


def gradients(loss: torch.Tensor, model: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))


def assert_same_gradients(actual: list, expected: list) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


ACTIVATIONS = [nn.ReLU, nn.Tanh]


def test_the_loss_is_the_weighted_sum_of_penalties() -> None:
    model, x = network(), torch.randn(7, 6)
    with ls.regularize(model, ls.nn.PER(), layers=ACTIVATIONS, weight=0.3) as penalty:
        model(x)
        loss = penalty.loss()
    torch.testing.assert_close(loss, 0.3 * written_out(model, x))
    assert_same_gradients(gradients(loss, model), gradients(0.3 * written_out(model, x), model))


def test_weights_by_pattern_and_any_callable() -> None:
    model, x = network(), torch.randn(7, 6)
    with ls.regularize(model, lambda h: h.square().mean(), layers=["1", "3"], weight={"1": 2.0, "*": 0.5}) as penalty:
        model(x)
        loss = penalty.loss()
    first = model[:2](x)
    torch.testing.assert_close(loss, 2 * first.square().mean() + 0.5 * model[2:4](first).square().mean())
    with pytest.raises(ValueError, match="weight: expected a weight for every layer, got none for 3"):
        ls.regularize(model, ls.nn.PER(), layers=["1", "3"], weight={"1": 2.0})


def test_terms_accumulate_until_they_are_asked_for() -> None:
    model, x = network(), torch.randn(7, 6)
    with ls.regularize(model, ls.nn.PER(), layers=ACTIVATIONS, weight=1.0) as penalty:
        model(x), model(2 * x)
        both = penalty.loss()
        with pytest.raises(RuntimeError, match="expected a forward of the model in training mode"):
            penalty.loss()
    torch.testing.assert_close(both, written_out(model, x) + written_out(model, 2 * x))


def test_evaluation_and_no_grad_are_not_seen() -> None:
    model, x = network(), torch.randn(7, 6)
    with ls.regularize(model, ls.nn.PER(), layers=ACTIVATIONS, weight=1.0) as penalty:
        model.eval()(x)
        with torch.no_grad():
            model.train()(x)
        with pytest.raises(RuntimeError, match=r"penalty\.loss\(\)"):
            penalty.loss()


def test_nothing_is_left_behind() -> None:
    model = network()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    handle = ls.regularize(model, ls.nn.PER(), layers="*", weight=1.0)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    handle.remove()
    handle.remove()
    assert not any(module._forward_hooks for module in model.modules())


def test_a_watched_model_copies_and_pickles() -> None:
    model, x = network(), torch.randn(7, 6)
    with ls.regularize(model, ls.nn.PER(), layers=ACTIVATIONS, weight=1.0) as penalty:
        model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(twin(x), model[:](x))
        assert penalty.loss() > 0


def test_checkpointing_counts_once_and_keeps_the_gradient() -> None:
    model, x = network(), torch.randn(7, 6)
    expected = gradients(model(x).square().mean() + written_out(model, x), model)
    with ls.regularize(model, ls.nn.PER(), layers=ACTIVATIONS, weight=1.0) as penalty:
        out = checkpoint(model, x, use_reentrant=False)
        assert_same_gradients(gradients(out.square().mean() + penalty.loss(), model), expected)
        with pytest.raises(RuntimeError, match="got none since the last call"):
            penalty.loss()


def test_an_output_changed_in_place_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(inplace=True), nn.Linear(10, 2))
    with ls.regularize(model, ls.nn.PER(), layers="0", weight=1.0) as penalty:
        model(torch.randn(7, 6))
        with pytest.raises(RuntimeError, match="layer '0': its output was changed in place"):
            penalty.loss()
    with ls.regularize(model, ls.nn.PER(), layers="1", weight=1.0) as penalty:
        x = torch.randn(7, 6)
        model(x)
        torch.testing.assert_close(penalty.loss(), per(model[0](x).relu()).mean())


def test_a_tuple_stands_for_its_first_tensor() -> None:
    model, x = nn.LSTM(4, 5, batch_first=True), torch.randn(3, 6, 4)
    with ls.regularize(model, ls.nn.PER(sample="step"), layers=nn.LSTM, weight=1.0) as penalty:
        output, _ = model(x)
        torch.testing.assert_close(penalty.loss(), per(output.reshape(18, 5)).mean())


def test_autocast_penalises_in_float32() -> None:
    model, x = network(), torch.randn(7, 6)
    with (
        ls.regularize(model, ls.nn.PER(), layers=ACTIVATIONS, weight=1.0) as penalty,
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        model(x)
        loss = penalty.loss()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, written_out(model, x), rtol=2e-2, atol=0)


@pytest.mark.slow
def test_a_compiled_model_equals_the_eager_one() -> None:
    model, x = network(), torch.randn(7, 6)
    with ls.regularize(model, ls.nn.PER(), layers=ACTIVATIONS, weight=1.0) as penalty:
        compiled = torch.compile(model, backend="aot_eager")
        for batch in (x, 2 * x):
            out = compiled(batch)
            loss = out.square().mean() + penalty.loss()
            expected = model[:](batch).square().mean() + written_out(model, batch)
            penalty._outputs.clear()
            torch.testing.assert_close(loss, expected)
            assert_same_gradients(gradients(loss, model), gradients(expected, model))


def test_per_shrinks_the_norms_of_activations() -> None:
    model, x = network(), torch.randn(64, 6)
    before = float(model[:2](x).norm())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with ls.regularize(model, ls.nn.PER(), layers="1", weight=1.0) as penalty:
        for _ in range(50):
            model(x)
            optimizer.zero_grad()
            penalty.loss().backward()
            optimizer.step()
    assert float(model[:2](x).norm()) < 0.7 * before


def test_a_pattern_that_matches_nothing_names_what_is_near() -> None:
    with pytest.raises(ValueError, match="layers: expected a pattern that matches a layer, got 'relu'; nearest names"):
        ls.regularize(network(), ls.nn.PER(), layers="relu", weight=1.0)
