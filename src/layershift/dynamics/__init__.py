"""What moves the distributions of layers: the residual teacher, its flow, and a normaliser's own shift."""

from layershift.dynamics.batch_norm_shift import batch_norm_shift
from layershift.dynamics.denoising_flow import Flow, backward_heat, denoising_flow, flow_wasserstein
from layershift.dynamics.residual_teacher import optimal_map, teacher_loss

__all__ = [
    "Flow",
    "backward_heat",
    "batch_norm_shift",
    "denoising_flow",
    "flow_wasserstein",
    "optimal_map",
    "teacher_loss",
]
