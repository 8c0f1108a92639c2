"""What an experiment finds, as plain data, and the file that a page is made from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from layershift._version import __version__

FORMAT = "layershift flow, version 1"


class Claim(NamedTuple):
    """A sentence that can fail, and what was found.

    Attributes:
        claim: the sentence.
        expected: what it says of the number.
        value: the number that was found.
        spread: its standard deviation over `n`, or None where there is none.
        n: how many numbers stand behind it.
        holds: the verdict; None for a number without one.
        note: how it was found, or what it does not say.
    """

    claim: str
    expected: str
    value: float
    spread: float | None
    n: int
    holds: bool | None
    note: str = ""


class Curve(NamedTuple):
    """A line of a plot.

    Attributes:
        name: shown in the legend.
        x: places.
        y: values.
        error: half a bar, one a value, or None.
        look: "line", "points" or, for what theory says, "theory".
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    look: Literal["line", "points", "theory"] = "line"


class Plot(NamedTuple):
    """Lines in one frame; an axis is logarithmic if it is named in `log`."""

    key: str
    title: str
    x_title: str
    y_title: str
    curves: Sequence[Curve]
    log: str = ""
    note: str = ""


class Ring(NamedTuple):
    """Directions in the plane through time: a row of circles.

    Attributes:
        title: of the row.
        iterations: the T recorded ones.
        groups: by name, T lists of angles in radians.
    """

    title: str
    iterations: Sequence[int]
    groups: Mapping[str, Sequence[Sequence[float]]]


class Experiment(NamedTuple):
    """A figure or a theorem of the paper, run.

    Attributes:
        kind: "figure" or "theorem".
        number: of the paper.
        title: what the page is called.
        statement: what the paper says, in a few sentences.
        settings: everything that was chosen, by name.
        claims: verdicts.
        plots: frames with lines.
        rings: rows of circles.
        shown: which iterations stand side by side; the others are for the animation.
    """

    kind: Literal["figure", "theorem"]
    number: int
    title: str
    statement: str
    settings: Mapping[str, Any]
    claims: Sequence[Claim]
    plots: Sequence[Plot] = ()
    rings: Sequence[Ring] = ()
    shown: Sequence[int] = ()


def claim_of(
    claim: str, values: Tensor | Sequence[float], *, expected: str, holds: bool | None, note: str = ""
) -> Claim:
    """A claim on the mean of several numbers, with their standard deviation.

    Args:
        claim: the sentence.
        values: one a seed, or another unit that `note` names.
        expected: what the sentence says of the number.
        holds: the verdict.
        note: see `Claim`.

    Returns:
        The claim.

    Example:
        >>> claim_of("it is 2", [1.0, 3.0], expected="2", holds=True)[2:5]
        (2.0, 1.4142135623730951, 2)
    """
    found = torch.as_tensor(values, dtype=torch.float64).flatten()
    spread = float(found.std()) if len(found) > 1 else None
    return Claim(claim, expected, float(found.mean()), spread, len(found), holds, note)


def write_flow(
    folder: str | Path, experiment: Experiment, *, about: Mapping[str, Any] | None = None, seconds: float | None = None
) -> Path:
    """Write an experiment to `flow.json`, whose content `layershift.report.flow.data` documents.

    Args:
        folder: where to write; made if it does not exist.
        experiment: what was found.
        about: more facts for the page: the `command`, the `scale`.
        seconds: how long it took.

    Returns:
        Where `flow.json` lies.

    Example:
        >>> import tempfile
        >>> found = Experiment("theorem", 2, "One flow", "Both agree.", {"d": 2}, [Claim("a", "0", 0.0, None, 1, True)])
        >>> path = write_flow(tempfile.mkdtemp(), found)
        >>> json.loads(path.read_text())["claims"][0]["holds"]
        True
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"layershift": __version__, "torch": str(torch.__version__)},
        "about": dict(about or {}),
        "seconds": seconds,
        **experiment._asdict(),
        "claims": [claim._asdict() for claim in experiment.claims],
        "plots": [plot._asdict() | {"curves": [curve._asdict() for curve in plot.curves]} for plot in experiment.plots],
        "rings": [ring._asdict() for ring in experiment.rings],
    }
    path = folder / "flow.json"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(_plain(content), allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _plain(value: Any) -> Any:
    """What JSON can hold: tensors become lists, numbers that are not finite null."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)
