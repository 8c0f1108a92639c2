"""Names of layers as keys of tensors that a module holds for each of them."""

from __future__ import annotations


def layer_key(name: str) -> str:
    """A layer's name as a key of `ParameterDict` and `ModuleDict`, which take neither dots nor nothing.

    Example:
        >>> layer_key("block1.conv"), layer_key("")
        ('block1/conv', '/')
    """
    return name.replace(".", "/") or "/"


def layer_name(key: str) -> str:
    """What `layer_key` made a key of.

    Example:
        >>> layer_name("block1/conv"), layer_name("/")
        ('block1.conv', '')
    """
    return "" if key == "/" else key.replace("/", ".")
