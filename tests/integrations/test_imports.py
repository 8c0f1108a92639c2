"""Nobody pays for frameworks that are not used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import layershift as ls

HEAVY = ["lightning", "transformers", "tensorboard", "wandb", "mlflow", "rich", "pandas", "torchmetrics"]


def loaded(code: str) -> set[str]:
    code += f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_rooms_and_sinks_are_light_until_they_are_used() -> None:
    code = "import layershift as ls; ls.integrations; ls.watch; dir(ls.integrations); import layershift.monitor.sink\n"
    code += "from layershift.integrations import TensorBoardSink, WandbSink, MLflowSink"
    assert loaded(code) == set()


def test_a_missing_extra_names_its_install_command() -> None:
    code = """if True:
    import sys
    import torchmetrics  # asks for transformers itself, in another way
    from layershift import integrations
    for name in ("TensorBoardSink", "WandbSink", "MLflowSink", "LightningMonitor", "TransformersMonitor"):
        extra = name.removesuffix("Sink").removesuffix("Monitor").lower()
        sys.modules[extra] = None
        try:
            getattr(integrations, name)(*["events"] * (extra == "tensorboard"))
        except ModuleNotFoundError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extras = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
    extras |= {"lightning.pytorch": "lightning", "transformers": "transformers"}
    for line, (module, extra) in zip(done.stdout.splitlines(), extras.items(), strict=True):
        assert line == f'{module} is not installed; run: pip install "layershift[{extra}]"'


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match=r"module 'layershift\.integrations' has no attribute 'CometSink'"):
        _ = ls.integrations.CometSink
    assert set(ls.integrations.__all__) <= set(dir(ls.integrations))
