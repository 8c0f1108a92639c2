"""What moves distributions: batch normalisation as geometry, in particles, and the residual teacher with its flow.

A two-layer network with batch normalisation is a plain one on a manifold. Here are the manifold, both flows, discrete
steps of up to millions of neurons, the mean field that they tend to, and the experiments of the paper.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layershift.dynamics.batch_norm_shift import batch_norm_shift
from layershift.dynamics.denoising_flow import Flow, backward_heat, denoising_flow, flow_wasserstein
from layershift.dynamics.energy import dissipation, energy_gap
from layershift.dynamics.experiments import run_flow
from layershift.dynamics.flows import Trajectory, flow
from layershift.dynamics.mean_field import direction_distance, ground_distance, particle_wasserstein
from layershift.dynamics.metric import (
    covariance_range,
    inner_product,
    inverse_metric_matrix,
    lift,
    metric_gradient,
    metric_matrix,
    push,
    retract,
    sigma_norm,
    tangent_projection,
    to_ellipsoid,
)
from layershift.dynamics.network import TwoLayer, TwoLayerBN, random_particles, second_moment
from layershift.dynamics.residual_teacher import optimal_map, teacher_loss
from layershift.dynamics.separation import covering_radius, least_loss, separation_radius
from layershift.dynamics.steps import Descent, descend
from layershift.dynamics.velocities import Problem, Velocity, VelocityField, velocity
from layershift.dynamics.width_convergence import convergence_in_width
from layershift.measure.neuron_speeds import NeuronSpeeds, Speeds, speeds

if TYPE_CHECKING:
    from layershift.dynamics.manifold import BatchNormManifold, on_manifold

__all__ = [
    "BatchNormManifold",
    "Descent",
    "Flow",
    "NeuronSpeeds",
    "Problem",
    "Speeds",
    "Trajectory",
    "TwoLayer",
    "TwoLayerBN",
    "Velocity",
    "VelocityField",
    "backward_heat",
    "batch_norm_shift",
    "convergence_in_width",
    "covariance_range",
    "covering_radius",
    "denoising_flow",
    "descend",
    "direction_distance",
    "dissipation",
    "energy_gap",
    "flow",
    "flow_wasserstein",
    "ground_distance",
    "inner_product",
    "inverse_metric_matrix",
    "least_loss",
    "lift",
    "metric_gradient",
    "metric_matrix",
    "on_manifold",
    "optimal_map",
    "particle_wasserstein",
    "push",
    "random_particles",
    "retract",
    "run_flow",
    "second_moment",
    "separation_radius",
    "sigma_norm",
    "speeds",
    "tangent_projection",
    "teacher_loss",
    "to_ellipsoid",
    "velocity",
]


def __getattr__(name: str) -> Any:
    if name in ("BatchNormManifold", "on_manifold"):  # they need geoopt, of the extra `dynamics`
        return getattr(importlib.import_module("layershift.dynamics.manifold"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
