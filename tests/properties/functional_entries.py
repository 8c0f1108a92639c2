"""The catalogue of `layershift.functional`: for each public name valid arguments, and what is true of the function."""

from __future__ import annotations

from typing import Any

import torch
from tests.properties.catalogue import Arguments, Draw, Entry
from tests.properties.laws import (
    above,
    below,
    distance,
    free,
    homogeneous,
    ordered,
    sums_to_one,
    undone,
    unit_rows,
    within,
    zero_diagonal,
)

from layershift import functional as lf

RESULTS = {
    "Bracket": "shift_bracket",
    "LabelDistances": "label_transport",
    "NormalDistance": "normal_distance",
    "Sinkhorn": "sinkhorn",
    "SlicedTransport": "sliced_transport",
    "Transport": "exact_wasserstein",
}
"""Named tuples, and the function whose properties are theirs."""


def line(r: Draw) -> Arguments:
    """Samples of two distributions on the line."""
    return {"x": r.normal(r.B, r.N), "y": 2 * r.normal(r.B, r.M), "p": r.any_of(1, 2)}


def space(r: Draw, *, p: bool = True) -> Arguments:
    """The same inputs' samples at two times."""
    pairs = {"x": r.normal(r.N, r.D), "y": r.normal(r.N, r.D)}
    return pairs | {"p": r.any_of(1, 2)} if p else pairs


def layer(r: Draw, **options: Any) -> Arguments:
    """A batch of channels, and parameters; enough positions that no row's variance is near 0."""
    x = 2 * r.normal(r.N, r.D, 8) + r.normal(r.D, 1)
    return {"x": x, **options, "weight": r.normal(r.D), "bias": r.normal(r.D), "eps": 1e-9}


def given(r: Draw) -> Arguments:
    """Statistics of another batch."""
    return {"mean": r.normal(r.D), "variance": r.between(0.5, 2, r.D)}


def unitized(r: Draw, **options: Any) -> Arguments:
    form, over, divisor = r.any_of("practical", "bounded"), r.any_of("sample", "position"), r.any_of("paper", 1.5)
    return layer(r, alpha=r.between(0.1, 0.9, r.D)) | {"form": form, "over": over, "divisor": divisor} | options


def transported(r: Draw, **options: Any) -> Arguments:
    return {"a": r.histograms(r.B, r.K), "b": r.histograms(r.B, r.K), "cost": r.metric(r.K), **options}


def iterated(r: Draw) -> Arguments:
    return transported(r, eps=r.number(0.5, 1), max_iter=300, tol=1e-9)


def labelled(r: Draw, method: str, **options: Any) -> Arguments:
    return {"p": r.histograms(r.B, r.K), "target": r.histograms(r.B, r.K), "method": method, **options}


def noisy(r: Draw) -> Arguments:
    return {"noisy": r.normal(r.M, r.D), "points": r.normal(r.N, r.D), "t": r.number(0.2, 2)}


def theorem(r: Draw) -> Arguments:
    return {"depth": torch.tensor([1, 2, 7])[: r.B], "epsilon": r.number(0.1, 1), "C": r.number(0.5, 2), "m": r.D}


def gaussians(r: Draw) -> Arguments:
    one, two = ((r.normal(r.B, r.D), r.covariance(r.B, r.D)) for _ in range(2))
    return {"mean_x": one[0], "covariance_x": one[1], "mean_y": two[0], "covariance_y": two[1]}


def moments(r: Draw) -> Arguments:
    drawn = [r.normal(r.B, r.D), r.between(0, 2, r.B, r.D), r.normal(r.B, r.D), r.between(0, 2, r.B, r.D)]
    names = ("mean_x", "variance_x", "mean_y", "variance_y")
    return dict(zip(names, drawn, strict=True)) | {"form": r.any_of("printed", "jensen")}


