"""A live view of a store in the terminal."""

from layershift.watch.live import watch

__all__ = ["watch"]
