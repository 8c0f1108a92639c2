"""A random state that no test or example leaks, the same for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def forked_random_state() -> Iterator[None]:
    """Seed what draws from PyTorch's global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
