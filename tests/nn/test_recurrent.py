"""The LSTM layer against a naive loop in float64, nn.LSTM, finite differences and statistics taken by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layershift.nn import LSTMLayer, VariationalDropout


def make(inputs: int = 3, units: int = 4, *, seed: int = 0, dtype: torch.dtype = torch.float64, **options) -> LSTMLayer:
    """A layer whose every parameter and running statistic is somewhere general."""
    generator = torch.Generator().manual_seed(seed)
    layer = LSTMLayer(inputs, units, **options).to(dtype)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=dtype))
        for name, buffer in layer.named_buffers():
            noise = torch.randn(buffer.shape, generator=generator, dtype=dtype)
            buffer.copy_(noise.exp() if name.endswith("var") else noise)
    return layer


def sequence(length: int, size: int, layer: LSTMLayer, seed: int = 1) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    dtype = layer.weight_hh.dtype
    x, h, c = (
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in ((length, size, layer.input_size), (size, layer.hidden_size), (size, layer.hidden_size))
    )
    return x, (h, c)


def naive(layer: LSTMLayer, x: Tensor, state, mask: Tensor | float = 1.0) -> tuple[Tensor, tuple[Tensor, Tensor], dict]:
    """Equations 6 to 8, one step after the other; also the moments of each step."""
    h, c = state
    outputs, moments = [], {"input": [], "hidden": [], "cell": []}

    def standardize(name: str, values: Tensor, t: int) -> Tensor:
        if layer.training:
            mean, variance = values.mean(0), values.var(0, correction=0)
            moments[name].append((mean.detach(), values.var(0).detach()))
        else:
            row = min(t, layer.steps - 1)
            mean, variance = layer.get_buffer(f"{name}_mean")[row], layer.get_buffer(f"{name}_var")[row]
        return layer.get_parameter(f"{name}_scale") * (values - mean) / torch.sqrt(variance + layer.eps)

    for t, now in enumerate(x):
        sums = standardize("input", now @ layer.weight_ih.T, t) + layer.bias
        sums = sums + standardize("hidden", (h * mask) @ layer.weight_hh.T, t)
        i, f, g, o = sums.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * torch.tanh(standardize("cell", c, t) + layer.cell_shift)
        outputs.append(h)
    return torch.stack(outputs), (h, c), moments


def scalar(output: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return (output * weights).sum() + state[0].square().sum() + (state[1] ** 3).sum()


@pytest.mark.parametrize("training", [True, False])
@given(length=st.integers(1, 7), size=st.integers(2, 6), units=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_values_and_gradients_are_those_of_a_naive_loop(training, length, size, units, seed) -> None:
    layer = make(3, units, seed=seed, steps=4).train(training)
    x, state = sequence(length, size, layer, seed)
    wanted = naive(layer, x, state)[:2]
    came = layer(x, state)
    torch.testing.assert_close(came, wanted, rtol=1e-10, atol=1e-10)
    leaves = [*layer.parameters(), x, *state]
    gradients = (torch.autograd.grad(scalar(*result), leaves) for result in (came, wanted))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", None])
def test_gradients_are_those_of_finite_differences(training, norm) -> None:
    layer = make(2, 2, norm=norm, steps=2).train(training)
    x, (h, c) = sequence(3, 4, layer)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x: Tensor, h: Tensor, c: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        output, (_, cell) = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, (h, c)))
        return output, cell

    assert torch.autograd.gradcheck(call, (x, h, c, *values))


def test_without_normaliser_it_is_the_lstm_of_pytorch() -> None:
    layer, reference = make(3, 4, norm=None), nn.LSTM(3, 4).double()
    with torch.no_grad():
        reference.weight_ih_l0.copy_(layer.weight_ih)
        reference.weight_hh_l0.copy_(layer.weight_hh)
        reference.bias_ih_l0.copy_(layer.bias)
        reference.bias_hh_l0.zero_()
    x, (h, c) = sequence(9, 5, layer)
    output, (last, cell) = reference(x, (h.unsqueeze(0), c.unsqueeze(0)))
    torch.testing.assert_close(layer(x, (h, c)), (output, (last[0], cell[0])), rtol=1e-10, atol=1e-10)
    assert set(dict(layer.named_parameters())) == {"weight_ih", "weight_hh", "bias"}


def test_float32_is_as_good_as_float32_can_be() -> None:
    wide = make(16, 16, steps=35)
    narrow = make(16, 16, steps=35, dtype=torch.float32)
    narrow.load_state_dict(wide.state_dict())
    x, state = sequence(35, 20, wide)
    output, _ = narrow(x.float(), tuple(part.float() for part in state))
    torch.testing.assert_close(output.double(), wide(x, state)[0], rtol=0, atol=2e-3)  # a chaotic map of 35 steps
    torch.testing.assert_close(output[:3].double(), wide(x, state)[0][:3], rtol=0, atol=1e-5)


class TestStatistics:
    def test_each_step_has_its_own(self) -> None:
        layer = make(steps=6, momentum=1.0)
        x, state = sequence(6, 5, layer)
        moments = naive(layer, x, state)[2]
        layer(x, state)
        for name, pairs in moments.items():
            for what, rows in zip(("mean", "var"), zip(*pairs, strict=True), strict=True):
                torch.testing.assert_close(layer.get_buffer(f"{name}_{what}"), torch.stack(rows))
        assert (layer.hidden_mean[0] - layer.hidden_mean[3]).abs().max() > 0.01

    def test_running_ones_move_by_the_momentum(self) -> None:
        layer = make(steps=3, momentum=0.25)
        before = layer.cell_var.clone()
        x, state = sequence(3, 5, layer)
        batch = torch.stack([variance for _, variance in naive(layer, x, state)[2]["cell"]])
        layer(x, state)
        torch.testing.assert_close(layer.cell_var, 0.75 * before + 0.25 * batch)

    def test_a_shorter_sequence_leaves_later_steps_alone(self) -> None:
        layer = make(steps=6)
        before = layer.input_mean.clone()
        layer(*sequence(2, 5, layer))
        moved = (layer.input_mean != before).all(dim=1)
        assert moved.tolist() == [True, True, False, False, False, False]
        assert torch.equal(layer.input_mean[2:], before[2:])

    def test_steps_beyond_the_last_row_share_it(self) -> None:
        layer = make(steps=3, momentum=1.0)
        x, state = sequence(8, 5, layer)
        means = torch.stack([mean for mean, _ in naive(layer, x, state)[2]["hidden"]])
        layer(x, state)
        torch.testing.assert_close(layer.hidden_mean, torch.cat([means[:2], means[2:].mean(0, keepdim=True)]))

    def test_evaluation_on_the_batch_that_made_them_repeats_training(self) -> None:
        layer = make(steps=5, momentum=1.0)
        x, state = sequence(5, 7, layer)
        trained, _ = layer(x, state)
        for name, buffer in layer.named_buffers():
            if name.endswith("var"):
                buffer.mul_(6 / 7)  # kept variances are unbiased, normalising ones are not
        torch.testing.assert_close(layer.eval()(x, state)[0], trained)

    def test_evaluation_does_not_depend_on_the_batch(self) -> None:
        layer = make(steps=3).eval()
        x, (h, c) = sequence(5, 6, layer)
        kept = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        alone = torch.cat([layer(x[:, k : k + 1], (h[k : k + 1], c[k : k + 1]))[0] for k in range(6)], dim=1)
        torch.testing.assert_close(alone, layer(x, (h, c))[0])
        assert all(torch.equal(buffer, kept[name]) for name, buffer in layer.named_buffers())

    def test_sums_of_gates_are_standard_at_each_step(self) -> None:
        layer = make(steps=4)
        with torch.no_grad():
            layer.input_scale.fill_(0.6), layer.hidden_scale.zero_(), layer.bias.zero_()
        x, state = sequence(4, 50, layer)
        products = x @ layer.weight_ih.T
        sums = 0.6 * (products - products.mean(1, keepdim=True)) / products.std(1, correction=0, keepdim=True)
        i, f, g, _ = sums[0].chunk(4, dim=1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        torch.testing.assert_close(layer(x[:1], state)[1][1], cell, rtol=1e-4, atol=1e-4)


def test_a_small_scale_keeps_gradients_from_exploding() -> None:
    """At the start outputs are small, and standardising their products with weights amplifies; 0.1 holds against it."""

    def growth(scale: float) -> float:
        torch.manual_seed(0)
        layer = LSTMLayer(20, 50, scale=scale, steps=60)
        x = torch.randn(60, 32, 20, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer(x)[0][-1].square().sum(), x)
        return (gradient[0].norm() / gradient[-1].norm()).item()

    assert growth(1.0) > 10
    assert growth(0.1) < 0.1


def test_starts_as_the_paper_and_pytorch_do() -> None:
    layer = LSTMLayer(30, 400, steps=2)
    assert {p.unique().item() for name, p in layer.named_parameters() if name.endswith("scale")} == {
        torch.tensor(0.1).item()
    }
    assert layer.cell_shift.abs().max() == 0
    assert layer.weight_hh.abs().max().item() == pytest.approx(0.05, rel=1e-3)
    assert layer.bias.var().item() == pytest.approx(2 * 0.05**2 / 3, rel=0.1)
    assert (layer.input_mean.shape, layer.cell_var.shape) == ((2, 1600), (2, 400))


class TestDropout:
    def test_one_mask_for_all_steps_of_a_sequence(self) -> None:
        torch.manual_seed(0)
        y = VariationalDropout(0.3)(torch.ones(6, 40, 50))
        assert torch.equal(y, y[:1].expand_as(y))
        assert not torch.equal(y[0, 0], y[0, 1])
        assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / 0.7])
        error = 4 * math.sqrt(0.3 * 0.7 / 2000)
        assert (y[0] == 0).double().mean().item() == pytest.approx(0.3, abs=error)

    def test_nothing_in_evaluation(self) -> None:
        x = torch.randn(3, 2, 4)
        assert VariationalDropout(0.9).eval()(x) is x
        layer = make(recurrent_dropout=0.5).eval()
        x, state = sequence(4, 3, layer)
        torch.testing.assert_close(layer(x, state)[0], naive(layer, x, state)[0])

    def test_the_recurrent_connection_sees_one_mask(self) -> None:
        layer = make(recurrent_dropout=0.4)
        x, state = sequence(6, 5, layer)
        torch.manual_seed(7)
        came = layer(x, state)
        torch.manual_seed(7)
        mask = torch.empty(5, 4, dtype=torch.float64).bernoulli_(0.6) / 0.6
        wanted = naive(layer, x, state, mask)[:2]
        torch.testing.assert_close(came, wanted)
        leaves = [*layer.parameters(), x, *state]
        gradients = (torch.autograd.grad(scalar(*result), leaves) for result in (came, wanted))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


def test_the_state_carries_over() -> None:
    layer = make(steps=1).eval()  # one row, so that a step's number does not matter
    x, state = sequence(8, 5, layer)
    whole, last = layer(x, state)
    first, between = layer(x[:3], state)
    second, end = layer(x[3:], between)
    torch.testing.assert_close((torch.cat([first, second]), end), (whole, last))


def test_no_state_is_zeros_and_autocast_changes_nothing() -> None:
    layer = make(dtype=torch.float32).eval()
    x = torch.randn(4, 3, 3)
    zeros = torch.zeros(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, _ = layer(x)
    assert torch.equal(narrow, layer(x, (zeros, zeros))[0])


def test_errors_say_what_was_expected() -> None:
    layer = LSTMLayer(3, 4)
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(T, B, 3\) that is not empty, got shape"):
        layer(torch.zeros(5, 2, 4))
    with pytest.raises(ValueError, match="x: expected at least two sequences, to normalise over them, got shape"):
        layer(torch.zeros(5, 1, 3))
    with pytest.raises(ValueError, match=r"state: expected two tensors of shape \(2, 4\), got shape \(1, 2, 4\)"):
        layer(torch.zeros(5, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    with pytest.raises(TypeError, match=r"x: expected a floating point tensor, got torch\.int64"):
        layer(torch.zeros(5, 2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="norm: expected one of 'batch', None, got 'layer'"):
        LSTMLayer(3, 4, norm="layer")
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        LSTMLayer(3, 4, steps=0)
    with pytest.raises(ValueError, match=r"recurrent_dropout: expected a number in \[0, 1\), got 1"):
        LSTMLayer(3, 4, recurrent_dropout=1)
    with pytest.raises(ValueError, match=r"x: expected a tensor of shape \(T, B, F\), got shape \(2, 3\)"):
        VariationalDropout()(torch.zeros(2, 3))
    options = "norm='batch', steps=35, recurrent_dropout=0.2"
    assert repr(LSTMLayer(3, 4, recurrent_dropout=0.2)) == f"LSTMLayer(3, 4, {options})"
