"""What a run does to the distributions of the layers: a normaliser, a penalty, an initialisation, or nothing.

A method is plain data, so that a configuration, a recipe or the command line can define one: classes are written as
names of `layershift.nn` or as dotted paths of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True)
class Method:
    """How a network is built and what is added to its loss.

    Attributes:
        norm: the normaliser: a name that `layershift.train.models.make_norm` knows, or the dotted path of a class that
            is made with the number of channels; None for a network without.
        norm_options: keyword arguments of it.
        penalty: the penalty on activations: a class of `layershift.nn`, or a dotted path; None for none.
        penalty_options: keyword arguments of it.
        penalty_weight: its weight λ, unless a run says otherwise.
        layers: the layers that are penalised, a pattern of names or several; None for those that are measured.
        model_options: keyword arguments of the network, such as another initialisation.
        summary: one line for people.
    """

    norm: str | None = None
    norm_options: Mapping[str, Any] = field(default_factory=dict)
    penalty: str | None = None
    penalty_options: Mapping[str, Any] = field(default_factory=dict)
    penalty_weight: float = 0.0
    layers: str | Sequence[str] | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""


def _per(summary: str, *, model_options: Mapping[str, Any] | None = None, **options: Any) -> Method:
    return Method(
        penalty="PER",
        penalty_options={"reduction": "sum", **options},
        penalty_weight=3e-5,
        model_options=model_options or {},
        summary=summary,
    )


METHODS: Mapping[str, Method] = {
    "vanilla": Method(summary="the plain network"),
    "batch": Method(norm="batch", summary="batch normalisation"),
    "unitization": Method(norm="unitization", summary="unitization"),
    "per": _per("the plain network with exact PER, summed over the batch", mode="exact"),
    "per_projections": _per("PER by 256 random projections, the paper's Algorithm 1", mode="projections"),
    "group": Method(norm="group", norm_options={"num_groups": 8}, summary="group normalisation"),
    "layer": Method(norm="layer", summary="layer normalisation"),
    "instance": Method(norm="instance", summary="instance normalisation"),
    "bounded": Method(
        norm="unitization", norm_options={"form": "bounded"}, summary="unitization by eq. 9, whose outputs are bounded"
    ),
    "vcl": Method(
        penalty="VarianceConstancy",
        penalty_weight=0.01,
        layers="*conv*",
        summary="variance constancy before activations",
    ),
    "l1": Method(
        penalty="ActivationPenalty", penalty_options={"p": 1}, penalty_weight=1e-4, summary="L1 norm of activations"
    ),
    "l2": Method(
        penalty="ActivationPenalty", penalty_options={"p": 2}, penalty_weight=1e-4, summary="L2 norm of activations"
    ),
    "sliced_w2": Method(
        penalty="SlicedWasserstein",
        penalty_options={"p": 2},
        penalty_weight=1e-3,
        summary="sliced W2 between the batch's activations and N(0, I)",
    ),
    "laplace": Method(
        penalty="SlicedWasserstein",
        penalty_options={"target": "laplace"},
        penalty_weight=1e-3,
        summary="W1 between each unit's activations and a Laplace distribution",
    ),
    "epps_pulley": Method(
        penalty="EppsPulley", penalty_weight=1e-3, summary="characteristic function of projections against N(0, 1)'s"
    ),
    "fixup": Method(model_options={"init": "fixup"}, summary="a residual network without normaliser, Fixup"),
    "fixup_per": _per("Fixup with exact PER", mode="exact", model_options={"init": "fixup"}),
    "recurrent_batch": Method(norm="recurrent_batch", summary="an LSTM with batch normalisation at each time step"),
}


def method_of(name: str, options: Mapping[str, Any]) -> Method:
    """A method by its name, with changes; a name that is not known yet is defined by them.

    Args:
        name: one of `METHODS`, or a new one.
        options: fields of `Method`.

    Returns:
        The method.

    Raises:
        ValueError: for a field that `Method` has not, or a name that nothing defines.

    Example:
        >>> method_of("mine", {"penalty": "PER", "penalty_weight": 1e-3}).penalty_weight
        0.001
    """
    from layershift._checks import check, check_choice

    for key in options:
        check_choice("method_options", key, [f.name for f in fields(Method)])
    check(name in METHODS or bool(options), "method", f"one of {', '.join(METHODS)}, or method_options with it", name)
    known = METHODS.get(name, Method())
    merged: dict[str, Any] = {
        key: {**getattr(known, key), **value} if isinstance(value, Mapping) else value for key, value in options.items()
    }
    return replace(known, **merged)