def batch_norms(r: Draw) -> Arguments:
    drawn = [r.normal(r.B, r.D), r.between(0.5, 2, r.B, r.D), r.normal(r.B, r.D), r.between(0.5, 2, r.B, r.D)]
    names = ("beta_x", "gamma_x", "beta_y", "gamma_y")
    return dict(zip(names, drawn, strict=True)) | {"form": r.any_of("scale", "variance", "printed")}


HISTOGRAMS = {"rows": ("a", "b"), "gradient": ("a", "b")}
LABELS = {"symmetric": ({"a": 1, "b": 1},)}

FUNCTIONAL: dict[str, Entry] = {
    "batch_norm": Entry(
        layer,
        equivariant=({"x": 0},),
        gradient=("x", "weight", "bias"),
        dtype="like",
        single=1e-3,
        laws=(free(1.7, 0.3, "x"),),
    ),
    "batch_norm/given": Entry(
        lambda r: layer(r, **given(r)),
        rows=("x",),
        gradient=("x", "weight", "mean", "variance"),
        dtype="like",
    ),
    "batch_norm_wasserstein": Entry(
        batch_norms,
        rows=("beta_x", "gamma_x", "beta_y", "gamma_y"),
        gradient=("beta_x", "gamma_x", "gamma_y"),
        symmetric=({"beta_x": 1, "gamma_x": 1, "beta_y": 1, "gamma_y": 1},),
        laws=(distance(("beta_x", "gamma_x"), ("beta_y", "gamma_y")), free(1, 0.3, "beta_x", "beta_y")),
    ),
    "characteristic_distance": Entry(
        lambda r: {"values": r.between(-1, 1, 2, r.B, 9), "t_max": r.number(1, 5)},
        gradient=("values",),
        laws=(within(0),),
    ),
    "characteristic_function": Entry(
        lambda r: {"x": r.normal(r.B, r.N), "num_nodes": r.any_of(2, 9), "t_max": r.number(1, 5)},
        gradient=("x",),
        rows=("x",),
        row_dim=1,
        symmetric=({"x": 1},),
        laws=(within(-1, 1),),
    ),
    "chebyshev": Entry(
        lambda r: {k: v for k, v in transported(r).items() if k != "cost"},
        **HISTOGRAMS,
        **LABELS,
        laws=(distance("a", "b"), within(0, 1), homogeneous(1, "a", "b")),
    ),
    "clipped_moment": Entry(
        lambda r: {"x": r.normal(r.B, r.D), "p": r.any_of(2, 3, 5), "C": r.number(0.3, 4)},
        rows=("x",),
        symmetric=({"x": 1},),
        gradient=("x",),
        laws=(homogeneous(1, "x", "C"),),
    ),
    "composition_bound": Entry(
        lambda r: theorem(r) | {"s": r.number(0.5, 2), "D": r.number(0, 2), "form": r.any_of("printed", "proof")},
        rows=("depth",),
        dtype="float64",
        laws=(within(0),),
    ),
    "composition_delta": Entry(
        lambda r: {"depth": torch.tensor([1, 2, 9])[: r.B]}, rows=("depth",), dtype="float64", laws=(within(0),)
    ),
    "composition_lipschitz": Entry(
        lambda r: {"depth": torch.tensor([2, 3, 9])[: r.B]}, rows=("depth",), dtype="float64", laws=(within(0, 1),)
    ),
    "composition_width": Entry(theorem, rows=("depth",), dtype="float64", laws=(within(1),)),
    "convolution_norm_bound": Entry(
        lambda r: {"weight": r.normal(r.B, r.D, 5, r.K, r.K), "stride": r.any_of(1, 2), "tight": r.any_of(True, False)},
        rows=("weight",),
        dtype="float64",
        laws=(homogeneous(1, "weight"), within(0)),
    ),
    "directions": Entry(
        lambda r: {"d": r.D, "num": r.N, "generator": r.generator(), "device": "cpu", "dtype": torch.float64},
        dtype="float64",
        laws=(unit_rows,),
    ),
    "effective_rank": Entry(
        lambda r: {"x": r.normal(r.B, r.N, r.D), "corrected": r.any_of(True, False)},
        rows=("x",),
        gradient=("x",),
        symmetric=({"x": 1}, {"x": 2}),
        dtype="float64",
        laws=(free(1.7, 0.3, "x"), within(1)),
        single=1e-3,
    ),
    "emd": Entry(
        transported, **HISTOGRAMS, laws=(distance("a", "b"), homogeneous(1, "cost"), homogeneous(1, "a", "b"))
    ),
    "epps_pulley": Entry(
        lambda r: {"x": r.normal(r.B, r.N), "method": r.any_of("quadrature", "exact"), "num_nodes": 17, "t_max": 4.0},
        rows=("x",),
        symmetric=({"x": 1},),
        gradient=("x",),
        laws=(within(0), free(-1, 0, "x")),
    ),
    "exact_wasserstein": Entry(
        space,
        symmetric=({"x": 0, "y": 0}, {"x": 1, "y": 1}),
        single=1e-3,
        laws=(distance("x", "y"), homogeneous(1, "x", "y"), free(1, 0.3, "x", "y")),
        compared=1,
    ),
    "gaussian_fit_wasserstein": Entry(
        lambda r: space(r, p=False),
        symmetric=({"x": 0, "y": 0}, {"x": 1, "y": 1}),
        dtype="float64",
        single=1e-3,
        laws=(distance("x", "y"), homogeneous(1, "x", "y"), free(1, 0.3, "x", "y")),
    ),
    "gaussian_wasserstein": Entry(
        gaussians,
        rows=("mean_x", "covariance_x", "mean_y", "covariance_y"),
        single=1e-3,
        gradient=("mean_x", "covariance_x", "covariance_y"),
        laws=(distance(("mean_x", "covariance_x"), ("mean_y", "covariance_y")), free(1, 0.3, "mean_x", "mean_y")),
    ),
    "general_unitization": Entry(
        lambda r: {"x": r.normal(r.B, r.D), "alpha": r.between(0, 1, r.D)},
        rows=("x",),
        gradient=("x", "alpha"),
        dtype="like",
    ),
    "group_norm": Entry(
        lambda r: layer(r, num_groups=1),
        rows=("x",),
        gradient=("x", "weight", "bias"),
        dtype="like",
        single=1e-3,
        laws=(free(1.7, 0.3, "x"),),
    ),
    "high_moment_bound": Entry(
        lambda r: space(r, p=False) | {"p": r.any_of(2, 3), "C": r.any_of(None, 1.5)},
        symmetric=({"x": 0}, {"y": 0}),
        gradient=("x", "y"),
        laws=(distance("x", "y", triangle=False), below(lf.exact_wasserstein, "x", "y"), within(0)),
    ),
    "instance_norm": Entry(
        layer,
        rows=("x",),
        gradient=("x", "weight", "bias"),
        dtype="like",
        single=1e-3,
        laws=(free(1.7, 0.3, "x"),),
    ),
    "jensen_shannon": Entry(
        lambda r: {k: v for k, v in transported(r).items() if k != "cost"},
        **HISTOGRAMS,
        **LABELS,
        laws=(distance("a", "b", triangle=False), within(0, 0.6931472)),
    ),
    "label_cost": Entry(
        lambda r: {"embeddings": r.normal(r.K, r.D)},
        symmetric=({"embeddings": 1},),
        gradient=("embeddings",),
        laws=(zero_diagonal, homogeneous(2, "embeddings"), free(1, 0.3, "embeddings")),
    ),
    "label_distribution": Entry(
        lambda r: {"labels": r.between(0.1, 1, r.N, r.K)},
        rows=("labels",),
        gradient=("labels",),
        dtype="like",
        laws=(sums_to_one, homogeneous(0, "labels")),
    ),
    "label_transport": Entry(
        lambda r: labelled(
            r,
            r.any_of("auto", "emd", "sinkhorn", "divergence", "printed"),
            cost=r.metric(r.K),
            eps=0.5,
            max_iter=300,
            tol=1e-9,
            equal_costs=False,
        ),
        rows=("p", "target"),
        gradient=("p", "target"),
        laws=(within(0),),
        single=1e-3,
    ),
    "label_transport/without": Entry(
        lambda r: labelled(r, r.any_of("total_variation", "chebyshev", "jensen_shannon")),
        rows=("p", "target"),
        gradient=("p", "target"),
        laws=(distance("p", "target", triangle=False),),
    ),
    "laplace_cdf": Entry(
        lambda r: {"x": r.normal(r.B, r.N), "scale": r.number(0.5, 2)},
        rows=("x",),
        gradient=("x",),
        dtype="like",
        laws=(within(0, 1), undone(lf.laplace_quantile, "x")),
    ),
    "laplace_quantile": Entry(
        lambda r: {"p": r.between(0.01, 0.99, r.B, r.N), "scale": r.number(0.5, 2)},
        rows=("p",),
        gradient=("p",),
        dtype="like",
        laws=(undone(lf.laplace_cdf, "p"),),
    ),
    "layer_norm": Entry(
        layer, rows=("x",), gradient=("x", "weight", "bias"), dtype="like", single=1e-3, laws=(free(1.7, 0.3, "x"),)
    ),
    "linear_norm": Entry(
        lambda r: {"weight": r.normal(r.B, r.D, r.N)},
        rows=("weight",),
        symmetric=({"weight": 1}, {"weight": 2}),
        dtype="float64",
        laws=(homogeneous(1, "weight"), within(0)),
    ),
    "mean_projection": Entry(lambda r: {"d": r.any_of(1, 2, 3, 10, 1000)}, dtype="float64", laws=(within(0, 1),)),
    "modified_unitization": Entry(
        lambda r: {"x": r.normal(r.B, r.D), "alpha": r.number(0.1, 1), "constant": r.normal(r.D)},
        rows=("x",),
        gradient=("x",),
        dtype="like",
    ),
    "moment_bound": Entry(
        moments,
        rows=("mean_x", "variance_x", "mean_y", "variance_y"),
        gradient=("mean_x", "variance_x"),
        symmetric=({"mean_x": 1, "variance_x": 1, "mean_y": 1, "variance_y": 1},),
        laws=(within(0), free(1, 0.3, "mean_x", "mean_y")),
    ),
    "normal_cdf": Entry(
        lambda r: {"x": r.normal(r.B, r.N)},
        rows=("x",),
        gradient=("x",),
        dtype="like",
        laws=(within(0, 1), undone(lf.normal_quantile, "x")),
    ),
    "normal_distance": Entry(
        lambda r: {"projections": r.normal(r.B, r.N, 5)},
        rows=("projections",),
        gradient=("projections",),
        symmetric=({"projections": 1}, {"projections": 2}),
        laws=(within(0), free(-1, 0, "projections")),
        single=1e-3,
    ),
    "normal_floor": Entry(lambda r: {"n": r.any_of(1, 2, 10, 1000)}, dtype="float64", laws=(within(0, 1.2),)),
    "normal_partial_moment": Entry(
        lambda r: {"a": r.normal(r.B, r.N), "b": r.normal(r.B, r.N), "order": r.any_of(0, 1, 2)},
        rows=("a", "b"),
        gradient=("a", "b"),
        dtype="like",
        single=1e-3,
    ),
    "normal_pdf": Entry(
        lambda r: {"x": r.normal(r.B, r.N)},
        rows=("x",),
        gradient=("x",),
        dtype="like",
        laws=(within(0, 0.4), free(-1, 0, "x")),
    ),
    "normal_quantile": Entry(
        lambda r: {"p": r.between(0.01, 0.99, r.B, r.N)},
        rows=("p",),
        gradient=("p",),
        dtype="like",
        laws=(undone(lf.normal_cdf, "p"),),
    ),
    "per": Entry(
        lambda r: {"x": r.normal(r.N, r.D), "mode": "exact"},
        rows=("x",),
        gradient=("x",),
        symmetric=({"x": 1},),
        laws=(within(0.797), free(-1, 0, "x")),
    ),
    "per/projections": Entry(
        lambda r: {"x": r.normal(r.N, r.D), "mode": "projections", "num_projections": 5, "generator": r.generator()},
        rows=("x",),
        gradient=("x",),
        laws=(within(0.797), free(-1, 0, "x")),
        single=None,
    ),
    "per_joint": Entry(
        lambda r: {"xs": [r.normal(r.N, r.D), r.normal(r.N, r.K)]},
        laws=(within(0.797),),
    ),
    "posterior_mean": Entry(
        lambda r: noisy(r) | {"values": r.normal(r.N, 2)},
        rows=("noisy",),
        gradient=("noisy", "points", "values"),
        symmetric=({"points": 0, "values": 0},),
        laws=(homogeneous(1, "values"),),
    ),
    "practical_bound": Entry(
        lambda r: {"alpha": r.between(0, 1, r.D), "norm_x": r.between(0, 3)[()], "norm_y": r.between(0, 3)[()]},
        symmetric=({"alpha": 0},),
        laws=(within(0),),
        dtype="like",
    ),
    "practical_unitization": Entry(
        lambda r: {"x": r.normal(r.B, r.D), "alpha": r.between(0, 1, r.D), "eps": 1e-5},
        rows=("x",),
        gradient=("x", "alpha"),
        dtype="like",
    ),
    "shift_bracket": Entry(
        space,
        symmetric=({"x": 0, "y": 0}, {"x": 1, "y": 1}),
        laws=(ordered, distance("x", "y", triangle=False), homogeneous(1, "x", "y"), free(1, 0.3, "x", "y")),
        gradient=("x", "y"),
    ),
    "sinkhorn": Entry(iterated, **HISTOGRAMS, laws=(within(0),), single=None),
    "sinkhorn_divergence": Entry(
        lambda r: (
            iterated(r) | {"form": r.any_of("debiased", "printed"), "of": r.any_of("cost", "value"), "warn": False}
        ),
        **HISTOGRAMS,
        single=1e-3,
    ),
    "sliced_lower_bound": Entry(
        lambda r: {"sliced": r.between(0, 2, r.B, r.N), "d": r.D, "p": r.any_of(1, 2)},
        rows=("sliced",),
        gradient=("sliced",),
        laws=(above(lambda x: x, "sliced"), homogeneous(1, "sliced")),
        dtype="like",
    ),
    "sliced_transport": Entry(
        lambda r: {
            "x": r.normal(r.N, 3),
            "y": r.normal(r.N, 3),
            "move": r.between(0, 2)[()],
            "d": r.D,
            "p": r.any_of(1, 2),
        },
        symmetric=({"x": 0, "y": 0}, {"x": 1, "y": 1}),
        dtype="float64",
        laws=(within(0), homogeneous(1, "x", "y", "move")),
        single=1e-3,
    ),
    "sliced_wasserstein": Entry(
        lambda r: space(r) | {"directions": lf.directions(r.D, 5, dtype=torch.float64)},
        gradient=("x", "y"),
        symmetric=({"x": 0}, {"y": 0}),
        laws=(distance("x", "y"), homogeneous(1, "x", "y"), free(1, 0.3, "x", "y")),
    ),
    "sliced_wasserstein/drawn": Entry(
        lambda r: space(r) | {"num_projections": 5, "generator": r.generator()},
        symmetric=({"x": 0}, {"y": 0}),
        laws=(distance("x", "y"),),
        single=None,
    ),
    "sliced_wasserstein_normal": Entry(
        lambda r: {
            "x": r.normal(r.N, r.D),
            "p": r.any_of(1, 2),
            "directions": lf.directions(r.D, 5, dtype=torch.float64),
        },
        gradient=("x",),
        symmetric=({"x": 0},),
        laws=(within(0), free(-1, 0, "x")),
    ),
    "sliced_wasserstein_normal/drawn": Entry(
        lambda r: {"x": r.normal(r.N, r.D), "p": 1, "num_projections": 5, "generator": r.generator()},
        symmetric=({"x": 0},),
        laws=(within(0),),
        single=None,
    ),
    "smoothed_log_density": Entry(
        noisy,
        rows=("noisy",),
        gradient=("noisy", "points"),
        symmetric=({"points": 0},),
        laws=(free(1, 0.3, "noisy", "points"),),
    ),
    "smoothed_score": Entry(
        noisy,
        rows=("noisy",),
        gradient=("noisy", "points"),
        symmetric=({"points": 0},),
        laws=(free(1, 0.3, "noisy", "points"),),
        single=1e-3,
    ),
    "total_variation": Entry(
        lambda r: {k: v for k, v in transported(r).items() if k != "cost"},
        **HISTOGRAMS,
        **LABELS,
        laws=(distance("a", "b"), within(0, 1), homogeneous(1, "a", "b")),
    ),
    "unitization": Entry(
        unitized,
        equivariant=({"x": 0},),
        gradient=("x", "alpha", "weight", "bias"),
        dtype="like",
        single=1e-3,
        laws=(free(1.7, 0.3, "x"),),
    ),
    "unitization/given": Entry(
        lambda r: unitized(r, **given(r)),
        rows=("x",),
        gradient=("x", "alpha", "mean", "variance"),
        dtype="like",
        single=1e-3,
    ),
    "unitization_bound": Entry(
        lambda r: {"alpha": r.between(0, 1, r.D), "norm_x": r.between(0, 3)[()], "norm_y": r.between(0, 3)[()]},
        symmetric=({"alpha": 0},),
        laws=(within(0),),
        dtype="like",
    ),
    "vanilla_unitization": Entry(
        lambda r: {"x": r.normal(r.B, r.D), "constant": r.normal(r.D)},
        rows=("x",),
        gradient=("x",),
        dtype="like",
        laws=(unit_rows, homogeneous(0, "x")),
    ),
    "variance_constancy": Entry(
        lambda r: {"x": r.normal(4, r.D), "beta": r.between(0.5, 1, r.D), "group_size": 2},
        gradient=("x", "beta"),
        laws=(within(0), free(1, 0.3, "x")),
        single=1e-3,
    ),
    "wasserstein": Entry(
        line,
        rows=("x", "y"),
        symmetric=({"x": 1}, {"y": 1}),
        gradient=("x", "y"),
        laws=(distance("x", "y"), homogeneous(1, "x", "y"), free(1, 0.3, "x", "y")),
    ),
    "wasserstein_laplace": Entry(
        lambda r: {"x": r.normal(r.B, r.N), "p": r.any_of(1, 2), "scale": r.number(0.5, 2)},
        rows=("x",),
        symmetric=({"x": 1},),
        gradient=("x",),
        laws=(within(0), free(-1, 0, "x"), homogeneous(1, "x", "scale")),
    ),
    "wasserstein_normal": Entry(
        lambda r: {"x": r.normal(r.B, r.N), "p": r.any_of(1, 2)},
        rows=("x",),
        symmetric=({"x": 1},),
        gradient=("x",),
        laws=(within(0), free(-1, 0, "x")),
    ),
    "zero_one_cost": Entry(
        lambda r: {"num_labels": r.K, "device": "cpu", "dtype": torch.float64}, dtype="float64", laws=(zero_diagonal,)
    ),
}

