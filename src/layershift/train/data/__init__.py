"""Data sets as Lightning data modules."""

from layershift.train.data.batches import EpochSampler, batches
from layershift.train.data.digits import DigitsData

__all__ = ["DigitsData", "EpochSampler", "batches"]
