"""Formulas: tensors in, tensors out; unreduced; without state."""

from layershift.functional.gaussian import (
    gaussian_wasserstein,
    normal_cdf,
    normal_partial_moment,
    normal_pdf,
    normal_quantile,
)
from layershift.functional.normal_distance import NormalDistance, normal_distance, normal_floor
from layershift.functional.normalize import batch_norm, group_norm, instance_norm, layer_norm
from layershift.functional.per import per, per_joint
from layershift.functional.sliced import directions, sliced_wasserstein, sliced_wasserstein_normal
from layershift.functional.unitize import (
    general_unitization,
    modified_unitization,
    practical_unitization,
    unitization,
    vanilla_unitization,
)
from layershift.functional.wasserstein1d import wasserstein, wasserstein_normal

__all__ = [
    "NormalDistance",
    "batch_norm",
    "directions",
    "gaussian_wasserstein",
    "general_unitization",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "modified_unitization",
    "normal_cdf",
    "normal_distance",
    "normal_floor",
    "normal_partial_moment",
    "normal_pdf",
    "normal_quantile",
    "per",
    "per_joint",
    "practical_unitization",
    "sliced_wasserstein",
    "sliced_wasserstein_normal",
    "unitization",
    "vanilla_unitization",
    "wasserstein",
    "wasserstein_normal",
]
