"""Modules: state and reduction around the formulas of `layershift.functional`."""

from layershift.nn.convert import convert
from layershift.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    SyncUnitization,
    Unitization1d,
    Unitization2d,
    Unitization3d,
)
from layershift.nn.penalties import PER, ActivationPenalty, LayerPenalty, SlicedWasserstein

__all__ = [
    "PER",
    "ActivationPenalty",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LayerPenalty",
    "SlicedWasserstein",
    "SyncUnitization",
    "Unitization1d",
    "Unitization2d",
    "Unitization3d",
    "convert",
]