ANY = "rank more, rank less"
EACH = "rank more, rank less, scalar"
LEGAL: dict[str, dict[str, str]] = {
    # Any number of leading dimensions, none of them included; what has no batch gives a result without one.
    "characteristic_function": {"x": ANY},
    "characteristic_distance": {"values": "rank less, empty 1, longer 1"},
    "clipped_moment": {"x": f"{ANY}, empty 0, empty 1"},
    "convolution_norm_bound": {"weight": ANY},
    "effective_rank": {"x": ANY},
    "epps_pulley": {"x": ANY},
    "gaussian_wasserstein": dict.fromkeys(("mean_x", "covariance_x", "mean_y", "covariance_y"), ANY),
    "general_unitization": {"x": f"{ANY}, empty 0"},
    "linear_norm": {"weight": ANY},
    "modified_unitization": {"x": f"{ANY}, empty 0", "alpha": "zero"},
    "moment_bound": dict.fromkeys(("mean_x", "variance_x", "mean_y", "variance_y"), ANY),
    "normal_distance": {"projections": f"{ANY}, empty 0"},
    "practical_unitization": {"x": f"{ANY}, empty 0"},
    "vanilla_unitization": {"x": f"{ANY}, empty 0"},
    "wasserstein": {"x": ANY, "y": ANY},
    "wasserstein_laplace": {"x": ANY},
    "wasserstein_normal": {"x": ANY},
    # Number by number.
    "laplace_cdf": {"x": f"{EACH}, empty 0, empty 1"},
    "laplace_quantile": {"p": f"{EACH}, empty 0, empty 1"},
    "normal_cdf": {"x": f"{EACH}, empty 0, empty 1"},
    "normal_partial_moment": {"a": EACH, "b": EACH, "order": "zero"},
    "normal_pdf": {"x": f"{EACH}, empty 0, empty 1"},
    "normal_quantile": {"p": f"{EACH}, empty 0, empty 1"},
    "sliced_lower_bound": {"sliced": f"{EACH}, empty 0, empty 1"},
    # Numbers in place of tensors, which broadcast.
    "composition_bound": {"depth": f"{EACH}, number", "C": "zero", "m": "fraction", "D": "zero"},
    "composition_delta": {"depth": f"{EACH}, number"},
    "composition_lipschitz": {"depth": f"{EACH}, number"},
    "composition_width": {"depth": f"{EACH}, number", "C": "zero", "m": "fraction"},
    "practical_bound": {"alpha": "rank less, scalar"},
    "unitization_bound": {"alpha": "rank less, scalar"},
    "variance_constancy": {"beta": "rank less, scalar"},
    # No sample, no value.
    "per": {"x": "empty 0"},
    "per/projections": {"x": "empty 0"},
    "posterior_mean": {"noisy": "empty 0", "values": "empty 1"},
    "smoothed_log_density": {"noisy": "empty 0"},
    "smoothed_score": {"noisy": "empty 0"},
    # Samples of two distributions need not be as many.
    "high_moment_bound": {"x": "longer 0", "y": "longer 0"},
    "sliced_wasserstein": {"x": "longer 0", "y": "longer 0"},
    "sliced_wasserstein/drawn": {"x": "longer 0", "y": "longer 0"},
    # The least number that an option may have.
    "batch_norm": {"eps": "zero"},
    "batch_norm/given": {"eps": "zero"},
    "label_transport": {"tol": "zero"},
    "sinkhorn": {"tol": "zero"},
    "sinkhorn_divergence": {"tol": "zero"},
    "unitization": {"eps": "zero", "divisor": "number"},
    "unitization/given": {"eps": "zero", "divisor": "number"},
    # PyTorch's own take any number, and its tests try a negative one.
    "group_norm": {"eps": "zero, negative"},
    "instance_norm": {"eps": "zero, negative"},
    "layer_norm": {"eps": "zero, negative"},
    # Labels of a sample as truth values, and what dtype means by default.
    "label_distribution": {"labels": "integers, booleans, empty 0"},
    "directions": {"dtype": "none"},
}
"""What looks spoiled and is right: by argument, what may be given in its place."""
