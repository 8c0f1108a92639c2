"""Formulas: tensors in, tensors out; unreduced; without state."""

from layershift.functional.normalize import batch_norm, group_norm, instance_norm, layer_norm
from layershift.functional.unitize import (
    general_unitization,
    modified_unitization,
    practical_unitization,
    unitization,
    vanilla_unitization,
)

__all__ = [
    "batch_norm",
    "general_unitization",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "modified_unitization",
    "practical_unitization",
    "unitization",
    "vanilla_unitization",
]
