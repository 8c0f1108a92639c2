"""Proposition 4 on modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from layershift.dynamics.batch_norm_shift import batch_norm_shift
from layershift.functional import batch_norm_wasserstein, gaussian_wasserstein


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.BatchNorm2d(4)))


def test_each_layer_of_a_training_step_is_the_bures_distance() -> None:
    model = network().double()
    for layer in (model[1], model[3][0]):
        nn.init.normal_(layer.weight)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(8, 1, 6, 6, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    shifts = batch_norm_shift(before, model)
    assert list(shifts) == ["1", "3.0"]
    for name, shift in shifts.items():
        old, new = before.get_submodule(name), model.get_submodule(name)
        covariances = (torch.diag(layer.weight.detach() ** 2) for layer in (old, new))
        a, b = covariances
        expected = gaussian_wasserstein(old.bias.detach(), a, new.bias.detach(), b)
        torch.testing.assert_close(shift, expected)
        assert shift > 0
        assert not shift.requires_grad
        printed = batch_norm_wasserstein(old.bias, old.weight, new.bias, new.weight, form="printed")
        torch.testing.assert_close(batch_norm_shift(before, model, form="printed")[name], printed.detach())


def test_it_is_what_happens_to_gaussian_outputs() -> None:
    """Mean and deviation of what the layers really put out, at any inputs."""
    before, after = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.normal_(after.bias)
    nn.init.normal_(after.weight)
    x = 5 + 3 * torch.randn(4000, 3)
    outputs = [layer(x).detach() for layer in (before, after)]
    moments = [f(0) for out in outputs for f in (out.mean, lambda d, out=out: out.std(d, correction=0))]
    expected = ((moments[0] - moments[2]) ** 2 + (moments[1] - moments[3]) ** 2).sum().sqrt()
    torch.testing.assert_close(batch_norm_shift(before, after)[""], expected, rtol=1e-4, atol=0)


def test_without_parameters_nothing_moves() -> None:
    layer = nn.BatchNorm1d(3, affine=False)
    assert batch_norm_shift(layer, copy.deepcopy(layer)) == {"": torch.tensor(0.0)}


def test_half_precision_is_taken_in_single() -> None:
    before, after = nn.BatchNorm1d(2).half(), nn.BatchNorm1d(2).half()
    nn.init.constant_(after.bias, 300.0)  # whose square is beyond half precision
    shift = batch_norm_shift(before, after)[""]
    assert shift.dtype == torch.float32
    assert float(shift) == pytest.approx(300 * 2**0.5)


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="before: expected a module with at least one batch normalisation, got Linear"):
        batch_norm_shift(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"after: expected the batch normalisations \{'': 2\} .*, got \{'': 3\}"):
        batch_norm_shift(nn.BatchNorm1d(2), nn.BatchNorm1d(3))
