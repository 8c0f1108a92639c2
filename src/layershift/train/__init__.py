"""Training with Lightning: methods, networks, data, runs that can be interrupted, and the demo.

Names are imported when they are first used: Lightning takes seconds to import, and help needs none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import layershift.train.data as data
    import layershift.train.models as models
    from layershift.train.config import Config
    from layershift.train.folder import RunError
    from layershift.train.grid import demo
    from layershift.train.methods import METHODS, Method
    from layershift.train.module import Classifier
    from layershift.train.restore import RestoredRun, load_run
    from layershift.train.run import Run, train
    from layershift.train.tables import Row, summarize

__all__ = [
    "METHODS",
    "Classifier",
    "Config",
    "Method",
    "RestoredRun",
    "Row",
    "Run",
    "RunError",
    "data",
    "demo",
    "load_run",
    "models",
    "summarize",
    "train",
]

_HOME = {
    "METHODS": "methods",
    "Classifier": "module",
    "Config": "config",
    "Method": "methods",
    "RestoredRun": "restore",
    "Row": "tables",
    "Run": "run",
    "RunError": "folder",
    "demo": "grid",
    "load_run": "restore",
    "summarize": "tables",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'layershift.train' has no attribute {name!r}")
    if name not in _HOME:
        return importlib.import_module(f"layershift.train.{name}")

    value = globals()[name] = getattr(importlib.import_module(f"layershift.train.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
