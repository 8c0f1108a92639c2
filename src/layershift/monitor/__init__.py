"""When to measure, and where to keep what was measured."""

from layershift.monitor.store import Record, Store, StoreError, open_store

__all__ = ["Record", "Store", "StoreError", "open_store"]
