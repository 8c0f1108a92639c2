"""Modules: state and reduction around the formulas of `layershift.functional`."""

from layershift.nn.convert import convert
from layershift.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Unitization1d,
    Unitization2d,
    Unitization3d,
)
from layershift.nn.penalties import PER, ActivationPenalty, LayerPenalty, as_samples
from layershift.nn.sliced import EppsPulley, SlicedWasserstein
from layershift.nn.synchronized import SyncBatchNorm, SyncUnitization
from layershift.nn.targets import RecordedTarget
from layershift.nn.variance_constancy import VarianceConstancy

__all__ = [
    "PER",
    "ActivationPenalty",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "EppsPulley",
    "LayerPenalty",
    "RecordedTarget",
    "SlicedWasserstein",
    "SyncBatchNorm",
    "SyncUnitization",
    "Unitization1d",
    "Unitization2d",
    "Unitization3d",
    "VarianceConstancy",
    "as_samples",
    "convert",
]
