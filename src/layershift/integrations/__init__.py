"""Other people's loops and dashboards: Lightning, transformers, TensorBoard, Weights & Biases, MLflow.

Names are imported when they are first used, so that nothing here needs a framework that the user does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layershift.integrations.lightning import LightningMonitor
    from layershift.integrations.mlflow import MLflowSink
    from layershift.integrations.tensorboard import TensorBoardSink
    from layershift.integrations.transformers import TransformersMonitor
    from layershift.integrations.wandb import WandbSink

__all__ = ["LightningMonitor", "MLflowSink", "TensorBoardSink", "TransformersMonitor", "WandbSink"]

_HOME = {
    "LightningMonitor": "lightning",
    "MLflowSink": "mlflow",
    "TensorBoardSink": "tensorboard",
    "TransformersMonitor": "transformers",
    "WandbSink": "wandb",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'layershift.integrations' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"layershift.integrations.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
