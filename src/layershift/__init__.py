"""layershift: the distributions of a network's layers, measured, controlled and used.

Rooms are imported when they are first used: ``import layershift`` costs next to nothing beside ``import torch``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layershift._version import __version__

if TYPE_CHECKING:
    from layershift import dynamics, functional, integrations, measure, monitor, nn, probe, report, train, watch
    from layershift.monitor import Monitor, open_store
    from layershift.nn import convert, fold
    from layershift.recording import record_target
    from layershift.regularization import regularize

__all__ = [
    "Monitor",
    "__version__",
    "convert",
    "dynamics",
    "fold",
    "functional",
    "integrations",
    "measure",
    "monitor",
    "nn",
    "open_store",
    "probe",
    "record_target",
    "regularize",
    "report",
    "train",
    "watch",
]

_HOME = {
    "Monitor": "layershift.monitor",
    "open_store": "layershift.monitor",
    "convert": "layershift.nn",
    "fold": "layershift.nn",
    "record_target": "layershift.recording",
    "regularize": "layershift.regularization",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'layershift' has no attribute {name!r}")
    if name not in _HOME:
        return importlib.import_module(f"layershift.{name}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
