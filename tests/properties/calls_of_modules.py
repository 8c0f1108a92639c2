"""Calls of layers and measures that work, and what may be wrong with an argument without harm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from tests.properties.spoils import LATER, NONE, SIZES, TRUTH, ZERO, Call, Legal, for_all
from torch import nn

import layershift as ls
from layershift.functional import zero_one_cost

FORWARD = "`forward` refuses it where it matters, as in PyTorch"
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 3, generator=GENERATOR)
MAPS = torch.randn(12, 3, 2, 2, generator=GENERATOR)
P = torch.rand(12, 3, generator=GENERATOR)
SETS = torch.rand(12, 3, generator=GENERATOR) < 0.5
NET = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval()
RECORDED = ls.nn.RecordedTarget({"2": (torch.eye(3), torch.zeros(3, 5))})


def forward(layer: nn.Module) -> Callable[[Any], object]:
    return lambda x: copy.deepcopy(layer)(x)


def update(metric: Any) -> Callable[..., object]:
    return lambda x: metric.clone().update(x)


def pairs(metric: Any) -> Callable[..., object]:
    return lambda x, y: metric.clone().update(x, y)


NORM = {"num_features": 3, "eps": 1e-5, "momentum": 0.1}
UNITIZATION = NORM | {
    "alpha_init": 0.5,
    "alpha_constraint": "clamp",
    "divisor": "paper",
    "over": "sample",
    "form": "practical",
}
SAMPLE = {"sample": "image"}

# fmt: off
MODULES = {
    **{f"BatchNorm{d}d": Call(getattr(ls.nn, f"BatchNorm{d}d"), NORM) for d in (1, 2, 3)},
    **{f"Unitization{d}d": Call(getattr(ls.nn, f"Unitization{d}d"), UNITIZATION) for d in (1, 2, 3)},
    "SyncBatchNorm": Call(ls.nn.SyncBatchNorm, NORM),
    "SyncUnitization": Call(ls.nn.SyncUnitization, UNITIZATION),
    "BatchNorm1d.forward": Call(forward(ls.nn.BatchNorm1d(3)), {"x": X}),
    "BatchNorm2d.forward": Call(forward(ls.nn.BatchNorm2d(3)), {"x": MAPS}),
    "BatchNorm3d.forward": Call(forward(ls.nn.BatchNorm3d(3)), {"x": MAPS.unsqueeze(-1)}),
    "Unitization1d.forward": Call(forward(ls.nn.Unitization1d(3)), {"x": X}),
    "Unitization2d.forward": Call(forward(ls.nn.Unitization2d(3)), {"x": MAPS}),
    "Unitization3d.forward": Call(forward(ls.nn.Unitization3d(3)), {"x": MAPS.unsqueeze(-1)}),
    "SyncBatchNorm.forward": Call(forward(ls.nn.SyncBatchNorm(3)), {"x": MAPS}),
    "SyncUnitization.forward": Call(forward(ls.nn.SyncUnitization(3)), {"x": MAPS}),
    "ScalarBias.forward": Call(forward(ls.nn.ScalarBias()), {"x": X}),
    "ScalarScale.forward": Call(forward(ls.nn.ScalarScale()), {"x": X}),
    "fixup_factor": Call(ls.nn.fixup_factor, {"num_branches": 4, "depth": 2}),
    "fixup_init": Call(
        lambda branches, classifier: ls.nn.fixup_init(copy.deepcopy(branches), copy.deepcopy(classifier)),
        {"branches": [nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))], "classifier": nn.Linear(3, 2)},
    ),
    "fixup_slow_parameters": Call(ls.nn.fixup_slow_parameters, {"model": NET}),
    "PER": Call(
        ls.nn.PER, {"mode": "exact", "num_projections": 8, "reduction": "mean", **SAMPLE, "generator": GENERATOR}
    ),
    "PER.forward": Call(forward(ls.nn.PER()), {"x": X}),
    "ActivationPenalty": Call(ls.nn.ActivationPenalty, {"p": 2.0, "reduction": "mean"}),
    "ActivationPenalty.forward": Call(forward(ls.nn.ActivationPenalty(1)), {"x": X}),
    "SlicedWasserstein": Call(
        ls.nn.SlicedWasserstein,
        {"target": "normal", "p": 2, "num_projections": 8, **SAMPLE, "scale": 0.5, "generator": GENERATOR},
    ),
    "SlicedWasserstein.forward": Call(forward(ls.nn.SlicedWasserstein(num_projections=4)), {"x": X}),
    "EppsPulley": Call(
        ls.nn.EppsPulley,
        {"num_projections": 8, "reduction": "mean", "num_nodes": 5, "t_max": 3.0, **SAMPLE, "generator": GENERATOR},
    ),
    "EppsPulley.forward": Call(forward(ls.nn.EppsPulley(num_projections=4)), {"x": X}),
    "RecordedTarget": Call(ls.nn.RecordedTarget, {"layers": {"2": (torch.eye(3), torch.zeros(3, 5))}, **SAMPLE}),
    "RecordedTarget.layer": Call(lambda layers: RECORDED.layer(layers), {"layers": "2"}),
    "VarianceConstancy": Call(
        ls.nn.VarianceConstancy, {"size": 3, "group_size": 5, "beta": 1.0, "min_beta": 1e-3, **SAMPLE}
    ),
    "VarianceConstancy.forward": Call(forward(ls.nn.VarianceConstancy(3)), {"x": X}),
    "VariationalDropout": Call(ls.nn.VariationalDropout, {"p": 0.5}),
    "VariationalDropout.forward": Call(forward(ls.nn.VariationalDropout(0.5)), {"x": X.view(3, 4, 3)}),
    "LSTMLayer": Call(
        ls.nn.LSTMLayer,
        {
            "input_size": 3,
            "hidden_size": 2,
            "norm": "batch",
            "steps": 4,
            "recurrent_dropout": 0.1,
            "scale": 0.1,
            "eps": 1e-5,
            "momentum": 0.1,
        },
    ),
    "LSTMLayer.forward": Call(
        lambda x, state=None: ls.nn.LSTMLayer(3, 2, steps=4)(x, state),
        {"x": X.view(3, 4, 3), "state": (torch.zeros(4, 2), torch.zeros(4, 2))},
    ),
    "as_samples": Call(ls.nn.as_samples, {"x": MAPS, **SAMPLE}),
    "convert": Call(
        lambda model, **options: ls.convert(copy.deepcopy(model), **options), {"model": NET, "to": "unitization"}
    ),
    "fold": Call(ls.fold, {"model": NET, "keep": ["1"]}),
}

MEASURES = {
    "Moments": Call(
        ls.measure.Moments, {"num_units": 2, "quantiles": (0.5,), "quantile_numbers": 16, "channel_dim": 1}
    ),
    "Moments.update": Call(update(ls.measure.Moments(quantile_numbers=16)), {"x": X}),
    "Normality": Call(ls.measure.Normality, {"num_projections": 8, "seed": 0, "max_samples": 16}),
    "Normality.update": Call(update(ls.measure.Normality()), {"x": X}),
    "Health": Call(
        ls.measure.Health,
        {"tolerance": 0.1, "slope": 0.1, "bounds": (-1.0, 1.0), "max_channels": 8, "seed": 0, "channel_dim": 1},
    ),
    "Health.update": Call(update(ls.measure.Health()), {"x": X}),
    "Shift": Call(
        ls.measure.Shift, {"estimator": "sliced", "p": 2, "max_samples": 16, "num_projections": 8, "seed": 0}
    ),
    "Shift critic": Call(
        lambda critic=None: ls.measure.Shift(estimator="critic", critic=critic), {"critic": ls.measure.Critic()}
    ),
    "Shift.update": Call(pairs(ls.measure.Shift()), {"x": X, "y": X + 1}),
    "Critic": Call(
        ls.measure.Critic,
        {
            "lipschitz": "clip",
            "activation": "sigmoid",
            "steps": 3,
            "batch_size": 4,
            "clip": 0.01,
            "learning_rate": 0.1,
            "penalty_weight": 1.0,
            "widths": (4, 4),
            "holdout": 0.5,
            "seed": 0,
        },
    ),
    "critic_distances": Call(
        lambda pairs: ls.measure.critic_distances(pairs, ls.measure.Critic(steps=2, widths=(4,))),
        {"pairs": [(X, X + 1)]},
    ),
    "critic_distances by": Call(
        lambda critic=None: ls.measure.critic_distances([], critic), {"critic": ls.measure.Critic()}
    ),
    "LabelTransport": Call(
        ls.measure.LabelTransport,
        {"cost": zero_one_cost(3), "method": "sinkhorn", "eps": 0.1, "max_iter": 5, "tol": 1e-3},
    ),
    "LabelTransport.update": Call(
        lambda p, target: ls.measure.LabelTransport(method="chebyshev").update(p, target), {"p": P, "target": P + 0.1}
    ),
    "MultiLabelScores": Call(ls.measure.MultiLabelScores, {"num_labels": 3, "threshold": 0.5, "cf1": "mean_of_f1"}),
    "MultiLabelScores.update": Call(
        lambda scores, targets, predictions=None: ls.measure.MultiLabelScores(3).update(scores, targets, predictions),
        {"scores": P, "targets": SETS.float(), "predictions": SETS.float()},
    ),
    "Speeds": Call(ls.measure.Speeds, {"lr": 0.1, "layers": "0", "num_units": 2}),
    "speeds": Call(ls.measure.speeds, {"model": NET, "lr": 0.1, "layers": "0"}),
}

LEGAL: Legal = {
    **for_all(
        ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
        {"eps, momentum: zero": ZERO, "eps: negative": FORWARD},
    ),
    **for_all(
        ("Unitization1d", "Unitization2d", "Unitization3d", "SyncUnitization"),
        {
            "eps, momentum, alpha_init: zero": ZERO, "eps: negative": FORWARD,
            "divisor: an int": "any number divides",
            "alpha_constraint: None": NONE,
        },
    ),
    **for_all(
        (f"{kind}.forward" for kind in ("BatchNorm2d", "BatchNorm3d", "Unitization2d", "Unitization3d")),
        {"x: twice as wide": "maps may have any size"},
    ),
    **for_all(("SyncBatchNorm.forward", "SyncUnitization.forward"), {"x: twice as wide": "maps have any size"}),
    **for_all(
        ("ScalarBias.forward", "ScalarScale.forward"), {"x: a scalar, empty, six dimensions, twice as wide": SIZES}
    ),
    **for_all(
        (
            "PER.forward",
            "SlicedWasserstein.forward",
            "EppsPulley.forward",
            "as_samples",
            "Moments.update",
            "Normality.update",
            "Health.update",
        ),
        {"x: six dimensions, twice as wide": SIZES},
    ),
    "ActivationPenalty.forward": {"x: a scalar, six dimensions, twice as wide": SIZES},
    "RecordedTarget": {"layers: empty": "a checkpoint fills it"},
    "VariationalDropout": {"p: zero": ZERO},
    "VariationalDropout.forward": {"x: twice as wide": SIZES},
    "LSTMLayer": {"recurrent_dropout, scale, momentum: zero": ZERO, "scale: negative": "scales may have any sign"},
    "fold": {"keep: empty": NONE},
    "Moments": {
        "num_units: zero": ZERO,
        "quantiles: empty": NONE,
        "channel_dim: negative, zero": "counted from the end",
    },
    "Normality": {"seed: zero": "a seed"},
    "Health": {"tolerance, seed: zero": ZERO, "channel_dim: negative, zero": "counted from the end"},
    "Shift": {"seed: zero": "a seed"},
    "Critic": {"steps, penalty_weight, holdout, seed: zero": ZERO},
    "critic_distances": {"pairs: empty": NONE},
    "LabelTransport": {"tol: zero": ZERO},
    "LabelTransport.update": {"target: integers": TRUTH},
    "MultiLabelScores": {"threshold: negative, zero": "scores may be logits"},
    "MultiLabelScores.update": {"targets, predictions: integers": TRUTH},
    "Speeds": {"layers: a string, a list": LATER, "num_units: zero": ZERO},
}
# fmt: on
"""What looks bad and is good, and why."""
