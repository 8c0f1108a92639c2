"""Modules: state and reduction around the formulas of `layershift.functional`."""

from layershift.nn.convert import convert
from layershift.nn.fixup import ScalarBias, ScalarScale, fixup_factor, fixup_init, fixup_slow_parameters
from layershift.nn.fold import Folded, fold
from layershift.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Unitization1d,
    Unitization2d,
    Unitization3d,
)
from layershift.nn.penalties import PER, ActivationPenalty, LayerPenalty, as_samples
from layershift.nn.recurrent import LSTMLayer, VariationalDropout
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
    "Folded",
    "LSTMLayer",
    "LayerPenalty",
    "RecordedTarget",
    "ScalarBias",
    "ScalarScale",
    "SlicedWasserstein",
    "SyncBatchNorm",
    "SyncUnitization",
    "Unitization1d",
    "Unitization2d",
    "Unitization3d",
    "VarianceConstancy",
    "VariationalDropout",
    "as_samples",
    "convert",
    "fixup_factor",
    "fixup_init",
    "fixup_slow_parameters",
    "fold",
]
