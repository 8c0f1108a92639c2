"""Streaming measures: torchmetrics with error bars, reduced across processes."""

from layershift.measure.estimate import Estimate
from layershift.measure.moments import Moments
from layershift.measure.normality import Normality

__all__ = ["Estimate", "Moments", "Normality"]
