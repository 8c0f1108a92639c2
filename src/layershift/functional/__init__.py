"""Formulas: tensors in, tensors out; unreduced; without state."""

from layershift.functional.approximation import (
    composition_bound,
    composition_delta,
    composition_lipschitz,
    composition_width,
)
from layershift.functional.batch_norm_distance import batch_norm_wasserstein
from layershift.functional.bounds import (
    Bracket,
    clipped_moment,
    high_moment_bound,
    mean_projection,
    moment_bound,
    practical_bound,
    shift_bracket,
    sliced_lower_bound,
    unitization_bound,
)
from layershift.functional.denoise import posterior_mean, smoothed_log_density, smoothed_score
from layershift.functional.emd import emd
from layershift.functional.epps_pulley import characteristic_distance, characteristic_function, epps_pulley
from layershift.functional.gaussian import (
    gaussian_wasserstein,
    normal_cdf,
    normal_partial_moment,
    normal_pdf,
    normal_quantile,
)
from layershift.functional.health import effective_rank
from layershift.functional.label_distance import (
    chebyshev,
    jensen_shannon,
    label_cost,
    label_distribution,
    total_variation,
    zero_one_cost,
)
from layershift.functional.label_transport import LabelDistances, label_transport
from layershift.functional.laplace import laplace_cdf, laplace_quantile, wasserstein_laplace
from layershift.functional.lipschitz import convolution_norm_bound, linear_norm
from layershift.functional.normal_distance import NormalDistance, normal_distance, normal_floor
from layershift.functional.normalize import batch_norm, group_norm, instance_norm, layer_norm
from layershift.functional.per import per, per_joint
from layershift.functional.sinkhorn import Sinkhorn, sinkhorn, sinkhorn_divergence
from layershift.functional.sliced import directions, sliced_wasserstein, sliced_wasserstein_normal
from layershift.functional.transport import (
    SlicedTransport,
    Transport,
    exact_wasserstein,
    gaussian_fit_wasserstein,
    sliced_transport,
)
from layershift.functional.unitize import (
    general_unitization,
    modified_unitization,
    practical_unitization,
    unitization,
    vanilla_unitization,
)
from layershift.functional.variance_constancy import variance_constancy
from layershift.functional.wasserstein1d import wasserstein, wasserstein_normal

__all__ = [
    "Bracket",
    "LabelDistances",
    "NormalDistance",
    "Sinkhorn",
    "SlicedTransport",
    "Transport",
    "batch_norm",
    "batch_norm_wasserstein",
    "characteristic_distance",
    "characteristic_function",
    "chebyshev",
    "clipped_moment",
    "composition_bound",
    "composition_delta",
    "composition_lipschitz",
    "composition_width",
    "convolution_norm_bound",
    "directions",
    "effective_rank",
    "emd",
    "epps_pulley",
    "exact_wasserstein",
    "gaussian_fit_wasserstein",
    "gaussian_wasserstein",
    "general_unitization",
    "group_norm",
    "high_moment_bound",
    "instance_norm",
    "jensen_shannon",
    "label_cost",
    "label_distribution",
    "label_transport",
    "laplace_cdf",
    "laplace_quantile",
    "layer_norm",
    "linear_norm",
    "mean_projection",
    "modified_unitization",
    "moment_bound",
    "normal_cdf",
    "normal_distance",
    "normal_floor",
    "normal_partial_moment",
    "normal_pdf",
    "normal_quantile",
    "per",
    "per_joint",
    "posterior_mean",
    "practical_bound",
    "practical_unitization",
    "shift_bracket",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_lower_bound",
    "sliced_transport",
    "sliced_wasserstein",
    "sliced_wasserstein_normal",
    "smoothed_log_density",
    "smoothed_score",
    "total_variation",
    "unitization",
    "unitization_bound",
    "vanilla_unitization",
    "variance_constancy",
    "wasserstein",
    "wasserstein_laplace",
    "wasserstein_normal",
    "zero_one_cost",
]
