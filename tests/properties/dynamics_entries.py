"""The catalogue of `layershift.dynamics`: for each public name valid arguments, and what is true of the function."""

from __future__ import annotations

from typing import Any

import torch
from tests.properties.catalogue import Arguments, Draw, Entry
from tests.properties.laws import distance, free, homogeneous, within
from torch import Tensor, nn

from layershift import dynamics as ld

RESULTS = {
    "Descent": "descend",
    "Flow": "denoising_flow",
    "Trajectory": "flow",
    "Velocity": "velocity",
}
"""Named tuples, and the function whose properties are theirs."""


def problem(r: Draw) -> ld.Problem:
    """Centred data, a positive definite Σ, and a smooth network, whose numbers do not jump."""
    return ld.Problem(r.normal(r.N, r.D), r.normal(r.N), r.covariance(r.D), "squared", r.any_of("tanh", "softplus"))


def neurons(r: Draw) -> Arguments:
    return {"a": r.normal(r.M), "b": r.normal(r.M, r.D)}


def particles(r: Draw, *, other: bool = True) -> Arguments:
    """Two networks as particles; in the plane, where every distance is known."""
    mine = {"a": r.normal(r.N), "b": r.normal(r.N, 2)}
    rest = {"other_a": r.normal(r.M), "other_b": r.normal(r.M, 2)} if other else {}
    return mine | rest | {"sigma": r.covariance(2)}


def tangent(r: Draw, *names: str, sigma: bool = True) -> Arguments:
    """A point for each row, vectors at it, and the metric."""
    found = {name: r.normal(r.B, r.D) for name in ("b", *names)}
    return found | {"sigma": r.covariance(r.D)} if sigma else found


def moved(r: Draw, kind: str) -> Arguments:
    return {"problem": problem(r), **neurons(r), "kind": kind, "chunk": (3, 2)}


def norms(r: Draw) -> Arguments:
    """For the manifold: neurons on it, and the lengths that they stand for."""
    found = {"problem": problem(r), **neurons(r), "kind": "manifold", "norms": r.between(0.5, 2, r.M)}
    return found | {"b": ld.to_ellipsoid(found["b"], found["problem"].sigma)}


def residual(x: Tensor) -> Tensor:
    return torch.sin(x)


def taught(r: Draw) -> Arguments:
    return {"x": r.normal(r.M, r.D), "data": r.normal(r.N, r.D), "residual": residual, "t": r.number(0.2, 2)}


def network(norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4, dtype=torch.float64), norm(4, dtype=torch.float64))


def two_layer(x: Tensor, **options: Any) -> Tensor:
    return ld.TwoLayer(**options)(x)


def two_layer_bn(x: Tensor, **options: Any) -> Tensor:
    return ld.TwoLayerBN(**options)(x)


def streamed(x: Tensor, **options: Any) -> Tensor:
    return ld.TwoLayerBN(sigma=None, **options)(x)


def layers(r: Draw, **options: Any) -> Arguments:
    given = {"x": r.normal(r.N, r.D), "d": r.D, "m": r.M, "a": r.normal(r.M), "b": r.normal(r.M, r.D)}
    return given | {"activation": r.any_of("tanh", "relu"), "seed": 3, **options}


def solved(a: Tensor, b: Tensor, **fields: Any) -> ld.Velocity:
    """A problem is looked at where it is used."""
    return ld.velocity(ld.Problem(**fields), a, b, kind="plain")


