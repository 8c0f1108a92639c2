"""Streaming measures: torchmetrics with error bars, reduced across processes."""

from layershift.measure.estimate import Estimate

__all__ = ["Estimate"]
