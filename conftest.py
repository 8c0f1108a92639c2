"""A random state that no test or example leaks, the same for each."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

# Triton comes with PyTorch's builds for GPUs; elsewhere nothing imports its kernels.
collect_ignore_glob = [] if find_spec("triton") else ["src/layershift/functional/*_kernels.py"]


@pytest.fixture(autouse=True)
def forked_random_state() -> Iterator[None]:
    """Seed what draws from PyTorch's global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
