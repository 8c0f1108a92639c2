"""Streaming measures: torchmetrics with error bars, reduced across processes."""

from layershift.measure.estimate import Estimate
from layershift.measure.moments import Moments

__all__ = ["Estimate", "Moments"]
