"""When to measure, what to keep: the monitor and its store."""

from layershift.monitor.monitor import Monitor
from layershift.monitor.store import Record, Store, StoreError, open_store

__all__ = ["Monitor", "Record", "Store", "StoreError", "open_store"]
