"""When to measure, what to keep, when to warn: the monitor, its store and its alarms."""

from layershift.monitor.alarm import Alarm
from layershift.monitor.alarms import Alarms, LayerWarning, StopTraining
from layershift.monitor.budget import Cost
from layershift.monitor.monitor import Monitor
from layershift.monitor.rules import Learned, Threshold, default_rules
from layershift.monitor.sink import Sink
from layershift.monitor.store import Record, Store, StoreError, open_store

__all__ = [
    "Alarm",
    "Alarms",
    "Cost",
    "LayerWarning",
    "Learned",
    "Monitor",
    "Record",
    "Sink",
    "StopTraining",
    "Store",
    "StoreError",
    "Threshold",
    "default_rules",
    "open_store",
]
