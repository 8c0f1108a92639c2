"""From the names in a configuration to data, networks, normalisers and penalties."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layershift._checks import check
from layershift.train.config import Config


class Data(LightningDataModule):
    """What a run needs of its data beyond what Lightning does; the classes in `layershift.train.data` have it all.

    Attributes:
        task: what is learned: "classification", "multi_label" or "language".
        sizes: what networks are built from: in_channels, in_features, num_classes or num_tokens.
    """

    task: str
    sizes: dict[str, int]

    def probe(self) -> Tensor:
        """Inputs on which layers are measured, always the same."""
        raise NotImplementedError


class LabelledData(Data):
    """What data whose samples have labels offer besides: all image data in `layershift.train.data`.

    Attributes:
        labels: names of the classes, or of the labels that a sample may have.
    """

    labels: tuple[str, ...]

    def in_order(self, part: str) -> DataLoader[Any]:
        """Batches of every sample of a part once, in order, as in evaluation."""
        raise NotImplementedError

    def ids(self, part: str) -> tuple[str, ...]:
        """Names of a part's samples, in order."""
        raise NotImplementedError

    def images(self, part: str, indices: Sequence[int]) -> Tensor:
        """Images to look at, as bytes, (n, C, H, W)."""
        raise NotImplementedError


def find(argument: str, name: str, known: Mapping[str, Any]) -> Any:
    """What a name stands for: one of those that are known, or the dotted path of a user's own.

    Args:
        argument: what to call the name in an error.
        name: the name.
        known: by their names.

    Returns:
        The function or class.

    Raises:
        ValueError: if there is nothing of that name.

    Example:
        >>> find("norm", "torch.nn.BatchNorm1d", {})
        <class 'torch.nn.modules.batchnorm.BatchNorm1d'>
    """
    if name in known:
        return known[name]
    choices = ", ".join(sorted(known))
    module, _, attribute = name.rpartition(".")
    check(bool(module), argument, f"one of {choices}, or a dotted path", repr(name))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{argument}: expected one of {choices}, or a path that can be imported, got {name!r} ({error})"
        ) from error


def build_data(config: Config) -> Data:
    """The data of a configuration."""
    from layershift.train.data.registry import DATA

    make = find("data", config.data, DATA)
    options = {"batch_size": config.batch_size, "seed": config.seed, **config.data_options}
    known = parameters_of(make)
    if config.data_root is not None and known is not None and "root" in known:  # digits need none
        options["root"] = config.data_root
    return call("data_options", make, options)  # type: ignore[no-any-return]


def build_norm(config: Config) -> Any:
    """The normaliser of a configuration's method, as the networks take it."""
    from layershift.train.models.norms import group_norm
    from layershift.train.models.parts import NormName, NormWithOptions

    method, options = config.definition, config.definition.norm_options
    if method.norm is None or not options:
        return method.norm if method.norm is None or "." not in method.norm else find("norm", method.norm, {})
    if method.norm == "group":
        return call("norm_options", group_norm, options)
    if "." in method.norm:
        return partial(find("norm", method.norm, {}), **options)
    return NormWithOptions(cast("NormName", method.norm), options)


def build_model(config: Config, sizes: Mapping[str, int]) -> nn.Module:
    """The network of a configuration, initialised from its seed, as large at both ends as the data ask for.

    Args:
        config: of the run.
        sizes: what the data say of themselves: in_channels, in_features, num_classes or num_tokens. A network gets
            those that it has a parameter for.
    """
    from layershift.train.models.registry import MODELS

    make = find("model", config.model, MODELS)
    wanted = inspect.signature(make).parameters
    options = {name: value for name, value in sizes.items() if name in wanted}
    options |= {
        "norm": build_norm(config),
        "seed": config.seed,
        **config.model_options,
        **config.definition.model_options,
    }
    return call("model_options", make, options)  # type: ignore[no-any-return]


def build_penalty(config: Config) -> nn.Module | None:
    """The penalty of a configuration's method, or None."""
    import layershift.nn as penalties

    method = config.definition
    if method.penalty is None:
        return None
    known = {name: getattr(penalties, name) for name in penalties.__all__}
    return call("penalty_options", find("penalty", method.penalty, known), method.penalty_options)  # type: ignore[no-any-return]


def call(argument: str, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call with keyword arguments; one that there is no parameter for is an error that names it."""
    known = parameters_of(make)
    if known is not None:
        expected = f"options of {make.__name__}: {', '.join(sorted(known))}"
        unknown = sorted(set(options) - known)
        check(not unknown, argument, expected, ", ".join(unknown))
    return make(**options)


def parameters_of(make: Callable[..., Any]) -> set[str] | None:
    """Names of the keyword arguments of a function or a class; None if there may be any.

    A class that passes `**options` on to its base has those of the base as well.

    Example:
        >>> class Base:
        ...     def __init__(self, *, size=0): ...
        >>> class Derived(Base):
        ...     def __init__(self, *, shape=(), **options): super().__init__(**options)
        >>> sorted(parameters_of(Derived)), parameters_of(lambda **options: None)
        (['shape', 'size'], None)
    """
    known: set[str] = set()
    for one in _passed_on(make):
        parameters = inspect.signature(one).parameters.values()
        known |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return known - {"self"}
    return None


def _passed_on(make: Callable[..., Any]) -> list[Callable[..., Any]]:
    """What gets the keyword arguments, one after the other."""
    makes = [vars(c)["__init__"] for c in make.__mro__ if "__init__" in vars(c)] if isinstance(make, type) else []
    return [one for one in makes if inspect.isfunction(one)] or [make]
