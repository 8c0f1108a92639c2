"""When to measure, what to keep: the monitor and its store."""

from layershift.monitor.store import Record, Store, StoreError, open_store

__all__ = ["Record", "Store", "StoreError", "open_store"]
