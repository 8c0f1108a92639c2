"""What the autograd engine is doing while a forward runs."""

from __future__ import annotations

import torch


def is_recomputed() -> bool:
    """Whether this code runs inside a backward pass, where activation checkpointing repeats a forward.

    Example:
        >>> is_recomputed()
        False
    """
    if torch.compiler.is_compiling():  # a compiled graph replays tensors, not Python: nothing runs twice
        return False
    return torch._C._current_graph_task_id() != -1
