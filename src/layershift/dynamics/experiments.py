"""The paper's figures and theorems by number, at three scales, each into a folder of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from layershift._checks import check, check_choice, check_path, check_seed
from layershift.dynamics.figures import speed_and_direction, speed_and_length
from layershift.dynamics.first_step import first_step
from layershift.dynamics.global_minimum import theorem5
from layershift.dynamics.many_neurons import theorem4
from layershift.dynamics.results import Experiment, write_flow
from layershift.dynamics.two_flows import CASES, theorem2

FlowScale = Literal["smoke", "laptop", "paper"]
Maker = Callable[..., Experiment]

FIGURES: Mapping[int, Maker] = {1: speed_and_direction, 2: speed_and_length, 3: first_step}
THEOREMS: Mapping[int, Maker] = {2: theorem2, 4: theorem4, 5: theorem5}

_SMOKE: Mapping[str, dict[str, Any]] = {
    "figure 1": {"m": 20, "n": 32, "at": 20, "shown": (0, 20, 40), "frames": 4, "seeds": 1},
    "figure 2": {"m": 20, "n": 32, "shown": (0, 20, 40), "frames": 4, "seeds": 1},
    "figure 3": {"m": 20, "n": 32, "steps": 5, "scales": (1e-3, 1e-2, 1e-1, 1.0, 10.0), "seeds": 1},
    "theorem 2": {"cases": CASES[:1], "m": 5, "n": 16, "halvings": 2},
    "theorem 4": {"widths": (8, 32), "reference": 128, "times": (0.0, 1.0), "n": 16, "step": 0.1, "seeds": 2},
    "theorem 5": {"m": 20, "n": 16, "steps": 40, "widths": (2,), "grid": 16, "seeds": 1},
}
_PAPER: Mapping[str, dict[str, Any]] = {
    "figure 1": {"m": 1000, "n": 2048, "seeds": 5},
    "figure 2": {"m": 1000, "n": 2048, "seeds": 5},
    "figure 3": {"m": 1000, "n": 2048, "seeds": 5},
    "theorem 2": {"m": 100, "n": 400},
    "theorem 4": {"widths": tuple(2**k for k in range(3, 11)), "reference": 8192, "n": 512, "seeds": 20},
    "theorem 5": {"m": 1000, "n": 512, "widths": (2, 4, 8, 16, 32, 64), "seeds": 10},
}


def run_flow(
    *,
    figure: int | None = None,
    theorem: int | None = None,
    scale: FlowScale = "laptop",
    seed: int = 0,
    out: str | Path,
) -> Path:
    """Run one figure or theorem and write what it finds to `OUT/flow.json`.

    Args:
        figure: 1, 2 or 3.
        theorem: 2, 4 or 5; one of the two must be given.
        scale: "smoke": seconds, too small for the verdicts to mean anything; "laptop": under two minutes on two cores;
            "paper": wider networks, more data and more seeds.
        seed: of the first start.
        out: a folder; made if it does not exist.

    Returns:
        Where `flow.json` lies.

    Raises:
        ValueError: if none or both are given, or there is no such number or scale.
        ModuleNotFoundError: if an extra is missing: `dynamics` for theorems 2 and 4, `ot` for theorem 4.

    Example:
        >>> import tempfile
        >>> run_flow(figure=3, scale="smoke", out=tempfile.mkdtemp()).name
        'flow.json'
    """
    check((figure is None) != (theorem is None), "figure", "a figure or a theorem, one of them", (figure, theorem))
    check_seed("seed", seed)
    check_seed("seed", seed)
    check_path("out", out)
    check_choice("scale", scale, ("smoke", "laptop", "paper"))
    kind, number = ("figure", figure) if theorem is None else ("theorem", theorem)
    makers = FIGURES if kind == "figure" else THEOREMS
    check_choice(kind, number, tuple(makers))
    assert number is not None
    options = {"smoke": _SMOKE, "laptop": {}, "paper": _PAPER}[scale].get(f"{kind} {number}", {})
    began = time.perf_counter()
    found = makers[number](seed=seed, **options)
    seconds = time.perf_counter() - began
    command = f"layershift flow --{kind} {number} --scale {scale} --seed {seed} --out {out}"
    return write_flow(out, found, about={"command": command, "scale": scale}, seconds=seconds)