def posed(x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return tuple(ld.Problem.of(x, y, **options)[:3])


def fielded(problem: ld.Problem, m: int, a: Tensor, b: Tensor, **options: Any) -> ld.Velocity:
    return ld.VelocityField(problem, m, **options)(a, b)


def manifold(sigma: Tensor, b: Tensor) -> Tensor:
    return ld.BatchNormManifold(sigma).projx(b)


def placed(d: int, m: int, sigma: Tensor) -> Tensor:
    dtype = sigma.dtype if isinstance(sigma, Tensor) and sigma.is_floating_point() else None
    return ld.on_manifold(ld.TwoLayer(d, m, dtype=dtype), sigma).b.detach().as_subclass(Tensor)


def named(found: dict[str, ld.NeuronSpeeds]) -> list[Any]:
    return [tuple(x for x in each[1:] if x is not None) for each in found.values()]


def speeds(**options: Any) -> list[Any]:
    return named(ld.speeds(**options))


def streaming(model: nn.Module, **options: Any) -> list[Any]:
    """Of a model that did not move; with nothing before it there is no turn."""
    return [units for _, units, _ in ld.Speeds(**options).of_model(model)]


def wider(problem: ld.Problem, a: Tensor, b: Tensor, **options: Any) -> list[float]:
    rows = ld.convergence_in_width(problem, lambda m, _: (a[:m], b[:m]), (a, b), **options)
    return [row.distance for row in rows]


FLOWS = {"half": False, "single": 1e-3}
DYNAMICS: dict[str, Entry] = {
    "BatchNormManifold": Entry(
        lambda r: {"sigma": r.covariance(r.D), "b": r.normal(r.B, r.D)},
        call=manifold,
        rows=("b",),
        half=False,
        laws=(homogeneous(0, "b"),),
    ),
    "Problem": Entry(lambda r: problem(r)._asdict() | neurons(r), call=solved, **FLOWS),
    "Problem/of": Entry(
        lambda r: {
            "x": r.normal(r.N, r.D),
            "y": r.normal(r.N),
            "loss": "logistic",
            "activation": "tanh",
            "center": r.any_of(True, False),
        },
        call=posed,
        half=False,
    ),
    "NeuronSpeeds": Entry(lambda r: {"model": network(), "lr": 0.1, "layers": "*"}, call=speeds, dtype="float64"),
    "Speeds": Entry(
        lambda r: {"model": network(), "lr": 0.1, "layers": "*", "num_units": 3}, call=streaming, dtype="float64"
    ),
    "TwoLayer": Entry(layers, call=two_layer, rows=("x",), gradient=("x",), half=False),
    "TwoLayerBN": Entry(
        lambda r: layers(r, sigma=r.covariance(r.D)),
        call=two_layer_bn,
        rows=("x",),
        gradient=("x",),
        half=False,
        laws=(homogeneous(0, "b"),),
    ),
    "TwoLayerBN/streaming": Entry(
        lambda r: layers(r, center=True), call=streamed, equivariant=({"x": 0},), half=False, laws=(free(1, 0.3, "x"),)
    ),
    "VelocityField": Entry(lambda r: moved(r, "plain") | {"m": r.M}, call=fielded, **FLOWS),
    "backward_heat": Entry(
        lambda r: {"covariance": r.covariance(r.B, r.D), "t": r.number(0, 0.1)},
        rows=("covariance",),
        gradient=("covariance",),
        laws=(homogeneous(1, "covariance", "t"),),
    ),
    "batch_norm_shift": Entry(
        lambda r: {"before": network(), "after": network(), "form": "scale"}, dtype="float64", laws=(within(0),)
    ),
    "convergence_in_width": Entry(
        lambda r: {
            "problem": problem(r),
            **neurons(r),
            "widths": (2, 3),
            "seeds": (0,),
            "times": (0.0, 0.1),
            "step": 0.05,
            "ground": r.any_of("geodesic", "chordal"),
        },
        call=wider,
        dtype="float64",
        half=False,
        single=1e-2,
        laws=(within(0),),
    ),
    "covariance_range": Entry(lambda r: {"sigma": r.covariance(r.D)}, half=False, single=None),
    "covering_radius": Entry(
        lambda r: {"b": r.normal(r.N, 2), "probes": 5},
        symmetric=({"b": 0},),
        laws=(within(0, 3.1416), homogeneous(0, "b")),
    ),
    "covering_radius/space": Entry(
        lambda r: {"b": r.normal(r.N, 3), "probes": 50, "generator": r.generator()},
        symmetric=({"b": 0},),
        single=None,
        laws=(within(0, 3.1416), homogeneous(0, "b")),
    ),
    "denoising_flow": Entry(
        lambda r: {
            "points": r.normal(r.N, r.D),
            "t": r.number(0.1, 0.5),
            "steps": 3,
            "residual": residual,
            "noise": r.any_of(None, 0.4),
            "form": r.any_of("exact", "printed"),
        },
        single=1e-3,
    ),
    "descend": Entry(
        lambda r: moved(r, r.any_of("batch_norm", "plain")) | {"rate": 0.05, "steps": 3, "record": (0, 3)},
        writes=("a", "b"),
        **FLOWS,
    ),
    "descend/manifold": Entry(
        lambda r: norms(r) | {"rate": 0.05, "steps": 3, "record": (3,)}, writes=("a", "b", "norms"), **FLOWS
    ),
    "direction_distance": Entry(
        lambda r: {
            "b": r.normal(r.N, 2),
            "other": r.normal(r.M, 2),
            "sigma": r.covariance(2),
            "ground": r.any_of("geodesic", "chordal", "arc", "correlation"),
        },
        rows=("b",),
        single=1e-3,
        laws=(within(0), homogeneous(0, "b")),
    ),
    "dissipation": Entry(
        lambda r: {k: v for k, v in moved(r, "batch_norm").items() if k != "chunk"}, laws=(within(0),), **FLOWS
    ),
    "dissipation/manifold": Entry(norms, laws=(within(0),), **FLOWS),
    "energy_gap": Entry(
        lambda r: {
            "times": torch.linspace(0, 1, 5, dtype=torch.float64),
            "loss": -r.between(1, 2, 5).cumsum(0),
            "rate": r.between(1, 2, 5),
        },
        laws=(within(0), free(1, 0.3, "times"), free(1, 0.3, "loss")),
        gradient=("rate",),
    ),
    "flow": Entry(
        lambda r: (
            moved(r, "batch_norm")
            | {"times": torch.tensor([0, 0.1, 0.3], dtype=torch.float64), "method": "euler", "step": 0.05}
        ),
        **FLOWS,
    ),
    "flow/adaptive": Entry(
        lambda r: norms(r) | {"times": torch.tensor([0, 0.1], dtype=torch.float64), "rtol": 1e-4, "atol": 1e-5}, **FLOWS
    ),
    "flow_wasserstein": Entry(
        lambda r: {"points": r.normal(2, r.N, r.D), "target": r.normal(r.N, r.D)},
        rows=("points",),
        laws=(within(0),),
        single=1e-3,
    ),
    "ground_distance": Entry(
        lambda r: particles(r) | {"ground": r.any_of("geodesic", "chordal", "correlation")},
        rows=("a", "b"),
        single=1e-3,
        half=False,
        laws=(within(0),),
    ),
    "inner_product": Entry(
        lambda r: tangent(r, "u", "v", sigma=False),
        rows=("b", "u", "v"),
        gradient=("b", "u", "v"),
        dtype="like",
        laws=(homogeneous(2, "u", "v"),),
    ),
    "inverse_metric_matrix": Entry(tangent, rows=("b",), gradient=("b", "sigma"), dtype="like"),
    "least_loss": Entry(
        lambda r: {"problem": problem(r), "b": r.normal(3, r.D), "cutoff": 1e-10},
        dtype="float64",
        half=False,
        laws=(within(0),),
        single=1e-2,
    ),
    "lift": Entry(
        lambda r: tangent(r, "v"), rows=("b", "v"), gradient=("b", "v"), dtype="like", laws=(homogeneous(1, "v"),)
    ),
    "metric_gradient": Entry(
        lambda r: tangent(r, "g"),
        rows=("b", "g"),
        gradient=("b", "g"),
        dtype="like",
        single=1e-3,
        laws=(homogeneous(1, "g"),),
    ),
    # Of short neurons it is larger than float16 can hold.
    "metric_matrix": Entry(tangent, rows=("b",), gradient=("b", "sigma"), dtype="like", single=1e-3, half=False),
    "on_manifold": Entry(
        lambda r: {"d": r.D, "m": r.M, "sigma": r.covariance(r.D)},
        call=placed,
        dtype="like",
        half=False,
        single=None,
    ),
    "optimal_map": Entry(
        lambda r: taught(r) | {"form": r.any_of("exact", "printed")},
        rows=("x",),
        gradient=("x", "data"),
        symmetric=({"data": 0},),
    ),
    "particle_wasserstein": Entry(
        lambda r: particles(r) | {"ground": r.any_of("geodesic", "chordal", "arc", "correlation")},
        single=1e-3,
        symmetric=({"a": 0, "b": 0}, {"other_a": 0, "other_b": 0}),
        half=True,
        laws=(distance(("a", "b"), ("other_a", "other_b")), homogeneous(0, "b")),
    ),
    "particle_wasserstein/sliced": Entry(
        lambda r: (
            particles(r) | {"ground": "chordal", "method": "sliced", "projections": 5, "generator": r.generator()}
        ),
        symmetric=({"a": 0, "b": 0}, {"other_a": 0, "other_b": 0}),
        single=None,
        half=False,
        laws=(distance(("a", "b"), ("other_a", "other_b")), homogeneous(0, "b")),
    ),
    "push": Entry(
        lambda r: tangent(r, "u", sigma=False),
        rows=("b", "u"),
        gradient=("b", "u"),
        dtype="like",
        laws=(homogeneous(1, "u"),),
    ),
    "random_particles": Entry(
        lambda r: {"d": r.D, "m": r.M, "seed": 3, "dtype": torch.float64, "device": "cpu"}, dtype="float64"
    ),
    "retract": Entry(lambda r: tangent(r, "u"), rows=("b", "u"), gradient=("b", "u"), dtype="like", single=1e-2),
    "second_moment": Entry(
        lambda r: {"x": r.normal(r.N, r.D), "center": r.any_of(True, False)},
        symmetric=({"x": 0},),
        gradient=("x",),
        laws=(homogeneous(2, "x"),),
    ),
    "separation_radius": Entry(
        lambda r: {"a": r.normal(r.N), "b": r.normal(r.N, 2)},
        symmetric=({"a": 0, "b": 0},),
        dtype="float64",
        laws=(within(0, 3.1416), homogeneous(0, "b"), free(1, 0.3, "a")),
    ),
    "sigma_norm": Entry(
        tangent, rows=("b",), gradient=("b", "sigma"), dtype="like", laws=(homogeneous(1, "b"), within(0))
    ),
    "speeds": Entry(lambda r: {"model": network(), "lr": 0.1, "layers": "*"}, call=speeds, dtype="float64"),
    "tangent_projection": Entry(
        lambda r: tangent(r, "u"), rows=("b", "u"), gradient=("b", "u"), dtype="like", laws=(homogeneous(1, "u"),)
    ),
    "teacher_loss": Entry(
        lambda r: {
            "student": residual,
            "x": r.normal(r.N, r.D),
            "residual": residual,
            "t": r.number(0.2, 2),
            "generator": r.generator(),
        },
        gradient=("x",),
        laws=(within(0),),
        single=None,
        dtype="like",
    ),
    "to_ellipsoid": Entry(tangent, rows=("b",), gradient=("b", "sigma"), dtype="like", laws=(homogeneous(0, "b"),)),
    "velocity": Entry(lambda r: moved(r, r.any_of("batch_norm", "plain")), **FLOWS),
    "velocity/manifold": Entry(norms, **FLOWS),
}
APART = {"run_flow": "runs experiments for seconds and writes a file: tests/dynamics/test_theorems.py runs each"}
"""Names without an entry, and why."""

ANY = "rank more, rank less"
LEGAL: dict[str, dict[str, str]] = {
    # Any number of leading dimensions, none of them included.
    "BatchNormManifold": {"b": f"{ANY}, empty 0"},
    "backward_heat": {"covariance": f"{ANY}, empty 0", "t": "zero, negative"},  # back in time it is the heat equation
    "inner_product": dict.fromkeys(("b", "u", "v"), ANY),
    "inverse_metric_matrix": {"b": f"{ANY}, empty 0"},
    "lift": {"b": ANY, "v": ANY},
    "metric_gradient": {"b": ANY, "g": ANY},
    "metric_matrix": {"b": f"{ANY}, empty 0"},
    "push": {"b": ANY, "u": ANY},
    "retract": {"b": ANY, "u": ANY},
    "sigma_norm": {"b": f"{ANY}, empty 0"},
    "tangent_projection": {"b": ANY, "u": ANY},
    "to_ellipsoid": {"b": f"{ANY}, empty 0"},
    # No input, no output.
    "TwoLayer": {"x": "empty 0", "a": "none", "b": "none", "seed": "zero"},
    "TwoLayerBN": {"x": "empty 0", "a": "none", "b": "none", "seed": "zero", "sigma": "none"},
    "direction_distance": {"b": "empty 0", "other": "empty 0"},
    "optimal_map": {"x": "empty 0"},
    "teacher_loss": {"x": "empty 0, empty 1"},
    # The least number that an option may have, and its default.
    "Speeds": {"num_units": "zero"},
    "TwoLayerBN/streaming": {"a": "none", "b": "none", "seed": "zero"},
    "VelocityField": {"chunk": "none"},
    "convergence_in_width": {"seeds": "list"},
    "descend": {"record": "list"},
    "descend/manifold": {"record": "list"},
    "least_loss": {"b": "longer 0", "cutoff": "zero"},
    "random_particles": {"seed": "zero"},
}
"""What looks spoiled and is right: by argument, what may be given in its place."""
